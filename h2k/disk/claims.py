"""What an image's header claims of its tables: bounded before QEMU reads them, for QEMU takes up to 2 GiB of them at a word.

A file of some MiB can claim tables of GiB (a sparse file holds them), one table for a million entries, or snapshots that
make `qemu-img check` walk them all again. Each format's numbers are read here first: a table lies within the file, is no
larger than a disk can need, and no table stands twice. Layouts: QEMU's docs/interop (qcow2, parallels, qed), VMware's
Virtual Disk Format 5.0, Microsoft's VHD 1.0 and [MS-VHDX], QEMU's block drivers for the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import struct
import sys
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Callable, Optional

from h2k.base.errors import BadData, Refused
from h2k.disk.checkpoints import MERGE
from h2k.disk.image_bytes import Part
from h2k.disk.reach import extents_of

MIB, GIB = 1 << 20, 1 << 30
_SECTOR = 512
# What qemu-img may have: bytes of addresses, of which 64 threads take 512 MiB for their stacks; it uses some 10 MiB.
MEMORY, ONE_ARENA = GIB, {"MALLOC_ARENA_MAX": "1"}
TABLE_LIMIT = 64 * MIB  # bytes of one table; a VHDX of 8 TiB in the smallest blocks has that
_MAX_SNAPSHOTS = 4096
_SNAPSHOTS_LIMIT = 16 * MIB  # bytes of qcow2's snapshot table
_MAX_BITMAPS = 1024
_MAX_TABLES = 1 << 21  # of one state of a disk: 64 TiB of a VMDK, 1 PiB of a qcow2 with the usual sizes
_TOO_LARGE = "if the disk is as large as that, make a raw or qcow2 image of it where it came from"
_WORK, _READ = 8 * GIB, 64 * 1024  # bytes of tables that qemu-img check may read, each at least so many, and four times what the file holds
_COUNTS = 192 * MIB  # bytes that qemu-img check may take to count the uses of clusters, and a 64th of what the file holds
_LOG_LIMIT = 16 * MIB  # bytes of a VHDX's log; Hyper-V makes one of 1 MiB
_QED_TABLE = 2 * MIB  # QEMU keeps up to 50 of them
_OFFSETS = 0x00FFFFFFFFFFFE00  # of qcow2's entries
_BITMAPS = 0x23852875  # the header extension
_VHD_DYNAMIC, _VHD_DIFFERENCING = 3, 4
# [MS-VHDX]: the two regions, the entry of the metadata with the file's parameters, and its flag "has a parent".
_BAT, _METADATA = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"), bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_PARAMETERS, _HAS_PARENT = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"), 2
_MAX_METADATA = 1023  # entries, by [MS-VHDX]
_FOOTER_AT_END = (1 << 64) - 1
_AGAIN = "copy it from the source again"


@dataclasses.dataclass
class Claims:
    """What one image (with all its extents) has claimed so far, for messages under one name."""

    name: str
    tables: int = 0

    def table(self, part: Part, offset: int, length: int, what: str, limit: int = TABLE_LIMIT) -> None:
        """BadData for a table that is too large, or not within the file."""
        self.tables += length
        if length > limit or self.tables > 2 * TABLE_LIMIT:
            raise BadData(f"{self.name}: its {what} claims {length} bytes, more than h2k reads", hint=_TOO_LARGE)
        if offset + length > part.size:
            raise BadData(f"{self.name}: truncated: its {what} at byte {offset} ends behind the file's {part.size} bytes", hint=_AGAIN)

    def wrong(self, what: str) -> BadData:
        """The error."""
        return BadData(f"{self.name}: {what}", hint=_AGAIN)

    def distinct(self, entries: array[int], what: str) -> int:
        """How many tables the entries name (0 is none); BadData when one of them stands twice."""
        count = len(entries) - entries.count(0)
        if count > _MAX_TABLES:
            raise BadData(f"{self.name}: {count} {what}, more than h2k reads", hint=_TOO_LARGE)
        used = sorted(filter(None, entries))
        if any(map(operator.eq, used, itertools.islice(used, 1, None))):
            raise self.wrong(f"damaged: one of its {what} is used twice")
        return count


def check_claims(image: Path, name: str, format: str = "") -> None:
    """BadData for an image file whose header claims more than a disk needs, or than the file holds; Refused for one
    that QEMU would read wrongly. Files beside it that a VMDK's descriptor names are looked at too."""
    if format == "raw":
        return
    try:
        with open(image, "rb") as file:
            check_part(Part(file), name, image.resolve().parent)
    except OSError:
        return  # who opens it will say what is wrong


