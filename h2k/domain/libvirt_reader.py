"""Reads a libvirt domain XML, as virt-v2v or libvirt writes it: hostile input."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from lxml import etree

from h2k.base.errors import BadData
from h2k.base.xml import parse_xml
from h2k.domain.facts import MAX_DISKS, MAX_NICS, SOURCE, XML, DiskFacts, DomainFacts, NicFacts, Topology
from h2k.domain.values import MEMORY_LIMIT, NOT_XML, NUMBER, VALUE_LIMIT, VCPU_LIMIT, mac_of, topology_of

# https://libvirt.org/formatdomain.html#memory-allocation: decimal and binary units, KiB when none is given.
_UNITS = {
    "b": 1, "bytes": 1, "kb": 10**3, "k": 2**10, "kib": 2**10, "mb": 10**6, "m": 2**20, "mib": 2**20,
    "gb": 10**9, "g": 2**30, "gib": 2**30, "tb": 10**12, "t": 2**40, "tib": 2**40,
}  # fmt: skip


def read_domain_xml(data: bytes, name: str) -> DomainFacts:
    """The facts of a libvirt domain XML; `name` is the file's, for messages. BadData for anything else."""
    domain = parse_xml(data, name)
    if domain.tag != "domain":
        raise BadData(f"{name}: <{domain.tag}> instead of <domain>", hint="give a libvirt domain XML")
    reader = _XmlReader(domain, name)
    firmware, secure = reader.firmware()
    nvram = domain.find("os/nvram")
    told, lacking = reader.note()
    return DomainFacts(
        name=reader.text("name") or reader.missing("name"),
        uuid=reader.uuid(),
        memory=reader.memory(),
        vcpus=reader.vcpus(),
        topology=reader.topology(),
        firmware=firmware,
        secure_boot=secure and "secure_boot" not in lacking,
        nvram=_path(reader.text("os/nvram")) if nvram is not None else None,
        nvram_template=_path(reader.attribute("os/nvram", "template")),
        disks=reader.disks(),
        nics=reader.nics(),
        cdrom="cdrom" not in lacking and any(disk.get("device") == "cdrom" for disk in domain.findall("devices/disk")),
        sourced=told,
        **reader.attributes(),
    )


