"""Reads VMware's VMX, the description of a virtual machine: hostile input."""

from __future__ import annotations

import codecs
import logging
import re
import uuid
from pathlib import Path
from typing import Optional

from h2k.base.errors import BadData
from h2k.domain.facts import MAX_DISKS, MAX_NICS, DiskFacts, DomainFacts, NicFacts
from h2k.domain.values import MEMORY_LIMIT, NOT_XML, NUMBER, VALUE_LIMIT, VCPU_LIMIT, mac_of, topology_of

log = logging.getLogger("h2k.vmx")

VMX_LIMIT = 1024 * 1024  # bytes; real ones stay below 20 KiB

VMX_LINES = 20_000

# Names of .encoding that Python spells otherwise: windows-936 is its cp936, ibm-850 its cp850.
_ALSO = {"windows-31j": "cp932", "shift_jis": "cp932", "big5": "cp950", "euc-kr": "cp949"}  # Windows' own are supersets
_CODE_PAGE = re.compile(r"(?:windows|ibm|ms|cp)[-_]?([0-9]{3,5})")
# Python's own ways to write text in ASCII, some of them slow on purpose-made input; no VMX is in one.
_NO_CHARSETS = frozenset(("idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape", "utf-7"))
_PROBE = '.encoding = "Az09|22~\r\n'  # what every encoding of a VMX must leave as it is in ASCII

_VMX_LINE = re.compile(r'([^\s="]+)\s*=\s*(?:"([^"]*)"|([^\s"]*))')

_VMX_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")

_VMX_DISK = re.compile(r"(scsi|nvme|sata|ide)([0-9]{1,2}):([0-9]{1,3})\.filename")

_VMX_NIC = re.compile(r"ethernet([0-9]{1,2})\.present")

# The order in which virt-v2v numbers a VMX's disks.
_VMX_BUSES = ("scsi", "nvme", "sata", "ide")


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
        topology=topology_of(vcpus // cores, cores, 1, vcpus),
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
        if value and (len(value) > VALUE_LIMIT or NOT_XML.search(value)):
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
        if not NUMBER.fullmatch(text) or not low <= int(text) <= high:
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
            mac=mac_of(self.get(key), f"{self.name}:{self.lines[key]}") if key is not None else None,
            model=self.get(f"{nic}.virtualdev"),
            kind="bridge" if bridged else "network",
            source=self.get(f"{nic}.networkname") or self.get(f"{nic}.vnet") or (nic if bridged else "default"),
            slot=self.number(f"{nic}.pcislotnumber", 0, 0, 2**31) or None,
        )


def _decode(data: bytes, name: str) -> str:
    """The file as text, by its own .encoding line, UTF-8 without one; Latin-1, with a line that says so, where Python
    has no such encoding."""
    match = re.search(rb'(?mi)^(?:\xef\xbb\xbf)?[ \t]*\.encoding[ \t]*=[ \t]*"?([^"\r\n]{0,40})', data)
    given = match.group(1).decode("ascii", "replace").strip().lower() if match else "utf-8"
    encoding = _codec(given)
    if encoding is None:
        log.warning("%s: .encoding %r is not known here: read as ISO 8859-1, look at names that are not ASCII", name, given)
        encoding = "latin-1"
    try:
        return data.decode(encoding)
    except UnicodeError as e:
        start = e.start if isinstance(e, UnicodeDecodeError) else 0
        line = data.count(b"\n", 0, start) + 1
        raise BadData(f"{name}:{line}: not {given}", hint="give the guest's .vmx file") from e


def _codec(name: str) -> Optional[str]:
    """Python's name of an encoding that a VMX can have: one of text, in which ASCII is ASCII. None for any other."""
    page = _CODE_PAGE.fullmatch(name)
    for spelled in (_ALSO.get(name, name), f"cp{page.group(1)}" if page is not None else ""):
        try:
            found = codecs.lookup(spelled)
            if found.name not in _NO_CHARSETS and _PROBE.encode("ascii").decode(spelled) == _PROBE:
                return found.name
        except (LookupError, UnicodeError, ValueError):
            continue
    return None
