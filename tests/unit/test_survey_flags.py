"""Flags of a VMX and a domain, and roles of a Windows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from h2k.fleet.flags import flags_of_domain, flags_of_vmx, roles_of
from tests.unit.helpers import hive


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ('scsi0:0.fileName = "web-000002.vmdk"', ["snapshot"]),
        ('scsi1.sharedBus = "physical"', ["shared disk"]),
        ('scsi1.sharedBus = "none"', []),
        ('scsi0:1.sharing = "multi-writer"', ["shared disk"]),
        ('scsi0:1.deviceType = "rawDisk"', ["raw device mapping"]),
        ('ide0:0.deviceType = "cdrom-raw"', []),
        ('pciPassthru0.present = "TRUE"', ["passthrough device"]),
        ('pciPassthru0.present = "FALSE"', []),
        ('vtpm.present = "TRUE"', ["virtual TPM"]),
        ('nvme0:0.fileName = "web.vmdk"', ["NVMe disk"]),
        ('usb.autoConnect.device0 = "path:1/2"', ["USB device"]),
        ('scsi0:0.fileName = "web.vmdk"', []),
    ],
)
def test_flags_of_a_vmx(line: str, flags: list[str]) -> None:
    assert flags_of_vmx(f'displayName = "x"\n{line}\n') == flags


@pytest.mark.parametrize(
    ("device", "flags"),
    [
        ("<disk><shareable/></disk>", ["shared disk"]),
        ("<hostdev type='pci'/>", ["passthrough device"]),
        ("<hostdev type='usb'/>", ["USB device"]),
        ("<disk device='lun'/>", ["raw device mapping"]),
        ("<tpm model='tpm-crb'/>", ["virtual TPM"]),
        ("<disk><target bus='nvme'/></disk>", ["NVMe disk"]),
        ("<disk><target bus='sata'/></disk>", []),
    ],
)
def test_flags_of_a_domain(device: str, flags: list[str]) -> None:
    assert flags_of_domain(f"<domain><devices>{device}</devices></domain>".encode(), "x") == flags


def test_no_domain_has_no_flags() -> None:
    assert flags_of_domain(b"<domain", "x") == []


@pytest.mark.parametrize(
    ("key", "start", "roles"),
    [
        ("NTDS", 2, ["domain controller"]), ("NTDS", 4, []), ("ClusSvc", 2, ["cluster node"]), ("vmms", 2, ["Hyper-V host"]),
        ("MSSQLSERVER", 2, ["SQL Server"]), ("MSSQL$SHOP", 2, ["SQL Server"]), ("Spooler", 2, []),
    ],
)  # fmt: skip
def test_roles(key: str, start: int, roles: list[str]) -> None:
    guest: Any = SimpleNamespace(
        system=hive(f'[ControlSet001\\Services\\{key}]\n"Start"=dword:{start:08x}\n'), control_sets=SimpleNamespace(default=1)
    )
    assert roles_of(guest) == roles