def with_images(xml: bytes, name: str, images: Sequence[Path], format: Optional[str] = None) -> bytes:
    """The domain with its disks' image files replaced by `images`, and their format where one is given."""
    domain = parse_xml(xml, name)
    waiting = iter(images)
    for disk in domain.findall("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        if disk.get("device", "disk") != "disk" or source is None or not (source.get("file") or source.get("dev")):
            continue
        image = next(waiting)
        block = image.is_block_device()
        disk.set("type", "block" if block else "file")
        for key in ("file", "dev"):
            source.attrib.pop(key, None)
        source.set("dev" if block else "file", str(image))
        if format is not None:
            if driver is None:
                driver = etree.SubElement(disk, "driver", name="qemu")
            driver.set("type", format)
    return bytes(etree.tostring(domain))


def storage_bus(xml: bytes, name: str) -> Optional[str]:
    """The bus of the disk that the domain starts: "virtio", "virtio-scsi" or "sata"; None for one that is none of
    h2k's, and for a domain without disks."""
    domain = parse_xml(xml, name)
    disks = [disk for disk in domain.findall("devices/disk") if disk.get("device", "disk") == "disk"]
    disks.sort(key=lambda disk: disk.find("boot") is None)
    target = disks[0].find("target") if disks else None
    bus = target.get("bus") if target is not None else None
    if bus != "scsi":
        return bus if bus in ("virtio", "sata") else None
    models = [c.get("model") for c in domain.findall("devices/controller[@type='scsi']")]
    return "virtio-scsi" if models and all(m in ("virtio-scsi", "virtio-transitional", "virtio-non-transitional") for m in models) else None


class _XmlReader:
    """Typed access to one domain's elements; each problem is a BadData with file and line."""

    def __init__(self, domain: etree._Element, name: str) -> None:
        self.domain, self.name = domain, name

    def bad(self, element: etree._Element, what: str) -> BadData:
        return BadData(f"{self.name}:{element.sourceline}: <{element.tag}>: {what}")

    def missing(self, tag: str) -> str:
        raise BadData(f"{self.name}: the domain has no <{tag}>", hint="give a whole libvirt domain XML")

    def text(self, path: str) -> Optional[str]:
        element = self.domain.find(path)
        text = (element.text or "").strip() if element is not None else ""
        return self.checked(element, text) if element is not None and text else None

    def attributes(self) -> dict[str, Any]:
        """The facts that are one attribute each, from the places that their fields name."""
        return {f.name: self.attribute(*f.metadata[XML]) for f in dataclasses.fields(DomainFacts) if XML in f.metadata}

    def attribute(self, path: str, key: str, default: Optional[str] = None) -> Optional[str]:
        element = self.domain.find(path)
        return self.checked(element, element.get(key) or default) if element is not None else None

    def checked(self, element: etree._Element, text: Optional[str]) -> Optional[str]:
        if text is not None and (len(text) > VALUE_LIMIT or NOT_XML.search(text)):
            raise self.bad(element, f"a value with control characters or above {VALUE_LIMIT} characters")
        return text

    def number(self, element: etree._Element, text: Optional[str], low: int, high: int) -> int:
        text = (text or "").strip()
        if not NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise self.bad(element, f"{text[:40]!r} is not a number from {low} to {high}")
        return int(text)

    def note(self) -> tuple[Optional[tuple[str, ...]], tuple[str, ...]]:
        """(what only the source told, what the machine has not although its XML looks so), as h2k notes it in the domains
        that it writes; (None, ()) for the domain of somebody else."""
        place = f"metadata/{{{SOURCE}}}source"
        if self.domain.find(place) is None:
            return None, ()
        told, lacking = ((self.attribute(place, key) or "").split() for key in ("told", "lacks"))
        return tuple(told), tuple(lacking)

    def uuid(self) -> Optional[str]:
        text = self.text("uuid")
        if text is None:
            return None
        try:
            return str(uuid.UUID(text))
        except ValueError as e:
            raise self.bad(self.domain.find("uuid"), f"{text[:60]!r} is no UUID") from e

    def memory(self) -> int:
        element = self.domain.find("memory")
        if element is None:
            return int(self.missing("memory"))
        unit = (element.get("unit") or "KiB").lower()
        if unit not in _UNITS:
            raise self.bad(element, f"unknown unit {unit[:20]!r}")
        memory = self.number(element, element.text, 1, MEMORY_LIMIT) * _UNITS[unit]
        if not 1024 <= memory <= MEMORY_LIMIT:
            raise self.bad(element, f"{memory} bytes of memory")
        return memory

    def vcpus(self) -> int:
        element = self.domain.find("vcpu")
        return self.number(element, element.text, 1, VCPU_LIMIT) if element is not None else 1

    def topology(self) -> Optional[Topology]:
        element = self.domain.find("cpu/topology")
        if element is None:
            return None
        sockets, dies, cores, threads = (
            self.number(element, element.get(key, "1"), 1, VCPU_LIMIT) for key in ("sockets", "dies", "cores", "threads")
        )
        return topology_of(sockets * dies, cores, threads, self.vcpus())

    def firmware(self) -> tuple[str, bool]:
        """("uefi" or "bios", Secure Boot): by autoselection, or by the loader that is named."""
        os = self.domain.find("os")
        if os is None:
            return "bios", False
        loader = os.find("loader")
        pflash = loader is not None and loader.get("type") == "pflash"
        uefi = os.get("firmware") == "efi" or pflash or os.find("nvram") is not None
        secure = loader is not None and loader.get("secure") == "yes"
        for feature in os.findall("firmware/feature"):
            secure = secure or (feature.get("name") == "secure-boot" and feature.get("enabled") == "yes")
        return ("uefi" if uefi else "bios"), uefi and secure

    def disks(self) -> tuple[DiskFacts, ...]:
        """The hard disks in the order of the document, which is the order that virt-v2v keeps."""
        found = []
        for disk in self.domain.findall("devices/disk"):
            if disk.get("device", "disk") != "disk":
                continue
            source, target, driver, boot = (disk.find(tag) for tag in ("source", "target", "driver", "boot"))
            if target is None or not target.get("dev"):
                raise self.bad(disk, "no <target dev=…>")
            path = None
            if source is not None and disk.get("type", "file") in ("file", "block"):
                path = self.checked(source, source.get("file") or source.get("dev"))
            dev, bus = self.checked(target, target.get("dev")) or "", self.checked(target, target.get("bus")) or ""
            order = None if boot is None else self.number(boot, boot.get("order"), 1, VCPU_LIMIT)
            form = self.checked(driver, driver.get("type")) if driver is not None else None
            blocks = disk.find("blockio")
            size = blocks.get("logical_block_size") if blocks is not None else None
            sector = self.number(disk, size, 512, 65536) if size is not None else 512
            found.append(DiskFacts(_path(path), form, bus, dev, order, sector))
            if len(found) > MAX_DISKS:
                raise self.bad(disk, f"more than {MAX_DISKS} disks")
        return tuple(found)

    def nics(self) -> tuple[NicFacts, ...]:
        found = []
        for interface in self.domain.findall("devices/interface"):
            found.append(self._nic(interface))
            if len(found) > MAX_NICS:
                raise self.bad(interface, f"more than {MAX_NICS} network cards")
        return tuple(found)

    def _nic(self, interface: etree._Element) -> NicFacts:
        kind = interface.get("type", "network")
        source, mac, model = (interface.find(tag) for tag in ("source", "mac", "model"))
        key = {"network": "network", "bridge": "bridge", "direct": "dev"}.get(kind)
        where = self.checked(source, source.get(key)) if source is not None and key is not None else None
        if kind == "user":
            where = None
        elif kind not in ("network", "bridge", "direct") or where is None:
            kind, where = "network", "default"  # a host device or a socket of another host: it does not move
        address = mac.get("address") if mac is not None else None
        pci = interface.find("address[@type='pci']")
        slot = pci.get("slot") if pci is not None else None
        if slot is not None and not re.fullmatch(r"0x[0-9a-fA-F]{1,2}|[0-9]{1,2}", slot):
            raise self.bad(interface, f"slot {slot[:20]!r}")
        return NicFacts(
            mac=mac_of(address, f"{self.name}:{interface.sourceline}"),
            model=self.checked(model, model.get("type")) if model is not None else None,
            kind=kind,
            source=where,
            slot=int(slot, 0) if slot is not None and slot.startswith("0x") else int(slot) if slot else None,
        )


def _path(text: Optional[str]) -> Optional[Path]:
    return Path(text) if text else None
