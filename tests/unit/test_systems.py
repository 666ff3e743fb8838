"""Several systems on one guest's disks: which is meant by --root, and the names of their devices."""

from __future__ import annotations

from typing import Optional

import pytest

from h2k.disk.reader import VolumeRef
from h2k.guest.guest import OTHER, Guest, device
from tests.guests.regfile import empty_hive
from tests.unit.memory_reader import MemoryReader, make_disk

SYSTEM = "Windows/System32/config/SYSTEM"


def two_windows(root: Optional[str]) -> Guest:
    disks = [make_disk(0, ["fat", "ntfs", "ntfs"]), make_disk(1, ["ntfs", "bitlocker"])]
    files = {VolumeRef(d, n): {SYSTEM: empty_hive()} for d, n in ((0, 2), (1, 1))}
    return Guest(MemoryReader(disks, files), root)


@pytest.mark.parametrize(
    ("root", "expected", "other"),
    [
        (None, ["/dev/sda2", "/dev/sdb1"], False),
        ("ask", ["/dev/sda2", "/dev/sdb1"], False),
        ("single", ["/dev/sda2", "/dev/sdb1"], False),
        ("first", ["/dev/sda2"], False),
        ("/dev/sda2", ["/dev/sda2"], False),
        ("/dev/sdb1", ["/dev/sdb1"], False),
        ("/dev/sda3", [], True),
        ("/dev/vg/root", [], True),
        ("/dev/sdb2", [], False),  # encrypted: a Windows that must not be touched
        (OTHER, [], True),
    ],
)
def test_root_chooses_among_several_systems(root: Optional[str], expected: list[str], other: bool) -> None:
    guest = two_windows(root)
    assert [device(ref) for ref, _ in guest.system_roots] == expected
    assert guest.is_other == other


def test_device_names() -> None:
    assert [device(VolumeRef(d, p)) for d, p in ((0, 1), (25, 0), (26, 2), (52, 3))] == [
        "/dev/sda1", "/dev/sdz", "/dev/sdaa2", "/dev/sdba3",
    ]  # fmt: skip
