"""The golden domains on real libvirt: virt-xml-validate, the test driver, libvirtd, and QEMU started paused."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from lxml import etree

from h2k.boot.tcg import emulate
from h2k.convert.libvirt_result import has_kvm
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts, complete
from h2k.domain.firmware import choose_firmware
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from tests.integration.virthost import own_libvirt

libvirt = pytest.importorskip("libvirt", reason="needs python3-libvirt")

GOLDEN = sorted((Path(__file__).parents[1] / "unit" / "golden").glob("*.xml"))
BUS_IDS = {  # PCI ids behind a root port of q35, and in a slot of i440fx
    ("virtio", "sata"): "1af4:1042",
    ("virtio-scsi", "sata"): "1af4:1048",
    ("virtio", "ide"): "1af4:1001",
    ("virtio-scsi", "ide"): "1af4:1004",
}


@pytest.fixture(scope="session")
def system() -> Iterator[Any]:
    """A connection to the qemu:///system of a libvirtd of the tests' own."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    with own_libvirt() as host:
        connection = libvirt.open(host.uri)
        yield connection
        connection.close()


@pytest.fixture
def undefine(system: Any) -> Iterator[Callable[[Any], Any]]:
    """Remembers domains and takes them away again, whatever happens."""
    domains: dict[str, Any] = {}  # by UUID, for a phase defined over the other is one domain
    yield lambda domain: domains.setdefault(domain.UUIDString(), domain)
    for domain in domains.values():
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_virt_xml_validate(path: Path) -> None:
    done = subprocess.run(["virt-xml-validate", str(path), "domain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_test_driver_defines(path: Path) -> None:
    connection = libvirt.open("test:///default")
    try:
        assert connection.defineXML(path.read_text()).name() == "guest"
    finally:
        connection.close()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_libvirtd_defines_and_adds_nothing(path: Path, system: Any, undefine: Callable[[Any], Any]) -> None:
    xml = path.read_text()
    if "<tpm" in xml and shutil.which("swtpm") is None:
        pytest.skip("libvirtd takes an emulated TPM only with swtpm installed")
    if not has_kvm(system.getCapabilities()):
        tree = etree.fromstring(xml)
        emulate(tree)
        xml = etree.tostring(tree).decode()
    domain = undefine(system.defineXML(xml))
    defined = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for tag in ("controller", "disk", "interface", "memballoon type", "video", "channel"):
        # One console more than written is libvirt's other name for the serial port; anything else would be unplanned.
        assert len(re.findall(f"<{tag}\\b", defined)) == len(re.findall(f"<{tag}\\b", xml)), tag
    assert set(_pci_addresses(defined)) == set(_pci_addresses(xml))


def _pci_addresses(xml: str) -> list[tuple[str, ...]]:
    pattern = r"<address type=.pci. domain=.0x0000. bus=.(\w+). slot=.(\w+). function=.(\w+)."
    return [tuple(match) for match in re.findall(pattern, xml)]


@pytest.mark.parametrize("firmware", ["bios", "uefi", "secure"])
@pytest.mark.parametrize("bus, first_boot", BUS_IDS)
def test_qemu_starts_both_phases_and_the_scratch_disk_has_the_boot_disk_s_pci_id(
    system: Any, undefine: Callable[[Any], Any], firmware: str, bus: str, first_boot: str
) -> None:
    if (firmware, first_boot) == ("secure", "ide"):
        pytest.skip("Secure Boot needs q35")
    qemu_monitor = pytest.importorskip("libvirt_qemu").qemuMonitorCommand
    # Not pytest's own directory: QEMU runs as another user, who has to reach the images.
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        images.chmod(0o755)
        facts, choices = _small_guest(images, firmware, bus, first_boot)
        seen = _shown(system, undefine, qemu_monitor, facts, choices)
        wanted = BUS_IDS[bus, first_boot]
        assert seen["bootstrap"].count(wanted) == 1
        assert seen["final"].count(wanted) == (2 if bus == "virtio" else 1)
        assert "8086:10d3" in seen["bootstrap"] and "8086:10d3" not in seen["final"]
        for tree in seen.values():
            assert ("dev: qemu-xhci" in tree) == (firmware != "bios") and "dev: pvpanic" in tree
        assert "dev: virtio-rng-pci" in seen["final"] and "dev: virtio-rng-pci" not in seen["bootstrap"]


@pytest.mark.parametrize("bus", ["virtio", "virtio-scsi"])
def test_qemu_starts_both_phases_of_a_disk_with_large_sectors(system: Any, undefine: Callable[[Any], Any], bus: str) -> None:
    qemu_monitor = pytest.importorskip("libvirt_qemu").qemuMonitorCommand
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        images.chmod(0o755)
        facts, choices = _small_guest(images, "uefi", bus, "sata")
        seen = _shown(system, undefine, qemu_monitor, facts, dataclasses.replace(choices, sectors={0: 4096}))
        for tree in seen.values():
            assert tree.count("logical_block_size = 4096") == 1
            assert tree.count(BUS_IDS[bus, "sata"]) >= 1


def _shown(
    system: Any, undefine: Callable[[Any], Any], qemu_monitor: Any, facts: DomainFacts, choices: Choices
) -> dict[str, str]:
    """What QEMU shows for each phase, started paused; emulated, for KVM need not work here."""
    seen = {}
    for phase, write in (("bootstrap", bootstrap_xml), ("final", final_xml)):
        tree = etree.fromstring(write(facts, choices))
        emulate(tree)
        domain = system.defineXML(etree.tostring(tree).decode())
        undefine(domain)
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        seen[phase] = qemu_monitor(domain, "info qtree", 1)
        domain.destroy()
    return seen


def _small_guest(images: Path, firmware: str, bus: str, first_boot: str) -> tuple[DomainFacts, Choices]:
    for name in ("boot", "data", "scratch"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(images / name), "64M"], check=True)
    (images / "drivers.iso").write_bytes(bytes(65536))
    disks = tuple(DiskFacts(images / name, "qcow2", "virtio", name) for name in ("boot", "data"))
    facts = complete(
        DomainFacts(
            name=f"h2k-test-{os.getpid()}",
            memory=256 * 2**20,
            vcpus=2,
            disks=disks,
            nics=(NicFacts(None, kind="user", source=None),),
            firmware="bios" if firmware == "bios" else "uefi",
            secure_boot=firmware == "secure",
            sound="ich6",
        )
    )
    machine = "pc" if first_boot == "ide" else "q35"
    choices = Choices(
        bus=bus,
        bootstrap_bus=first_boot,
        nic_model="e1000e",
        scratch=images / "scratch",
        driver_iso=images / "drivers.iso",
        firmware=None if firmware == "bios" else choose_firmware(secure_boot=firmware == "secure", machine=machine),
        version=(6, 1) if firmware == "bios" else (10, 0),
        rng=True,
        pvpanic=True,
    )
    return facts, choices
