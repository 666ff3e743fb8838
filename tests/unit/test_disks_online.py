"""Which disks the first boot may bring online: the guest's own, and none that its owner kept back."""

from __future__ import annotations

import dataclasses
import struct
import uuid

import pytest

from h2k.engine.report import windows_facts
from h2k.guest.disks_online import BUSES, identity, to_bring_online
from h2k.guest.guest import Guest
from tests.unit.memory_reader import SIGNATURE, MemoryReader, make_disk, windows_guest

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
    disk = windows_guest(data_disks=1).disks[1]
    without = noted(gpt(disk.table.id), 1).replace("Attributes", "Other")
    assert len(to_bring_online(windows_guest(without, data_disks=1))) == 2, "nobody was told to keep it back"
    for cache in (b"", b"\x00" * 10, struct.pack("<III", 2, 0, 0) + bytes(20)):
        assert len(to_bring_online(windows_guest(noted(cache, 1) if cache else "", data_disks=1))) == 2


@pytest.mark.parametrize(("size", "kept"), [(24, True), (23, False)])
def test_a_note_that_is_cut_off_says_nothing(size: int, kept: bool) -> None:
    disk = windows_guest(data_disks=1).disks[1]
    found = to_bring_online(windows_guest(noted(gpt(disk.table.id)[:size], 1), data_disks=1))
    assert (identity(disk) not in found) is kept


def test_two_disks_that_are_alike_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = windows_guest(data_disks=1, firmware="bios")
    monkeypatch.setattr("h2k.guest.disks_online.identity", lambda disk: "1234abcd")
    assert to_bring_online(guest) == ()


def test_a_disk_without_a_signature_has_no_identity() -> None:
    disk = make_disk(1, ["ntfs"], "mbr")
    nothing = dataclasses.replace(disk, table=dataclasses.replace(disk.table, id="0x00000000"))
    assert identity(nothing) is None and identity(disk) is not None
    guest = windows_guest(firmware="bios", data_disks=2)
    assert isinstance(guest.reader, MemoryReader)
    blank = [dataclasses.replace(d, table=dataclasses.replace(d.table, id="0x00000000")) for d in guest.disks[1:]]
    assert to_bring_online(Guest(MemoryReader([guest.disks[0], *blank], guest.reader.files))) == (identity(guest.disks[0]),)


def test_two_of_three_disks_that_are_alike_keep_all_offline() -> None:
    guest = windows_guest(firmware="bios", data_disks=2)
    assert isinstance(guest.reader, MemoryReader)
    copy = dataclasses.replace(guest.disks[2], table=dataclasses.replace(guest.disks[2].table, id=guest.disks[1].table.id))
    assert to_bring_online(Guest(MemoryReader([*guest.disks[:2], copy], guest.reader.files))) == ()
    assert len(to_bring_online(guest)) == 3


@pytest.mark.parametrize("bus", BUSES)
def test_a_disk_of_any_bus_and_any_instance_is_kept_back(bus: str) -> None:
    disk = windows_guest(data_disks=1).disks[1]
    text = noted(gpt(disk.table.id), 1).replace("SCSI\\", f"{bus}\\")
    first = text.replace("5&1ec51bf7&0&000100", "5&1ec51bf7&0&000000").replace("dword:00000001", "dword:00000000")
    assert len(to_bring_online(windows_guest(first + text, data_disks=1))) == 1


@pytest.mark.parametrize(("size", "read"), [(24, True), (23, False)])
def test_a_note_that_was_cut_short_names_no_disk(size: int, read: bool) -> None:
    disk = windows_guest(data_disks=1).disks[1]
    assert len(to_bring_online(windows_guest(noted(gpt(disk.table.id)[:size], 1), data_disks=1))) == (1 if read else 2)


def test_the_control_set_that_boots_decides() -> None:
    disk = windows_guest(data_disks=1).disks[1]
    other = noted(gpt(disk.table.id), 1).replace("$cs", "ControlSet002")
    assert len(to_bring_online(windows_guest(other, data_disks=1, sets=(1, 2)))) == 2
    assert len(to_bring_online(windows_guest(other, data_disks=1, sets=(2, 1)))) == 1


def test_the_facts_of_a_guest_say_which_disks_may_come_online() -> None:
    assert windows_facts(windows_guest(data_disks=1))["online"] == [True, True]
    assert windows_facts(windows_guest(noted(mbr(SIGNATURE + 1), 1), firmware="bios", data_disks=1))["online"] == [True, False]
