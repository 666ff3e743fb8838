@echo off
rem h2k: bounded. Starts virt-v2v's script of this name at a few boots at most; it would else be tried for ever.
setlocal EnableExtensions DisableDelayedExpansion
set "TRIES=1"
:count
if not exist "%~dp0%~n0.try%TRIES%" goto counted
set /a TRIES+=1
goto count
:counted
>"%~dp0%~n0.try%TRIES%" echo.
call "%~dp0..\h2k\%~n0.cmd"
set "STATUS=%ERRORLEVEL%"
if not "%STATUS%"=="249" exit /b %STATUS%
echo try %TRIES% of @TRIES@
if %TRIES% LSS @TRIES@ exit /b 249
exit /b 0
