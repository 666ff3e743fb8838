@echo off
rem Gives each card what its MAC had on the source, and reads it back. The card is found in the interface list of route.exe,
rem which needs neither WMI nor PowerShell, names index and MAC, and reads the same in every language. What only PowerShell
rem can set comes last, and is no failure where it does not.
set "SERVICE="
set "CARDS=0"
set "NEEDED=0"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="network-service" set "SERVICE=%%b"
  if "%%a"=="nic" set /a CARDS+=1
  if "%%a"=="nic" if "%%c"=="required" set /a NEEDED+=1
)
set "RESULT=3"
if "%CARDS%"=="0" exit /b 0
set "NETWORK=HKLM\SYSTEM\CurrentControlSet\Control\Class\{4D36E972-E325-11CE-BFC1-08002BE10318}"
set "WAIT=45"
:look
set "MISSING="
"%SYS%\route.exe" print >"%H2K%cards.tmp"
for /f "usebackq tokens=1,2,3" %%a in ("%H2K%settings.txt") do if "%%a"=="nic" if "%%c"=="required" call :find %%b
if defined SERVICE call "%H2K%bound.cmd" %SERVICE%
if defined SERVICE if errorlevel 1 set "MISSING=%MISSING% VirtIO"
if not defined MISSING goto apply
if %WAIT% LEQ 0 goto incomplete
rem What waits draws on the step's budget; its last seconds are for reading back.
if %BUDGET% LEQ 10 goto incomplete
"%SYS%\ping.exe" -n 3 127.0.0.1 >nul
set /a WAIT-=1
set /a BUDGET-=2
goto look

:incomplete
set "DETAIL=no card yet for:%MISSING%"
set "RESULT=2"
if not defined LAST exit /b 0
rem The last try: a card that is not VirtIO is better than no address; one that is not there stays named.
:apply
set "INDEX="
set "GIVEN=0"
set "GIVEN_NEEDED=0"
set "BAD="
set "UNSET="
for /f "usebackq tokens=1,2*" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="nic" call :card %%b %%c
  if "%%a"=="address" call :address %%b %%c
  if "%%a"=="gateway" call :gateway %%b %%c
  if "%%a"=="dns" call :dns %%b
  if "%%a"=="wins" call :wins %%b
  if "%%a"=="register" call :register %%b
  if "%%a"=="address6" call :add6 address interface=INDEX address=%%b store=persistent
  if "%%a"=="gateway6" call :add6 route prefix=::/0 interface=INDEX nexthop=%%b store=persistent
  if "%%a"=="dns6" call :add6 dnsservers name=INDEX address=%%b validate=no
  if "%%a"=="metric" call :set4 interface interface=INDEX metric=%%b
  if "%%a"=="mtu" call :mtu %%b
  if "%%a"=="netbios" call :registry NetBT\Parameters\Interfaces\Tcpip_ NetbiosOptions REG_DWORD %%b
  if "%%a"=="suffix" call :registry Tcpip\Parameters\Interfaces\ Domain REG_SZ %%b
  if "%%a"=="no-dynamic-update" call :registry Tcpip\Parameters\Interfaces\ DisableDynamicUpdate REG_DWORD %%b
  if "%%a"=="name" call :name "%%b %%c"
  if "%%a"=="name-units" call :name_units %%b
  if "%%a"=="unbind" call :unbind %%b
)
for /f "usebackq tokens=1-5" %%a in ("%H2K%settings.txt") do if "%%a"=="route" call :route %%b %%c %%d %%e
rem Windows lists an address once its duplicates were looked for: what is not there yet gets some seconds.
set "WAIT=5"
:read_back
set "INDEX="
set "ABSENT="
"%SYS%\netsh.exe" interface ipv6 show route >"%H2K%routes6.tmp"
"%SYS%\netsh.exe" interface ipv6 show route store=persistent >>"%H2K%routes6.tmp"
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do (
  if "%%a"=="nic" call :listing %%b
  if "%%a"=="address" call :listed address %%b
  if "%%a"=="gateway" call :listed address %%b
  if "%%a"=="dns" call :listed dns %%b
  if "%%a"=="wins" call :listed wins %%b
  if "%%a"=="address6" call :listed address6 %%b
  if "%%a"=="gateway6" call :listed gateway6 %%b
  if "%%a"=="dns6" call :listed dns6 %%b
)
if not defined ABSENT goto judge
if %WAIT% LEQ 0 goto judge
if %BUDGET% LEQ 0 goto judge
"%SYS%\ping.exe" -n 3 127.0.0.1 >nul
set /a WAIT-=1
set /a BUDGET-=2
goto read_back
:judge
set "DETAIL=%GIVEN% of %CARDS% cards set"
if defined MISSING set "DETAIL=%DETAIL%, not found:%MISSING%"
if defined BAD set "DETAIL=%DETAIL%, refused:%BAD%"
if defined ABSENT set "DETAIL=%DETAIL%, not there when read back:%ABSENT%"
if defined UNSET set "DETAIL=%DETAIL%, to be set by hand:%UNSET%"
set "RESULT=0"
if defined BAD set "RESULT=1"
if defined ABSENT set "RESULT=1"
if %GIVEN_NEEDED% LSS %NEEDED% set "RESULT=1"
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
set "DRIVEN=0"
set "BYTE=[0-9a-f][0-9a-f]"
"%SYS%\findstr.exe" /i /r /c:"\.%BYTE% %BYTE% %BYTE% %BYTE% %BYTE% %BYTE% \." "%H2K%cards.tmp" >"%H2K%ethernet.tmp"
"%SYS%\findstr.exe" /v /l /c:"...00 00 00 00 00 00 ." "%H2K%ethernet.tmp" >"%H2K%card.tmp"
for /f "usebackq tokens=1 delims=." %%i in ("%H2K%card.tmp") do call :candidate %%i
rem Others may stand beside it that are no cards (a loopback, a VPN, a switch): the one that the network driver drives.
if "%DRIVEN%"=="1" set "INDEX=%CANDIDATE%"
if "%DRIVEN%"=="1" exit /b 0
if not "%FOUND%"=="1" set "INDEX="
exit /b 0
:candidate
set /a INDEX=%~1
set /a FOUND+=1
if not defined SERVICE exit /b 0
call :adapter
if not defined ADAPTER exit /b 0
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\%SERVICE%\Enum >"%H2K%driven.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%driven.tmp") do if "%%j"=="REG_SZ" call :driver "%%k"
exit /b 0
:driver
set "DRIVER="
"%SYS%\reg.exe" query "HKLM\SYSTEM\CurrentControlSet\Enum\%~1" /v Driver >"%H2K%driver.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%driver.tmp") do if "%%i"=="Driver" set "DRIVER=%%k"
if not defined DRIVER exit /b 0
if /i not "%DRIVER:~-4%"=="%ADAPTER:~-4%" exit /b 0
set /a DRIVEN+=1
set "CANDIDATE=%INDEX%"
exit /b 0

