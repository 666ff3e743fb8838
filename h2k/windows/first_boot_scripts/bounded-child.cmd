@echo off
rem The other half of bounded.cmd: the status appears whole, by a rename.
"%RUN%" %ARGUMENTS%
>"%H2K%run%RUNS%.new" echo %ERRORLEVEL%
move /y "%H2K%run%RUNS%.new" "%H2K%run%RUNS%.rc" >nul
