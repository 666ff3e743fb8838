@echo off
rem The first-boot runner of h2k: each step once, at most so many tries, one line on COM1 for each. It never reboots.
rem A 32-bit parent (rhsrvany.exe) would show us SysWOW64, where pnputil.exe is not: start again as what Windows is.
if defined PROCESSOR_ARCHITEW6432 goto native
setlocal EnableExtensions DisableDelayedExpansion
set "H2K=%~dp0"
set "SYS=%SystemRoot%\System32"
cd /d "%SYS%"
call :main >>"%H2K%firstboot.log" 2>&1
exit /b 0

:native
"%SystemRoot%\Sysnative\cmd.exe" /d /c "%~f0"
exit /b 0

:main
echo ==== h2k first boot
"%SYS%\icacls.exe" "%H2K%." /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F /q
"%SYS%\icacls.exe" "%H2K%*" /reset /t /c /q
rem Finished once: the service only has to go. Finished in an earlier life of this disk: everything starts anew.
"%SYS%\reg.exe" query HKLM\SOFTWARE\h2k /v FirstBoot >nul 2>nul
if not errorlevel 1 goto over
if exist "%H2K%done\done" rmdir /s /q "%H2K%done" "%H2K%tries"
"%SYS%\mode.com" COM1: baud=115200 parity=n data=8 stop=1
if not exist "%H2K%done" mkdir "%H2K%done"
if not exist "%H2K%tries" mkdir "%H2K%tries"
set "RETRIES=5"
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="retries" set "RETRIES=%%b"
set "WAITING="
set "FAILED="
call :signal start ok
for %%s in (drivers addresses disks tools agent cleanup) do call :step %%s
call :finish
exit /b 0

:over
"%SYS%\sc.exe" delete h2k-firstboot
exit /b 0

:step
set "STEP=%~1"
set "DETAIL="
set "LAST="
if exist "%H2K%done\%STEP%" goto done_before
set "TRIES=1"
:count
if not exist "%H2K%tries\%STEP%.%TRIES%" goto counted
set /a TRIES+=1
goto count
:counted
>"%H2K%tries\%STEP%.%TRIES%" echo.
if %TRIES% GEQ %RETRIES% set "LAST=1"
echo ---- %STEP%, try %TRIES% of %RETRIES%
call "%H2K%%STEP%.cmd"
set "RESULT=%ERRORLEVEL%"
if "%RESULT%"=="0" goto step_ok
if "%RESULT%"=="3" goto step_skipped
if defined LAST goto step_failed
if "%RESULT%"=="2" goto step_waits
call :signal %STEP% failed
set "WAITING=%WAITING% %STEP%"
set "FAILED=%FAILED% %STEP%"
exit /b 0
:step_failed
call :signal %STEP% failed
>"%H2K%done\%STEP%" echo failed
set "FAILED=%FAILED% %STEP%"
exit /b 0
:step_waits
set "DETAIL=waits for the next boot: %DETAIL%"
call :signal %STEP% skipped
set "WAITING=%WAITING% %STEP%"
exit /b 0
:step_skipped
call :signal %STEP% skipped
>"%H2K%done\%STEP%" echo skipped
exit /b 0
:step_ok
call :signal %STEP% ok
>"%H2K%done\%STEP%" echo ok
exit /b 0
:done_before
"%SYS%\findstr.exe" /l /c:"failed" "%H2K%done\%STEP%" >nul
if not errorlevel 1 goto failed_before
set "DETAIL=done at an earlier boot"
call :signal %STEP% skipped
exit /b 0
:failed_before
set "DETAIL=given up at an earlier boot"
call :signal %STEP% failed
set "FAILED=%FAILED% %STEP%"
exit /b 0

:finish
set "DETAIL=complete"
if defined FAILED set "DETAIL=failed:%FAILED%"
if defined WAITING set "DETAIL=the next boot goes on with:%WAITING%"
if defined WAITING goto finish_signal
"%SYS%\reg.exe" add HKLM\SOFTWARE\h2k /v FirstBoot /t REG_SZ /d done /f
>"%H2K%done\done" echo ok
del /q "%H2K%*.tmp" "%H2K%*.msi" "%H2K%run.rc"
if exist "%H2K%drivers" rmdir /s /q "%H2K%drivers"
"%SYS%\sc.exe" delete h2k-firstboot
:finish_signal
set "STATE=ok"
if defined FAILED set "STATE=failed"
call :signal done %STATE%
exit /b 0

:signal
rem The h2k-boot protocol, version 1. DETAIL holds only words of ours: nothing in it needs an escape.
set "LINE=h2k-boot {"v":1,"step":"%~1","state":"%~2","detail":"%DETAIL%"}"
echo %LINE%
>\\.\COM1 echo %LINE%
exit /b 0
