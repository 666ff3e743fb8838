"""Where a guest starts from: the volumes that could boot it, whatever can not be read."""

from __future__ import annotations

import pytest

from h2k.base.errors import BadData
from h2k.disk.reader import VolumeRef
from h2k.guest.boot_files import MANAGER, STORE, bcdboot, efi_partitions, find_boot_place
from h2k.guest.guest import Guest
from tests.unit.memory_reader import MemoryReader, make_disk, windows_guest

BOOT, WINDOWS = VolumeRef(0, 1), VolumeRef(0, 2)


def bootable(firmware: str) -> Guest:
    """A guest whose boot volume holds both files, though the store is none."""
    guest = windows_guest(firmware=firmware)
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[BOOT].update({MANAGER[firmware]: b"manager", STORE[firmware]: b"no store"})
    return guest


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_the_volume_with_manager_and_store(firmware: str) -> None:
    place = bootable(firmware).boot_place
    assert place.firmware == firmware and place.volume is not None and place.volume.ref == BOOT
    assert [v.ref for v in place.candidates] == [BOOT] and place.fitting == () and not place.ambiguous


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize("missing", [MANAGER, STORE])
def test_half_of_the_boot_files_boots_nothing(firmware: str, missing: dict[str, str]) -> None:
    guest = bootable(firmware)
    assert isinstance(guest.reader, MemoryReader)
    del guest.reader.files[BOOT][missing[firmware]]
    assert guest.boot_place.candidates == ()


def test_a_directory_in_place_of_a_file_boots_nothing() -> None:
    guest = bootable("uefi")
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[BOOT][STORE["uefi"] + "/"] = guest.reader.files[BOOT].pop(STORE["uefi"])
    assert guest.boot_place.candidates == ()


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_volume_that_can_t_be_read_boots_nothing(firmware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = bootable(firmware)
    stat = guest.reader.stat

    def damaged(ref: VolumeRef, path: str) -> object:
        if ref == BOOT:
            raise BadData(f"{path}: the file system is damaged")
        return stat(ref, path)

    monkeypatch.setattr(guest.reader, "stat", damaged)
    place = find_boot_place(guest.reader, WINDOWS)
    assert place.candidates == () and place.firmware == firmware


def test_efi_partitions_are_fat_and_say_so() -> None:
    disk = make_disk(0, ["fat", "ntfs", "fat"])
    assert [v.ref.partition for v in efi_partitions([disk])] == [1, 3]
    assert efi_partitions([make_disk(0, ["fat"], "mbr")]) == []


@pytest.mark.parametrize(("firmware", "word"), [("uefi", "/f UEFI"), ("bios", "/f BIOS")])
def test_the_owner_s_command(firmware: str, word: str) -> None:
    assert rf"bcdboot C:\Windows /s S: {word}" in bcdboot(firmware)
