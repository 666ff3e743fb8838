"""Reading domain descriptions: libvirt's XML (as virt-v2v writes it) and VMware's VMX, both hostile input."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.domain import LIBOSINFO, MAX_DISKS, MAX_NICS, DiskFacts, DomainFacts, NicFacts, Topology, is_mac
from h2k.errors import BadData

XML_LIMIT = 4 * 1024 * 1024  # bytes; virt-v2v's are about 4 KiB
VMX_LIMIT = 1024 * 1024  # bytes; real ones stay below 20 KiB
VMX_LINES = 20_000
VALUE_LIMIT = 4096  # characters of one value
MEMORY_LIMIT = 64 * 1024**4  # bytes
VCPU_LIMIT = 4096

# https://libvirt.org/formatdomain.html#memory-allocation: decimal and binary units, KiB when none is given.
_UNITS = {
    "b": 1, "bytes": 1, "kb": 10**3, "k": 2**10, "kib": 2**10, "mb": 10**6, "m": 2**20, "mib": 2**20,
    "gb": 10**9, "g": 2**30, "gib": 2**30, "tb": 10**12, "t": 2**40, "tib": 2**40,
}  # fmt: skip
_NOT_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"[0-9]{1,15}")

# The values of .encoding that VMware writes, and Python's codecs for them.
_ENCODINGS = {
    "utf-8": "utf-8", "us-ascii": "ascii", "windows-1250": "cp1250", "windows-1251": "cp1251",
    "windows-1252": "cp1252", "windows-1253": "cp1253", "windows-1254": "cp1254", "iso-8859-1": "latin-1",
    "shift_jis": "cp932", "windows-31j": "cp932", "windows-932": "cp932", "gbk": "gbk", "windows-936": "gbk",
    "gb18030": "gb18030", "big5": "cp950", "windows-950": "cp950", "euc-kr": "cp949", "windows-949": "cp949",
}  # fmt: skip
_VMX_LINE = re.compile(r'([^\s="]+)\s*=\s*(?:"([^"]*)"|([^\s"]*))')
_VMX_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")
_VMX_DISK = re.compile(r"(scsi|nvme|sata|ide)([0-9]{1,2}):([0-9]{1,3})\.filename")
_VMX_NIC = re.compile(r"ethernet([0-9]{1,2})\.present")
# The order in which virt-v2v numbers a VMX's disks.
_VMX_BUSES = ("scsi", "nvme", "sata", "ide")


def read_domain_xml(data: bytes, name: str) -> DomainFacts:
    """The facts of a libvirt domain XML; `name` is the file's, for messages. BadData for anything else."""
    domain = parse_xml(data, name)
    if domain.tag != "domain":
        raise BadData(f"{name}: <{domain.tag}> instead of <domain>", hint="give a libvirt domain XML")
    reader = _XmlReader(domain, name)
    firmware, secure = reader.firmware()
    nvram = domain.find("os/nvram")
    return DomainFacts(
        name=reader.text("name") or reader.missing("name"),
        uuid=reader.uuid(),
        memory=reader.memory(),
        vcpus=reader.vcpus(),
        topology=reader.topology(),
        firmware=firmware,
        secure_boot=secure,
        tpm=reader.attribute("devices/tpm", "model", "tpm-tis"),
        nvram=_path(reader.text("os/nvram")) if nvram is not None else None,
        nvram_template=_path(reader.attribute("os/nvram", "template")),
        disks=reader.disks(),
        nics=reader.nics(),
        cdrom=any(disk.get("device") == "cdrom" for disk in domain.findall("devices/disk")),
        graphics=reader.attribute("devices/graphics", "type"),
        video=reader.attribute("devices/video/model", "type"),
        sound=reader.attribute("devices/sound", "model"),
        os_id=reader.attribute(f"metadata/{{{LIBOSINFO}}}libosinfo/{{{LIBOSINFO}}}os", "id"),
    )