:adapter
rem ADAPTER, the class key of the card INDEX: netsh tells its LUID as ethernet_NUMBER, in every language, and the class key
rem has the same number.
set "ADAPTER="
set "LUID="
"%SYS%\netsh.exe" interface ipv4 show interface %INDEX% >"%H2K%interface.tmp"
rem The connection's name stands there as well, and may have an underscore of its own.
"%SYS%\findstr.exe" /i /r /c:": ethernet_[0-9][0-9]*" "%H2K%interface.tmp" >"%H2K%luid.tmp"
for /f "usebackq tokens=2 delims=_" %%i in ("%H2K%luid.tmp") do if not defined LUID set /a LUID=%%i
if not defined LUID exit /b 0
set "PLACE="
"%SYS%\reg.exe" query "%NETWORK%" /s /v NetLuidIndex >"%H2K%luids.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%luids.tmp") do call :luid "%%i" "%%j" "%%k"
exit /b 0
:luid
set "WORD=%~1"
if "%WORD:~0,5%"=="HKEY_" set "PLACE=%~1"
if /i not "%WORD%"=="NetLuidIndex" exit /b 0
set /a NUMBER=%~3
if "%NUMBER%"=="%LUID%" set "ADAPTER=%PLACE%"
exit /b 0

:card
rem :card MAC required-or-optional. What follows in the list is for this card; optional is one that only gets a name.
call :index %~1
set "FIRST_ADDRESS=1"
set "FIRST_DNS=1"
set "FIRST_WINS=1"
set "REGISTER=primary"
if not defined INDEX exit /b 0
set /a GIVEN+=1
if "%~2"=="required" set /a GIVEN_NEEDED+=1
echo card %~1 is interface %INDEX%
exit /b 0

