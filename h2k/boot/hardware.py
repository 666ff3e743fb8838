"""Hardware asked, not guessed: the PCI ids that QEMU shows for a domain, and where they lead in the guest's registry."""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.children import temporary_directory
from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.finding import Finding
from h2k.base.host import kvm_works
from h2k.base.libvirt_connection import Domain, Virt
from h2k.base.xml import parse_xml
from h2k.boot.tcg import emulate
from h2k.disk.open_reader import open_reader
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.guest.guest import Guest
from h2k.windows.pnp import PciId, find_binding

NULL_DISK = 1024 * 1024  # bytes of the empty images that stand in for the guest's disks
TREE_LIMIT = 8 * 1024 * 1024  # bytes of `info qtree` that we are willing to read; a real one has about 30 KiB
MAX_DEVICES = 4096

_DEVICE = re.compile(r'^( *)dev: ([^,\s]+), id "[^"]*"$')
_PCI = re.compile(r"^ *class (.+), addr \S+, pci id ([0-9a-f]{4}):([0-9a-f]{4}) \(sub ([0-9a-f]{4}):([0-9a-f]{4})\)$")
# QEMU prints a class by its name where it has one (hw/pci/pci.c), and these are all that carry a disk. The interface
# byte, which it does not print: 01 for AHCI, 80 for the PIIX3 IDE controller (bus mastering, both channels legacy).
_STORAGE = {"SCSI controller": 0x010000, "SATA controller": 0x010601, "IDE controller": 0x010180}


@dataclasses.dataclass(frozen=True)
class PciDevice:
    """A PCI function as QEMU shows it; the class code of `pci` is 0 for one that carries no disk."""

    model: str
    pci: PciId


def parse_qtree(text: str) -> tuple[PciDevice, ...]:
    """The PCI functions in the output of QEMU's `info qtree`. BadData when there are none."""
    if len(text) > TREE_LIMIT:
        raise BadData("QEMU's device tree is too long to be one")
    found: list[PciDevice] = []
    open_devices: list[tuple[int, str]] = []  # indentation, model
    for line in text.splitlines():
        device = _DEVICE.match(line)
        if device is not None:
            depth = len(device[1])
            open_devices = [d for d in open_devices if d[0] < depth] + [(depth, device[2])]
            continue
        pci = _PCI.match(line)
        if pci is not None and open_devices and len(found) < MAX_DEVICES:
            depth = len(line) - len(line.lstrip())
            owner = next((d for d in reversed(open_devices) if d[0] < depth), open_devices[-1])
            vendor, number, subsystem_vendor, subsystem = (int(n, 16) for n in pci.groups()[1:])
            shown = PciId(vendor, number, subsystem_vendor, subsystem, _revision(vendor, number), _STORAGE.get(pci[1], 0))
            found.append(PciDevice(owner[1], shown))
    if not found:
        raise BadData("QEMU's device tree names no PCI device")
    return tuple(found)


def _revision(vendor: int, device: int) -> int:
    """What virtio-pci.c sets: 1 for a device with the modern interface alone, else 0. QEMU prints none; for PIIX3 and
    ICH9 it does not matter, since no id that Windows binds them by contains it."""
    return 1 if vendor == 0x1AF4 and device >= 0x1040 else 0


def scratch_copy(xml: bytes, name: str, directory: Path) -> bytes:
    """The domain `xml` under a scratch name, with the same devices in the same places and nothing of the guest.

    A fresh UUID, empty disks in `directory`, no medium in the drives, no network, no firmware with its variables, no
    TPM, no ports of this host; emulated where KVM does not work.
    """
    domain = parse_xml(xml, name)
    devices = domain.find("devices")
    if domain.tag != "domain" or devices is None:
        raise BadData(f"{name}: no libvirt domain")
    if not kvm_works():
        emulate(domain)
    for tag in ("name", "uuid", "metadata", "memory", "currentMemory", "os/loader", "os/nvram"):
        for element in domain.findall(tag):
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)
    domain.find("os").attrib.pop("firmware", None)
    for index, (tag, text) in enumerate((("name", name), ("uuid", str(uuid.uuid4())), ("memory", "65536"))):
        element = etree.Element(tag)
        element.text = text
        domain.insert(index, element)
    for tag in ("tpm", "serial", "console", "parallel", "graphics", "hostdev"):
        for element in devices.findall(tag):
            devices.remove(element)
    for index, disk in enumerate(devices.findall("disk")):
        _empty(disk, directory / f"disk{index}")
    for interface in devices.findall("interface"):
        _isolate(interface)
    return bytes(etree.tostring(domain))


def _empty(disk: etree._Element, image: Path) -> None:
    for tag in ("source", "backingStore", "auth", "encryption"):
        for element in disk.findall(tag):
            disk.remove(element)
    disk.set("type", "file")
    driver = disk.find("driver")
    if driver is not None:
        driver.attrib.clear()
        driver.attrib.update({"name": "qemu", "type": "raw"})
    if disk.get("device", "disk") in ("disk", "lun"):
        disk.set("device", "disk")
        with open(image, "wb") as out:
            out.truncate(NULL_DISK)
        image.chmod(0o666)
        etree.SubElement(disk, "source", {"file": str(image)})


