"""Every finding that h2k knows: what the owner sees, where it is, what h2k does, how to do it by hand (docs/findings.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

REPAIR, REFUSE, WARN, DOMAIN, FIRST_BOOT = "repair", "refuse", "warn", "repair in the domain", "repair at first boot"
# Findings of the wrapper h2k-v2v itself; every other one belongs to a hook.
OF_THE_WRAPPER = frozenset({"first-boot-runner-missing"})


@dataclasses.dataclass(frozen=True)
class Entry:
    """One finding. `answer` is REPAIR, REFUSE, WARN, DOMAIN (h2k's two domains are written right, the disks stay) or
    FIRST_BOOT (a step of the first boot does it); `screen` is what the owner would see without h2k, `action` and `by_hand` are sentences for people."""

    id: str
    fault: str
    answer: str
    screen: str
    where: str
    action: str
    by_hand: str


STOP_7B = "stop code 0x7B, INACCESSIBLE_BOOT_DEVICE, a few seconds after the Windows logo"
SERVICE = r"`SYSTEM\ControlSetNNN\Services\<driver>`"
SHUT_DOWN = "Boot the source once and shut it down with `shutdown /s /t 0`, fast startup off."
ALL_SETS = "in every control set that a boot may use"

ENTRIES = (
    Entry(
        "driver-file-missing",
        "The boot driver's .sys file is not where its ImagePath says.",
        REPAIR,
        f"0xC0000034 or 0xC000007B naming the driver, or {STOP_7B}",
        r"`\Windows\System32\drivers\<driver>.sys`",
        "Copies the file of the driver package for this Windows and architecture.",
        r"From WinPE: `copy E:\viostor\2k22\amd64\viostor.sys C:\Windows\System32\drivers`.",
    ),
    Entry(
        "driver-file-invalid",
        "The boot driver's file is empty, truncated, no PE file, or for another machine type.",
        REPAIR,
        "0xC000007B or 0xC0000221 naming the driver, in the boot manager's recovery screen",
        r"`\Windows\System32\drivers\<driver>.sys`",
        "Replaces it by the package's file. Refuses when the file in the driver package is bad itself.",
        "Copy the right file from an intact virtio-win ISO; compare sizes first.",
    ),
    Entry(
        "driver-not-boot-start",
        "The boot driver's service is missing, not a kernel driver (Type 1), or not boot-start (Start 0).",
        REPAIR,
        STOP_7B,
        f"{SERVICE}, values `Type` and `Start`",
        f"Creates or corrects the service {ALL_SETS}.",
        r"`reg load HKLM\X C:\Windows\System32\config\SYSTEM`, then `reg add HKLM\X\ControlSet001\Services\viostor /v Start /t REG_DWORD /d 0 /f`.",
    ),
    Entry(
        "driver-start-override",
        "A StartOverride value demotes the boot driver, and the loader skips it.",
        REPAIR,
        f"{STOP_7B}, although Start is 0",
        f"{SERVICE}, values below `StartOverride` other than 0",
        f"Deletes the StartOverride key {ALL_SETS}.",
        r"`reg delete HKLM\X\ControlSet001\Services\viostor\StartOverride /f` on the loaded hive.",
    ),
    Entry(
        "driver-parameters-missing",
        "Group, ErrorControl or parameters of the service are not as the INF says, or its Tag is not in the group's list.",
        REPAIR,
        f"{STOP_7B}, or a boot driver that starts too late",
        rf"{SERVICE} and below `Parameters`; `Control\GroupOrderList`",
        "Writes what the INF's service section says; removes a Tag that its group does not list.",
        "Compare the service key with that of a guest into which the driver was installed.",
    ),
    Entry(
        "device-id-unbound",
        "An id that the target hardware shows, legacy or modern, leads to no boot driver.",
        REPAIR,
        STOP_7B,
        r"up to 6.1 `Control\CriticalDeviceDatabase\PCI#…`; from 6.2 `DriverDatabase\DeviceIds\PCI\…` and the package it names",
        "Binds both ids of the bus to the driver, in the form that virt-v2v uses.",
        "From WinPE: `dism /image:C:\\ /add-driver /driver:E:\\viostor\\2k22\\amd64`.",
    ),
    Entry(
        "device-class-wrong",
        "The id is bound, but with another class than SCSIAdapter.",
        REPAIR,
        STOP_7B,
        r"`ClassGUID` in CriticalDeviceDatabase, `Version` of the package in DriverDatabase",
        "Writes the binding with the class {4D36E97B-E325-11CE-BFC1-08002BE10318}.",
        "Correct the class GUID in the loaded hive, or add the driver with dism.",
    ),
    Entry(
        "control-set-differs",
        "The control sets Current, Default and LastKnownGood would not boot alike.",
        REPAIR,
        "Windows boots one time and stops at the next, or when the last known good configuration is chosen",
        r"`SYSTEM\Select` and the ControlSetNNN that it names",
        "Repairs all of them.",
        "Make the same edit in each control set that Select names.",
    ),
    Entry(
        "bootstrap-controller-not-boot-start",
        "The inbox driver of the bootstrap's controller (SATA or IDE) would not start.",
        REPAIR,
        f"{STOP_7B}, on the first boot with SATA or IDE",
        r"`Services\storahci`, `msahci`, `intelide`, `atapi`: `Start` and `StartOverride`",
        "Makes it boot-start, or chooses the bus whose driver can start; refuses when none can.",
        "Set Start to 0 and delete StartOverride in the loaded hive.",
    ),
    Entry(
        "boot-stack-driver-disabled",
        "A driver that every boot needs (disk, partmgr, volmgr, mountmgr, ntfs …) is disabled, missing or overridden.",
        REPAIR,
        f"{STOP_7B}, or 0xC0000034 naming the driver",
        f"{SERVICE} and its file",
        "Restores its Start where the file is there; refuses when service or file is missing.",
        r"`sfc /scannow /offbootdir=C:\ /offwindir=C:\Windows` from WinPE; Start 0 in the loaded hive.",
    ),
    Entry(
        "class-filter-dangling",
        "A filter of a storage, system or volume class has no service, no file, or is disabled.",
        REPAIR,
        STOP_7B,
        r"`Control\Class\{…}` `UpperFilters`, `LowerFilters` of DiskDrive, hdc, SCSIAdapter, System and Volume",
        f"Takes the filter out of the list {ALL_SETS}; the others keep their order.",
        "Edit the MULTI_SZ value in the loaded hive; never empty a whole list, for partmgr and volsnap belong there.",
    ),
    Entry(
        "class-filter-hypervisor",
        "A class filter of another hypervisor (XENFILT, prl_strg and their kind) waits for hardware that is gone.",
        REPAIR,
        f"{STOP_7B}, or a boot that never ends",
        r"the same lists; the names are data: `driver-plans/hypervisors.yaml`",
        "Takes the filter out of the list first, then disables its service; nothing is deleted.",
        "First remove the name from the list, only then set the service's Start to 4: the other way round it is a 0x7B.",
    ),
    Entry(
        "device-install-policy",
        "Windows 7 or 2008 R2 is told not to start boot disks on new hardware.",
        REPAIR,
        STOP_7B,
        r"`Control\PnP` `DisableCDDB`, `DontStartRawDevices` (Microsoft KB2773300)",
        f"Sets both to 0 {ALL_SETS}.",
        r"`reg add HKLM\X\ControlSet001\Control\PnP /v DisableCDDB /t REG_DWORD /d 0 /f` on the loaded hive.",
    ),
    Entry(
        "device-install-restrictions",
        "A group policy restricts which devices Windows may install (8 and later).",
        WARN,
        "the VirtIO devices stay without a driver after the first boot",
        r"`SOFTWARE\Policies\Microsoft\Windows\DeviceInstall\Restrictions`",
        "Reports it; a policy is its owner's to change.",
        "Allow the driver packages in the policy, or lift it for the first boot.",
    ),
    Entry(
        "driver-unsigned",
        "The domain has Secure Boot, and the boot driver carries no signature.",
        REFUSE,
        "0xC0000428 naming the driver: the digital signature for this file couldn't be verified",
        "the certificate table of the driver's file",
        "Refuses; with `--h2k-accept driver-unsigned` both domains are written without Secure Boot.",
        "Use a signed virtio-win, or turn Secure Boot off in the domain.",
    ),
    Entry(
        "driver-package-missing",
        "There is no driver package for this Windows and architecture.",
        REFUSE,
        "virt-v2v quietly configures IDE, or the guest stops at 0x7B on VirtIO",
        "the virtio-win ISO or directory",
        "Refuses and names the directory that it looked for.",
        "Get a virtio-win that has it, or convert with `--h2k-bus sata`.",
    ),
    Entry(
        "hive-dirty",
        "A hive's newest changes are in its transaction logs only, and the logs are usable.",
        REPAIR,
        "settings and drivers of the last minutes or days are gone after the conversion, with no message",
        r"`\Windows\System32\config\SYSTEM` (SOFTWARE, DRIVERS, BCD) and its `.LOG1`, `.LOG2`",
        "Replays the logs before anything else reads the hive: before the copy on an overlay of the source.",
        SHUT_DOWN,
    ),
    Entry(
        "hive-unrecoverable",
        "A hive is dirty, and its logs are missing or do not belong to it.",
        REFUSE,
        "0xC0000218 (registry file failure), or settings that are silently lost",
        "the hive and its logs",
        "Refuses: what the logs held can't be had.",
        SHUT_DOWN,
    ),
    Entry(
        "hive-corrupt",
        "A hive's base block, bins or cells are damaged.",
        REFUSE,
        r"0xC0000218, or `\Windows\System32\config\SYSTEM` is missing or corrupt",
        r"`\Windows\System32\config\`",
        "Refuses and names the offset.",
        "Restore the hive from a backup of the source.",
    ),
    Entry(
        "volume-encrypted",
        "A volume is encrypted with BitLocker.",
        REFUSE,
        "the BitLocker recovery screen asks for a key",
        "`-FVE-FS-` at offset 3 of the volume",
        "Refuses: nothing can be read or repaired, and a key sealed in a TPM does not move.",
        "`manage-bde -off C:` on the source, and wait until it is decrypted.",
    ),
    Entry(
        "volume-hibernated",
        "Windows is hibernated, or was shut down with fast startup.",
        REFUSE,
        "the guest resumes on hardware that is gone: a stop code, or lost files",
        r"`\hiberfil.sys` begins with HIBR or RSTR",
        "Refuses; never deletes the file.",
        SHUT_DOWN,
    ),
    Entry(
        "volume-dirty",
        "The NTFS dirty flag of the Windows or boot volume is set.",
        REFUSE,
        "chkdsk runs at the next boot, and may remove what was written meanwhile",
        "flags of the NTFS file `$Volume`",
        "Refuses, unless `--h2k-accept volume-dirty`; on data volumes a warning, for nothing is written there.",
        f"`chkdsk C: /f` on the source. {SHUT_DOWN}",
    ),
    Entry(
        "volume-log-unclean",
        "NTFS has open transactions, as any crash-consistent copy has; ntfs-3g clears them instead of replaying them.",
        WARN,
        "the last files written on the source may be missing or old",
        "the NTFS file `$LogFile`",
        "Warns; with the policy `log-unclean: refuse` it refuses.",
        SHUT_DOWN,
    ),
    Entry(
        "file-unreadable",
        "A file that the proof needs is compressed in a way that nothing here reads, encrypted, or damaged.",
        REFUSE,
        "nothing yet: it can't be told whether the guest would boot",
        r"hives, the loader, the boot drivers; often after `compact /compactos`",
        "Refuses and names the file.",
        r"`compact /u /exe C:\Windows\System32\winload.efi` (or the file named) on the source.",
    ),
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
        "disk-signature-duplicate",
        "Two disks of the guest carry one MBR signature or GPT GUID.",
        WARN,
        "a data disk is offline because of a signature collision, or a drive letter is another's",
        "offset 0x1B8 of the MBR, disk GUID of the GPT",
        "Reports the disks.",
        "diskpart: `select disk 1`, `uniqueid disk id=12345678`.",
    ),
    Entry(
        "disks-offline-policy",
        "The SAN policy would take data disks offline on their new bus.",
        REPAIR,
        "drive letters are missing after the first boot; disks are offline in Disk Management",
        r"`Services\partmgr\Parameters` `SanPolicy`",
        "Sets it to online all; the first boot restores what it was.",
        "diskpart: `san policy=OnlineAll`, then `online disk` and `attributes disk clear readonly`.",
    ),
    Entry(
        "drive-letter-unresolved",
        "A drive letter of MountedDevices matches no partition of these disks.",
        WARN,
        "programs do not find their drive; letters move",
        r"`SYSTEM\MountedDevices` `\DosDevices\X:`",
        "Reports the letter; perhaps a disk was left out of the conversion.",
        "Add the disk that is missing, or assign the letter in Disk Management.",
    ),
    Entry(
        "nic-driver-missing",
        "The VirtIO network driver is not staged, or its ids are not bound.",
        REPAIR,
        "no network after the boot on VirtIO",
        r"`Services\netkvm`, its file, and the ids 1AF4:1000 and 1AF4:1041",
        "Stages and binds the package's driver; without a package it is left to the first boot.",
        "Install netkvm.inf with pnputil on the running guest.",
    ),
    Entry(
        "nic-ghost",
        "Network adapters of hardware that is gone are still configured.",
        REPAIR,
        "the IP address is already assigned to another adapter; `Ethernet 2`, `Local Area Connection 3`",
        r"`Control\Class\{4D36E972-…}`, `Control\Network`, `Enum\PCI` instances without their hardware",
        "Removes them by policy (`ghosts: remove`), after their addresses have been saved.",
        "Device Manager: show hidden devices, uninstall the greyed adapters.",
    ),
    Entry(
        "nic-static-stranded",
        "A static address belongs to an adapter that will not be there any more.",
        REPAIR,
        "the server comes up with DHCP or a 169.254 address",
        r"`Services\Tcpip\Parameters\Interfaces\{GUID}`",
        "Carries addresses, gateways, DNS and routes to the new NIC by its MAC at first boot; where that would be a "
        "guess, DHCP and a warning that says what to set.",
        "Set the address again with `netsh interface ip set address`.",
    ),
    Entry(
        "network-profile-stale",
        "The network would come up as a new one, with the firewall profile for public networks.",
        REPAIR,
        "Network 2, Public: remote desktop and file sharing are closed",
        r"`SOFTWARE\Microsoft\Windows NT\CurrentVersion\NetworkList`",
        "`profiles: keep` warns and leaves it; `profiles: remove` forgets private networks that no domain manages.",
        "`Set-NetConnectionProfile -NetworkCategory Private`.",
    ),
    Entry(
        "reboot-pending",
        "Windows Update, servicing or file renames wait for a reboot.",
        WARN,
        "the first boot works for minutes on updates; virt-v2v's first-boot script loops",
        r"`PendingFileRenameOperations`, `RebootPending`, `RebootRequired`, `WinSxS\pending.xml`",
        "Reports it; h2k's own first-boot steps have a retry cap.",
        "Reboot the source once before the conversion.",
    ),
    Entry(
        "hypervisor-tools-present",
        "Guest tools of VMware, Hyper-V, Xen, Parallels or VirtualBox are installed.",
        WARN,
        "services that fail at each start; harmless for the boot",
        r"`SOFTWARE\…\Uninstall`; the names are data: `driver-plans/hypervisors.yaml`",
        "Reports them; they are removed at first boot only when the policy asks for it.",
        "Uninstall them on the source, or once the guest runs on KVM.",
    ),
    Entry(
        "guestor-leftover",
        "virt-v2v's placeholder driver package is still registered.",
        FIRST_BOOT,
        "driver upgrades and `pnputil /enum-drivers` fail",
        r"`DriverDatabase\…\guestor.inf*`",
        "Reports it, and a step of the first boot removes it once Windows has bound the real driver.",
        "Delete the guestor.inf keys in the loaded hive, after the VirtIO driver is installed.",
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
    Entry(
        "first-boot-runner-missing",
        "virt-v2v will need rhsrvany.exe or pvvxsvc.exe for its first-boot scripts, and the host has neither.",
        REFUSE,
        "virt-v2v ends with an error after it has read the whole source",
        "/usr/share/virt-tools on the host",
        "Refuses before the copy.",
        "Put rhsrvany.exe (mingw32-srvany-redistributable of Fedora or RHEL) there, or set VIRT_TOOLS_DATA_DIR.",
    ),
    Entry(
        "windows-unsupported",
        "Windows Vista, 2008 or older, or an architecture for which the plan has no drivers.",
        WARN,
        "depends on what virt-v2v could do",
        r"`SOFTWARE\Microsoft\Windows NT\CurrentVersion`",
        "Leaves virt-v2v's result as it is.",
        "Choose IDE and e1000 in the domain.",
    ),
    Entry(
        "cluster-member",
        "The guest is a node of a failover cluster with shared disks.",
        WARN,
        "shared disks come online on two nodes at once: data loss",
        r"`Services\ClusSvc`",
        "Reports it, and leaves the SAN policy alone.",
        "Evict the node, or move the whole cluster.",
    ),
)

_BY_ID = {entry.id: entry for entry in ENTRIES}


def in_domain(found: str) -> bool:
    """Whether a finding with this id is repaired by the domains that h2k writes, and not on the disks."""
    return found in _BY_ID and _BY_ID[found].answer == DOMAIN


def page() -> Iterator[str]:
    """docs/findings.md, line by line."""
    yield "# The findings: what h2k looks for, and what it does about each"
    yield ""
    yield "<!-- Written by: python3 -m h2k.engine.catalogue > docs/findings.md -->"
    yield ""
    yield "Each has a stable id. **repair**: h2k repairs it on an overlay, reads it back through other code, and only then"
    yield "commits. **repair in the domain**: the disks stay, the two domains that h2k writes are right. **repair at first"
    yield "boot**: reported, and a step that h2k stages does it. **refuse**: nothing is written, exit status 3, and the message"
    yield "says what to do; `--h2k-accept ID` goes on in spite of a refusal that is safe to override. **warn**: reported, never"
    yield "blocks. `make faults` puts each into made guests and prints what was found and what became of it."
    yield ""
    yield "| id | the fault | what you would see | where it is | h2k | by hand |"
    yield "|---|---|---|---|---|---|"
    for e in ENTRIES:
        cells = (f"`{e.id}`", e.fault, _sentence(e.screen), _sentence(e.where), f"**{e.answer}.** {e.action}", e.by_hand)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    print("\n".join(page()))