def check_part(part: Part, name: str, home: Optional[Path] = None) -> None:
    """The same for a part of a file, or the start of what lies elsewhere; `home` is where extents lie."""
    claims = Claims(name)
    _check(part, claims)
    if home is None:
        return
    for extent in extents_of(part, Path(name)):
        try:
            with open(home / extent, "rb") as file:
                _check(Part(file), claims, among=_OF_EXTENTS)
        except (OSError, ValueError):
            continue


def _check(part: Part, claims: Claims, among: Collection[bytes] = ()) -> None:
    head = part.head(_SECTOR)
    for offset, mark, check in _FORMATS:
        if head.startswith(mark, offset) and (not among or mark in among):
            check(part, head, claims)
            return


def _entries(data: bytes, code: str, big: bool) -> array[int]:
    found = array(code)
    found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    if big == (sys.byteorder == "little"):
        found.byteswap()
    return found


# qcow2


def _qcow2(part: Part, head: bytes, claims: Claims) -> None:
    version, bits = struct.unpack_from(">I12xI", head, 4)
    if version == 1:
        _qcow1(part, head, claims)
        return
    if not 9 <= bits <= 21:  # QEMU's own limits
        raise claims.wrong(f"damaged: clusters of 2^{bits} bytes")
    cluster = 1 << bits
    l1_size, l1_at, counts_at, counts, snapshots, snapshots_at = struct.unpack_from(">IQQIIQ", head, 36)
    claims.table(part, counts_at, counts * cluster, "table of reference counts", 8 * MIB)
    tables = _l1(part, claims, l1_at, l1_size, own=True)
    for at, size in _snapshots(part, claims, snapshots_at, snapshots):
        tables += _l1(part, claims, at, size, own=False)
    if part.known == part.size and 2 * (part.size >> bits) > _COUNTS + part.allocated // 64:
        raise BadData(f"{claims.name}: {part.size} bytes long, nearly all of them holes: more clusters than h2k counts", hint=_TOO_LARGE)
    if tables * max(cluster, _READ) > _WORK + 4 * part.allocated:
        raise BadData(
            f"{claims.name}: its states name {tables} tables of {cluster} bytes, more than can be checked",
            hint="delete snapshots (qemu-img snapshot -d), or flatten it (qemu-img convert)",
        )
    if version >= 3:
        _bitmaps(part, head, claims, cluster)


def _l1(part: Part, claims: Claims, at: int, size: int, own: bool) -> int:
    """How many tables of clusters a state has. Those of the state itself stand there once; snapshots share them."""
    claims.table(part, at, size * 8, "L1 table", 32 * MIB)
    if not part.has(at, size * 8):
        return 0
    entries = _entries(part.at(at, size * 8), "Q", big=True)
    if own:
        return claims.distinct(array("Q", (e & _OFFSETS for e in entries)), "L2 tables")
    return len(entries) - entries.count(0)


