"""Hives cell by cell, without hivex and without h2k's reader: every kind of list and data, and places to break."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Optional

NIL = 0xFFFFFFFF
_SECURITY = bytes.fromhex(
    "01000480" "14000000" "24000000" "00000000" "34000000" "01020000" "00000005" "20000000" "20020000"
    "01020000" "00000005" "20000000" "20020000" "02001c00" "01000000" "00031400" "3f000f00" "01010000" "00000005" "12000000"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Node:
    """A key: values are (name, type, data); `kind` is its subkey list's, "ri" being an index of `leaf` lists of 100."""

    name: str
    keys: Sequence[Node] = ()
    values: Sequence[tuple[str, int, bytes]] = ()
    kind: str = "lh"
    leaf: str = "lh"
    wide: bool = False
    flags: int = 0
    class_name: str = ""


class RawHive:
    """The hive bins under construction; `at` has the offsets of the cells by path ("A\\B", "A\\B:list", "A\\B:value:X")."""

    def __init__(self, root: Node, minor: int = 5, stamp: int = 0x01D0000000000000) -> None:
        self.minor, self.stamp = minor, stamp
        self.body = bytearray()
        self.at: dict[str, int] = {}
        self._free = self._end = self._keys = 0
        self._security: Optional[int] = None
        self.root = self._key(root, "", NIL)

    def data(self, sequence: int = 1) -> bytes:
        """The hive as a file."""
        body = bytearray(self.body)
        if self._end - self._free:
            struct.pack_into("<i", body, self._free, self._end - self._free)
        base = bytearray(4096)
        fields = (b"regf", sequence, sequence, self.stamp, 1, self.minor, 0, 1, self.root, len(body), 1)
        struct.pack_into("<4sIIQIIIIIII", base, 0, *fields)
        base[48:60] = "RAWHIV".encode("utf-16-le")
        return resum(bytes(base + body))

    def cell(self, content: bytes) -> int:
        """Allocate a cell; a bin that can't take it is closed with a free cell."""
        size = (len(content) + 4 + 7) // 8 * 8
        if self._end - self._free < size:
            if self._end - self._free:
                struct.pack_into("<i", self.body, self._free, self._end - self._free)
            length = (size + 32 + 4095) // 4096 * 4096
            self._free, self._end = len(self.body) + 32, len(self.body) + length
            self.body += struct.pack("<4sIIQQI", b"hbin", len(self.body), length, 0, self.stamp, 0).ljust(length, b"\0")
        offset = self._free
        self.body[offset : offset + 4 + len(content)] = struct.pack("<i", -size) + content
        self._free += size
        return offset

    def put(self, offset: int, place: int, number: int, width: str = "I") -> None:
        """Overwrite a field of a cell, `place` bytes into its content."""
        struct.pack_into("<" + width, self.body, offset + 4 + place, number)

    def _key(self, node: Node, path: str, parent: int) -> int:
        name, compressed = _encoded(node.name, node.wide)
        flags = node.flags | (0x20 if compressed else 0) | (0x0C if parent == NIL else 0)
        head = struct.pack("<2sHQI", b"nk", flags, self.stamp, 0) + struct.pack("<I", parent)
        counts = struct.pack("<IIIIII", len(node.keys), 0, NIL, NIL, len(node.values), NIL)
        tail = struct.pack("<II20xHH", NIL, NIL, len(name), 2 * len(node.class_name))
        offset = self.at[path] = self.cell(head + counts + tail + name)
        self._secure(offset)
        if node.class_name:
            self.put(offset, 48, self.cell(node.class_name.encode("utf-16-le")))
        if node.values:
            listed = [self._value(v, path) for v in node.values]
            self.at[f"{path}:values"] = place = self.cell(struct.pack(f"<{len(listed)}I", *listed))
            self.put(offset, 40, place)
        if node.keys:
            below = []
            for key in node.keys:  # one frame a level, so that 513 levels can be built
                below.append((self._key(key, f"{path}\\{key.name}".lstrip("\\"), offset), key.name))
            self.at[f"{path}:list"] = place = self._list(node, below)
            self.put(offset, 28, place)
        return offset

    def _secure(self, key: int) -> None:
        """Give a key the hive's one security descriptor, which counts the keys that share it."""
        if self._security is None:
            self._security = self.cell(b"sk\0\0" + bytes(12) + struct.pack("<I", len(_SECURITY)) + _SECURITY)
            self.put(self._security, 4, self._security)
            self.put(self._security, 8, self._security)
        self._keys += 1
        self.put(self._security, 12, self._keys)
        self.put(key, 44, self._security)

    def _list(self, node: Node, below: list[tuple[int, str]]) -> int:
        if node.kind != "ri":
            return self._leaf(node.kind, below)
        leaves = [self._leaf(node.leaf, below[i : i + 100]) for i in range(0, len(below), 100)]
        return self.cell(struct.pack(f"<2sH{len(leaves)}I", b"ri", len(leaves), *leaves))

    def _leaf(self, kind: str, below: list[tuple[int, str]]) -> int:
        content = struct.pack("<2sH", kind.encode(), len(below))
        for offset, name in below:
            content += struct.pack("<I", offset)
            if kind == "lf":
                content += name.encode("latin-1", "replace")[:4].ljust(4, b"\0")
            elif kind == "lh":
                content += struct.pack("<I", _hash(name))
        return self.cell(content)

    def _value(self, value: tuple[str, int, bytes], path: str) -> int:
        text, kind, data = value
        name, compressed = _encoded(text, False)
        if len(data) <= 4:
            size, where = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
        else:
            size, where = len(data), self._segments(data) if len(data) > 16344 and self.minor > 3 else self.cell(data)
        node = struct.pack("<2sHIIIHH", b"vk", len(name), size, where, kind, int(compressed), 0)
        offset = self.at[f"{path}:value:{text}"] = self.cell(node + name)
        return offset

    def _segments(self, data: bytes) -> int:
        parts = [self.cell(data[i : i + 16344] + bytes(4)) for i in range(0, len(data), 16344)]
        return self.cell(struct.pack("<2sHII", b"db", len(parts), self.cell(struct.pack(f"<{len(parts)}I", *parts)), 0))


def resum(data: bytes) -> bytes:
    """The hive or log with the checksum that its base block should have."""
    total = 0
    for place in range(0, 508, 4):
        total ^= int.from_bytes(data[place : place + 4], "little")
    total = 1 if total == 0 else 0xFFFFFFFE if total == 0xFFFFFFFF else total
    return data[:508] + total.to_bytes(4, "little") + data[512:]


def _encoded(name: str, wide: bool) -> tuple[bytes, bool]:
    try:
        return (name.encode("utf-16-le"), False) if wide else (name.encode("latin-1"), True)
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), False


def _hash(name: str) -> int:
    units = name.upper().encode("utf-16-le")
    value = 0
    for place in range(0, len(units), 2):
        value = value * 37 + units[place] + 256 * units[place + 1]
    return value % 2**32
