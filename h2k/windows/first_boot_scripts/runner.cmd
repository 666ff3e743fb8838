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
"%SystemRoot%\Sysnative\cmd.exe" /d /c call "%~f0"
exit /b 0

:main
echo ==== h2k first boot
rem Accounts by SID, for their names are Windows' language's: SYSTEM and the Administrators.
"%SYS%\icacls.exe" "%H2K%." /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F /q
"%SYS%\icacls.exe" "%H2K%*" /reset /t /c /q
rem Finished once: the service only has to go. Finished in an earlier life of this disk: everything starts anew.
"%SYS%\reg.exe" query HKLM\SOFTWARE\h2k /v FirstBoot >nul 2>nul
if not errorlevel 1 goto over
if exist "%H2K%done\done" rmdir /s /q "%H2K%done" "%H2K%tries"
"%SYS%\mode.com" COM1: baud=115200 parity=n data=8 stop=1
if not exist "%H2K%done" mkdir "%H2K%done"
if not exist "%H2K%tries" mkdir "%H2K%tries"
if exist "%H2K%run*.rc" del /q "%H2K%run*.rc"
set "RETRIES=5"
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="retries" set "RETRIES=%%b"
set "RUNS=0"
set "WAITING="
set "FAILED="
call :budget start
call :virt_v2v
if defined THEIRS call :hung
if defined THEIRS goto theirs
set "DETAIL="
call :signal start ok
for %%s in (@STEPS@) do call :step %%s
call :finish
exit /b 0

:over
"%SYS%\sc.exe" delete h2k-firstboot
exit /b 0

:hung
rem Nothing moved for as long as the host waits: their service may never start here. So many such boots, and ours go on.
set "HUNG=1"
:hung_before
if not exist "%H2K%tries\virt-v2v.%HUNG%" goto hung_counted
set /a HUNG+=1
goto hung_before
:hung_counted
>"%H2K%tries\virt-v2v.%HUNG%" echo.
if %HUNG% GEQ %RETRIES% set "THEIRS="
exit /b 0

:theirs
rem This boot ends without a try of ours, and says so.
set "DETAIL=the scripts of virt-v2v do not come to their end"
call :signal done failed
exit /b 0

:virt_v2v
rem virt-v2v's own first-boot scripts come first. Each restarts the machine, and a step of ours that is cut short would
rem have spent a try. After the last one there is a minute for its restart, unless it leaves its file `complete`; and
rem a minute for its service to start.
set "QUIET=0"
set "SAID=0"
:virt_v2v_look
call "%H2K%virt-v2v.cmd"
if not defined THEIRS exit /b 0
if "%THEIRS%"=="wait" set "QUIET=0"
if "%THEIRS%"=="none" set /a QUIET+=1
if %QUIET% GEQ 12 set "THEIRS="
if %QUIET% GEQ 12 exit /b 0
set /a BUDGET-=5
if %BUDGET% LEQ 0 exit /b 0
set "DETAIL=waits for the first-boot scripts of virt-v2v"
if "%SAID%"=="0" call :signal start skipped
set /a SAID+=1
if "%SAID%"=="12" set "SAID=0"
"%SYS%\ping.exe" -n 6 127.0.0.1 >nul
goto virt_v2v_look

:budget
rem BUDGET: the seconds that the programs of this step may take together, less than the host waits for its signal.
set "BUDGET=600"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="limit" if "%%b"=="%~1" set "BUDGET=%%c"
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
if %TRIES% GEQ %RETRIES% set "LAST=1"
>"%H2K%tries\%STEP%.%TRIES%" echo.
echo ---- %STEP%, try %TRIES% of %RETRIES%
call :budget %STEP%
rem RESULT: 0 done, 1 failed, 2 waits for another boot, 3 nothing to do, 4 waits for the final hardware.
set "RESULT=1"
call "%H2K%%STEP%.cmd"
if "%RESULT%"=="0" goto step_ok
if "%RESULT%"=="3" goto step_skipped
if "%RESULT%"=="4" goto step_not_final
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
:step_not_final
rem That was no try: however many boots the guest makes before, it waits.
del "%H2K%tries\%STEP%.%TRIES%"
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
rem settings.txt stays: it has what the source's cards had.
del /q "%H2K%*.tmp" "%H2K%*.msi" "%H2K%run*.rc"
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
rem Windows' special console or a debugger may hold COM1: h2k boot gives the guest a COM2 as well then.
>\\.\COM1 echo %LINE%|| >\\.\COM2 echo %LINE%
exit /b 0
