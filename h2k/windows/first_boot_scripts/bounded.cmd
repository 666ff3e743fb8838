@echo off
rem Runs "%RUN%" %ARGUMENTS% for at most %SECONDS% seconds: its exit status, or 258 (WAIT_TIMEOUT) if it goes on.
if exist "%H2K%run.rc" del "%H2K%run.rc"
start "" /b "%SYS%\cmd.exe" /d /c ""%H2K%bounded-child.cmd""
set "LEFT=%SECONDS%"
:wait
if exist "%H2K%run.rc" goto over
if %LEFT% LEQ 0 exit /b 258
"%SYS%\ping.exe" -n 2 127.0.0.1 >nul
set /a LEFT-=1
goto wait
:over
set "STATUS=1"
for /f "usebackq" %%r in ("%H2K%run.rc") do set "STATUS=%%r"
exit /b %STATUS%