def _snapshots(part: Part, claims: Claims, at: int, count: int) -> Iterator[tuple[int, int]]:
    """(offset, entries) of each snapshot's L1 table."""
    if count > _MAX_SNAPSHOTS:
        raise claims.wrong(f"{count} snapshots, more than h2k reads")
    start, seen = at, set()
    for _ in range(count):
        entry = part.at(at, 40)
        if len(entry) < 40:
            if part.known == part.size:
                raise claims.wrong(f"truncated: its snapshots at byte {at} are missing")
            return
        l1_at, l1_size, id_size, name_size = struct.unpack_from(">QIHH", entry, 0)
        (extra,) = struct.unpack_from(">I", entry, 36)
        at = -(-(at + 40 + extra + id_size + name_size) // 8) * 8
        if at - start > _SNAPSHOTS_LIMIT or (l1_size and l1_at in seen):
            raise claims.wrong("damaged: its table of snapshots makes no sense")
        seen.add(l1_at)
        claims.tables = 0  # QEMU has one of them at a time
        yield l1_at, l1_size


def _bitmaps(part: Part, head: bytes, claims: Claims, cluster: int) -> None:
    """The extension for dirty bitmaps: QEMU reads their directory at once, and each table when it checks."""
    at, end = struct.unpack_from(">I", head, 100)[0], min(cluster, 64 * 1024)
    while at + 8 <= end:
        kind, length = struct.unpack(">II", part.at(at, 8).ljust(8, b"\0"))
        if kind == 0:
            return
        if kind == _BITMAPS:
            count, _, size, place = struct.unpack(">IIQQ", part.at(at + 8, 24).ljust(24, b"\0"))
            if count > _MAX_BITMAPS:
                raise claims.wrong(f"{count} bitmaps, more than h2k reads")
            claims.table(part, place, size, "directory of bitmaps", MIB)
            _bitmap_tables(part.at(place, size), part, claims)
        at += 8 + -(-length // 8) * 8


def _bitmap_tables(directory: bytes, part: Part, claims: Claims) -> None:
    at = 0
    while at + 24 <= len(directory):
        place, entries = struct.unpack_from(">QI", directory, at)
        name_size, extra = struct.unpack_from(">HI", directory, at + 18)
        claims.table(part, place, entries * 8, "table of a bitmap", 8 * MIB)
        at += -(-(24 + extra + name_size) // 8) * 8


def _qcow1(part: Part, head: bytes, claims: Claims) -> None:
    size, bits, l2_bits = struct.unpack_from(">QBB", head, 24)
    (at,) = struct.unpack_from(">Q", head, 40)
    if not 9 <= bits <= 16 or not 6 <= l2_bits <= 13:
        raise claims.wrong(f"damaged: clusters of 2^{bits} bytes, tables of 2^{l2_bits} entries")
    claims.table(part, at, -(-size // (1 << bits + l2_bits)) * 8, "L1 table", 32 * MIB)


def _qed(part: Part, head: bytes, claims: Claims) -> None:
    cluster, clusters = struct.unpack_from("<II", head, 4)
    (at,) = struct.unpack_from("<Q", head, 40)
    size = cluster * clusters
    claims.table(part, at, size, "L1 table", _QED_TABLE)
    tables = claims.distinct(_entries(part.at(at, size), "Q", big=False), "L2 tables")
    if tables * max(size, _READ) > _WORK + 4 * part.allocated:
        raise claims.wrong(f"{tables} tables of {size} bytes, more than can be checked")


# VMDK


def _vmdk4(part: Part, head: bytes, claims: Claims) -> None:
    if vmdk_directory(head) == _FOOTER_AT_END:
        if part.known != part.size:
            return
        head = part.at(max(0, part.size - 2 * _SECTOR), _SECTOR).ljust(_SECTOR, b"\0")
    capacity, grain = struct.unpack_from("<QQ", head, 12)
    (entries,) = struct.unpack_from("<I", head, 44)
    if not head.startswith(b"KDMV") or not capacity:
        return
    if not grain or not 0 < entries <= 512:
        raise claims.wrong(f"damaged: grains of {grain} sectors, tables of {entries} grains")
    size = -(-capacity // (grain * entries)) * 4
    claims.table(part, vmdk_directory(head) * _SECTOR, size, "grain directory", 16 * MIB)
    claims.distinct(_entries(part.at(vmdk_directory(head) * _SECTOR, size), "I", big=False), "grain tables")


def vmdk_directory(head: bytes) -> int:
    """The sector of a sparse VMDK's grain directory."""
    sector: int = struct.unpack_from("<Q", head, 56)[0]
    return sector


def _vmdk3(part: Part, head: bytes, claims: Claims) -> None:
    at, entries = struct.unpack_from("<II", head, 20)
    claims.table(part, at * _SECTOR, entries * 4, "grain directory", 16 * MIB)


def _sesparse(part: Part, head: bytes, claims: Claims) -> None:
    at, sectors = struct.unpack_from("<QQ", head, 16 * 8)
    claims.table(part, at * _SECTOR, sectors * _SECTOR, "grain directory", 16 * MIB)


# Microsoft's


def _vhdx(part: Part, head: bytes, claims: Claims) -> None:
    for place in (64 * 1024, 128 * 1024):
        header = part.at(place, 80)
        if header.startswith(b"head") and len(header) == 80 and any(header[48:64]):
            length, at = struct.unpack_from("<IQ", header, 68)
            claims.table(part, at, length, "log", _LOG_LIMIT)
    region = part.at(192 * 1024, 64 * 1024)
    count = struct.unpack_from("<I", region, 8)[0] if len(region) >= 16 else 0
    for number in range(min(count, 2047)):
        entry = region[16 + 32 * number : 48 + 32 * number]
        if entry[:16] == _BAT and len(entry) == 32:
            at, length = struct.unpack_from("<QI", entry, 16)
            claims.table(part, at, length, "block allocation table")
        elif entry[:16] == _METADATA and len(entry) == 32 and _has_parent(part, *struct.unpack_from("<Q", entry, 16)):
            raise _differencing(claims.name, "VHDX")


def _has_parent(part: Part, at: int) -> bool:
    """Whether the parameters in the metadata at this byte say so: QEMU's own message would tell neither that nor a way."""
    table = part.at(at, 32 * (_MAX_METADATA + 1))
    for place in range(32, len(table) - 31, 32):
        if table[place : place + 16] == _PARAMETERS:
            parameters = part.at(at + struct.unpack_from("<I", table, place + 16)[0], 8)
            return len(parameters) == 8 and bool(parameters[4] & _HAS_PARENT)
    return False


def _differencing(name: str, what: str) -> Refused:
    return Refused(f"{name}: a differencing {what}, which holds only what was written since another disk", hint=MERGE)


def _vhd(part: Part, head: bytes, claims: Claims) -> None:
    (at,) = struct.unpack_from(">Q", head, 16)
    (kind,) = struct.unpack_from(">I", head, 60)
    if kind == _VHD_DIFFERENCING:  # QEMU would take it for a fixed one, and its tables for the disk's content
        raise _differencing(claims.name, "VHD")
    dynamic = part.at(at, 36)
    if kind == _VHD_DYNAMIC and dynamic.startswith(b"cxsparse") and len(dynamic) == 36:
        table_at, entries = struct.unpack_from(">Q4xI", dynamic, 16)
        claims.table(part, table_at, entries * 4, "block allocation table", 16 * MIB)


# Others


def _vdi(part: Part, head: bytes, claims: Claims) -> None:
    (at,) = struct.unpack_from("<I", head, 340)
    (blocks,) = struct.unpack_from("<I", head, 384)
    claims.table(part, at, blocks * 4, "block map")


def _parallels(part: Part, head: bytes, claims: Claims) -> None:
    claims.table(part, 64, struct.unpack_from("<I", head, 32)[0] * 4, "block map")


def _cloop(part: Part, head: bytes, claims: Claims) -> None:
    claims.table(part, 136, struct.unpack_from(">I", head, 132)[0] * 8, "table of blocks")


_Check = Callable[[Part, bytes, Claims], None]
_FORMATS: tuple[tuple[int, bytes, _Check], ...] = (
    (0, b"QFI\xfb", _qcow2), (0, b"QED\0", _qed), (0, b"KDMV", _vmdk4), (0, b"COWD", _vmdk3), (0, b"\xbe\xba\xfe\xca\0\0\0\0", _sesparse),
    (0, b"vhdxfile", _vhdx), (0, b"conectix", _vhd), (64, b"\x7f\x10\xda\xbe", _vdi), (0, b"WithoutFreeSpace", _parallels),
    (0, b"WithouFreSpacExt", _parallels), (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", _cloop),
)  # fmt: skip
_OF_EXTENTS = (b"KDMV", b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0")
