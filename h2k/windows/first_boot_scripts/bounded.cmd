@echo off
rem Runs "%RUN%" %ARGUMENTS% for at most %SECONDS% seconds, and no longer than the step's %BUDGET% lasts. STATUS is its exit
rem status, or 258 (WAIT_TIMEOUT) if it goes on. Each run has its own result file: one that ends late speaks for itself alone.
set "STATUS=258"
if %BUDGET% LEQ 0 exit /b 0
set /a RUNS+=1
start "" /b "%SYS%\cmd.exe" /d /c call "%H2K%bounded-child.cmd"
set "LEFT=%SECONDS%"
set "PAUSE=1"
:wait
if exist "%H2K%run%RUNS%.rc" goto over
if %LEFT% LEQ 0 exit /b 0
if %BUDGET% LEQ 0 exit /b 0
set /a COUNT=PAUSE+1
"%SYS%\ping.exe" -n %COUNT% 127.0.0.1 >nul
set /a LEFT-=PAUSE
set /a BUDGET-=PAUSE
rem Starting programs takes time that nobody counts here: a long wait starts few of them.
set /a COUNT=SECONDS-LEFT
if %COUNT% GEQ 10 set "PAUSE=5"
goto wait
:over
set "STATUS=1"
for /f "usebackq" %%r in ("%H2K%run%RUNS%.rc") do set "STATUS=%%r"
exit /b 0