def parse_xml(data: bytes, name: str) -> etree._Element:
    """The root element of an XML document without entities or network; BadData names the file and the place."""
    if len(data) > XML_LIMIT:
        raise BadData(f"{name}: larger than {XML_LIMIT} bytes; no domain description")
    if b"<!DOCTYPE" in data.replace(b"\0", b""):  # in UTF-16 too; before any entity can be defined
        raise BadData(f"{name}: has a document type, which a domain never has", hint="remove the DOCTYPE")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as e:
        raise BadData(f"{name}: no XML: {' '.join(str(e).split())}") from e
    if root is None or root.getroottree().docinfo.internalDTD is not None:
        raise BadData(f"{name}: has a document type, which a domain never has", hint="remove the DOCTYPE")
    return root


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

    def attribute(self, path: str, key: str, default: Optional[str] = None) -> Optional[str]:
        element = self.domain.find(path)
        return self.checked(element, element.get(key) or default) if element is not None else None

    def checked(self, element: etree._Element, text: Optional[str]) -> Optional[str]:
        if text is not None and (len(text) > VALUE_LIMIT or _NOT_XML.search(text)):
            raise self.bad(element, f"a value with control characters or above {VALUE_LIMIT} characters")
        return text

    def number(self, element: etree._Element, text: Optional[str], low: int, high: int) -> int:
        text = (text or "").strip()
        if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise self.bad(element, f"{text[:40]!r} is not a number from {low} to {high}")
        return int(text)

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
        return _topology(sockets * dies, cores, threads, self.vcpus())

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
            found.append(DiskFacts(_path(path), form, bus, dev, order))
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
            mac=_mac(address, f"{self.name}:{interface.sourceline}"),
            model=self.checked(model, model.get("type")) if model is not None else None,
            kind=kind,
            source=where,
            slot=int(slot, 0) if slot is not None and slot.startswith("0x") else int(slot) if slot else None,
        )


