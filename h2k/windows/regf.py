"""Reads registry hives (regf), independently of hivex: lazily, with every offset, size, count and depth bounded.

Offsets in messages are those of the format, from the first hive bin; the file's offset is 4096 more. Source: the public
regf specification (github.com/msuhanov/regf).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Optional, Protocol

from h2k.base.errors import BadData
from h2k.windows.values import HiveAccess, KeyAccess, Value

BASE_BLOCK = 4096  # bytes before the first hive bin
BASE_SECTOR = 512  # the part of the base block that has a checksum, and that a log keeps a copy of
MAX_DEPTH = 512  # the registry's own limit for the depth of keys
BIG_DATA = 16344  # bytes: data above this lie in segments (a db cell), in hives of a minor version above 3

# How much work reading a hive may take, in reads of cells: this much, and more for a large one. All hooks together take
# some 8,000 for a real SYSTEM hive of 15 MiB; lists that many keys share and names with equal hashes make seconds of
# reading out of a few bytes.
WORK = 500_000
_WORK_BYTES = 64  # bytes of a hive that allow for one more
_SMALLEST_KEY = 80  # bytes of a key node's cell with an empty name
_NAME_IS_LATIN1 = 0x20  # KEY_COMP_NAME
_PREDEFINED_HANDLE = 0x40  # KEY_PREDEF_HANDLE (Perflib\009): the value count's place holds a handle
_NOWHERE = 0xFFFFFFFF  # an offset of nothing (HCELL_NIL)
_RESIDENT = 0x80000000  # the data, four bytes at most, lie in the place of their offset

_CELL_SIZE = struct.Struct("<i")
_BIN = struct.Struct("<4sII")
# signature, flags, parent, subkeys, their list, values, their list, security, class name, and the lengths of both names
_KEY_NODE = struct.Struct("<2sH12xII4xI4xIIII20xHH")
_VALUE = struct.Struct("<2sHIIIH2x")  # signature, name length, data size, data offset, type, flags
_LIST_WIDTH = {b"lf": 2, b"lh": 2, b"li": 1, b"ri": 1}  # DWORDs of one entry


def checksum(base_block: bytes) -> int:
    """The XOR-32 checksum of the first 508 bytes, as stored at 508; 0 becomes 1 and -1 becomes -2."""
    value = 0
    for word in struct.unpack_from("<127I", base_block):
        value ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(value, value)


def base_is_sound(data: bytes) -> bool:
    """Whether the base block of a hive or a log has its signature and the right checksum."""
    if len(data) < BASE_SECTOR or data[:4] != b"regf":
        return False
    return bool(struct.unpack_from("<I", data, 508)[0] == checksum(data))


def state(data: bytes) -> str:
    """ "clean", or "dirty": the sequences differ or the base block is not sound, and only the logs can complete the hive.

    Ask this before check(): the bins of a dirty hive may be unsound until its logs are replayed (regf_log).
    """
    return "clean" if base_is_sound(data) and data[4:8] == data[8:12] else "dirty"


def printable(text: str) -> str:
    """Text of a guest as a message can show it: one line of at most 200 characters, nothing that moves a cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[-200:])


@lru_cache(maxsize=65536)
def name_hash(name: str) -> int:
    """The hash of a key name in an lh list."""
    value = 0
    for (unit,) in struct.iter_unpack("<H", name.upper().encode("utf-16-le", "surrogatepass")):
        value = (value * 37 + unit) & 0xFFFFFFFF
    return value


class Content(Protocol):
    """The bytes of a hive's file, by slices: bytes, or pages that are read as they are needed (h2k.windows.paged)."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Some of them."""


