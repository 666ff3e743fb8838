@echo off
rem Brings this guest's own disks online, and gives Windows its own SAN policy back once the disks hang where they will stay.
set "WANTED="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="san" set "WANTED=1"
rem Where the owner keeps a disk offline the policy stays, and only the disks of the list come online.
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="disk" set "WANTED=1"
set "RESULT=3"
if not defined WANTED exit /b 0
set "DISKS=0"
>"%H2K%disk.tmp" echo list disk
"%SYS%\diskpart.exe" /s "%H2K%disk.tmp" >"%H2K%disks.tmp"
rem "Disk 1 Online": the second word of such a line is a number in every language, and in no other line.
for /f "usebackq tokens=2" %%d in ("%H2K%disks.tmp") do call :disk "%%d"
set "DETAIL=%DISKS% disks online"
call "%H2K%final.cmd"
if not errorlevel 1 goto restore
set "DETAIL=%DETAIL%, again on the final bus, where the SAN policy comes back"
set "RESULT=4"
exit /b 0
:restore
set "RESULT=0"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="san" call :restore_one %%b %%c
exit /b 0

:restore_one
set "KEY=HKLM\SYSTEM\%~1\Services\partmgr\Parameters"
if "%~2"=="none" "%SYS%\reg.exe" delete "%KEY%" /v SanPolicy /f
if not "%~2"=="none" "%SYS%\reg.exe" add "%KEY%" /v SanPolicy /t REG_DWORD /d %~2 /f
exit /b 0

:disk
rem Only a disk whose signature or GUID is in the list: the owner keeps others offline, or shares them.
set "NUMBER=%~1"
for /f "delims=0123456789" %%x in ("%~1") do set "NUMBER="
if not defined NUMBER exit /b 0
>"%H2K%disk.tmp" echo select disk %NUMBER%
>>"%H2K%disk.tmp" echo uniqueid disk
"%SYS%\diskpart.exe" /s "%H2K%disk.tmp" >"%H2K%id.tmp"
set "OURS="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="disk" call :same %%b
if not defined OURS exit /b 0
set /a DISKS+=1
>"%H2K%disk.tmp" echo select disk %NUMBER%
>>"%H2K%disk.tmp" echo online disk noerr
>>"%H2K%disk.tmp" echo attributes disk clear readonly noerr
"%SYS%\diskpart.exe" /s "%H2K%disk.tmp"
exit /b 0

:same
"%SYS%\findstr.exe" /i /l /c:"%~1" "%H2K%id.tmp" >nul
if not errorlevel 1 set "OURS=1"
exit /b 0
