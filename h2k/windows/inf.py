"""Driver INF files: which devices, which service, with which values. The plan says which INF; the INF says how."""

from __future__ import annotations

import dataclasses
import re
from typing import Optional

from h2k.errors import BadData
from h2k.windows.regf import REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_SZ

MAX_SIZE = 4 * 1024 * 1024
MAX_LINES = 100_000
# FLG_ADDREG_TYPE_… of Microsoft's "INF AddReg directive" page.
_TYPES = {0x0: REG_SZ, 0x1: REG_BINARY, 0x10000: REG_MULTI_SZ, 0x20000: REG_EXPAND_SZ, 0x10001: REG_DWORD}
_ARCH = {"amd64": "ntamd64", "x86": "ntx86", "arm64": "ntarm64"}


@dataclasses.dataclass(frozen=True)
class RegValue:
    """A value below the service's key: subkey ('' or "Parameters"), name, type and bytes."""

    subkey: str
    name: str
    type: int
    data: bytes


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
    catalog: str
    sections: dict[str, list[tuple[str, tuple[str, ...]]]] = dataclasses.field(repr=False)

    def driver(self, version: tuple[int, int], build: int, arch: str) -> InfDriver:
        """What this INF installs on a Windows of that version and architecture; BadData when nothing."""
        ids: list[str] = []
        install = ""
        for _, fields in self.sections.get("manufacturer", []):
            models = self._models(fields, version, build, arch)
            for _, line in self.sections.get(models, []) if models else []:
                install = install or line[0]
                ids += [i.upper() for i in line[1:] if i]
        if not install:
            raise BadData(f"{self.name}: no models for Windows {version[0]}.{version[1]} on {arch}")
        return InfDriver(tuple(dict.fromkeys(ids)), self._service(install, arch))

    def _models(self, fields: tuple[str, ...], version: tuple[int, int], build: int, arch: str) -> Optional[str]:
        """The models section with the highest decoration that this Windows satisfies."""
        best: tuple[tuple[int, int, int], str] = ((-1, 0, 0), "")
        for decoration in fields[1:]:
            parts = decoration.lower().split(".")
            if parts[0] != _ARCH.get(arch) and not (parts[0] == "nt" or (parts[0] == "ntx86" and arch == "x86")):
                continue
            numbers = [int(p) if p.isdecimal() else 0 for p in parts[1:3]] + [0, 0]
            least_build = int(parts[-1]) if len(parts) > 5 and parts[-1].isdecimal() else 0
            wanted = (numbers[0], numbers[1], least_build)
            if (numbers[0], numbers[1]) <= version and least_build <= build:
                best = max(best, (wanted, f"{fields[0]}.{decoration}".lower()))
        if best[1]:
            return best[1]
        return fields[0].lower() if fields and arch == "x86" else None

    def _decorated(self, section: str, arch: str, suffix: str) -> str:
        for middle in (f".{_ARCH.get(arch, 'nt')}", ".nt", ""):
            if f"{section}{middle}{suffix}".lower() in self.sections:
                return f"{section}{middle}{suffix}".lower()
        raise BadData(f"{self.name}: no section [{section}{suffix}]")

    def _service(self, install: str, arch: str) -> InfService:
        section = self._decorated(install, arch, ".Services")
        for key, fields in self.sections[section]:
            if key.lower() == "addservice" and len(fields) >= 3 and _number(fields[1] or "0") & 2:
                return self._add_service(fields[0], fields[2])
        raise BadData(f"{self.name}: [{section}] adds no function driver's service (AddService with flag 2)")

    def _add_service(self, name: str, section: str) -> InfService:
        lines = self.sections.get(section.lower())
        if lines is None:
            raise BadData(f"{self.name}: no section [{section}]")
        values = {key.lower(): fields for key, fields in lines}

        def first(key: str, default: str) -> str:
            fields = values.get(key, ())
            return fields[0] if fields else default

        added: list[RegValue] = []
        for key, fields in lines:
            if key.lower() == "addreg":
                for target in fields:
                    added += self._add_reg(target)
        return InfService(
            name=name,
            inf=self.name,
            type=_number(first("servicetype", "1")),
            start=_number(first("starttype", "3")),
            error_control=_number(first("errorcontrol", "1")),
            group=first("loadordergroup", ""),
            binary=first("servicebinary", "").replace("/", "\\").rsplit("\\", 1)[-1],
            values=tuple(added),
        )

    def _add_reg(self, section: str) -> list[RegValue]:
        values = []
        for _, fields in self.sections.get(section.lower(), []):
            root, subkey, name, flags = (*fields, "", "", "", "")[:4]
            if root.upper() != "HKR" or not name:
                continue
            kind = _TYPES.get(_number(flags or "0") & 0xFFFF0001 & ~0x2, REG_SZ)
            values.append(RegValue(subkey, name, kind, _data(kind, fields[4:])))
        return values


