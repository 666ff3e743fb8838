@echo off
rem Installs the staged driver packages: the required ones must go in, an optional one may fail.
set "REQUIRED_FAILED="
set "OPTIONAL_FAILED="
set "PACKAGES=0"
rem 7 to 8.1 and their servers ask a question, which nobody can answer here, about a publisher that they do not know.
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="publisher" call :trust %%b "%%c"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="driver" call :install %%b "%%c"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="publisher" call :distrust %%b
set "DETAIL=%PACKAGES% packages"
if defined OPTIONAL_FAILED set "DETAIL=%DETAIL%, optional ones failed:%OPTIONAL_FAILED%"
if defined REQUIRED_FAILED set "DETAIL=%DETAIL%, required ones failed:%REQUIRED_FAILED%"
set "RESULT=0"
if "%PACKAGES%"=="0" set "RESULT=3"
if defined REQUIRED_FAILED set "RESULT=1"
exit /b 0

:install
set /a PACKAGES+=1
set "RUN=%SYS%\pnputil.exe"
set "ARGUMENTS=-i -a "%H2K%drivers\%~2""
set "SECONDS=180"
call "%H2K%bounded.cmd"
echo pnputil %~2: %STATUS%
rem 259: no device wants it now, or it has a better one. 1641, 3010: it asks for a reboot, which comes with the next phase.
if "%STATUS%"=="0" exit /b 0
if "%STATUS%"=="259" exit /b 0
if "%STATUS%"=="1641" exit /b 0
if "%STATUS%"=="3010" exit /b 0
if "%~1"=="required" set "REQUIRED_FAILED=%REQUIRED_FAILED% %~n2"
if "%~1"=="optional" set "OPTIONAL_FAILED=%OPTIONAL_FAILED% %~n2"
exit /b 0

:trust
rem :trust SHA1 FILE. The settings name those whom h2k brought; one that the owner trusts is not among them.
"%SYS%\certutil.exe" -addstore -f TrustedPublisher "%H2K%drivers\%~2"
exit /b 0

:distrust
"%SYS%\certutil.exe" -delstore TrustedPublisher %~1
exit /b 0
