"""Partition tables: MBR with logical partitions, GPT with its backup; bounded, and loops are found."""

from __future__ import annotations

import dataclasses
import struct
import uuid
import zlib
from collections.abc import Iterator
from typing import Callable, Optional

from h2k.base.errors import BadData

ReadAt = Callable[[int, int], bytes]
MAX_LOGICAL = 128
MAX_ENTRIES = 1024
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
# Partitions of Windows' own volume managers: the logical disk manager (dynamic disks), and Storage Spaces.
_LDM = ("0x42", "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "AF9B60A0-1431-4F62-BC68-3311714A69AD")
_SPACES = "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"


@dataclasses.dataclass(frozen=True)
class Partition:
    """One partition; start and size in bytes, type "0x07" (MBR) or an upper-case GUID (GPT)."""

    number: int
    start: int
    size: int
    type: str
    guid: Optional[str]
    active: bool


@dataclasses.dataclass(frozen=True)
class PartitionTable:
    """scheme "gpt", "mbr" or "none"; id the disk GUID (upper case) or the MBR signature ("0x1234abcd"). `sector`: the bytes
    of the sectors that a GPT counts in. `fault`: why there is a table that can't be read, with scheme "none"."""

    scheme: str
    id: str
    partitions: tuple[Partition, ...]
    sector: int = 512
    fault: str = ""


def volume_manager(table: PartitionTable) -> str:
    """What of Windows lays volumes over a disk in a way that nobody else reads: "LDM", "Storage Spaces", or ''."""
    types = {p.type for p in table.partitions}
    return "LDM" if types & set(_LDM) else "Storage Spaces" if _SPACES in types else ""


def read_table(read: ReadAt, size: int, name: str) -> PartitionTable:
    """The partition table of a disk of `size` bytes; BadData names the disk and the place of a fault.

    A partition that reaches beyond the end is a fault: it is what a truncated image looks like.
    """
    if size < 512:
        raise BadData(f"{name}: {size} bytes are too few for a disk")

    def whole(offset: int, length: int) -> bytes:
        data = read(offset, length)
        if len(data) != length:
            raise BadData(f"{name}: ends at byte {offset + len(data)} of {size}", hint="the image may be truncated")
        return data

    mbr = whole(0, 512)
    if mbr[510:512] != b"\x55\xaa" or _is_boot_sector(mbr):
        return PartitionTable("none", "", ())
    entries = [_entry(mbr, i) for i in range(4)]
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        for sector in (512, 4096):
            table = _gpt(whole, size, sector, name)
            if table is not None:
                return table
        raise BadData(f"{name}: protective MBR, but neither GPT header is valid", hint="repair it with gdisk")
    partitions = list(_mbr(whole, size, entries, name))
    return PartitionTable("mbr", f"0x{struct.unpack_from('<I', mbr, 440)[0]:08x}", tuple(partitions))


def _is_boot_sector(sector: bytes) -> bool:
    """A volume that fills the whole disk has a boot sector where a table would be."""
    return (
        sector[3:11] in (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-")
        or sector[54:62] in (b"FAT12   ", b"FAT16   ", b"FAT     ")
        or sector[82:90] == b"FAT32   "
    )


def _entry(sector: bytes, index: int) -> tuple[int, int, int, int]:
    """(status, type, first sector, sectors)"""
    status, kind, first, count = struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index)
    return status, kind, first, count


def _mbr(read: ReadAt, size: int, entries: list[tuple[int, int, int, int]], name: str) -> Iterator[Partition]:
    logical = 5
    for number, (status, kind, first, count) in enumerate(entries, 1):
        if kind == 0 or count == 0:
            continue
        if status not in (0, 0x80) or not first:
            raise BadData(f"{name}: MBR entry {number} is no partition", hint="this may be no disk image")
        if kind in _EXTENDED:
            for partition in _logical(read, size, first, logical, name):
                yield partition
                logical = partition.number + 1
        else:
            yield _partition(number, status, kind, first, count, size, name)


def _partition(number: int, status: int, kind: int, first: int, count: int, size: int, name: str) -> Partition:
    beyond = (first + count) * 512 - size
    if beyond > 0:
        hint = "the image may be truncated"
        raise BadData(f"{name}: MBR partition {number} ends {beyond} bytes beyond the end of the disk", hint=hint)
    return Partition(number, first * 512, count * 512, f"0x{kind:02x}", None, status == 0x80)


def _logical(read: ReadAt, size: int, extended: int, number: int, name: str) -> Iterator[Partition]:
    at, seen = extended, set[int]()
    while True:
        if at in seen or len(seen) >= MAX_LOGICAL or (at + 1) * 512 > size:
            raise BadData(f"{name}: the chain of logical partitions loops or leaves the disk at sector {at}")
        seen.add(at)
        sector = read(at * 512, 512)
        if sector[510:512] != b"\x55\xaa":
            raise BadData(f"{name}: no extended boot record at sector {at}")
        status, kind, first, count = _entry(sector, 0)
        if kind and count:
            yield _partition(number, status, kind, at + first, count, size, name)
            number += 1
        _, kind, first, _ = _entry(sector, 1)
        if kind not in _EXTENDED or not first:
            return
        at = extended + first


def _gpt(read: ReadAt, size: int, sector: int, name: str) -> Optional[PartitionTable]:
    for at in (sector, size // sector * sector - sector):
        if at < 0 or at + sector > size:
            continue
        header = read(at, sector)
        if header[:8] != b"EFI PART":
            continue
        length, stored = struct.unpack_from("<I", header, 12)[0], struct.unpack_from("<I", header, 16)[0]
        if not 92 <= length <= sector:
            continue
        if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != stored:
            continue
        table = _gpt_entries(read, size, sector, header, name)
        if table is not None:
            return table
    return None


def retyped(read: ReadAt, size: int, table: PartitionTable, number: int, kind: str) -> list[tuple[int, bytes]]:
    """(offset, bytes) to write so that both copies of a GPT give partition `number` the type `kind`, a GUID.

    Only copies that are sound are written; BadData when none is.
    """
    sector, found = table.sector, []
    for at in (sector, size // sector * sector - sector):
        header = bytearray(read(at, sector))
        length = int.from_bytes(header[12:16], "little")
        first, count, width = struct.unpack_from("<QII", header, 72)
        if header[:8] != b"EFI PART" or not 92 <= length <= sector or not 0 < count <= MAX_ENTRIES or not 128 <= width <= 4096:
            continue
        entries = bytearray(read(first * sector, count * width))
        if zlib.crc32(entries) != int.from_bytes(header[88:92], "little") or number > count:
            continue
        entries[(number - 1) * width : (number - 1) * width + 16] = uuid.UUID(kind).bytes_le
        struct.pack_into("<I", header, 88, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header[:length]))
        found += [(first * sector, bytes(entries)), (at, bytes(header))]
    if not found:
        raise BadData("neither copy of the partition table is sound", hint="repair it with gdisk")
    return found


def _gpt_entries(read: ReadAt, size: int, sector: int, header: bytes, name: str) -> Optional[PartitionTable]:
    disk, first, count, width, stored = struct.unpack_from("<16sQIII", header, 56)
    if not 0 < count <= MAX_ENTRIES or width % 128 or not 128 <= width <= 4096:
        return None
    if first * sector + count * width > size:
        return None
    data = read(first * sector, count * width)
    if zlib.crc32(data) != stored:
        return None
    partitions = []
    for i in range(count):
        kind, guid, begin, end = struct.unpack_from("<16s16sQQ", data, i * width)
        if kind == bytes(16):
            continue
        if not 0 < begin <= end < size // sector:
            raise BadData(f"{name}: GPT partition {i + 1} is not within the disk", hint="the image may be truncated")
        span = (end - begin + 1) * sector
        partitions.append(Partition(i + 1, begin * sector, span, _guid(kind), _guid(guid), False))
    return PartitionTable("gpt", _guid(disk), tuple(partitions), sector)


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw)).upper()