def _number(text: str) -> int:
    try:
        return int(text.strip(), 0)
    except ValueError:
        return 0


def _data(kind: int, fields: tuple[str, ...]) -> bytes:
    if kind == REG_DWORD:
        return (_number(fields[0] if fields else "0") & 0xFFFFFFFF).to_bytes(4, "little")
    if kind == REG_BINARY:
        return bytes(int(f, 16) & 0xFF for f in fields if re.fullmatch("[0-9a-fA-F]{1,2}", f))
    if kind == REG_MULTI_SZ:
        return ("".join(f + "\0" for f in fields) + "\0").encode("utf-16-le")
    return ((fields[0] if fields else "") + "\0").encode("utf-16-le")


def parse_inf(data: bytes, name: str) -> Inf:
    """Parse an INF (UTF-16 with a mark, UTF-8 or ASCII); BadData names the file and the line."""
    if not data or len(data) > MAX_SIZE:
        raise BadData(f"{name}: {len(data)} bytes are no INF file")
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    raw = _sections(text, name)
    strings = {k.lower(): f[0] if f else "" for k, f in raw.get("strings", [])}
    sections = {
        section: [(_expand(k, strings), tuple(_expand(f, strings) for f in fields)) for k, fields in lines]
        for section, lines in raw.items()
    }
    version = {k.lower(): f for k, f in sections.get("version", [])}
    if (version.get("signature", ("",)) or ("",))[0].lower() not in ("$windows nt$", "$chicago$"):
        raise BadData(f"{name}: no [Version] section with a Windows signature")

    def field(key: str) -> str:
        fields = version.get(key, ())
        return fields[0] if fields else ""

    return Inf(
        name=name.replace("\\", "/").rsplit("/", 1)[-1],
        class_guid=field("classguid"),
        class_name=field("class"),
        provider=field("provider"),
        driver_ver=",".join(version.get("driverver", ())),
        catalog=field("catalogfile"),
        sections=sections,
    )


def _sections(text: str, name: str) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    sections: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    current: Optional[list[tuple[str, tuple[str, ...]]]] = None
    lines, number = text.splitlines(), 0
    if len(lines) > MAX_LINES:
        raise BadData(f"{name}: {len(lines)} lines are too many for an INF file")
    while number < len(lines):
        line = _uncomment(lines[number])
        number += 1
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + _uncomment(lines[number])
            number += 1
        if not line:
            continue
        if line.startswith("["):
            if "]" not in line:
                raise BadData(f"{name}, line {number}: a section name without its end")
            current = sections.setdefault(line[1 : line.index("]")].strip().lower(), [])
        elif current is not None:
            key, fields = _split(line)
            current.append((key, fields))
    return sections


def _uncomment(line: str) -> str:
    quoted = False
    for at, letter in enumerate(line):
        if letter == '"':
            quoted = not quoted
        elif letter == ";" and not quoted:
            return line[:at].strip()
    return line.strip()


_FIELD = re.compile(r'\s*("(?:[^"]|"")*"|[^,]*?)\s*(?:,|$)')


def _split(line: str) -> tuple[str, tuple[str, ...]]:
    """(key, fields) of `key = a, b`, or ('', fields) of a line without a key."""
    match = re.match(r'\s*("[^"]*"|[^="]*?)\s*=\s*(.*)$', line)
    key, rest = (match[1].strip('"'), match[2]) if match else ("", line)
    fields, at = [], 0
    while at < len(rest):
        found = _FIELD.match(rest, at)
        if found is None or found.end() == at:
            fields.append(rest[at:].strip())
            break
        value = found[1]
        fields.append(value[1:-1].replace('""', '"') if value[:1] == '"' and len(value) > 1 else value)
        at = found.end()
    return key, tuple(fields)


def _expand(text: str, strings: dict[str, str]) -> str:
    return re.sub(r"%([^%\s]+)%", lambda m: strings.get(m[1].lower(), m[0]), text)
