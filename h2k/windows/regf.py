"""Reads registry hives (regf), independently of hivex: lazily, with every offset, size, count and depth bounded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

from h2k.errors import BadData

REG_NONE, REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_DWORD_BE, REG_LINK, REG_MULTI_SZ = range(8)
REG_QWORD = 11

BASE_BLOCK = 4096  # bytes before the first hive bin
MAX_SUBKEYS = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 512  # the registry's own limit for the depth of keys
MAX_DATA = 64 * 1024 * 1024
_BIG_DATA_SEGMENT = 16344  # data above this is split into segments (db cells), hives of minor version > 3


def checksum(base_block: bytes) -> int:
    """The XOR-32 checksum of the first 508 bytes, as stored at 508; 0 becomes 1 and -1 becomes -2."""
    value = 0
    for (word,) in struct.iter_unpack("<I", base_block[:508]):
        value ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(value, value)


class Value:
    """One registry value; `name` is '' for the default value, `raw` its bytes as stored."""

    def __init__(self, name: str, kind: int, raw: bytes) -> None:
        self.name, self.type, self.raw = name, kind, raw

    def text(self) -> Optional[str]:
        """The string of a SZ or EXPAND_SZ value up to its terminator; None for other types."""
        if self.type not in (REG_SZ, REG_EXPAND_SZ):
            return None
        return self.raw[: len(self.raw) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]

    def multi(self) -> Optional[tuple[str, ...]]:
        """The strings of a MULTI_SZ value; None for other types."""
        if self.type != REG_MULTI_SZ:
            return None
        text = self.raw[: len(self.raw) & ~1].decode("utf-16-le", "replace")
        return tuple(part for part in text.split("\0") if part)

    def dword(self) -> Optional[int]:
        """The number of a DWORD value; None for other types and for one that is not 4 bytes long."""
        return int.from_bytes(self.raw, "little") if self.type == REG_DWORD and len(self.raw) == 4 else None

    def qword(self) -> Optional[int]:
        """The number of a QWORD value; None for other types and for one that is not 8 bytes long."""
        return int.from_bytes(self.raw, "little") if self.type == REG_QWORD and len(self.raw) == 8 else None


class Key:
    """One registry key, its lists read when they are first asked for."""

    def __init__(self, hive: Hive, offset: int, path: str, depth: int) -> None:
        self.hive, self.offset, self.path, self._depth = hive, offset, path, depth
        cell = hive.cell(offset)
        if len(cell) < 76 or cell[:2] != b"nk":
            raise hive.bad(offset, "no key node")
        if depth > MAX_DEPTH:
            raise hive.bad(offset, f"keys nested deeper than {MAX_DEPTH}")
        flags, name_length = struct.unpack_from("<H", cell, 2)[0], struct.unpack_from("<H", cell, 72)[0]
        if 76 + name_length > len(cell):
            raise hive.bad(offset, "key name beyond its cell")
        self.name = _name(cell[76 : 76 + name_length], bool(flags & 0x20))
        self._subkey_count, self._subkey_list = struct.unpack_from("<I", cell, 20)[0], struct.unpack_from("<I", cell, 28)[0]
        self._value_count, self._value_list = struct.unpack_from("<II", cell, 36)
        self._by_name: Optional[dict[str, Key]] = None

    def subkeys(self) -> tuple[Key, ...]:
        """The subkeys, in the hive's order."""
        return tuple(self._subkeys().values())

    def _subkeys(self) -> dict[str, Key]:
        if self._by_name is None:
            found: dict[str, Key] = {}
            if self._subkey_count:
                for offset in self.hive.subkey_offsets(self._subkey_list, self._subkey_count):
                    if offset == self.offset:
                        raise self.hive.bad(offset, "a key that is its own subkey")
                    key = Key(self.hive, offset, "", self._depth + 1)
                    key.path = f"{self.path}\\{key.name}" if self.path else key.name
                    found[key.name.lower()] = key
            self._by_name = found
        return self._by_name

    def subkey(self, name: str) -> Optional[Key]:
        """A subkey by case-insensitive name, or by a path ("Services\\viostor")."""
        key: Optional[Key] = self
        for part in filter(None, name.split("\\")):
            key = key._subkeys().get(part.lower()) if key is not None else None
        return key

    def values(self) -> tuple[Value, ...]:
        """The values, in the hive's order."""
        if not self._value_count:
            return ()
        if self._value_count > MAX_VALUES:
            raise self.hive.bad(self.offset, f"{self._value_count} values")
        cell = self.hive.cell(self._value_list)
        if len(cell) < 4 * self._value_count:
            raise self.hive.bad(self._value_list, "value list shorter than its count")
        return tuple(self.hive.read_value(o) for o in struct.unpack_from(f"<{self._value_count}I", cell))

    def value(self, name: str) -> Optional[Value]:
        """A value by case-insensitive name; '' is the default value."""
        return next((v for v in self.values() if v.name.lower() == name.lower()), None)


