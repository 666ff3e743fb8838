"""One phase of the boot cycle as libvirt gets it: the domain of bootstrap.xml or final.xml on overlays, links down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.errors import BadData
from h2k.base.xml import parse_xml
from h2k.boot.tcg import add_panic_device, emulate
from h2k.domain.guest_files import read_description
from h2k.domain.libvirt_reader import read_domain_xml

MARK = "urn:h2k:boot:1"  # the namespace of our metadata in a domain that h2k boot has started


@dataclasses.dataclass(frozen=True)
class Description:
    """A domain XML of the report directory and what it says of itself."""

    phase: str
    path: Path
    xml: bytes
    name: str
    uuid: str
    disks: tuple[tuple[Path, str], ...]
    nvram: Optional[Path]
    template: Optional[Path]

    @property
    def uefi(self) -> bool:
        """Whether it has firmware variables."""
        return self.template is not None or self.nvram is not None


def read_description_of(state: Path, phase: str) -> Description:
    """state/PHASE.xml. UsageError when it is not there, BadData when it is no domain of ours."""
    path = state / f"{phase}.xml"
    xml = read_description(path)
    facts = read_domain_xml(xml, str(path))
    if facts.uuid is None:
        raise BadData(f"{path}: no UUID", hint="h2k domains NAME.xml writes it anew")
    _check_drivers(parse_xml(xml, str(path)), path)
    disks = tuple((disk.path.resolve(), disk.format or "raw") for disk in facts.disks if disk.path is not None)
    return Description(phase, path, xml, facts.name, facts.uuid, disks, facts.nvram, facts.nvram_template)


def _check_drivers(domain: etree._Element, path: Path) -> None:
    """BadData for a disk without <driver>: libvirt would take a qcow2 for a raw image, and so hand the guest garbage."""
    for disk in domain.findall("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        if disk.get("device", "disk") == "disk" and source is not None and (driver is None or driver.get("type") is None):
            image = source.get("file") or source.get("dev") or "a disk"
            raise BadData(f"{path}:{disk.sourceline}: {image} has no <driver type>", hint="add <driver name='qemu' type='FORMAT'/>")


def phase_xml(
    description: Description,
    overlays: Mapping[Path, Path],
    ports: Sequence[Path],
    nvram: Optional[Path],
    state: Path,
    kvm: bool,
) -> bytes:
    """The domain for one phase: its disks replaced by `overlays` (each by its path), serial ports (COM1 first) into the
    files `ports`, links down, a crash told and kept to be looked at, and our mark; without `kvm` a copy that QEMU
    emulates. BadData when a disk has no overlay."""
    domain = parse_xml(description.xml, str(description.path))
    devices = domain.find("devices")
    _on_overlays(description, devices, overlays)
    if not kvm:
        emulate(domain)
    add_panic_device(domain)
    for serial in [*devices.findall("serial"), *devices.findall("console"), *devices.findall("parallel")]:
        devices.remove(serial)
    for number, port in enumerate(ports):
        serial = etree.SubElement(devices, "serial", {"type": "file"})
        # append: the file is there beforehand, and ours, so that who runs h2k can read it whoever writes it
        etree.SubElement(serial, "source", {"path": str(port), "append": "on"})
        etree.SubElement(serial, "target", {"type": "isa-serial", "port": str(number)})
    for interface in devices.findall("interface"):
        for link in interface.findall("link"):
            interface.remove(link)
        etree.SubElement(interface, "link", {"state": "down"})
    _set(domain, "on_crash", "preserve")
    _set(domain, "on_reboot", "restart")
    _set(domain, "on_poweroff", "destroy")
    _with_nvram(domain, nvram)
    metadata = domain.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        domain.insert(2, metadata)
    mark = etree.SubElement(metadata, f"{{{MARK}}}boot", nsmap={"h2k": MARK})
    mark.set("phase", description.phase)
    mark.set("directory", str(state))
    return bytes(etree.tostring(domain))


def production_xml(description: Description, overlays: Mapping[Path, Path], nvram: Optional[Path], kvm: bool) -> bytes:
    """final.xml as it is, but with the firmware variables of the boots before, and with overlays where they are kept;
    without `kvm` a copy that QEMU emulates."""
    domain = parse_xml(description.xml, str(description.path))
    if not kvm:
        emulate(domain)
    if overlays:
        _on_overlays(description, domain.find("devices"), overlays)
    _with_nvram(domain, nvram)
    return bytes(etree.tostring(domain))


def _on_overlays(description: Description, devices: etree._Element, overlays: Mapping[Path, Path]) -> None:
    for disk in devices.findall("disk"):
        source = disk.find("source")
        if disk.get("device", "disk") == "cdrom" or source is None:
            continue
        path = Path(source.get("file") or source.get("dev") or "").resolve()
        if path not in overlays:
            raise BadData(f"{description.path}: {path} is no disk of the guest", hint="h2k domains NAME.xml writes it anew")
        disk.set("type", "file")
        source.attrib.clear()
        source.set("file", str(overlays[path]))
        disk.find("driver").set("type", "qcow2")


def _set(domain: etree._Element, tag: str, text: str) -> None:
    element = domain.find(tag)
    if element is None:
        element = etree.SubElement(domain, tag)
    element.text = text


def _with_nvram(domain: etree._Element, nvram: Optional[Path]) -> None:
    element = domain.find("os/nvram")
    if element is not None and nvram is not None:
        element.text = str(nvram)


def marked(xml: str, state: Path) -> bool:
    """Whether a domain was started by h2k boot for this report directory."""
    marks = parse_xml(xml.encode(), "the running domain").findall(f"metadata/{{{MARK}}}boot")
    return any(mark.get("directory") == str(state) for mark in marks)
