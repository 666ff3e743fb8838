@echo off
rem Installs the staged driver packages: the required ones must go in, an optional one may fail.
set "REQUIRED_FAILED="
set "OPTIONAL_FAILED="
set "PACKAGES=0"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="driver" call :install %%b "%%c"
set "DETAIL=%PACKAGES% packages"
if defined OPTIONAL_FAILED set "DETAIL=%DETAIL%, optional ones failed:%OPTIONAL_FAILED%"
if defined REQUIRED_FAILED set "DETAIL=%DETAIL%, required ones failed:%REQUIRED_FAILED%"
if defined REQUIRED_FAILED exit /b 1
if "%PACKAGES%"=="0" exit /b 3
exit /b 0

:install
set /a PACKAGES+=1
set "RUN=%SYS%\pnputil.exe"
set "ARGUMENTS=-i -a "%H2K%drivers\%~2""
set "SECONDS=180"
call "%H2K%bounded.cmd"
set "STATUS=%ERRORLEVEL%"
echo pnputil %~2: %STATUS%
rem 259: no device wants it now, or it has a better one. 3010: it asks for a reboot, which comes with the next phase.
if "%STATUS%"=="0" exit /b 0
if "%STATUS%"=="259" exit /b 0
if "%STATUS%"=="3010" exit /b 0
if "%~1"=="required" set "REQUIRED_FAILED=%REQUIRED_FAILED% %~n2"
if "%~1"=="optional" set "OPTIONAL_FAILED=%OPTIONAL_FAILED% %~n2"
exit /b 0
