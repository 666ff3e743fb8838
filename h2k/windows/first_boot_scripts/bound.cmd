@echo off
rem bound.cmd SERVICE: 0 when the driver drives a device in this boot (its volatile Enum key counts them).
set "COUNT=0x0"
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\%~1\Enum /v Count >"%H2K%count.tmp" 2>nul
for /f "usebackq tokens=1,3" %%a in ("%H2K%count.tmp") do if /i "%%a"=="Count" set "COUNT=%%b"
if "%COUNT%"=="0x0" exit /b 1
exit /b 0