def read_vmx(data: bytes, name: str) -> DomainFacts:
    """The facts of a VMware VMX file; `name` is the file's, for messages. BadData for anything else."""
    vmx = _Vmx(data, name)
    if not any(key in vmx.values for key in ("displayname", "config.version", "virtualhw.version", "memsize")):
        raise BadData(f"{name}: no displayName, no version, no memsize: not a VMX", hint="give the guest's .vmx file")
    vcpus = vmx.number("numvcpus", 1, 1, VCPU_LIMIT)
    cores = vmx.number("cpuid.corespersocket", 1, 1, VCPU_LIMIT)
    uefi = (vmx.get("firmware") or "bios").lower() == "efi"
    tpm = vmx.true("vtpm.present") or (vmx.get("managedvm.autoaddvtpm") or "").lower() == "software"
    disks, cdrom = vmx.disks()
    return DomainFacts(
        name=vmx.get("displayname") or Path(name).stem,
        uuid=vmx.uuid(),
        memory=vmx.number("memsize", 32, 1, MEMORY_LIMIT // 2**20) * 2**20,
        vcpus=vcpus,
        topology=_topology(vcpus // cores, cores, 1, vcpus),
        firmware="uefi" if uefi else "bios",
        secure_boot=uefi and vmx.true("uefi.secureboot.enabled"),
        tpm="tpm-crb" if tpm else None,
        disks=disks,
        nics=vmx.nics(),
        cdrom=cdrom,
        sound=vmx.get("sound.virtualdev", "es1371") if vmx.true("sound.present") else None,
    )


class _Vmx:
    """A VMX file's keys (lower case) and values."""

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) > VMX_LIMIT:
            raise BadData(f"{name}: larger than {VMX_LIMIT} bytes; not a VMX")
        self.name = name
        self.values: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        lines = _decode(data, name).lstrip("\ufeff").split("\n")
        if len(lines) > VMX_LINES:
            raise BadData(f"{name}: more than {VMX_LINES} lines; not a VMX")
        for number, line in enumerate(lines, start=1):
            self._take(line, number)

    def _take(self, line: str, number: int) -> None:
        line = line.strip()
        if not line or line.startswith("#"):
            return
        match = _VMX_LINE.fullmatch(line)
        if match is None:
            raise BadData(f'{self.name}:{number}: not key = "value": {line[:60]!r}', hint="give the guest's .vmx file")
        key = match.group(1).lower()
        value = _VMX_ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), match.group(2) or match.group(3) or "").strip()
        if self.values.setdefault(key, value) != value:  # VMware refuses such a file as well
            raise BadData(f"{self.name}:{number}: {key} was given another value in line {self.lines[key]}")
        self.lines.setdefault(key, number)

    def get(self, key: str, default: Optional[str] = None) -> Optional[str]:
        """A value that is used: checked here, for an annotation or an OVF environment may be long and have lines."""
        value = self.values.get(key)
        if value and (len(value) > VALUE_LIMIT or _NOT_XML.search(value)):
            raise BadData(
                f"{self.name}:{self.lines[key]}: {key}: control characters, or more than {VALUE_LIMIT} characters"
            )
        return value or default

    def true(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None else value.lower() in ("true", "yes", "on", "1")

    def number(self, key: str, default: int, low: int, high: int) -> int:
        text = self.get(key)
        if text is None:
            return default
        if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise BadData(f"{self.name}:{self.lines[key]}: {key}: {text[:40]!r} is not a number from {low} to {high}")
        return int(text)

    def uuid(self) -> Optional[str]:
        """uuid.bios, 16 bytes in hexadecimal: what the guest's SMBIOS showed."""
        digits = re.sub(r"[ -]", "", self.get("uuid.bios") or "")
        return str(uuid.UUID(digits)) if re.fullmatch(r"[0-9a-fA-F]{32}", digits) else None

    def disks(self) -> tuple[tuple[DiskFacts, ...], bool]:
        """(hard disks in virt-v2v's order, whether there is a CD-ROM drive)."""
        places = []
        cdrom = False
        for key in self.values:
            match = _VMX_DISK.fullmatch(key)
            if match is None:
                continue
            device = key.rpartition(".")[0]
            if not self.true(f"{device}.present", default=True):
                continue
            if "cdrom" in (self.get(f"{device}.devicetype") or "").lower():
                cdrom = True
            elif self.get(key):
                places.append((_VMX_BUSES.index(match.group(1)), int(match.group(2)), int(match.group(3)), device))
        if len(places) > MAX_DISKS:
            raise BadData(f"{self.name}: more than {MAX_DISKS} disks")
        order = [d.strip().lower() for d in (self.get("bios.hddorder") or "").split(",")]
        disks = [
            DiskFacts(
                path=Path(self.values[f"{device}.filename"]),
                format="vmdk",
                bus=_VMX_BUSES[bus],
                target=device,
                boot_order=order.index(device) + 1 if device in order else None,
            )
            for bus, _, _, device in sorted(places)
        ]
        return tuple(disks), cdrom

    def nics(self) -> tuple[NicFacts, ...]:
        numbers = sorted(
            int(m.group(1)) for m in map(_VMX_NIC.fullmatch, self.values) if m is not None and self.true(m.group(0))
        )
        if len(numbers) > MAX_NICS:
            raise BadData(f"{self.name}: more than {MAX_NICS} network cards")
        return tuple(self._nic(f"ethernet{number}") for number in numbers)

    def _nic(self, nic: str) -> NicFacts:
        static = (self.get(f"{nic}.addresstype") or "").lower() == "static"
        bridged = (self.get(f"{nic}.connectiontype") or "").lower() == "bridged"  # what virt-v2v's --bridge maps
        keys = [f"{nic}.generatedaddress", f"{nic}.address"]
        key = next((k for k in (reversed(keys) if static else keys) if self.get(k)), None)
        return NicFacts(
            mac=_mac(self.get(key), f"{self.name}:{self.lines[key]}") if key is not None else None,
            model=self.get(f"{nic}.virtualdev"),
            kind="bridge" if bridged else "network",
            source=self.get(f"{nic}.networkname") or self.get(f"{nic}.vnet") or (nic if bridged else "default"),
            slot=self.number(f"{nic}.pcislotnumber", 0, 0, 2**31) or None,
        )


def _decode(data: bytes, name: str) -> str:
    """The file as text, by its own .encoding line, UTF-8 without one."""
    match = re.search(rb'(?mi)^[ \t]*\.encoding[ \t]*=[ \t]*"([^"\r\n]{0,40})"', data)
    encoding = match.group(1).decode("ascii", "replace").lower() if match else "utf-8"
    if encoding not in _ENCODINGS:
        raise BadData(f"{name}: unknown .encoding {encoding!r}", hint="save the file as UTF-8")
    try:
        return data.decode(_ENCODINGS[encoding])
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise BadData(f"{name}:{line}: not {encoding}", hint="give the guest's .vmx file") from e


def _topology(sockets: int, cores: int, threads: int, vcpus: int) -> Optional[Topology]:
    """None where it does not make the number of CPUs: libvirt would refuse it."""
    return Topology(sockets, cores, threads) if sockets * cores * threads == vcpus else None


def _path(text: Optional[str]) -> Optional[Path]:
    return Path(text) if text else None


def _mac(text: Optional[str], where: str) -> Optional[str]:
    """Lower case with colons; None where there is none, or one of only zeros."""
    mac = (text or "").strip().lower().replace("-", ":")
    if not mac.strip("0:"):
        return None
    if not is_mac(mac):
        raise BadData(f"{where}: {mac[:40]!r} is no MAC address of one card")
    return mac