def _isolate(interface: etree._Element) -> None:
    for element in list(interface):
        if element.tag not in ("mac", "model", "address", "alias"):
            interface.remove(element)
    interface.set("type", "user")
    etree.SubElement(interface, "link", {"state": "down"})


def ask(virt: Virt, xml: bytes) -> tuple[PciDevice, ...]:
    """The PCI functions that QEMU really shows for a domain: a scratch copy is started paused, so that no guest code
    runs, and ends with our connection at the latest. H2kError when it does not start."""
    name = f"h2k-ask-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with temporary_directory("h2k-ask-", mode=0o711) as directory:
        copied = scratch_copy(xml, name, directory)
        facts = read_domain_xml(copied, name)
        domain = Domain(virt, name, str(facts.uuid))
        try:
            _start(domain, copied)
            return parse_qtree(domain.monitor("info qtree"))
        finally:
            domain.destroy()


def _start(domain: Domain, xml: bytes) -> None:
    """Without network cards where this QEMU has no user network; they carry no disk."""
    try:
        domain.start(xml.decode(), paused=True, with_us=True)
    except H2kError as e:
        if "network backend 'user'" not in e.message:
            raise
        tree = parse_xml(xml, "the scratch copy")
        for interface in tree.findall("devices/interface"):
            tree.find("devices").remove(interface)
        domain.start(etree.tostring(tree).decode(), paused=True, with_us=True)


def disk_controllers(xml: bytes, shown: Sequence[PciDevice]) -> tuple[PciDevice, ...]:
    """Those of the functions that carry a hard disk in the domain, each id once."""
    buses = {disk.bus for disk in read_domain_xml(xml, "the domain").disks}
    models = {"virtio": "virtio-blk-pci", "scsi": "virtio-scsi-pci"}
    wanted = {models.get(bus, bus) for bus in buses}
    found: dict[str, PciDevice] = {}
    for device in shown:
        base = re.sub(r"-(non-)?transitional$", "", device.model)
        ahci, ide = device.pci.class_code == 0x010601, device.pci.class_code == 0x010180
        if base in wanted or (ahci and "sata" in buses) or (ide and "ide" in buses):
            found.setdefault(str(device.pci), device)
    return tuple(found.values())


def compare(guest: Guest, phase: str, controllers: Sequence[PciDevice]) -> list[Finding]:
    """For each controller, whether its ids lead to a driver that starts at boot, in every control set that may boot."""
    findings = []
    for device in controllers:
        problem, good = None, ""
        for number in guest.control_sets.boot:
            service = _boot_driver(guest, number, device)
            if service is None:
                problem = problem or f"ControlSet{number:03d}: " + _what_is_there(guest, number, device)
            else:
                good = f"PCI\\{device.pci.name} leads to {service}, Start 0"
        subject = f"{phase}: {device.model} {device.pci}"
        if problem is not None:
            findings.append(Finding("device-id-unbound", "broken", subject, problem, "h2k fix binds it"))
        else:
            findings.append(Finding("device-id-unbound", "ok", subject, f"QEMU shows it, and {good}"))
    return findings


def _boot_driver(guest: Guest, control_set: int, device: PciDevice) -> Optional[str]:
    """The service of the binding that wins, if it starts at boot: Windows does not try the next one."""
    binding = next(iter(find_binding(guest.system, control_set, device.pci.ids())), None)
    service = guest.service(control_set, binding.service) if binding is not None and binding.service else None
    if service is None or service.start != 0 or any(value for _, value in service.start_overrides):
        return None
    return service.name


def _what_is_there(guest: Guest, control_set: int, device: PciDevice) -> str:
    bindings = find_binding(guest.system, control_set, device.pci.ids())
    if not bindings:
        return f"no id of PCI\\{device.pci.ids()[0]} is known to the registry"
    first = bindings[0]
    what = f"{first.service}, which does not start at boot" if first.service else f"no service: {first.where}"
    return f"{first.id} leads to {what}"


def ask_domains(virt: Virt, guest: Guest, domains: Sequence[tuple[str, bytes]]) -> list[Finding]:
    """(phase, XML) of each domain asked of QEMU, and where what it shows leads in the guest's registry."""
    findings = []
    for phase, xml in domains:
        findings += compare(guest, phase, disk_controllers(xml, ask(virt, xml)))
    return findings


def shown_hardware(files: GuestFiles, uri: str) -> list[Finding]:
    """What `h2k verify --ask-qemu` adds: bootstrap.xml and final.xml, or the domain itself where there are none, asked
    of QEMU. UsageError when there is no domain at all."""
    found = [(phase, files.state / f"{phase}.xml") for phase in ("bootstrap", "final")]
    domains = [(phase, read_description(path)) for phase, path in found if path.exists()]
    if not domains and files.description is not None:
        domains = [(files.domain.name if files.domain is not None else "domain", files.description)]
    if not domains:
        raise UsageError(f"{files.state}: no domain to ask QEMU about", hint="h2k verify --ask-qemu NAME.xml")
    virt = Virt(uri)
    try:
        with open_reader(files.images) as reader:
            return ask_domains(virt, Guest(reader), domains)
    finally:
        virt.close()