:address
if not defined INDEX exit /b 0
if defined FIRST_ADDRESS call :set4 address name=INDEX source=static address=%~1 mask=%~2 gateway=none
if not defined FIRST_ADDRESS call :add4 address name=INDEX address=%~1 mask=%~2
set "FIRST_ADDRESS="
exit /b 0

:gateway
if not defined INDEX exit /b 0
if "%~2"=="0" call :add4 address name=INDEX gateway=%~1
if not "%~2"=="0" call :add4 address name=INDEX gateway=%~1 gwmetric=%~2
exit /b 0

:register
rem Whether the card's addresses are registered in DNS; it stands before the card's servers. netsh takes it with a server
rem alone, and a card whose servers come by DHCP has none.
if not defined INDEX exit /b 0
set "REGISTER=%~1"
set "REGISTERED=1"
if "%~1"=="none" set "REGISTERED=0"
call :registry Tcpip\Parameters\Interfaces\ RegistrationEnabled REG_DWORD %REGISTERED%
if "%~1"=="both" call :registry Tcpip\Parameters\Interfaces\ RegisterAdapterName REG_DWORD 1
exit /b 0

:dns
if not defined INDEX exit /b 0
if defined FIRST_DNS call :set4 dnsservers name=INDEX source=static address=%~1 register=%REGISTER% validate=no
if not defined FIRST_DNS call :add4 dnsservers name=INDEX address=%~1 validate=no
set "FIRST_DNS="
exit /b 0

:wins
if not defined INDEX exit /b 0
if defined FIRST_WINS call :set4 winsservers name=INDEX source=static address=%~1
if not defined FIRST_WINS call :add4 winsservers name=INDEX address=%~1
set "FIRST_WINS="
exit /b 0

:mtu
call :set4 subinterface interface=INDEX mtu=%~1 store=persistent
exit /b 0

:route
rem One that is there already is no fault: it lies in the registry and belongs to no card.
"%SYS%\route.exe" -p add %~1 mask %~2 %~3 metric %~4
exit /b 0

:registry
rem :registry PLACE NAME TYPE DATA: what netsh can't set, in the key of the card's GUID.
if not defined INDEX exit /b 0
call :guid
if not defined GUID goto registry_bad
"%SYS%\reg.exe" add "HKLM\SYSTEM\CurrentControlSet\Services\%~1%GUID%" /v %~2 /t %~3 /d %~4 /f
if not errorlevel 1 exit /b 0
:registry_bad
set "BAD=%BAD% %~2"
exit /b 0

:guid
set "GUID="
call :adapter
if not defined ADAPTER exit /b 0
"%SYS%\reg.exe" query "%ADAPTER%" /v NetCfgInstanceId >"%H2K%guid.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%guid.tmp") do if /i "%%i"=="NetCfgInstanceId" set "GUID=%%k"
exit /b 0

:set4
rem Setting is the same however often it is done, and must succeed.
call :netsh ipv4 set %*
if defined REFUSED set "BAD=%BAD% %~1"
exit /b 0
:add4
rem What was added at an earlier try is refused as there already: whether it is, is read back.
call :netsh ipv4 add %*
exit /b 0
:add6
call :netsh ipv6 add %*
exit /b 0

:netsh
rem :netsh FAMILY WORDS, where INDEX stands for the card. cmd splits name=INDEX at the equals sign, so the words are put
rem together again here. REFUSED when netsh says so.
set "REFUSED="
if not defined INDEX exit /b 0
set "WORDS=%*"
call set "WORDS=%%WORDS:INDEX=%INDEX%%%"
echo netsh interface %WORDS%
"%SYS%\netsh.exe" interface %WORDS%
if not "%ERRORLEVEL%"=="0" set "REFUSED=1"
if defined REFUSED echo refused
exit /b 0

