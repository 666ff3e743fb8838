"""Partition tables: GPT and its backup, 4K sectors, MBR with logical partitions, and everything that is wrong with one."""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Mapping
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.disk.partition import Partition, PartitionTable, read_table, retyped, volume_manager
from tests.guests.tables import BASIC_DATA, DISK, gpt, logical, mbr, partition_guid

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
KIB = 1024
SIZE = 512 * KIB
ENTRIES_AT, HEADER_AT = 1024, 512


def disk(pieces: Mapping[int, bytes], size: int = SIZE) -> bytearray:
    content = bytearray(size)
    for at, data in pieces.items():
        content[at : at + len(data)] = data
    return content


def table(content: bytes, size: int = 0) -> PartitionTable:
    return read_table(lambda at, length: bytes(content[at : at + length]), size or len(content), "made.img")


def refuses(content: bytes, *words: str, size: int = 0) -> None:
    with pytest.raises(BadData) as caught:
        table(content, size)
    said = str(caught.value)
    assert said.startswith("made.img: ") and all(word in said for word in words), said


# GPT

SPANS = {1: (64 * KIB, 32 * KIB), 3: (128 * KIB, 256 * KIB)}
EXPECTED = tuple(Partition(n, start, size, BASIC_DATA, partition_guid(n), False) for n, (start, size) in SPANS.items())


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt(sector: int) -> None:
    assert table(disk(gpt(SIZE, SPANS, sector))) == PartitionTable("gpt", DISK, EXPECTED, sector)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("what", ["header", "checksum", "entries"])
def test_gpt_backup(sector: int, what: str) -> None:
    content = disk(gpt(SIZE, SPANS, sector))
    at = {"header": sector, "checksum": sector + 16, "entries": 2 * sector + 33}[what]
    content[at] ^= 0xFF
    assert table(content) == PartitionTable("gpt", DISK, EXPECTED, sector)


def test_gpt_with_neither_header() -> None:
    content = disk(gpt(SIZE, SPANS))
    content[HEADER_AT] ^= 0xFF
    content[SIZE - 512] ^= 0xFF
    refuses(content, "neither GPT header")


def test_gpt_partition_beyond_the_disk() -> None:
    refuses(disk(gpt(SIZE, {1: (128 * KIB, 512 * KIB)})), "GPT partition 1", "truncated")


def test_gpt_of_a_truncated_image() -> None:
    refuses(disk(gpt(SIZE, SPANS))[: 200 * KIB], "GPT partition 3", "truncated")


def test_image_shorter_than_it_says() -> None:
    refuses(b"", "ends at byte 0", size=SIZE)
    content = disk(gpt(SIZE, SPANS))[: ENTRIES_AT + 100]
    refuses(content, f"ends at byte {ENTRIES_AT + 100}", "truncated", size=SIZE)


@pytest.mark.parametrize(
    ("at", "value"), [(80, 0), (80, 100_000), (84, 64), (84, 130), (84, 1 << 20), (72, 1 << 40), (12, 91), (12, 4000)]
)
def test_gpt_header_with_impossible_numbers(at: int, value: int) -> None:
    """Wrong numbers under a right checksum: the backup counts."""
    content = disk(gpt(SIZE, SPANS))
    struct.pack_into("<Q" if at == 72 else "<I", content, HEADER_AT + at, value)
    length = struct.unpack_from("<I", content, HEADER_AT + 12)[0]
    content[HEADER_AT + 16 : HEADER_AT + 20] = bytes(4)
    checksum = zlib.crc32(content[HEADER_AT : HEADER_AT + length])
    struct.pack_into("<I", content, HEADER_AT + 16, checksum)
    assert table(content).partitions == EXPECTED


# MBR


