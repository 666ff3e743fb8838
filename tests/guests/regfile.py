"""Hives from text: an empty hive by our own few lines, and a .reg-like format that hivex writes into it."""

from __future__ import annotations

import json
import re
import struct
import tempfile
from pathlib import Path
from typing import Any, Optional

import hivex

from h2k.windows.regf import checksum


def empty_hive() -> bytes:
    """A minimal hive of version 1.5: base block, one bin with a root key, its security cell, and free space."""
    descriptor = bytes.fromhex("01000480" "14000000" "24000000" "00000000" "34000000")
    owner = bytes.fromhex("01020000" "00000005" "20000000" "20020000")  # S-1-5-32-544, Administrators
    acl = bytes.fromhex("02001c00" "01000000" "00031400" "3f000f00" "01010000" "00000005" "12000000")  # SYSTEM: all
    security = descriptor + owner + owner + acl
    root_name = b"$$$PROTO.HIV"
    root_at, security_at = 32, 32 + 96
    nk = struct.pack("<2sHQI", b"nk", 0x2C, 0x01D0000000000000, 0) + struct.pack("<I", 0xFFFFFFFF)
    nk += struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0xFFFFFFFF)  # subkeys, volatile subkeys, and their lists
    nk += struct.pack("<II", 0, 0xFFFFFFFF) + struct.pack("<II", security_at, 0xFFFFFFFF)  # values; security; class
    nk += struct.pack("<IIIII", 0, 0, 0, 0, 0) + struct.pack("<HH", len(root_name), 0) + root_name
    sk = struct.pack("<2sHIIII", b"sk", 0, security_at, security_at, 1, len(security)) + security
    cells = _cell(nk, 96) + _cell(sk, (len(sk) + 4 + 7) // 8 * 8)
    free = 4096 - 32 - len(cells)
    bin_header = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0x01D0000000000000, 0)
    body = bin_header + cells + struct.pack("<i", free) + bytes(free - 4)
    base = bytearray(4096)
    struct.pack_into("<4sIIQIIIIIII", base, 0, b"regf", 1, 1, 0x01D0000000000000, 1, 5, 0, 1, root_at, 4096, 1)
    struct.pack_into("<I", base, 508, checksum(bytes(base)))
    return bytes(base) + body


def _cell(content: bytes, size: int) -> bytes:
    return struct.pack("<i", -size) + content.ljust(size - 4, b"\0")


def fix_dirty(data: bytes) -> bytes:
    """The hive with equal sequences and the right checksum: what a fixture needs that wants a clean one."""
    fixed = bytearray(data)
    fixed[8:12] = fixed[4:8]
    struct.pack_into("<I", fixed, 508, checksum(bytes(fixed)))
    return bytes(fixed)


def make_dirty(data: bytes) -> bytes:
    """The hive with its secondary sequence one behind: as it is when its newest changes are in a log."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, 4, struct.unpack_from("<I", changed, 8)[0] + 1)
    struct.pack_into("<I", changed, 508, checksum(bytes(changed)))
    return bytes(changed)


def build_hive(text: str, base: Optional[bytes] = None) -> bytes:
    """A hive from text: `[Key\\Path]`, `-[Key]`, `"Name"=dword:00000003`, `="text"`, `=expand:"…"`,
    `=multi:["a","b"]`, `=hex:01,ff`, `=hex(N):…`, `=qword:…`, `=-`, and `@` for the default value."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "hive"
        path.write_bytes(base if base is not None else empty_hive())
        hive = hivex.Hivex(str(path), write=True)
        node: Any = hive.root()
        pending: dict[Any, dict[str, Any]] = {}
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if not line or line.startswith(("#", ";")):
                continue
            if line.startswith("-["):
                gone = _find(hive, line[2:-1], make=False)
                if gone is not None:
                    hive.node_delete_child(gone)
            elif line.startswith("["):
                node = _find(hive, line[1:-1], make=True)
            else:
                name, content = _value(line, number)
                pending.setdefault(node, {})[name] = content
        for target, values in pending.items():
            kept = {hive.value_key(v): hive.value_value(v) for v in hive.node_values(target)}
            by_lower = {k.lower(): k for k in kept}
            for name, content in values.items():
                kept.pop(by_lower.get(name.lower(), name), None)
                if content is not None:
                    kept[name] = content
            hive.node_set_values(target, [{"key": k, "t": t, "value": d} for k, (t, d) in kept.items()])
        hive.commit(None)
        return path.read_bytes()


def _find(hive: Any, path: str, make: bool) -> Any:
    node = hive.root()
    for part in filter(None, path.split("\\")):
        child = hive.node_get_child(node, part)
        if child is None and not make:
            return None
        node = child if child is not None else hive.node_add_child(node, part)
    return node


def _value(line: str, number: int) -> tuple[str, Optional[tuple[int, bytes]]]:
    match = re.fullmatch(r'(?:"((?:[^"\\]|\\.)*)"|(@))=(.*)', line)
    if match is None:
        raise ValueError(f"line {number}: {line!r}")
    name = re.sub(r"\\(.)", r"\1", match[1] or "")
    return name, None if match[3] == "-" else _data(match[3], number)


def _data(text: str, number: int) -> tuple[int, bytes]:
    kind, _, rest = text.partition(":") if not text.startswith('"') else ("sz", "", text)
    if kind == "sz":
        return 1, (json.loads(rest) + "\0").encode("utf-16-le")
    if kind == "expand":
        return 2, (json.loads(rest) + "\0").encode("utf-16-le")
    if kind == "multi":
        return 7, ("".join(s + "\0" for s in json.loads(rest)) + "\0").encode("utf-16-le")
    if kind == "dword":
        return 4, struct.pack("<I", int(rest, 16))
    if kind == "qword":
        return 11, struct.pack("<Q", int(rest, 16))
    match = re.fullmatch(r"hex(?:\(([0-9a-f]+)\))?", kind)
    if match is None:
        raise ValueError(f"line {number}: {text!r}")
    return int(match[1], 16) if match[1] else 3, bytes.fromhex(rest.replace(",", " "))
