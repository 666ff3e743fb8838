"""Driver INF files: which devices, which service, with which values. The plan says which INF; the INF says how.

Rules: Microsoft's pages on the INF Manufacturer, Models, DDInstall.Services, AddReg, CopyFiles and SourceDisksFiles.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Optional

from h2k.base.errors import BadData
from h2k.windows import values
from h2k.windows.inf_text import Sections, read_sections
from h2k.windows.values import REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_NONE, REG_SZ, Value
from h2k.windows.version import WindowsVersion

MAX_FILES = 1000
MAX_VALUES = 10_000
_SIGNATURES = ("$windows nt$", "$chicago$", "$windows 95$")
_ARCHITECTURES = {"amd64": "ntamd64", "x86": "ntx86", "arm64": "ntarm64"}
_DECORATIONS = frozenset((*_ARCHITECTURES.values(), "ntia64", "ntarm"))
_NUMBER = re.compile(r"([+-]?)(?:0x([0-9a-f]{1,8})|([0-9]{1,10}))", re.IGNORECASE)
_BYTE = re.compile(r"(?:0x)?([0-9a-f]{1,2})", re.IGNORECASE)
_NOT_A_FILE = re.compile(r'[:*?"<>|\x00-\x1f]')
_FUNCTION_DRIVER = 2  # SPSVCINST_ASSOCSERVICE
# FLG_ADDREG_…: the type in the high word and bit 0; what else the flags ask for in the other bits.
_TYPE_BITS, _BINARY = 0xFFFF0001, 0x1
_TYPES = {0x0: REG_SZ, 0x1: REG_BINARY, 0x10000: REG_MULTI_SZ, 0x20000: REG_EXPAND_SZ, 0x10001: REG_DWORD, 0x20001: REG_NONE}
_KEEP, _NOT_SET = 0x2, 0x4 | 0x10 | 0x20  # NOCLOBBER; DELVAL, KEYONLY and OVERWRITEONLY


@dataclasses.dataclass(frozen=True)
class RegValue:
    """A value below the service's key: subkey ('' or "Parameters"), name ('' the default value), and what it holds.
    One to `keep` is only set where the key has none of that name yet."""

    subkey: str
    name: str
    value: Value
    keep: bool = False


@dataclasses.dataclass(frozen=True)
class InfService:
    """The service that the INF installs; `binary` is its file's name, `inf` the INF's."""

    name: str
    inf: str
    type: int
    start: int
    error_control: int
    group: str
    binary: str
    values: tuple[RegValue, ...]


@dataclasses.dataclass(frozen=True)
class InfDriver:
    """What the INF has for one Windows: hardware ids (upper case) and the service."""

    ids: tuple[str, ...]
    service: InfService


@dataclasses.dataclass(frozen=True)
class Inf:
    """A parsed INF: sections by lower-case name, each a list of (key, fields) with strings replaced."""

    name: str
    class_guid: str
    class_name: str
    provider: str
    driver_ver: str
    sections: Sections = dataclasses.field(repr=False)

    def driver(self, windows: WindowsVersion, wanted: Sequence[str] = ()) -> InfDriver:
        """What this INF installs on that Windows for a device with one of the `wanted` ids (`PCI\\VEN_1AF4&DEV_1001`
        stands for all that begin so); without `wanted` for its first device. BadData when that is nothing."""
        sections = dict.fromkeys(self._models(windows))
        models = [line for section in sections for _, line in self.sections.get(section, []) if line and line[0]]
        if not models:
            raise BadData(f"{self.name}: has no models for {_shown(windows)}")
        prefixes = tuple(id.upper() for id in wanted)
        chosen = next((line for line in models if not wanted or any(_is_one_of(i, prefixes) for i in line[1:])), None)
        if chosen is None:
            raise BadData(f"{self.name}: lists none of {', '.join(wanted)} for {_shown(windows)}")
        ids = [i.upper() for line in models if line[0].lower() == chosen[0].lower() for i in line[1:] if i]
        return InfDriver(tuple(dict.fromkeys(ids)), self._service(chosen[0], windows.arch))

    def serves(self, windows: WindowsVersion) -> bool:
        """Whether it lists any device for that Windows, with a service or without."""
        return any(line and line[0] for section in self._models(windows) for _, line in self.sections.get(section, []))

    def files(self, arch: str) -> tuple[str, ...]:
        """Every file of the package for that architecture, '/'-separated below the INF's directory: the INF, its
        catalogue, what it copies and what it lists as its source. BadData for a name that leaves the directory."""
        found = [self.name, *self._catalogue(arch)]
        listed = {key.lower(): fields for key, fields in self._for_arch("sourcedisksfiles", arch) if key}
        disks = dict(self._for_arch("sourcedisksnames", arch))
        for name in (*self._copied(arch), *listed):
            disk, subdirectory = (*listed.get(name.lower(), ()), "", "")[:2]
            root = (*disks.get(disk, ()), "", "", "", "")[3]
            path = "/".join(p for p in f"{root}\\{subdirectory}\\{name}".replace("/", "\\").split("\\") if p not in ("", "."))
            if _NOT_A_FILE.search(path) or ".." in path.split("/"):
                raise BadData(f"{self.name}: {path[:80]!r} is no file of a driver package")
            found.append(path)
        unique: dict[str, str] = {}
        for path in found:
            unique.setdefault(path.lower(), path)
        if len(unique) > MAX_FILES:
            raise BadData(f"{self.name}: {len(unique)} files are too many for a driver package")
        return tuple(unique.values())

    def _models(self, windows: WindowsVersion) -> Iterator[str]:
        """For each manufacturer the models section whose decoration fits this Windows best."""
        for _, fields in self.sections.get("manufacturer", []):
            if not fields:
                continue
            fits = [(rank, d) for d in fields[1:] for rank in [_fit(d, windows)] if rank is not None]
            if fits:
                yield f"{fields[0]}.{max(fits)[1].strip()}".lower()
            elif windows.arch == "x86":  # only x86 knows models without a decoration
                yield fields[0].lower()

    def _for_arch(self, section: str, arch: str) -> list[tuple[str, tuple[str, ...]]]:
        return [*self.sections.get(section, []), *self.sections.get(f"{section}.{arch}", [])]

    def _catalogue(self, arch: str) -> list[str]:
        version = _first_of(self.sections["version"])
        names = [version.get(f"catalogfile{suffix}", ("",)) for suffix in (f".{_ARCHITECTURES.get(arch)}", ".nt", "")]
        return [fields[0] for fields in names if fields and fields[0]][:1]

    def _copied(self, arch: str) -> Iterator[str]:
        """The source names of every CopyFiles directive that is not for another architecture."""
        other = {d for d in _DECORATIONS if d != _ARCHITECTURES.get(arch)}
        ours = [lines for section, lines in self.sections.items() if not other.intersection(section.split("."))]
        targets = dict.fromkeys(t.lower() for lines in ours for key, ts in lines if key.lower() == "copyfiles" for t in ts)
        for target in targets:
            if target.startswith("@"):
                yield target[1:]
            else:
                yield from (_source(line) for _, line in self.sections.get(target, []) if line and line[0])

    def _decorated(self, section: str, arch: str, suffix: str) -> str:
        for middle in (f".{_ARCHITECTURES.get(arch)}", ".nt", ""):
            if f"{section}{middle}{suffix}".lower() in self.sections:
                return f"{section}{middle}{suffix}".lower()
        raise BadData(f"{self.name}: no section [{section}{suffix}]")

    def _service(self, install: str, arch: str) -> InfService:
        section = self._decorated(install, arch, ".Services")
        for key, fields in self.sections[section]:
            named = key.lower() == "addservice" and len(fields) >= 3 and fields[0]
            if named and self._number(fields[1] or "0", section) & _FUNCTION_DRIVER:
                return self._add_service(fields[0], fields[2])
        raise BadData(f"{self.name}: [{section}] adds no function driver's service (AddService with flag 2)")

    def _add_service(self, name: str, section: str) -> InfService:
        lines = self.sections.get(section.lower())
        if lines is None:
            raise BadData(f"{self.name}: no section [{section}]")
        values = _first_of(lines)

        def text(key: str) -> str:
            fields = values.get(key, ())
            return fields[0] if fields else ""

        binary = text("servicebinary").replace("/", "\\").rsplit("\\", 1)[-1]
        if not binary or _NOT_A_FILE.search(binary) or "%" in binary:
            raise BadData(f"{self.name}: [{section}] has no ServiceBinary")
        added: list[RegValue] = []
        for target in dict.fromkeys(t for key, fields in lines if key.lower() == "addreg" for t in fields):
            added += self._add_reg(target)
            if len(added) > MAX_VALUES:
                raise BadData(f"{self.name}: [{section}] adds more than {MAX_VALUES} values")
        return InfService(
            name=name,
            inf=self.name,
            type=self._number(text("servicetype"), section),
            start=self._number(text("starttype"), section),
            error_control=self._number(text("errorcontrol"), section),
            group=text("loadordergroup"),
            binary=binary,
            values=tuple(added),
        )

    def _add_reg(self, section: str) -> Iterator[RegValue]:
        """The values that an AddReg section sets below the service's own key (HKR)."""
        for _, fields in self.sections.get(section.lower(), []):
            root, subkey, name, flagged = (*fields, "", "", "", "")[:4]
            flags = self._number(flagged or "0", section)
            data = fields[4:]
            if root.upper() != "HKR" or flags & _NOT_SET or not (name or data):
                continue
            kind = _TYPES.get(flags & _TYPE_BITS, flags >> 16 if flags & _BINARY else REG_SZ)
            yield RegValue(subkey, name, self._value(kind, data, section), bool(flags & _KEEP))

    def _value(self, kind: int, fields: tuple[str, ...], section: str) -> Value:
        if kind in (REG_SZ, REG_EXPAND_SZ):
            return Value(kind, values.text(fields[0] if fields else "").raw)
        if kind == REG_MULTI_SZ:
            return values.multi([field for field in fields if field])
        if kind == REG_DWORD and len(fields) < 4:  # a number, or its four bytes
            return values.dword(self._number((fields[0] if fields else "") or "0", section))
        matches = [_BYTE.fullmatch(field) for field in fields if field]
        if not all(matches):
            raise BadData(f"{self.name}: [{section}]: {', '.join(fields)[:80]!r} are no bytes")
        return Value(kind, bytes(int(match[1], 16) for match in matches if match is not None))

    def _number(self, text: str, section: str) -> int:
        """A number as INF files have it, decimal or 0x…, 32 bits wide; a negative one wraps."""
        match = _NUMBER.fullmatch(text.strip())
        if match is None:
            raise BadData(f"{self.name}: [{section}]: {text[:40]!r} is no number")
        value = int(match[2], 16) if match[2] else int(match[3])
        return (-value if match[1] == "-" else value) & 0xFFFFFFFF


