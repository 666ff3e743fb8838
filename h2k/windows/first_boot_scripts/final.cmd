@echo off
rem 0 when the machine stands on its final hardware: no disk on the emulated SATA or IDE of the bootstrap any more.
rem QEMU's emulated disks call themselves QEMU HARDDISK with the vendor QEMU (storahci) or have the class IDE (others);
rem viostor's are Red Hat VirtIO, vioscsi's have the product QEMU_HARDDISK.
set "BUS=virtio"
for /f "usebackq tokens=1,2" %%a in ("%H2K%settings.txt") do if "%%a"=="bus" set "BUS=%%b"
if "%BUS%"=="sata" exit /b 0
"%SYS%\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Services\disk\Enum >"%H2K%disks.tmp" 2>nul
if errorlevel 1 exit /b 1
"%SYS%\findstr.exe" /i /l /c:"IDE\Disk" /c:"Ven_QEMU&Prod_HARDDISK" "%H2K%disks.tmp" >nul
if errorlevel 1 exit /b 0
exit /b 1
