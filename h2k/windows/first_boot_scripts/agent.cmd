@echo off
rem Installs the QEMU guest agent, when the owner asked for it. Optional: a failure is only reported.
set "PACKAGE="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="agent" set "PACKAGE=%%b"
set "RESULT=3"
if not defined PACKAGE exit /b 0
set "RUN=%SYS%\msiexec.exe"
set "ARGUMENTS=/i "%H2K%%PACKAGE%" /qn /norestart REBOOT=ReallySuppress"
set "SECONDS=300"
call "%H2K%bounded.cmd"
set "DETAIL=msiexec %STATUS%"
set "RESULT=1"
if "%STATUS%"=="0" set "RESULT=0"
if "%STATUS%"=="1641" set "RESULT=0"
if "%STATUS%"=="3010" set "RESULT=0"
exit /b 0