class Hive:
    """A parsed hive; `state` is "clean", or "dirty" when its logs hold what it lacks."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        if len(data) < BASE_BLOCK + 32:
            raise BadData(f"{name}: {len(data)} bytes are too few for a hive", hint="restore it from a backup")
        if data[:4] != b"regf":
            raise BadData(f"{name}: no regf signature at offset 0", hint="restore it from a backup")
        primary, secondary = struct.unpack_from("<II", data, 4)
        major, minor, kind = struct.unpack_from("<III", data, 20)
        root, size = struct.unpack_from("<II", data, 36)
        if major != 1 or not 2 <= minor <= 6 or kind != 0:
            raise BadData(f"{name}: version {major}.{minor} of type {kind} at offset 20 is no hive that Windows loads")
        if size % 4096 or not size or BASE_BLOCK + size > len(data):
            raise BadData(f"{name}: offset 40 says {size} bytes of hive bins, the file has {len(data) - BASE_BLOCK}")
        self.size, self.minor = size, minor
        good = struct.unpack_from("<I", data, 508)[0] == checksum(data)
        self.state = "clean" if good and primary == secondary else "dirty"
        self.root = Key(self, root, "", 0)

    @staticmethod
    def parse(data: bytes, name: str = "hive") -> Hive:
        """Check the base block and the root key; BadData names the hive and the offset."""
        return Hive(data, name)

    def bad(self, offset: int, what: str) -> BadData:
        """The error for a fault at a cell offset (relative to the hive bins, as the format counts)."""
        return BadData(f"{self.name}: {what} at hive bin offset {offset:#x}", hint="restore it from a backup")

    def cell(self, offset: int) -> bytes:
        """The content of an allocated cell, without its size field."""
        if offset % 8 or not 32 <= offset <= self.size - 8:
            raise self.bad(offset, "a cell outside the hive bins")
        (size,) = struct.unpack_from("<i", self.data, BASE_BLOCK + offset)
        if size >= 0:
            raise self.bad(offset, "a free cell in use")
        if -size < 8 or offset - size > self.size:
            raise self.bad(offset, f"a cell of {-size} bytes")
        return self.data[BASE_BLOCK + offset + 4 : BASE_BLOCK + offset - size]

    def subkey_offsets(self, offset: int, count: int) -> Iterator[int]:
        """The key offsets of a subkey list (lf, lh, li, or ri of those), exactly `count` of them."""
        if count > MAX_SUBKEYS:
            raise self.bad(offset, f"{count} subkeys")
        found = list(self._list(offset, 0))
        if len(found) != count or len(set(found)) != count:
            raise self.bad(offset, f"subkey list of {len(found)} keys where {count} are announced")
        yield from found

    def _list(self, offset: int, level: int) -> Iterator[int]:
        cell = self.cell(offset)
        if len(cell) < 4:
            raise self.bad(offset, "subkey list too short")
        kind, entries = cell[:2], struct.unpack_from("<H", cell, 2)[0]
        width = {b"lf": 8, b"lh": 8, b"li": 4, b"ri": 4}.get(kind)
        if width is None or 4 + width * entries > len(cell):
            raise self.bad(offset, "no subkey list")
        for i in range(entries):
            (target,) = struct.unpack_from("<I", cell, 4 + width * i)
            if kind != b"ri":
                yield target
            elif level:
                raise self.bad(offset, "subkey index nested twice")
            else:
                yield from self._list(target, level + 1)

    def read_value(self, offset: int) -> Value:
        """The value at a vk cell, with its data."""
        cell = self.cell(offset)
        if len(cell) < 20 or cell[:2] != b"vk":
            raise self.bad(offset, "no value")
        length, size, where, kind, flags = struct.unpack_from("<HIIIH", cell, 2)
        if 20 + length > len(cell):
            raise self.bad(offset, "value name beyond its cell")
        name = _name(cell[20 : 20 + length], bool(flags & 1))
        if size & 0x80000000:  # up to four bytes lie in the offset field itself
            size &= 0x7FFFFFFF
            if size > 4:
                raise self.bad(offset, f"{size} bytes of resident data")
            return Value(name, kind, cell[8 : 8 + size])
        return Value(name, kind, self._data(where, size) if size else b"")

    def _data(self, offset: int, size: int) -> bytes:
        if size > MAX_DATA:
            raise self.bad(offset, f"{size} bytes of data")
        cell = self.cell(offset)
        if size > _BIG_DATA_SEGMENT and self.minor > 3 and cell[:2] == b"db":
            return self._big_data(offset, cell, size)
        if size > len(cell):
            raise self.bad(offset, f"{size} bytes of data in a cell of {len(cell)}")
        return cell[:size]

    def _big_data(self, offset: int, cell: bytes, size: int) -> bytes:
        count, segments = struct.unpack_from("<HI", cell, 2)
        listed = self.cell(segments)
        if count * _BIG_DATA_SEGMENT < size or len(listed) < 4 * count:
            raise self.bad(offset, "big data with too few segments")
        parts, left = [], size
        for part in struct.unpack_from(f"<{count}I", listed):
            piece = self.cell(part)[: min(left, _BIG_DATA_SEGMENT)]
            parts.append(piece)
            left -= len(piece)
        if left > 0:
            raise self.bad(offset, "big data shorter than announced")
        return b"".join(parts)

    def key(self, path: str) -> Optional[Key]:
        """A key by case-insensitive path below the root; '' is the root itself."""
        return self.root.subkey(path)

    def value(self, path: str, name: str) -> Optional[Value]:
        """A value by key path and name, both case-insensitive."""
        key = self.key(path)
        return key.value(name) if key is not None else None


def _name(raw: bytes, compressed: bool) -> str:
    return raw.decode("latin-1") if compressed else raw[: len(raw) & ~1].decode("utf-16-le", "replace")


def check(data: bytes, name: str, deep: bool = False) -> list[str]:
    """The problems of a hive: base block, every hive bin header, and with `deep` every cell that is in use."""
    try:
        hive = Hive.parse(data, name)
        _check_bins(hive)
        if deep:
            _check_keys(hive)
    except BadData as bad:
        return [bad.message]
    return []


def _check_bins(hive: Hive) -> None:
    offset = 0
    while offset < hive.size:
        at = BASE_BLOCK + offset
        signature, (own, size) = hive.data[at : at + 4], struct.unpack_from("<II", hive.data, at + 4)
        if signature != b"hbin" or own != offset:
            raise hive.bad(offset, "no hive bin header")
        if size % 4096 or not size or offset + size > hive.size:
            raise hive.bad(offset, f"a hive bin of {size} bytes")
        offset += size


def _check_keys(hive: Hive) -> None:
    seen: set[int] = set()
    waiting = [hive.root]
    while waiting:
        key = waiting.pop()
        if key.offset in seen:
            raise hive.bad(key.offset, "a key that two parents hold")
        seen.add(key.offset)
        key.values()
        waiting.extend(key.subkeys())
        key._by_name = None  # a SOFTWARE hive has a million keys: keep none of them
