"""One phase of the boot cycle as libvirt gets it: the domain of bootstrap.xml or final.xml on overlays, links down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from lxml import etree

from h2k.base.errors import BadData, Refused
from h2k.base.libvirt_connection import Virt
from h2k.domain.guest_files import read_description
from h2k.domain.libvirt_reader import read_domain_xml

MARK = "urn:h2k:boot:1"  # the namespace of our metadata in a domain that h2k boot has started
SYS_NET = Path("/sys/class/net")


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
    disks = tuple((disk.path.resolve(), disk.format or "raw") for disk in facts.disks if disk.path is not None)
    return Description(phase, path, xml, facts.name, facts.uuid, disks, facts.nvram, facts.nvram_template)


def _tree(xml: bytes) -> etree._Element:
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True))


def phase_xml(
    description: Description, overlays: Mapping[Path, Path], com1: Path, nvram: Optional[Path], state: Path
) -> bytes:
    """The domain for one phase: its disks replaced by `overlays` (each by its path), COM1 into a file, links down,
    a crash kept to be looked at, and our mark. BadData when a disk has no overlay."""
    domain = _tree(description.xml)
    devices = domain.find("devices")
    _on_overlays(description, devices, overlays)
    for serial in [*devices.findall("serial"), *devices.findall("console")]:
        devices.remove(serial)
    serial = etree.SubElement(devices, "serial", {"type": "file"})
    # append: the file is there beforehand, and ours, so that who runs h2k can read it whoever writes it
    etree.SubElement(serial, "source", {"path": str(com1), "append": "on"})
    etree.SubElement(serial, "target", {"type": "isa-serial", "port": "0"})
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


def production_xml(description: Description, overlays: Mapping[Path, Path], nvram: Optional[Path]) -> bytes:
    """final.xml as it is, but with the firmware variables of the boots before, and with overlays where they are kept."""
    domain = _tree(description.xml)
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
    marks = _tree(xml.encode()).findall(f"metadata/{{{MARK}}}boot")
    return any(mark.get("directory") == str(state) for mark in marks)


def check_host(virt: Virt, description: Description) -> None:
    """Refused, in one line, when this host lacks what the domain needs: firmware, networks, bridges, images."""
    domain = _tree(description.xml)
    for what, element in (("firmware", domain.find("os/loader")), ("template", domain.find("os/nvram"))):
        name = (element.text if what == "firmware" else element.get("template")) if element is not None else None
        if name and not Path(name).is_file():
            raise Refused(f"{name}: the UEFI {what} of {description.path} is not here", hint="install ovmf (edk2-ovmf)")
    for disk in domain.findall("devices/disk/source"):
        image = disk.get("file") or disk.get("dev")
        if image and not Path(image).exists():
            raise Refused(f"{image}: named by {description.path}, and not there", hint="h2k fix NAME.xml writes it anew")
    for interface in domain.findall("devices/interface"):
        _check_network(virt, description, interface)


def _check_network(virt: Virt, description: Description, interface: etree._Element) -> None:
    source = interface.find("source")
    attributes: Mapping[Any, Any] = source.attrib if source is not None else {}
    if interface.get("type") == "network":
        name = str(attributes.get("network"))
        if not _network_active(virt, name):
            raise Refused(
                f"{description.name}: the network {name!r} is not active on this host",
                hint=f"virsh net-start {name}, or name another one in {description.path}",
            )
    if interface.get("type") in ("bridge", "direct"):
        name = str(attributes.get("bridge") or attributes.get("dev"))
        if not (SYS_NET / os.path.basename(name)).exists():  # noqa: PTH119
            raise Refused(f"{description.name}: this host has no {name!r} to connect it to", hint=f"see {description.path}")


def _network_active(virt: Virt, name: str) -> bool:
    def active(connection: Any) -> bool:
        return bool(connection.networkLookupByName(name).isActive())

    try:
        return virt.call(active)
    except virt.libvirt.libvirtError:
        return False
