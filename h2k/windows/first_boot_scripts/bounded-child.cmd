@echo off
rem The other half of bounded.cmd: the status appears whole, by a rename.
"%RUN%" %ARGUMENTS%
>"%H2K%run.new" echo %ERRORLEVEL%
move /y "%H2K%run.new" "%H2K%run.rc" >nul
