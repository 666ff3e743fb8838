"""Partition tables made byte by byte, with code that h2k's own reader does not use: GPT with its backup, MBR, logical ones."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence

BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
DISK = "11111111-2222-3333-4444-555555555555"
ENTRIES = 128


def partition_guid(number: int) -> str:
    """The unique GUID of a partition that `gpt` makes."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"partition {number}")).upper()


def mbr(entries: Sequence[tuple[int, int, int, int]], signature: int = 0x1234ABCD) -> bytes:
    """A sector 0 or an extended boot record with (status, type, first sector, sectors) entries."""
    rows = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries)
    return bytes(440) + struct.pack("<I2x", signature) + rows.ljust(64, b"\0") + b"\x55\xaa"


def gpt(
    size: int, partitions: Mapping[int, tuple[int, int]], sector: int = 512, kind: str = BASIC_DATA
) -> dict[int, bytes]:
    """{offset: bytes} of a protective MBR and both GPTs; partitions are {number: (start, size)} in bytes."""
    last = size // sector - 1
    table = bytearray(128 * ENTRIES)
    for number, (start, length) in partitions.items():
        struct.pack_into(
            "<16s16sQQ", table, 128 * (number - 1), uuid.UUID(kind).bytes_le, uuid.UUID(partition_guid(number)).bytes_le,
            start // sector, (start + length) // sector - 1,
        )  # fmt: skip
    span = -(-len(table) // sector)

    def header(here: int, other: int, entries: int) -> bytes:
        fields = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 2 + span, last - span - 1,
            uuid.UUID(DISK).bytes_le, entries, ENTRIES, 128, zlib.crc32(table),
        )  # fmt: skip
        return (fields[:16] + struct.pack("<I", zlib.crc32(fields)) + fields[20:]).ljust(sector, b"\0")

    return {
        0: mbr([(0, 0xEE, 1, min(last, 0xFFFFFFFF))], 0),
        sector: header(1, last, 2),
        2 * sector: bytes(table),
        (last - span) * sector: bytes(table),
        last * sector: header(last, 1, last - span),
    }


def logical(extended: int, partitions: Sequence[tuple[int, int, int]]) -> dict[int, bytes]:
    """{offset: bytes} of the extended boot records of (type, first sector, sectors) partitions, each one sector after
    its record; `extended` is the first sector of the extended partition."""
    records = [extended, *(first - 1 for _, first, _ in partitions[1:])]
    made = {}
    for n, ((kind, first, count), here) in enumerate(zip(partitions, records)):
        entries = [(0, kind, first - here, count)]
        if n + 1 < len(records):
            entries.append((0, 0x05, records[n + 1] - extended, partitions[n + 1][2] + 1))
        made[here * 512] = mbr(entries, 0)
    return made
