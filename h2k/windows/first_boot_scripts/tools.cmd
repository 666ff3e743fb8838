@echo off
rem Removes the other hypervisor's guest tools, when the owner asked for it. Optional: a failure is only reported.
set "REMOVED=0"
set "KEPT="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="tool" call :remove "%%b"
set "RESULT=0"
if "%REMOVED%%KEPT%"=="0" set "RESULT=3"
if "%REMOVED%%KEPT%"=="0" exit /b 0
set "DETAIL=%REMOVED% removed"
if defined KEPT set "DETAIL=%DETAIL%, kept:%KEPT%"
if defined KEPT set "RESULT=1"
exit /b 0

:remove
set "RUN=%SYS%\msiexec.exe"
set "ARGUMENTS=/x %~1 /qn /norestart REBOOT=ReallySuppress"
set "SECONDS=600"
call "%H2K%bounded.cmd"
echo msiexec /x %~1: %STATUS%
rem 1605: it is not installed any more. 1641, 3010: it asks for a reboot.
if "%STATUS%"=="0" goto removed
if "%STATUS%"=="1605" goto removed
if "%STATUS%"=="1641" goto removed
if "%STATUS%"=="3010" goto removed
set "KEPT=%KEPT% %STATUS%"
exit /b 0
:removed
set /a REMOVED+=1
exit /b 0
