@echo off
rem THEIRS: "wait" while scripts of virt-v2v wait or one runs, "none" when its service has yet to start or to restart the
rem machine, not set when it is over. Some versions move a script away before they run it: what runs, the service says.
set "THEIRS="
set "THEIR_START="
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\firstboot /v Start >"%H2K%theirs.tmp" 2>nul
for /f "usebackq tokens=1,3" %%a in ("%H2K%theirs.tmp") do if /i "%%a"=="Start" set "THEIR_START=%%b"
if not defined THEIR_START exit /b 0
if "%THEIR_START%"=="0x4" exit /b 0
if exist "%SystemDrive%\Program Files\Guestfs\Firstboot\complete" exit /b 0
if exist "%SystemDrive%\Program Files\Guestfs\Firstboot\scripts\*.bat" set "THEIRS=wait"
"%SYS%\sc.exe" query firstboot >"%H2K%theirs.tmp" 2>nul
"%SYS%\findstr.exe" /l /c:"RUNNING" /c:"PENDING" "%H2K%theirs.tmp" >nul
if not errorlevel 1 set "THEIRS=wait"
if not defined THEIRS set "THEIRS=none"
exit /b 0