class Key(KeyAccess):
    """One registry key; its lists are read when they are asked for, and its subkeys found one by one.

    A key names its parent, and that must be the key that lists it: so the keys are a tree, and no walk can loop.
    """

    __slots__ = (
        "_class", "_class_length", "_depth", "_found", "_index", "_names", "_security", "_subkey_count", "_subkey_list",
        "_value_count", "_value_list", "hive", "name", "offset", "path",
    )  # fmt: skip

    def __init__(self, hive: Hive, offset: int, parent: Optional[Key] = None) -> None:
        self.hive, self.offset = hive, offset
        self.name, node = hive.key_node(offset)
        flags, above, self._subkey_count, self._subkey_list, self._value_count, self._value_list = node[1:7]
        self._security, self._class, self._class_length = node[7], node[8], node[10]
        if flags & _PREDEFINED_HANDLE:
            self._value_count = 0
        self.path, self._depth = "", 0
        if parent is not None:
            self.path, self._depth = f"{parent.path}\\{self.name}" if parent.path else self.name, parent._depth + 1
            if above != parent.offset or offset == hive.root_offset:
                raise hive.bad(offset, f"a key whose parent is not the key that lists it ({parent.offset:#x})")
        if self._depth > MAX_DEPTH:
            raise hive.bad(offset, f"keys nested deeper than {MAX_DEPTH}")
        self._found: dict[str, Optional[Key]] = {}
        self._index: Optional[tuple[list[int], list[int]]] = None
        self._names: Optional[dict[str, int]] = None

    def subkeys(self) -> tuple[Key, ...]:
        """The subkeys, in the hive's order."""
        return tuple(Key(self.hive, offset, self) for offset in self._subkeys()[0])

    def _subkeys(self) -> tuple[list[int], list[int]]:
        return self.hive.subkey_list(self._subkey_list, self._subkey_count) if self._subkey_count else ([], [])

    def subkey(self, name: str) -> Optional[Key]:
        """A subkey by case-insensitive name, or by a path ("Services\\viostor"); the first, should two have one name."""
        key: Optional[Key] = self
        for part in filter(None, name.lower().split("\\")):
            if key is None:
                return None
            if part not in key._found:
                key._found[part] = key._find(part)
            key = key._found[part]
        return key

    def _find(self, name: str) -> Optional[Key]:
        """The subkey with this lower-case name. The hashes of the list say where to look first, but decide nothing."""
        if self._index is None:
            self._index = self._subkeys()
        offsets, hashes = self._index
        wanted, at = name_hash(name), -1
        self.hive.spend(len(hashes) // 64, self.offset)
        for _ in range(hashes.count(wanted)):
            at = hashes.index(wanted, at + 1)
            key = Key(self.hive, offsets[at], self)
            if key.name.lower() == name:
                return key
        if self._names is None:
            self._names = {}
            for offset in offsets:
                self._names.setdefault(self.hive.key_node(offset)[0].lower(), offset)
        return Key(self.hive, self._names[name], self) if name in self._names else None

    def values(self) -> tuple[Value, ...]:
        """The values, in the hive's order."""
        found, left = [], self.hive.size
        for offset in self._values():
            found.append(self.hive.read_value(offset))
            left -= len(found[-1].raw)
            if left < 0:
                raise self.hive.bad(self.offset, "values with more data than the hive is large")
        return tuple(found)

    def value(self, name: str) -> Optional[Value]:
        """A value by case-insensitive name; '' is the default value."""
        wanted = name.lower()
        for offset in self._values():
            if self.hive.value_node(offset)[0].lower() == wanted:
                return self.hive.read_value(offset)
        return None

    def _values(self) -> tuple[int, ...]:
        return self.hive.value_list(self._value_list, self._value_count) if self._value_count else ()


class Hive(HiveAccess):
    """A parsed hive; `state` is "clean", or "dirty" when its logs hold what it lacks."""

    def __init__(self, data: Content, name: str) -> None:
        self.data, self.name = data, name
        base = data[:BASE_BLOCK]
        if len(data) < BASE_BLOCK + 32:
            raise BadData(f"{name}: {len(data)} bytes are too few for a hive", hint="restore it from a backup")
        if base[:4] != b"regf":
            raise BadData(f"{name}: no regf signature at offset 0", hint="restore it from a backup")
        major, minor, kind = struct.unpack_from("<III", base, 20)
        self.root_offset, size = struct.unpack_from("<II", base, 36)
        if major != 1 or not 2 <= minor <= 6 or kind != 0:
            raise BadData(
                f"{name}: version {major}.{minor} of type {kind} at offset 20 is no hive that Windows loads",
                hint="restore it from a backup",
            )
        if size % 4096 or not size or BASE_BLOCK + size > len(data):
            raise BadData(
                f"{name}: offset 40 says {size} bytes of hive bins, the file has {len(data) - BASE_BLOCK}",
                hint="restore it from a backup",
            )
        self.size, self.minor, self.state = size, minor, state(base)
        self.work, self._most_work = 0, WORK + size // _WORK_BYTES

    @staticmethod
    def parse(data: bytes, name: str = "hive") -> Hive:
        """Check the base block and the root key; BadData names the hive and the offset."""
        hive = Hive(data, name)
        hive.key("")
        return hive

    @cached_property
    def root(self) -> Key:
        """The key above all others."""
        return Key(self, self.root_offset)

    def key(self, path: str) -> Optional[Key]:
        """A key by case-insensitive path below the root; '' is the root itself."""
        return self.root.subkey(path)

    def value(self, path: str, name: str) -> Optional[Value]:
        """A value by key path and name, both case-insensitive."""
        key = self.key(path)
        return key.value(name) if key is not None else None

    def bad(self, offset: int, what: str) -> BadData:
        """The error for a fault at a cell offset (relative to the hive bins, as the format counts)."""
        return BadData(f"{self.name}: {printable(what)} at hive bin offset {offset:#x}", hint="restore it from a backup")

    def spend(self, units: int, offset: int) -> None:
        """Count work that is done for a cell; BadData when it is more than a sound hive could take."""
        self.work += units
        if self.work > self._most_work:
            raise self.bad(offset, "more work than a sound hive takes (lists that keys share, or names with equal hashes)")

    def _unpack(self, shape: struct.Struct, at: int) -> Any:
        return shape.unpack(self.data[at : at + shape.size])

    def bins(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of each hive bin; BadData at the first whose header is wrong."""
        offset = 0
        while offset < self.size:
            signature, own, size = self._unpack(_BIN, BASE_BLOCK + offset)
            if signature != b"hbin" or own != offset:
                raise self.bad(offset, "no hive bin header")
            if size % 4096 or not size or offset + size > self.size:
                raise self.bad(offset, f"a hive bin of {size} bytes")
            yield offset, size
            offset += size

    def cell(self, offset: int) -> tuple[int, int]:
        """Where in `data` the content of an allocated cell lies, and its length."""
        self.spend(1, offset)
        if offset & 7 or not 32 <= offset <= self.size - 8:
            raise self.bad(offset, "a cell outside the hive bins")
        (size,) = self._unpack(_CELL_SIZE, BASE_BLOCK + offset)
        if size >= 0:
            raise self.bad(offset, "a free cell in use")
        if size & 7 or offset - size > self.size:
            raise self.bad(offset, f"a cell of {-size} bytes")
        return BASE_BLOCK + offset + 4, -size - 4

    def key_node(self, offset: int) -> tuple[str, tuple[int, ...]]:
        """(name, the fields of _KEY_NODE) of a key."""
        at, length = self.cell(offset)
        if length < 76 or self.data[at : at + 2] != b"nk":
            raise self.bad(offset, "no key node")
        node = self._unpack(_KEY_NODE, at)
        if 76 + node[9] > length:
            raise self.bad(offset, "a key name beyond its cell")
        return _name(self.data[at + 76 : at + 76 + node[9]], bool(node[1] & _NAME_IS_LATIN1)), node

    def subkey_list(self, offset: int, count: int) -> tuple[list[int], list[int]]:
        """The `count` key offsets of a subkey list (lf, lh, li, or ri of those); and their name hashes, if all are lh."""
        if count > self.size // _SMALLEST_KEY:
            raise self.bad(offset, f"{count} subkeys")
        kind, entries = self._list(offset)
        leaves = map(self._list, entries) if kind == b"ri" else iter([(kind, entries)])
        offsets: list[int] = []
        hashes: list[int] = []
        for kind, entries in leaves:
            if kind == b"ri":
                raise self.bad(offset, "a subkey index nested twice")
            offsets += entries[:: _LIST_WIDTH[kind]]
            hashes += entries[1::2] if kind == b"lh" else ()
            if len(offsets) > count:
                break
        self.spend(count // 4, offset)
        if len(offsets) != count or len(set(offsets)) != count:
            raise self.bad(offset, f"a subkey list of {len(offsets)} keys where {count} are announced")
        return offsets, hashes if len(hashes) == count else []

    def _list(self, offset: int) -> tuple[bytes, tuple[int, ...]]:
        at, length = self.cell(offset)
        kind, entries = self.data[at : at + 2], int.from_bytes(self.data[at + 2 : at + 4], "little")
        numbers = entries * _LIST_WIDTH.get(kind, 0)
        if kind not in _LIST_WIDTH or 4 + 4 * numbers > length:
            raise self.bad(offset, "no subkey list")
        return kind, struct.unpack(f"<{numbers}I", self.data[at + 4 : at + 4 + 4 * numbers])

    def value_list(self, offset: int, count: int) -> tuple[int, ...]:
        """The `count` value offsets of a value list."""
        at, length = self.cell(offset)
        if length < 4 * count:
            raise self.bad(offset, f"a value list shorter than its {count} values")
        self.spend(count // 4, offset)
        offsets: tuple[int, ...] = struct.unpack(f"<{count}I", self.data[at : at + 4 * count])
        if len(set(offsets)) != count:
            raise self.bad(offset, "a value listed twice")
        return offsets

    def value_node(self, offset: int) -> tuple[str, tuple[int, ...]]:
        """(name, the fields of _VALUE) of a value."""
        at, length = self.cell(offset)
        if length < 20 or self.data[at : at + 2] != b"vk":
            raise self.bad(offset, "no value")
        node = self._unpack(_VALUE, at)
        if 20 + node[1] > length:
            raise self.bad(offset, "a value name beyond its cell")
        return _name(self.data[at + 20 : at + 20 + node[1]], bool(node[5] & 1)), node

    def read_value(self, offset: int) -> Value:
        """The value at a vk cell, with its data."""
        name, (_, _, size, where, kind, _) = self.value_node(offset)
        if size & _RESIDENT:
            size &= ~_RESIDENT
            if size > 4:
                raise self.bad(offset, f"{size} bytes of resident data")
            return Value(kind, where.to_bytes(4, "little")[:size], name)
        return Value(kind, self._data(where, size) if size else b"", name)

    def _data(self, offset: int, size: int) -> bytes:
        if size > self.size:
            raise self.bad(offset, f"{size} bytes of data")
        at, length = self.cell(offset)
        if size > BIG_DATA and self.minor > 3:
            return self._big_data(offset, at, size)
        if size > length:
            raise self.bad(offset, f"{size} bytes of data in a cell of {length}")
        return self.data[at : at + size]

    def _big_data(self, offset: int, at: int, size: int) -> bytes:
        if self.data[at : at + 2] != b"db":
            raise self.bad(offset, f"{size} bytes of data that are not in segments")
        count, segments = struct.unpack_from("<HI", self.data[at : at + 8].ljust(8, b"\0"), 2)
        needed = -(-size // BIG_DATA)
        listed, length = self.cell(segments)
        if count < needed or length < 4 * needed:
            raise self.bad(offset, f"big data with {count} segments where {needed} are needed")
        parts = []
        for number, part in enumerate(struct.unpack(f"<{needed}I", self.data[listed : listed + 4 * needed])):
            wanted = min(BIG_DATA, size - number * BIG_DATA)
            start, length = self.cell(part)
            if length < wanted:
                raise self.bad(part, f"{wanted} bytes of big data in a cell of {length}")
            parts.append(self.data[start : start + wanted])
        return b"".join(parts)


def _name(raw: bytes, compressed: bool) -> str:
    return raw.decode("latin-1") if compressed else raw[: len(raw) & ~1].decode("utf-16-le", "replace")


def check(data: bytes, name: str, deep: bool = False) -> list[str]:
    """The first problem of a hive, or nothing: base block, root key and every hive bin; with `deep` every cell in use.

    Deep: the cells fill their bins; each key, list, value and piece of data has a cell of its own; keys lie under their
    parents, in order and with the right hashes, for Windows finds them by these.
    """
    try:
        if deep:
            _EveryCell(data, name).check()
        else:
            for _ in Hive.parse(data, name).bins():
                pass
    except BadData as bad:
        return [bad.message]
    return []


class _EveryCell(Hive):
    """A hive that keeps account of its cells: each is read once, so one that two records hold is found."""

    FREE, ALLOCATED, READ = range(3)

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name)
        self._cells = bytearray(self.size // 8)  # by offset / 8, where a cell begins
        self._securities: set[int] = set()

    def check(self) -> None:
        for offset, size in self.bins():
            self._note_cells(offset + 32, offset + size)
        self._check_securities(self.root._security)
        self._check_content(self.root)
        path = [self._ordered_subkeys(self.root)]  # a stack of iterators: a SOFTWARE hive has too many keys to hold
        while path:
            key = next(path[-1], None)
            if key is None:
                path.pop()
            else:
                self._check_content(key)
                path.append(self._ordered_subkeys(key))

    def _note_cells(self, offset: int, end: int) -> None:
        while offset < end:
            (size,) = self._unpack(_CELL_SIZE, BASE_BLOCK + offset)
            if size < 0:
                self._cells[offset >> 3] = self.ALLOCATED
                size = -size
            if size & 7 or not 8 <= size <= end - offset:
                raise self.bad(offset, f"a cell of {size} bytes")
            offset += size

    def cell(self, offset: int) -> tuple[int, int]:
        self.work = 0  # each cell is read once, so that the size of the hive is the bound
        found = super().cell(offset)
        seen = self._cells[offset >> 3]
        if seen != self.ALLOCATED:
            raise self.bad(offset, "a cell that two records hold" if seen else "a cell that begins inside another")
        self._cells[offset >> 3] = self.READ
        return found

    def _check_content(self, key: Key) -> None:
        for offset in key._values():
            self.read_value(offset)
        if key._class_length:
            _, length = self.cell(key._class)
            if key._class_length > length:
                raise self.bad(key._class, "a class name beyond its cell")
        elif key._class not in (0, _NOWHERE) and (key._class & 7 or not 32 <= key._class <= self.size - 8):
            # Windows does not look at it; hivex frees the cell with the key, and aborts where there is none.
            raise self.bad(key.offset, f"{key.path}: a class name nowhere, at {key._class:#x},")
        if key._security not in self._securities:
            raise self.bad(key.offset, f"{key.path}: a key without security descriptor")

    def _check_securities(self, first: int) -> None:
        """Follow the ring of security descriptors, which keys share."""
        before, offset = 0, first
        while not self._securities or offset != first:
            at, length = self.cell(offset)
            signature, after, back, size = struct.unpack_from("<2s2xII4xI", self.data[at : at + min(length, 20)].ljust(20, b"\0"))
            if signature != b"sk" or 20 + size > length or (before and back != before):
                raise self.bad(offset, "no security descriptor, or one out of its ring")
            self._securities.add(offset)
            before, offset = offset, after

    def _ordered_subkeys(self, key: Key) -> Iterator[Key]:
        offsets, hashes = key._subkeys()
        before = ""
        for number, offset in enumerate(offsets):
            subkey = Key(self, offset, key)
            # Beyond ASCII, upper case is what the guest's own table says, which is not at hand.
            name = subkey.name.upper() if subkey.name.isascii() else ""
            if name and hashes and hashes[number] != name_hash(name):
                raise self.bad(offset, f"{subkey.path}: a key that Windows can't find, its hash being wrong,")
            if name and before and name <= before:
                raise self.bad(offset, f"{subkey.path}: a key out of order")
            before = name
            yield subkey
