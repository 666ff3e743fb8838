@echo off
rem 0: virt-v2v has no first boot of its own here, or it has come to its end. 1: its scripts wait. 2: none waits any more.
set "THEIR_START="
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\firstboot /v Start >"%H2K%theirs.tmp" 2>nul
for /f "usebackq tokens=1,3" %%a in ("%H2K%theirs.tmp") do if /i "%%a"=="Start" set "THEIR_START=%%b"
if not defined THEIR_START exit /b 0
if "%THEIR_START%"=="0x4" exit /b 0
if exist "%SystemDrive%\Program Files\Guestfs\Firstboot\complete" exit /b 0
if exist "%SystemDrive%\Program Files\Guestfs\Firstboot\scripts\*.bat" exit /b 1
exit /b 2
