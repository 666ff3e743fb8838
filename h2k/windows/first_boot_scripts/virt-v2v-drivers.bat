@echo off
rem h2k: bounded. In place of virt-v2v's script: installs each driver that this Windows can take, at a few boots at most.
setlocal EnableExtensions DisableDelayedExpansion
set "PNPUTIL=%SystemRoot%\Sysnative\pnputil.exe"
if not exist "%PNPUTIL%" set "PNPUTIL=%SystemRoot%\System32\pnputil.exe"
set "FAILED="
rem @INSTALL@
if not defined FAILED exit /b 0
set "TRIES=1"
:count
if not exist "%~dp0%~n0.try%TRIES%" goto counted
set /a TRIES+=1
goto count
:counted
>"%~dp0%~n0.try%TRIES%" echo.
echo try %TRIES% of @TRIES@, failed:%FAILED%
rem 249 asks for another try at the next boot; a driver that fails at each of them holds nothing up.
if %TRIES% LSS @TRIES@ exit /b 249
exit /b 0

:install
"%PNPUTIL%" -i -a "%SystemRoot%\Drivers\VirtIO\%~1"
set "STATUS=%ERRORLEVEL%"
echo pnputil %~1: %STATUS%
rem 259: no device wants it now, or it has a better one. 1641, 3010: it asks for a reboot, which comes anyway.
if "%STATUS%"=="0" exit /b 0
if "%STATUS%"=="259" exit /b 0
if "%STATUS%"=="1641" exit /b 0
if "%STATUS%"=="3010" exit /b 0
set "FAILED=%FAILED% %~1"
exit /b 0