:listing
rem What Windows says of this card alone, a file for each kind: that another card has a server, or that this card's gateway
rem is the same, does not make it one of this card's servers. What is stored is read too, for a card without its cable may
rem be listed without it.
call :index %~1
if not defined INDEX exit /b 0
"%SYS%\netsh.exe" interface ipv4 show addresses %INDEX% >"%H2K%address.tmp"
"%SYS%\netsh.exe" interface ipv4 show dnsservers %INDEX% >"%H2K%dns.tmp"
"%SYS%\netsh.exe" interface ipv4 show winsservers %INDEX% >"%H2K%wins.tmp"
"%SYS%\netsh.exe" interface ipv6 show addresses %INDEX% >"%H2K%address6.tmp"
"%SYS%\netsh.exe" interface ipv6 show addresses interface=%INDEX% store=persistent >>"%H2K%address6.tmp"
"%SYS%\netsh.exe" interface ipv6 show dnsservers %INDEX% >"%H2K%dns6.tmp"
rem The columns of a route: words of Windows' language, metric, prefix, the card's index, gateway.
"%SYS%\findstr.exe" /r /c:" ::/0  *%INDEX% " "%H2K%routes6.tmp" >"%H2K%gateway6.tmp"
call :guid
if not defined GUID exit /b 0
call :stored address Tcpip\Parameters\Interfaces\ IPAddress
call :stored address Tcpip\Parameters\Interfaces\ DefaultGateway
call :stored dns Tcpip\Parameters\Interfaces\ NameServer
call :stored wins NetBT\Parameters\Interfaces\Tcpip_ NameServerList
call :stored dns6 Tcpip6\Parameters\Interfaces\ NameServer
exit /b 0

:stored
rem :stored KIND PLACE NAME: a value in the key of the card's GUID. reg.exe puts \0 between the strings of a list.
set "VALUE="
"%SYS%\reg.exe" query "HKLM\SYSTEM\CurrentControlSet\Services\%~2%GUID%" /v %~3 >"%H2K%value.tmp" 2>nul
for /f "usebackq tokens=1,2*" %%i in ("%H2K%value.tmp") do if /i "%%i"=="%~3" set "VALUE=%%k"
if defined VALUE echo " %VALUE:\0= % " >>"%H2K%%~1.tmp"
exit /b 0

:listed
rem :listed KIND ADDRESS
if not defined INDEX exit /b 0
for /f "tokens=1 delims=/" %%x in ("%~2") do set "WORD=%%x"
set "WORD=%WORD:.=\.%"
"%SYS%\findstr.exe" /i /r /c:"[ =,]%WORD%$" /c:"[ =,]%WORD%[ ,]" "%H2K%%~1.tmp" >nul
if errorlevel 1 set "ABSENT=%ABSENT% %~2"
exit /b 0

:name
rem The connection's old name; optional, for a name in use or a language's own letters may stand in the way. The state of a
rem connection may be two words in Windows' language: the name is what stands after two spaces.
if not defined INDEX exit /b 0
set "NEW=%~1"
:trim
if "%NEW:~-1%"==" " set "NEW=%NEW:~0,-1%"
if "%NEW:~-1%"==" " goto trim
set "OLD="
"%SYS%\netsh.exe" interface ipv4 show interfaces >"%H2K%names.tmp"
for /f "usebackq tokens=1,3*" %%i in ("%H2K%names.tmp") do if "%%i"=="%INDEX%" set "OLD=%%k"
if not defined OLD exit /b 0
set "OLD=%OLD:*  =%"
:indented
if not "%OLD:~0,1%"==" " goto named
set "OLD=%OLD:~1%"
goto indented
:named
if "%OLD%"=="%NEW%" exit /b 0
"%SYS%\netsh.exe" interface set interface name="%OLD%" newname="%NEW%"
exit /b 0

:name_units
rem A name in letters that cmd has not, as numbers: PowerShell makes letters of them.
set "ARGUMENTS=Rename-NetAdapter -Name (Get-NetAdapter -InterfaceIndex %INDEX%).Name -NewName (-join [char[]][int[]]'%~1'.Split('.'))"
call :powershell the-name
exit /b 0

:unbind
set "ARGUMENTS=Disable-NetAdapterBinding -Name (Get-NetAdapter -InterfaceIndex %INDEX%).Name -ComponentID %~1"
call :powershell %~1
exit /b 0

:powershell
if not defined INDEX exit /b 0
set "RUN=%SYS%\WindowsPowerShell\v1.0\powershell.exe"
set "ARGUMENTS=-NoProfile -NonInteractive -Command %ARGUMENTS% -ErrorAction Stop"
set "SECONDS=60"
call "%H2K%bounded.cmd"
if not "%STATUS%"=="0" set "UNSET=%UNSET% %~1"
exit /b 0