def test_mbr() -> None:
    content = disk({0: mbr([(0x80, 7, 64, 100), (0, 0xEF, 200, 100), (0, 0, 0, 0), (0, 0x27, 400, 8)])})
    assert table(content) == PartitionTable(
        "mbr",
        "0x1234abcd",
        (
            Partition(1, 64 * 512, 100 * 512, "0x07", None, True),
            Partition(2, 200 * 512, 100 * 512, "0xef", None, False),
            Partition(4, 400 * 512, 8 * 512, "0x27", None, False),
        ),
    )


@pytest.mark.parametrize("kind", [0x05, 0x0F, 0x85])
def test_logical_partitions(kind: int) -> None:
    pieces = {0: mbr([(0, 7, 64, 10), (0, kind, 100, 1000)]), **logical(100, [(7, 101, 50), (0x0B, 300, 60), (7, 500, 70)])}
    numbers = [(p.number, p.start // 512, p.size // 512, p.type) for p in table(disk(pieces)).partitions]
    assert numbers == [(1, 64, 10, "0x07"), (5, 101, 50, "0x07"), (6, 300, 60, "0x0b"), (7, 500, 70, "0x07")]


def test_two_extended_partitions_have_numbers_of_their_own() -> None:
    pieces = {
        0: mbr([(0, 5, 100, 100), (0, 5, 300, 100)]),
        **logical(100, [(7, 101, 5), (7, 120, 5)]),
        **logical(300, [(7, 301, 5)]),
    }
    assert [p.number for p in table(disk(pieces)).partitions] == [5, 6, 7]


def test_logical_partitions_that_loop() -> None:
    chain = {100: mbr([(0, 7, 1, 5), (0, 5, 10, 5)], 0), 110: mbr([(0, 7, 1, 5), (0, 5, 10, 5)], 0)}
    refuses(disk({0: mbr([(0, 5, 100, 500)]), **{s * 512: data for s, data in chain.items()}}), "loops", "sector 110")


def test_more_logical_partitions_than_windows_makes() -> None:
    chain = {(100 + n) * 512: mbr([(0, 0, 0, 0), (0, 5, n + 1, 5)], 0) for n in range(300)}
    refuses(disk({0: mbr([(0, 5, 100, 500)]), **chain}), "loops or leaves the disk")


def test_logical_partitions_that_leave_the_disk_or_have_no_record() -> None:
    refuses(disk({0: mbr([(0, 5, 100, 500)]), 100 * 512: mbr([(0, 7, 1, 5), (0, 5, 1 << 30, 5)], 0)}), "leaves the disk")
    refuses(disk({0: mbr([(0, 5, 100, 500)])}), "no extended boot record at sector 100")
    refuses(disk({0: mbr([(0, 5, 100, 500)]), 100 * 512: mbr([(0, 7, 1, 1 << 31)], 0)}), "MBR partition 5", "truncated")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ((0, 7, 64, SIZE // 512), ("MBR partition 1", "32768 bytes beyond")),
        ((0, 7, 0xFFFFFFFF, 0xFFFFFFFF), ("MBR partition 1", "beyond")),
        ((0x12, 7, 64, 10), ("MBR entry 1",)),
        ((0x80, 7, 0, 10), ("MBR entry 1",)),
    ],
)
def test_mbr_entries_that_are_no_partitions(entry: tuple[int, int, int, int], words: tuple[str, ...]) -> None:
    refuses(disk({0: mbr([entry])}), *words)


# No table


@pytest.mark.parametrize(
    ("at", "mark"),
    [(3, b"NTFS    "), (3, b"EXFAT   "), (3, b"-FVE-FS-"), (54, b"FAT12   "), (54, b"FAT16   "), (82, b"FAT32   ")],
)
def test_a_volume_that_fills_the_disk(at: int, mark: bytes) -> None:
    assert table(disk({0: mbr([(0x12, 7, 99, 99)]), at: mark})) == PartitionTable("none", "", ())


def test_an_empty_disk() -> None:
    assert table(bytes(4096)) == PartitionTable("none", "", ())


@pytest.mark.parametrize("size", [0, 1, 511])
def test_too_small(size: int) -> None:
    with pytest.raises(BadData, match="too few"):
        read_table(lambda at, length: bytes(length), size, "made.img")


# Whatever the bytes are


def sane(content: bytes) -> None:
    """A table whose partitions lie within the disk, each with its own number, or BadData."""
    try:
        found = table(content)
    except BadData as bad:
        assert "\n" not in str(bad)
        return
    assert all(p.start > 0 and p.size > 0 and p.start + p.size <= len(content) for p in found.partitions)
    assert len({p.number for p in found.partitions}) == len(found.partitions)


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 16))
def test_random_bytes(seed: int, sectors: int) -> None:
    content = random.Random(seed).randbytes(512 * sectors)
    sane(content[:510] + b"\x55\xaa" + content[512:])


