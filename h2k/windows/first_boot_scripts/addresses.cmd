@echo off
rem Gives each card what its MAC had on the source. The card is found in the interface list of route.exe, which needs
rem neither WMI nor PowerShell, names index and MAC, and reads the same in every language.
set "SERVICE="
set "CARDS=0"
set "NEEDED=0"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="network-service" set "SERVICE=%%b"
  if "%%a"=="nic" set /a CARDS+=1
  if "%%a"=="nic" if "%%c"=="required" set /a NEEDED+=1
)
if "%CARDS%"=="0" exit /b 3
set "WAIT=45"
:look
set "MISSING="
"%SYS%\route.exe" print >"%H2K%cards.tmp"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="nic" if "%%c"=="required" call :find %%b
if defined SERVICE call "%H2K%bound.cmd" %SERVICE%
if defined SERVICE if errorlevel 1 set "MISSING=%MISSING% VirtIO"
if not defined MISSING goto apply
if %WAIT% LEQ 0 goto incomplete
"%SYS%\ping.exe" -n 3 127.0.0.1 >nul
set /a WAIT-=1
goto look

:incomplete
set "DETAIL=no card yet for:%MISSING%"
if not defined LAST exit /b 2
rem The last try: a card that is not VirtIO is better than no address; one that is not there stays named.
:apply
set "INDEX="
set "GIVEN=0"
set "GIVEN_NEEDED=0"
for /f "usebackq tokens=1,2*" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="nic" call :card %%b %%c
  if "%%a"=="address" call :address %%b %%c
  if "%%a"=="gateway" call :gateway %%b %%c
  if "%%a"=="dns" call :dns %%b
  if "%%a"=="address6" call :netsh6 add address interface=INDEX address=%%b store=persistent
  if "%%a"=="gateway6" call :netsh6 add route prefix=::/0 interface=INDEX nexthop=%%b store=persistent
  if "%%a"=="dns6" call :netsh6 add dnsservers name=INDEX address=%%b validate=no
  if "%%a"=="metric" call :netsh4 set interface interface=INDEX metric=%%b
  if "%%a"=="name" call :name "%%b %%c"
)
for /f "usebackq tokens=1-5" %%a in ("%H2K%settings.txt") do if "%%a"=="route" "%SYS%\route.exe" -p add %%b mask %%c %%d metric %%e
set "DETAIL=%GIVEN% of %CARDS% cards set"
if defined MISSING set "DETAIL=%DETAIL%, not found:%MISSING%"
if %GIVEN_NEEDED% LSS %NEEDED% exit /b 1
exit /b 0

:find
call :index %~1
if not defined INDEX set "MISSING=%MISSING% %~1"
exit /b 0

:index
rem INDEX of the card with the MAC 52-54-00-12-34-56, or of the only Ethernet card ("single").
set "INDEX="
if "%~1"=="single" goto only
set "MAC=%~1"
set "MAC=%MAC:-= %"
"%SYS%\findstr.exe" /i /l /c:"...%MAC% ." "%H2K%cards.tmp" >"%H2K%card.tmp"
for /f "usebackq tokens=1 delims=." %%i in ("%H2K%card.tmp") do set /a INDEX=%%i
exit /b 0
:only
set "FOUND=0"
set "BYTE=[0-9a-f][0-9a-f]"
"%SYS%\findstr.exe" /i /r /c:"\.%BYTE% %BYTE% %BYTE% %BYTE% %BYTE% %BYTE% \." "%H2K%cards.tmp" >"%H2K%ethernet.tmp"
"%SYS%\findstr.exe" /v /l /c:"...00 00 00 00 00 00 ." "%H2K%ethernet.tmp" >"%H2K%card.tmp"
for /f "usebackq tokens=1 delims=." %%i in ("%H2K%card.tmp") do (
  set /a INDEX=%%i
  set /a FOUND+=1
)
if not "%FOUND%"=="1" set "INDEX="
exit /b 0

:card
rem :card MAC required-or-optional. What follows in the list is for this card; optional is one that only gets a name.
call :index %~1
set "FIRST_ADDRESS=1"
set "FIRST_DNS=1"
if not defined INDEX exit /b 0
set /a GIVEN+=1
if "%~2"=="required" set /a GIVEN_NEEDED+=1
echo card %~1 is interface %INDEX%
exit /b 0

:address
if not defined INDEX exit /b 0
if defined FIRST_ADDRESS call :netsh4 set address name=INDEX source=static address=%~1 mask=%~2 gateway=none
if not defined FIRST_ADDRESS call :netsh4 add address name=INDEX address=%~1 mask=%~2
set "FIRST_ADDRESS="
exit /b 0

:gateway
if not defined INDEX exit /b 0
if "%~2"=="0" call :netsh4 add address name=INDEX gateway=%~1
if not "%~2"=="0" call :netsh4 add address name=INDEX gateway=%~1 gwmetric=%~2
exit /b 0

:dns
if not defined INDEX exit /b 0
if defined FIRST_DNS call :netsh4 set dnsservers name=INDEX source=static address=%~1 register=primary validate=no
if not defined FIRST_DNS call :netsh4 add dnsservers name=INDEX address=%~1 validate=no
set "FIRST_DNS="
exit /b 0

:netsh4
set "FAMILY=ipv4"
goto netsh
:netsh6
set "FAMILY=ipv6"
:netsh
rem cmd splits name=INDEX at the equals sign, so the words are put together again here.
if not defined INDEX exit /b 0
set "WORDS=%*"
call set "WORDS=%%WORDS:INDEX=%INDEX%%%"
echo netsh interface %FAMILY% %WORDS%
"%SYS%\netsh.exe" interface %FAMILY% %WORDS%
exit /b 0

:name
rem The connection's old name; optional, for a name in use or a language's own letters may stand in the way.
if not defined INDEX exit /b 0
set "NEW=%~1"
:trim
if "%NEW:~-1%"==" " set "NEW=%NEW:~0,-1%"
if "%NEW:~-1%"==" " goto trim
set "OLD="
"%SYS%\netsh.exe" interface ipv4 show interfaces >"%H2K%names.tmp"
for /f "usebackq tokens=1,4*" %%i in ("%H2K%names.tmp") do if "%%i"=="%INDEX%" set "OLD=%%k"
if not defined OLD exit /b 0
if "%OLD%"=="%NEW%" exit /b 0
"%SYS%\netsh.exe" interface set interface name="%OLD%" newname="%NEW%"
exit /b 0
