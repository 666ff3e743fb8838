"""QEMU's device tree read, scratch copies of domains, and what the registry says of the devices that QEMU shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree

from h2k.base.errors import BadData
from h2k.boot.hardware import PciDevice, compare, disk_controllers, parse_qtree, scratch_copy
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.windows.pnp import PciId
from h2k.windows.services import control_sets, read_service
from tests.unit.helpers import hive
from tests.unit.test_pnp import package

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.xml"))

# As QEMU 7.2 prints it, with devices of a q35 machine; shortened in the number of properties alone.
TREE = """bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    MCFG = 2952790016 (0xb0000000)
    bus: pcie.0
      type PCIE
      dev: ich9-ahci, id ""
        addr = 1f.2
        class SATA controller, addr 00:1f.2, pci id 8086:2922 (sub 1af4:1100)
        bar 4: i/o at 0xffffffffffffffff [0x1e]
        bus: ide.0
          type IDE
          dev: ide-hd, id "sata0-0-0"
            drive = "libvirt-2-format"
      dev: pcie-root-port, id "pci.2"
        class PCI bridge, addr 00:02.1, pci id 1b36:000c (sub 0000:0000)
        bus: pci.2
          type PCIE
          dev: virtio-blk-pci, id "virtio-disk0"
            disable-legacy = "on"
            class SCSI controller, addr 00:00.0, pci id 1af4:1042 (sub 1af4:1100)
            bus: virtio-bus
              type virtio-pci-bus
              dev: virtio-blk-device, id ""
                drive = "libvirt-1-format"
      dev: pcie-root-port, id "pci.3"
        class PCI bridge, addr 00:02.2, pci id 1b36:000c (sub 0000:0000)
        bus: pci.3
          type PCIE
          dev: virtio-balloon-pci, id "balloon0"
            class Class 00ff, addr 00:00.0, pci id 1af4:1045 (sub 1af4:1100)
