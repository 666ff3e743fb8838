"""The source's VMX: what h2k reads of it is what the machine had."""

from __future__ import annotations

import pytest

from h2k.domain.vmx import read_vmx
from tests.windows.configuration import CARDS
from tests.windows.source import vmx_text


@pytest.mark.parametrize(("bus", "found"), [("sata", "sata"), ("lsisas1068", "scsi")])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_h2k_reads_the_machine_back(bus: str, found: str, firmware: str) -> None:
    text = vmx_text("source", firmware, bus, "10.0", "amd64", 4096, ["source.vmdk", "source-1.vmdk"])
    facts = read_vmx(text.encode(), "source.vmx")
    assert facts.firmware == firmware and [disk.bus for disk in facts.disks] == [found] * 2
    assert [str(disk.path).rpartition("/")[2] for disk in facts.disks] == ["source.vmdk", "source-1.vmdk"]
    assert [nic.mac for nic in facts.nics] == [card.mac for card in CARDS]
    assert ('virtualDev = "lsisas1068"' in text) == (bus == "lsisas1068")


@pytest.mark.parametrize(("version", "arch", "guest"), [("6.1", "x86", "windows7"), ("6.3", "amd64", "windows8-64"), ("10.0", "amd64", "windows9-64")])
def test_the_guest_os_is_vmwares_word(version: str, arch: str, guest: str) -> None:
    assert f'guestOS = "{guest}"' in vmx_text("s", "bios", "sata", version, arch, 2048, [])
