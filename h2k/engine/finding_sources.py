"""Where the facts behind each finding are known from: documents, a format's specification, a driver's INF, or a measurement.

"Measured" means read from hives of real machines, or seen in a run of the named tool (docs/facts.md).
"""

from __future__ import annotations

from collections.abc import Iterator

_CHAIN = "docs/facts.md, the chain, point"
_STOP_7B = "Microsoft's guide to stop code 0x7B (INACCESSIBLE_BOOT_DEVICE)"
_ROWS = (
    (f"{_CHAIN} 4; {_STOP_7B}", "driver-file-missing driver-file-invalid driver-not-boot-start boot-stack-driver-disabled"),
    (f"{_CHAIN} 5: measured", "driver-start-override bootstrap-controller-not-boot-start"),
    ("the INF of the driver itself (kvm-guest-drivers-windows)", "driver-parameters-missing nic-driver-missing"),
    (f"{_CHAIN}s 6 and 7: measured, and what virt-v2v itself writes", "device-id-unbound device-class-wrong"),
    (f"{_CHAIN} 3; {_STOP_7B}", "control-set-differs"),
    (f"{_CHAIN} 8; {_STOP_7B}", "class-filter-dangling class-filter-hypervisor"),
    ("Microsoft KB2773300", "device-install-policy"),
    ("Microsoft's device installation policies", "device-install-restrictions"),
    ("Microsoft's driver signing requirements", "driver-unsigned driver-test-signed"),
    ("Microsoft's KB3033929 and KB4474419; kvm-guest-drivers-windows issue 485", "driver-sha2-unsupported"),
    ("the directories of virtio-win's ISO and RPM (docs/driver-plans.md)", "driver-package-missing"),
    ("docs/facts.md, dirty hives; the regf specification (github.com/msuhanov/regf)", "hive-dirty hive-unrecoverable hive-corrupt"),
    ("virt-v2v(1); the volume's header begins with -FVE-FS-", "volume-encrypted"),
    ("ntfs-3g refuses such volumes; the headers of hiberfil.sys", "volume-hibernated"),
    ("the NTFS documentation of the Linux-NTFS project", "volume-dirty volume-log-unclean"),
    ("docs/facts.md, tools", "file-unreadable system-files-compressed"),
    ("SYSTEM\\MountedDevices: measured", "disk-signature-duplicate drive-letter-unresolved page-file-misplaced"),
    ("Microsoft's SAN policy (diskpart san)", "disks-offline-policy cluster-member"),
    ("Microsoft's partition types (PARTITION_INFORMATION_GPT, _MBR); the UEFI specification", "disk-dynamic disk-table-damaged esp-type-wrong"),
    ("QEMU's image locks; libvirt's domains", "source-running"),
    (f"{_CHAIN} 2; Microsoft's bcdedit and bcdboot", "bcd-missing bcd-corrupt bcd-default-missing bcd-device-unresolved bcd-loader-missing"),
    (f"{_CHAIN} 1", "boot-manager-missing uefi-fallback-missing boot-partition-inactive firmware-mismatch boot-disk-ambiguous"),
    ("QEMU: its IDE and SATA disks have sectors of 512 bytes alone", "sector-size-mismatch"),
    ("Microsoft's Secure Boot certificates of 2011 and 2023; edk2 issues 11281 and 11661", "secure-boot-db-mismatch"),
    ("Microsoft's bcdedit (safeboot, ems, debug)", "safe-mode-set serial-port-taken"),
    ("measured: what Windows keeps of adapters that are gone", "nic-ghost nic-static-stranded network-setting-dropped network-profile-stale"),
    ("virt-v2v's first-boot scripts, 2.2 to 2.12 (h2k/convert/v2v_scripts.py)", "first-boot-loop first-boot-runner-missing guestor-leftover"),
    ("Microsoft's Windows Update and servicing keys", "reboot-pending"),
    ("driver-plans/hypervisors.yaml", "hypervisor-tools-present"),
    ("libvirt's and the file systems' rules for names", "domain-name-invalid"),
    ("virt-v2v(1): the versions of Windows that it converts; docs/not-covered.md", "windows-unsupported"),
    ("kvm-guest-drivers-windows issue 1280; Microsoft's Device Guard keys", "security-virtualization"),
    ("Microsoft's Software Restriction and AppLocker policies", "scripts-restricted"),
)


def _by_id() -> Iterator[tuple[str, str]]:
    for source, ids in _ROWS:
        for found in ids.split():
            yield found, source


SOURCES = dict(_by_id())
