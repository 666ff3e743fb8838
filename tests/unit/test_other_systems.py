"""What a volume that h2k does not read may hold: each mark in its place, and only in volumes that are none of Windows'."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from h2k.disk.other_systems import holds_another_system
from h2k.disk.reader import Disk
from tests.unit.memory_reader import MemoryReader, make_disk

MARKS = {
    "ext4": (0x438, b"\x53\xef"),
    "XFS": (0, b"XFSB"),
    "btrfs": (0x10040, b"_BHRfS_M"),
    "LUKS": (0, b"LUKS\xba\xbe"),
    "LVM, first sector": (0, b"LABELONE"),
    "LVM, as pvcreate writes it": (512, b"LABELONE"),
    "LVM, fourth sector": (1536, b"LABELONE"),
    "md 1.1": (0, b"\xfc\x4e\x2b\xa9"),
    "md 1.2": (4096, b"\xfc\x4e\x2b\xa9"),
}


class Placed(MemoryReader):
    """The second disk is zeros but for these bytes at that place."""

    def __init__(self, disks: Sequence[Disk], at: int, data: bytes) -> None:
        super().__init__(disks, {})
        self.at, self.data = at, data

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        whole = dict(enumerate(self.data, self.at)) if disk == 1 else {}
        return bytes(whole.get(offset + n, 0) for n in range(length))


def reader(offset: int, mark: bytes, kinds: tuple[str, ...] = ("ntfs", "other"), which: int = 1, size: int = 0) -> MemoryReader:
    """Two disks, of which the second has those bytes at an offset of one of its volumes."""
    disks: list[Disk] = [make_disk(0, ["fat", "ntfs"]), make_disk(1, kinds)]
    volume = disks[1].volumes[which]
    if size:
        volumes = [dataclasses.replace(v, size=size) if v == volume else v for v in disks[1].volumes]
        disks[1] = dataclasses.replace(disks[1], volumes=tuple(volumes))
    return Placed(disks, volume.start + offset, mark)


@pytest.mark.parametrize(("offset", "mark"), MARKS.values(), ids=MARKS)
def test_each_mark_in_its_place(offset: int, mark: bytes) -> None:
    assert holds_another_system(reader(offset, mark))
    assert not holds_another_system(reader(offset + 1, mark)) and not holds_another_system(reader(offset, mark[:-1] + b"?"))


@pytest.mark.parametrize("kind", ["ntfs", "fat", "bitlocker"])
def test_a_volume_that_is_known_is_not_asked(kind: str) -> None:
    assert not holds_another_system(reader(0, b"XFSB", ("ntfs", kind)))


def test_windows_alone_is_no_other_system() -> None:
    assert not holds_another_system(MemoryReader([make_disk(0, ["fat", "ntfs", "other"])], {}))


def test_nothing_is_read_behind_the_end_of_a_volume() -> None:
    """The next partition's bytes, or the end of the disk, stand there."""
    assert not holds_another_system(reader(0x438, b"\x53\xef", size=0x438 + 1))
    asked: list[tuple[int, int]] = []
    found: Any = reader(0, b"", size=2048)
    found.read_at = lambda disk, offset, length: (asked.append((offset, length)), bytes(length))[1]
    assert not holds_another_system(found)
    start = found.disks[1].volumes[1].start
    assert asked and all(start <= offset and offset + length <= start + 2048 for offset, length in asked)
