@echo off
rem Installs the QEMU guest agent, when the owner asked for it. Optional: a failure is only reported.
set "PACKAGE="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="agent" set "PACKAGE=%%b"
if not defined PACKAGE exit /b 3
set "RUN=%SYS%\msiexec.exe"
set "ARGUMENTS=/i "%H2K%%PACKAGE%" /qn /norestart REBOOT=ReallySuppress"
set "SECONDS=300"
call "%H2K%bounded.cmd"
set "STATUS=%ERRORLEVEL%"
set "DETAIL=msiexec %STATUS%"
if "%STATUS%"=="0" exit /b 0
if "%STATUS%"=="1641" exit /b 0
if "%STATUS%"=="3010" exit /b 0
exit /b 1
