"""Reading OVF, the description inside an OVA: hostile XML of VMware, VirtualBox and others (DMTF DSP0243)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.errors import BadData
from h2k.base.xml import parse_xml
from h2k.domain.facts import MAX_DISKS, MAX_NICS, DiskFacts, DomainFacts, NicFacts, Topology, disk_name, is_mac
from h2k.domain.values import MEMORY_LIMIT, VALUE_LIMIT, VCPU_LIMIT

# CIM's resource types, as virt-v2v reads them too: 20 is "other storage", which VMware and VirtualBox use for SATA.
CPU, MEMORY, ETHERNET, DISK = "3", "4", "10", "17"
CDROMS = ("15", "16")
BUSES = {"5": "ide", "6": "scsi", "20": "sata"}
MAX_ITEMS = 1024
_UNIT = re.compile(r"byte\s*\*\s*2\s*\^\s*([0-9]{1,2})")
_OLD_UNITS = {"bytes": 0, "kilobytes": 10, "megabytes": 20, "gigabytes": 30}
_HOST_RESOURCE = re.compile(r"(?:ovf:)?/(disk|file)/(.{1,200})")
_NOT_PLAIN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclasses.dataclass(frozen=True)
class OvfFile:
    """A disk's file: its name relative to the OVF, whether gzip was put over it, the disk's size in bytes if told, and
    whether it may have been cut into pieces, HREF.000000000 and so on (ovf:chunkSize)."""

    href: str
    gzip: bool = False
    capacity: Optional[int] = None
    chunked: bool = False


@dataclasses.dataclass(frozen=True)
class Ovf:
    """A machine's facts and its disks' files, in the order of the document, which is the order that virt-v2v keeps.

    `named` tells whether the OVF has a name for the machine; without one `domain.name` is the file's. `document` is what
    was read.
    """

    domain: DomainFacts
    files: tuple[OvfFile, ...]
    named: bool
    document: bytes = dataclasses.field(default=b"", repr=False)


def read_ovf(data: bytes, name: str) -> Ovf:
    """The facts of an OVF document; `name` is the file's, for messages. BadData for anything else."""
    root = parse_xml(data, name)
    if _local(root) != "Envelope":
        raise BadData(f"{name}: <{root.tag}> instead of <Envelope>", hint="give the guest's .ovf file")
    system = _child(root, "VirtualSystem")
    if system is None:
        raise BadData(f"{name}: no <VirtualSystem>; a collection of several has to be taken apart first")
    hardware = _child(system, "VirtualHardwareSection")
    if hardware is None:
        raise BadData(f"{name}:{system.sourceline}: no <VirtualHardwareSection>")
    return dataclasses.replace(_Reader(root, system, hardware, name).read(), document=data)


def _local(element: etree._Element) -> str:
    return str(etree.QName(element).localname)


def _child(element: etree._Element, name: str) -> Optional[etree._Element]:
    return element.find(f"{{*}}{name}")


def _attribute(element: etree._Element, name: str) -> Optional[str]:
    """An attribute by its local name: writers disagree about the namespace."""
    return next((str(v) for k, v in element.attrib.items() if etree.QName(k).localname == name), None)


