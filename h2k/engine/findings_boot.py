"""The catalogue of findings: firmware, boot manager and BCD."""

from __future__ import annotations

from h2k.engine.finding_entry import DOMAIN, REFUSE, REPAIR, Entry

BOOT = (
    Entry(
        "bcd-missing",
        "There is no boot configuration where the firmware will look.",
        REFUSE,
        "0xC000000F: the boot configuration data for your PC is missing",
        r"`\Boot\BCD` of the active partition, `\EFI\Microsoft\Boot\BCD` of the EFI system partition",
        "Refuses with the command: it would have to be made by Microsoft's own tool.",
        r"From setup media: `bcdboot C:\Windows /s S: /f UEFI` (or `/f BIOS`).",
    ),
    Entry(
        "bcd-corrupt",
        "The store is not a hive, or has no boot manager object.",
        REFUSE,
        "0xC0000034 or 0xC0000098 in the boot manager's recovery screen",
        "the BCD file",
        "Refuses with the command.",
        r"Move the file away, then `bcdboot C:\Windows /s S: /f UEFI` (or `/f BIOS`) from setup media.",
    ),
    Entry(
        "bcd-default-missing",
        "The store has no default entry and no display order, or they point to no object.",
        REPAIR,
        "0xC0000098 or 0xC000000D: the boot configuration does not contain a valid OS entry",
        "boot manager object, elements 23000003 and 24000001",
        "When exactly one Windows loader is in the store it becomes the default; otherwise refuses with the command.",
        "`bcdedit /store S:\\Boot\\BCD /default {identifier}` from setup media.",
    ),
    Entry(
        "bcd-device-unresolved",
        "A device element of the boot manager or the default loader names no partition of these disks.",
        REPAIR,
        "0xC000000E: a required device isn't connected or can't be accessed",
        "elements 11000001 and 21000001: disk signature or GUID, partition offset or GUID",
        "Names the only partition that holds what the element must lead to; otherwise refuses. `boot`, `locate`, "
        "ramdisk and virtual disk devices are reported and left alone.",
        "`bcdedit /store S:\\Boot\\BCD /set {default} device partition=C:`, and the same for `osdevice`.",
    ),
    Entry(
        "bcd-loader-missing",
        "winload is not at the path of the default entry, or is not for this firmware.",
        REFUSE,
        "0xC0000225 or 0xC000000F naming winload.exe or winload.efi",
        r"`\Windows\system32\winload.exe` (BIOS) or `winload.efi` (UEFI)",
        "Refuses: Microsoft's file can't be made.",
        r"`sfc /scannow /offbootdir=C:\ /offwindir=C:\Windows`, then bcdboot, from setup media.",
    ),
    Entry(
        "boot-manager-missing",
        "The boot manager itself is missing, empty or no program; or a GPT disk has no EFI system partition.",
        REFUSE,
        "BOOTMGR is missing; or the firmware's shell, or its PXE and no bootable device",
        r"`\bootmgr` of the active partition, `\EFI\Microsoft\Boot\bootmgfw.efi`",
        "Refuses with the command.",
        r"From setup media: `bcdboot C:\Windows /s S: /f UEFI` (or `/f BIOS`).",
    ),
    Entry(
        "uefi-fallback-missing",
        "The file that UEFI starts when it has no boot entry is missing, or is not the boot manager.",
        REPAIR,
        "the UEFI shell, or no bootable device: boot entries in NVRAM do not travel with the disk",
        r"`\EFI\BOOT\BOOTX64.EFI` (BOOTIA32, BOOTAA64)",
        "Copies the guest's own bootmgfw.efi there.",
        r"`copy S:\EFI\Microsoft\Boot\bootmgfw.efi S:\EFI\BOOT\BOOTX64.EFI`.",
    ),
    Entry(
        "boot-partition-inactive",
        "BIOS: no partition is active, or one without the boot manager.",
        REPAIR,
        "Missing operating system, or No bootable device",
        "the status byte of the four entries in the master boot record",
        "Marks the partition active when exactly one holds bootmgr and the BCD; otherwise refuses.",
        "diskpart: `select partition 1`, `active`.",
    ),
    Entry(
        "firmware-mismatch",
        "The domain has another firmware than the disk is laid out for.",
        DOMAIN,
        "No bootable device, or the UEFI shell",
        "`<os>` of the domain XML against MBR or GPT with an EFI system partition",
        "Writes bootstrap.xml and final.xml with the disk's firmware; NAME.xml stays as it is.",
        "`<os firmware='efi'>` for a GPT disk, none for an MBR disk.",
    ),
    Entry(
        "boot-disk-ambiguous",
        "Several disks could be the boot disk, or the domain starts another than the one with this Windows.",
        DOMAIN,
        "No bootable device, or the wrong system starts",
        "boot managers and BCD stores on several disks; `<boot order>` of the domain",
        "Writes both domains to start the disk whose BCD names this Windows; refuses when none or several do, or when "
        "several Windows systems are on the disks.",
        "`<boot order='1'/>` on the right disk; convert one system at a time.",
    ),
)
