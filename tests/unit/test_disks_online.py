"""Which disks the first boot may bring online: the guest's own, and none that its owner kept back."""

from __future__ import annotations

import struct
import uuid

import pytest

from h2k.guest.disks_online import identity, to_bring_online
from tests.unit.memory_reader import SIGNATURE, make_disk, windows_guest

PLACE = "[$cs\\Enum\\SCSI\\Disk&Ven_VMware_&Prod_VMware_Virtual_S\\5&1ec51bf7&0&000100\\Device Parameters\\Partmgr]\n"


def noted(cache: bytes, attributes: int) -> str:
    """What partmgr notes of a disk, as the real hives of the corpus have it."""
    digits = ",".join(f"{b:02x}" for b in cache)
    return f'{PLACE}"Attributes"=dword:{attributes:08x}\n"PartitionTableCache"=hex:{digits}\n'


def mbr(signature: int) -> bytes:
    return struct.pack("<III", 0, 4, signature) + bytes(20)


def gpt(guid: str) -> bytes:
    return struct.pack("<II", 1, 2) + uuid.UUID(guid).bytes_le + bytes(20)


def test_identities() -> None:
    assert identity(make_disk(1, ["ntfs"], "mbr")) == f"{SIGNATURE + 1:08x}"
    disk = make_disk(1, ["ntfs"])
    assert identity(disk) == f"{{{disk.table.id.lower()}}}"
    assert identity(make_disk(1, ["ntfs"], "none")) is None


@pytest.mark.parametrize(("attributes", "kept"), [(0, False), (1, True), (2, True), (4, False)])
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_disk_that_was_kept_offline_stays_so(attributes: int, kept: bool, firmware: str) -> None:
    plain = windows_guest(data_disks=2, firmware=firmware)
    disk = plain.disks[2]
    cache = gpt(disk.table.id) if firmware == "uefi" else mbr(int(disk.table.id, 16))
    found = to_bring_online(windows_guest(noted(cache, attributes), data_disks=2, firmware=firmware))
    assert (identity(disk) not in found) is kept
    assert len(found) == (2 if kept else 3)


def test_a_note_that_names_no_disk_says_nothing() -> None:
    for cache in (b"", b"\x00" * 10, struct.pack("<III", 2, 0, 0) + bytes(20)):
        assert len(to_bring_online(windows_guest(noted(cache, 1) if cache else "", data_disks=1))) == 2


def test_two_disks_that_are_alike_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = windows_guest(data_disks=1, firmware="bios")
    monkeypatch.setattr("h2k.guest.disks_online.identity", lambda disk: "1234abcd")
    assert to_bring_online(guest) == ()