def parse_inf(data: bytes, name: str) -> Inf:
    """Parse an INF file; BadData names the file, and the line or the section."""
    sections = read_sections(data, name)
    version = _first_of(sections.get("version", []))

    def field(key: str) -> str:
        fields = version.get(key, ())
        return fields[0] if fields else ""

    if field("signature").lower() not in _SIGNATURES:
        raise BadData(f"{name}: no [Version] section with a Windows signature")
    return Inf(
        name=name.replace("\\", "/").rsplit("/", 1)[-1],
        class_guid=field("classguid"),
        class_name=field("class"),
        provider=field("provider"),
        driver_ver=",".join(version.get("driverver", ())),
        sections=sections,
    )


def _first_of(lines: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The fields of each key (lower case); of equal keys the first counts, as for Windows."""
    return {key.lower(): fields for key, fields in reversed(lines) if key}


def _source(line: tuple[str, ...]) -> str:
    """The source's name in a line of a file list: `destination, source, …`."""
    return line[1] if len(line) > 1 and line[1] else line[0]


def _is_one_of(device_id: str, prefixes: tuple[str, ...]) -> bool:
    return any(device_id.upper() == p or device_id.upper().startswith(f"{p}&") for p in prefixes)


def _fit(decoration: str, windows: WindowsVersion) -> Optional[tuple[int, ...]]:
    """How closely `NT[arch][.[major][.[minor][.[product type][.[suite mask][.[build]]]]]]` fits; None when not."""
    head, *parts = decoration.strip().lower().split(".")
    exact = head == _ARCHITECTURES.get(windows.arch)
    if not exact and not (head == "nt" and windows.arch == "x86"):
        return None
    if len(parts) > 5 or any(part and _NUMBER.fullmatch(part) is None for part in parts):
        return None
    numbers = [int(part, 16 if part.startswith("0x") else 10) if part else 0 for part in parts]
    major, minor, product, suite, build = (*numbers, 0, 0, 0, 0, 0)[:5]
    # 1 is a workstation, 2 a domain controller, 3 a server. The suite (Embedded, Datacenter …) is not known here.
    if suite or (product and (product != 1) != windows.server):
        return None
    if (major, minor) > windows.version or ((major, minor) == windows.version and build > windows.build):
        return None
    return major, minor, build, product, exact


def _shown(windows: WindowsVersion) -> str:
    major, minor = windows.version
    return f"Windows {major}.{minor} build {windows.build} on {windows.arch}"
