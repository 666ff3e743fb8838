@echo off
rem Takes the placeholder packages away (virt-v2v's guestor.inf and ours), once the real drivers drive the final
rem hardware, and the bootstrap's own card, when it was another one. What stays is reported, and does no harm.
set "WANTED="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="leftover" set "WANTED=1"
  if "%%a"=="bootstrap-card" set "WANTED=1"
  if "%%a"=="auto-reboot" set "WANTED=1"
)
set "RESULT=3"
if not defined WANTED exit /b 0
call "%H2K%final.cmd"
if errorlevel 1 goto not_final
rem A crash stopped at its screen while the boots were watched; from now on Windows does what its owner wants.
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="auto-reboot" "%SYS%\reg.exe" add "HKLM\SYSTEM\%%b\Control\CrashControl" /v AutoReboot /t REG_DWORD /d %%c /f
set "UNBOUND="
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="must-be-bound" call :bound %%b
if defined UNBOUND goto unbound
set "REMOVED=0"
set "KEPT=0"
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="leftover" call :leftover %%b
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="bootstrap-card" "%SYS%\reg.exe" delete "HKLM\SYSTEM\CurrentControlSet\Enum\PCI\%%b" /f
set "DETAIL=%REMOVED% keys removed, %KEPT% kept"
set "RESULT=0"
exit /b 0

:not_final
set "DETAIL=the final bus"
set "RESULT=4"
exit /b 0

:unbound
set "DETAIL=the real driver of%UNBOUND%"
set "RESULT=2"
if not defined LAST exit /b 0
set "DETAIL=the placeholder packages stay, for they still drive%UNBOUND%"
set "RESULT=3"
exit /b 0

:bound
rem The service drives a device, and every device it drives was installed from a package of its own (oemN.inf).
call "%H2K%bound.cmd" %~1
if errorlevel 1 goto not_bound
set "REAL="
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\%~1\Enum >"%H2K%devices.tmp"
for /f "usebackq tokens=1,2*" %%a in ("%H2K%devices.tmp") do if "%%b"=="REG_SZ" call :device "%%c"
if "%REAL%"=="yes" exit /b 0
:not_bound
set "UNBOUND=%UNBOUND% %~1"
exit /b 0

:device
set "DRIVER="
"%SYS%\reg.exe" query "HKLM\SYSTEM\CurrentControlSet\Enum\%~1" /v Driver >"%H2K%driver.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%driver.tmp") do if "%%i"=="Driver" set "DRIVER=%%k"
if not defined DRIVER goto not_real
"%SYS%\reg.exe" query "HKLM\SYSTEM\CurrentControlSet\Control\Class\%DRIVER%" /v InfPath >"%H2K%inf.tmp" 2>nul
"%SYS%\findstr.exe" /i /r /c:" oem[0-9][0-9]*\.inf" "%H2K%inf.tmp" >nul
if errorlevel 1 goto not_real
if not "%REAL%"=="no" set "REAL=yes"
exit /b 0
:not_real
set "REAL=no"
exit /b 0

:leftover
set "DATABASE=HKLM\SYSTEM\DriverDatabase"
"%SYS%\reg.exe" query "%DATABASE%\DeviceIds\PCI" /s /v %~1 >"%H2K%ids.tmp" 2>nul
for /f "usebackq delims=" %%k in ("%H2K%ids.tmp") do call :id "%%k" %~1
"%SYS%\reg.exe" query "%DATABASE%\DriverPackages" >"%H2K%packages.tmp" 2>nul
"%SYS%\findstr.exe" /i /l /c:"DriverPackages\%~1_" "%H2K%packages.tmp" >"%H2K%package.tmp"
for /f "usebackq delims=" %%k in ("%H2K%package.tmp") do call :gone "%%k"
call :gone "%DATABASE%\DriverInfFiles\%~1"
exit /b 0

:id
rem Lines with a key begin with the root's name; the others are values and a summary.
set "PLACE=%~1"
if not "%PLACE:~0,5%"=="HKEY_" exit /b 0
"%SYS%\reg.exe" delete "%PLACE%" /v %~2 /f
if errorlevel 1 set /a KEPT+=1
if not errorlevel 1 set /a REMOVED+=1
exit /b 0

:gone
"%SYS%\reg.exe" query "%~1" >nul 2>nul
if errorlevel 1 exit /b 0
"%SYS%\reg.exe" delete "%~1" /f
if errorlevel 1 set /a KEPT+=1
if not errorlevel 1 set /a REMOVED+=1
exit /b 0