class _Reader:
    """One document; each problem is a BadData with file and line."""

    def __init__(self, root: etree._Element, system: etree._Element, hardware: etree._Element, name: str) -> None:
        self.root, self.system, self.name = root, system, name
        # OVF 2 has kinds of its own for disks and network cards.
        self.items = [e for e in hardware if _local(e) in ("Item", "StorageItem", "EthernetPortItem")]
        self.config = [e for e in hardware if _local(e) == "Config"]
        if len(self.items) > MAX_ITEMS:
            raise self._bad(hardware, f"more than {MAX_ITEMS} items")
        self.by_id = {self._value(item, "InstanceID"): item for item in self.items}

    def read(self) -> Ovf:
        name = self._text(_child(self.system, "Name"))
        places = tuple(self._disk(number, item) for number, item in enumerate(self._of(DISK)))
        if len(places) > MAX_DISKS:
            raise BadData(f"{self.name}: more than {MAX_DISKS} disks")
        vcpus, topology = self._processors()
        firmware, secure = self._firmware()
        facts = DomainFacts(
            name=name or Path(self.name).stem,
            memory=self._memory(),
            vcpus=vcpus,
            topology=topology,
            firmware=firmware,
            secure_boot=secure,
            disks=tuple(disk for disk, _ in places),
            nics=self._nics(),
            cdrom=any(self._value(item, "ResourceType") in CDROMS for item in self.items),
        )
        return Ovf(facts, tuple(file for _, file in places), bool(name))

    def _of(self, kind: str) -> list[etree._Element]:
        return [item for item in self.items if self._value(item, "ResourceType") == kind]

    def _bad(self, element: etree._Element, what: str) -> BadData:
        return BadData(f"{self.name}:{element.sourceline}: {what}", hint="give the guest's own .ovf file")

    def _text(self, element: Optional[etree._Element]) -> Optional[str]:
        if element is None:
            return None
        return self._checked(element, (element.text or "").strip()) or None

    def _checked(self, element: etree._Element, text: str) -> str:
        if len(text) > VALUE_LIMIT or _NOT_PLAIN.search(text):
            raise self._bad(element, f"a value with control characters or above {VALUE_LIMIT} characters")
        return text

    def _value(self, item: etree._Element, name: str) -> Optional[str]:
        return self._text(_child(item, name))

    def _number(self, item: etree._Element, name: str, default: int, low: int, high: int) -> int:
        text = self._value(item, name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise self._bad(item, f"{name}: {text[:40]!r} is not a number from {low} to {high}")
        return int(text)

    def _memory(self) -> int:
        """Bytes; the unit is MiB where none is named, as virt-v2v has it."""
        item = next(iter(self._of(MEMORY)), None)
        if item is None:
            return 1024**3
        unit = (self._value(item, "AllocationUnits") or "byte * 2^20").lower()
        match = _UNIT.fullmatch(unit)
        power = int(match.group(1)) if match else _OLD_UNITS.get(unit)
        if power is None or power > 40:
            raise self._bad(item, f"unknown unit of memory {unit[:40]!r}")
        memory = self._number(item, "VirtualQuantity", 1024, 1, MEMORY_LIMIT) << power
        if not 1024 <= memory <= MEMORY_LIMIT:
            raise self._bad(item, f"{memory} bytes of memory")
        return memory

    def _processors(self) -> tuple[int, Optional[Topology]]:
        item = next(iter(self._of(CPU)), None)
        if item is None:
            return 1, None
        vcpus = self._number(item, "VirtualQuantity", 1, 1, VCPU_LIMIT)
        cores = self._number(item, "CoresPerSocket", 0, 0, VCPU_LIMIT)
        return vcpus, Topology(vcpus // cores, cores, 1) if cores and vcpus % cores == 0 else None

    def _firmware(self) -> tuple[str, bool]:
        """("uefi" or "bios", Secure Boot): VMware's Config elements, or VirtualBox's own machine description."""
        config = {_attribute(e, "key"): (_attribute(e, "value") or "").lower() for e in self.config}
        firmware = config.get("firmware")
        if firmware not in (None, "efi", "bios"):
            raise self._bad(self.system, f"firmware {str(firmware)[:40]!r}, which is neither efi nor bios")
        virtualbox = [(_attribute(e, "type") or "").lower() for e in self.system.iterfind("{*}Machine//{*}Firmware")]
        uefi = firmware == "efi" or any(kind.startswith("efi") for kind in virtualbox)
        return ("uefi" if uefi else "bios"), uefi and config.get("bootOptions.efiSecureBootEnabled") == "true"

    def _nics(self) -> tuple[NicFacts, ...]:
        found = []
        for number, item in enumerate(self._of(ETHERNET)):
            address = (self._value(item, "Address") or "").lower().replace("-", ":")
            connection = self._value(item, "Connection")
            model = self._value(item, "ResourceSubType")
            found.append(
                NicFacts(
                    mac=address if is_mac(address) else None,
                    model=model.lower() if model else None,
                    kind="bridge" if connection else "network",
                    source=connection or f"eth{number}",
                )
            )
        if len(found) > MAX_NICS:
            raise BadData(f"{self.name}: more than {MAX_NICS} network cards")
        return tuple(found)

    def _disk(self, number: int, item: etree._Element) -> tuple[DiskFacts, OvfFile]:
        """A disk and its file: HostResource names a Disk, which names a File, which names it."""
        match = _HOST_RESOURCE.fullmatch(self._value(item, "HostResource") or "")
        if match is None:
            raise self._bad(item, "a disk without a HostResource that names it")
        capacity = None
        reference = match.group(2)
        if match.group(1) == "disk":
            disk = self._named("DiskSection", "Disk", "diskId", reference, item)
            capacity = self._capacity(disk)
            reference = _attribute(disk, "fileRef") or ""
        file = self._named("References", "File", "id", reference, item)
        href, compression = _attribute(file, "href") or "", _attribute(file, "compression") or "identity"
        if not self._checked(file, href):
            raise self._bad(file, "a file without a name")
        if compression not in ("identity", "gzip"):
            raise self._bad(file, f"unknown compression {compression[:40]!r}")
        parent = self.by_id.get(self._value(item, "Parent") or "")
        bus = BUSES.get(self._value(parent, "ResourceType") or "", "scsi") if parent is not None else "scsi"
        place = DiskFacts(Path(href), None, bus, disk_name("sd", number))
        return place, OvfFile(href, compression == "gzip", capacity, bool(_attribute(file, "chunkSize")))

    def _named(self, section: str, name: str, key: str, wanted: str, item: etree._Element) -> etree._Element:
        for element in self.root.iterfind(f"{{*}}{section}/{{*}}{name}"):
            if _attribute(element, key) == wanted:
                return element
        raise self._bad(item, f"no <{name}> with the {key} {wanted[:80]!r}")

    def _capacity(self, disk: etree._Element) -> Optional[int]:
        text, unit = _attribute(disk, "capacity") or "", _attribute(disk, "capacityAllocationUnits") or "byte * 2^0"
        match = _UNIT.fullmatch(unit.lower())
        power = int(match.group(1)) if match else 0
        return int(text) << power if re.fullmatch(r"[0-9]{1,15}", text) and power <= 40 else None