"""
MODERN = PciDevice("virtio-blk-pci", PciId(0x1AF4, 0x1042, 0x1AF4, 0x1100, 1, 0x010000))
LEGACY = PciDevice("virtio-blk-pci", PciId(0x1AF4, 0x1001, 0x1AF4, 0x0002, 0, 0x010000))


def domain(*buses: str) -> bytes:
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/d{n}'/><target dev='x{n}' bus='{bus}'/></disk>"
        for n, bus in enumerate(buses)
    )
    return f"<domain type='qemu'><name>g</name><memory>1</memory><os><type>hvm</type></os><devices>{disks}</devices></domain>".encode()


def test_the_tree_of_a_real_qemu() -> None:
    shown = parse_qtree(TREE)
    assert [(d.model, str(d.pci)) for d in shown] == [
        ("ich9-ahci", "8086:2922"), ("pcie-root-port", "1B36:000C"), ("virtio-blk-pci", "1AF4:1042"),
        ("pcie-root-port", "1B36:000C"), ("virtio-balloon-pci", "1AF4:1045"),
    ]  # fmt: skip
    assert shown[2] == MODERN


@pytest.mark.parametrize("text", ["", "bus: main-system-bus\n", "class SCSI controller, addr 00:00.0, pci id 1af4:1042 (sub 1af4:1100)\n"])
def test_no_tree(text: str) -> None:
    with pytest.raises(BadData):
        parse_qtree(text)


def test_the_ids_that_windows_makes_of_both_forms() -> None:
    assert MODERN.pci.ids()[0] == "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"
    assert LEGACY.pci.ids()[0] == "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"


@pytest.mark.parametrize(
    "buses, models",
    [(("virtio",), ["virtio-blk-pci"]), (("sata",), ["ich9-ahci"]), (("sata", "virtio"), ["ich9-ahci", "virtio-blk-pci"]), (("ide",), [])],
)
def test_which_of_them_carry_a_disk(buses: tuple[str, ...], models: list[str]) -> None:
    assert [d.model for d in disk_controllers(domain(*buses), parse_qtree(TREE))] == models


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_scratch_copy_has_the_devices_and_nothing_of_the_guest(path: Path, tmp_path: Path) -> None:
    original = etree.fromstring(path.read_bytes())
    copied = scratch_copy(path.read_bytes(), "h2k-ask-1", tmp_path)
    tree = etree.fromstring(copied)
    assert tree.findtext("name") == "h2k-ask-1" and tree.findtext("uuid") != original.findtext("uuid")
    assert not tree.findall("os/loader") and not tree.findall("os/nvram") and not tree.findall("devices/tpm")
    assert [d.find("target").get("bus") for d in tree.findall("devices/disk")] == [
        d.find("target").get("bus") for d in original.findall("devices/disk")
    ]
    sources = [Path(s.get("file")) for s in tree.findall("devices/disk/source")]
    assert all(source.parent == tmp_path and set(source.read_bytes()) == {0} for source in sources)
    assert all(i.get("type") == "user" and i.find("source") is None for i in tree.findall("devices/interface"))
    for tag in ("controller", "disk", "interface", "video", "memballoon"):
        old = [etree.tostring(e) for e in original.findall(f"devices/{tag}/address")]
        assert [etree.tostring(e) for e in tree.findall(f"devices/{tag}/address")] == old
    assert read_domain_xml(copied, "copy").uuid is not None


# The registry's word on it

SELECT = '[Select]\n"Current"=dword:00000001\n"Default"=dword:00000001\n"LastKnownGood"=dword:00000001\n"Failed"=dword:00000000\n'
SERVICE = '[ControlSet001\\Services\\viostor]\n"Type"=dword:00000001\n"Start"=dword:00000000\n'
BOUND = package("h2kviostor.inf", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01") + package("b.inf", "VEN_1AF4&DEV_1001&REV_00")
DEMOTED = '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n'


def guest(text: str) -> Any:
    system = hive(SELECT + text)
    return SimpleNamespace(
        system=system, control_sets=control_sets(system), service=lambda number, name: read_service(system, number, name)
    )


def verdict(text: str, device: PciDevice) -> tuple[str, str, str]:
    (finding,) = compare(guest(text), "final", [device])
    return finding.id, finding.state, finding.evidence


@pytest.mark.parametrize("device", [MODERN, LEGACY], ids=["modern", "legacy"])
def test_bound(device: PciDevice) -> None:
    found = verdict(SERVICE + BOUND, device)
    assert found[:2] == ("device-id-unbound", "ok") and "leads to viostor, Start 0" in found[2]


@pytest.mark.parametrize(
    "text, evidence",
    [
        (SERVICE + "[DriverDatabase]\n", "no id of PCI"),
        (BOUND + "[ControlSet001\\Services]\n", "does not start at boot"),
        (SERVICE.replace("00000000", "00000003") + BOUND, "does not start at boot"),
        (SERVICE + DEMOTED + BOUND, "does not start at boot"),
        (SERVICE + BOUND.replace('"Service"="viostor"\n', ""), "no service"),
        # a better match that leads elsewhere wins, and Windows does not try the next
        (SERVICE + BOUND + package("a.inf", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01", "vhost", data="00,ff,00,00"), "vhost"),
    ],
)
def test_unbound(text: str, evidence: str) -> None:
    found = verdict(text, MODERN)
    assert found[:2] == ("device-id-unbound", "broken") and evidence in found[2]


def test_one_control_set_that_does_not_boot_is_enough() -> None:
    text = SERVICE + BOUND + "[ControlSet002]\n" + '[Select]\n"LastKnownGood"=dword:00000002\n'
    found = verdict(text, MODERN)
    assert found[1] == "broken" and found[2].startswith("ControlSet002")


def test_the_old_database() -> None:
    text = SERVICE + '[ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1001&REV_00]\n"Service"="viostor"\n'
    assert verdict(text, LEGACY)[1] == "ok"
    assert verdict(text, MODERN)[1] == "broken"