entry = st.tuples(
    st.sampled_from([0, 0x80, 1]), st.sampled_from([0, 5, 7, 0x0F, 0xEE]), st.integers(0, 70), st.integers(0, 70)
)


@settings(deadline=None)
@given(st.lists(st.lists(entry, min_size=4, max_size=4), min_size=1, max_size=60))
def test_random_records(records: list[list[tuple[int, int, int, int]]]) -> None:
    sane(disk({n * 512: mbr(entries) for n, entries in enumerate(records)}, 64 * 512))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=8)), max_size=4),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
def test_damaged_gpt(anywhere: list[tuple[int, bytes]], entries: list[tuple[int, bytes]], resealed: bool) -> None:
    content = disk(gpt(SIZE, SPANS))
    for at, data in [*anywhere, *((ENTRIES_AT + at, data) for at, data in entries)]:
        content[at : at + len(data)] = data
    if resealed:
        struct.pack_into("<I", content, HEADER_AT + 88, zlib.crc32(content[ENTRIES_AT : ENTRIES_AT + 128 * 128]))
        content[HEADER_AT + 16 : HEADER_AT + 20] = bytes(4)
        struct.pack_into("<I", content, HEADER_AT + 16, zlib.crc32(content[HEADER_AT : HEADER_AT + 92]))
    sane(bytes(content[:SIZE]))


# Volume managers, and types that are set


@pytest.mark.parametrize(
    ("kind", "manager"),
    [("0x42", "LDM"), ("AF9B60A0-1431-4F62-BC68-3311714A69AD", "LDM"), ("E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "Storage Spaces"),
     ("0x07", ""), (BASIC_DATA, "")],
)  # fmt: skip
def test_volume_managers(kind: str, manager: str) -> None:
    partitions = (Partition(1, 0, 512, BASIC_DATA, None, False), Partition(2, 512, 512, kind, None, False))
    assert volume_manager(PartitionTable("mbr", "", partitions)) == manager


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("gone", [None, "primary", "backup"])
def test_a_type_is_set_in_every_sound_copy(sector: int, gone: Optional[str]) -> None:
    content = disk(gpt(SIZE, SPANS, sector))
    if gone is not None:
        at = sector if gone == "primary" else SIZE // sector * sector - sector
        content[at : at + 8] = b"damaged!"
    old = table(content)
    written = retyped(lambda at, n: bytes(content[at : at + n]), SIZE, old, 3, ESP)
    assert len(written) == (4 if gone is None else 2)
    for at, data in written:
        content[at : at + len(data)] = data
    new = table(content)
    assert [p.type for p in new.partitions] == [BASIC_DATA, ESP]
    assert dataclasses.replace(new, partitions=()) == dataclasses.replace(old, partitions=())
    if gone is None:
        content[sector : sector + 8] = b"damaged!"
        assert table(content) == new  # the backup says the same


def test_no_sound_copy() -> None:
    content = disk(gpt(SIZE, SPANS))
    old = table(content)
    for at in (512, SIZE - 512):
        content[at] ^= 0xFF
    with pytest.raises(BadData, match="neither copy"):
        retyped(lambda at, n: bytes(content[at : at + n]), SIZE, old, 1, ESP)
