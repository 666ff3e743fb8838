"""Where a guest starts from: the volumes that could boot it, whatever can not be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import pytest

from h2k.base.errors import BadData
from h2k.disk.reader import Disk, VolumeRef
from h2k.guest.boot_files import ESP_TYPE, MANAGER, STORE, BootPlace, bcdboot, efi_partitions, find_boot_place, started_from
from h2k.guest.guest import Guest
from tests.unit.memory_reader import DATA_TYPE, MemoryReader, make_disk, windows_guest
from tests.unit.test_hook_50_boot_loader import element, other_kind
from tests.unit.test_hook_50_boot_loader import store as bcd_store

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


# Several disks


def place(disks: Sequence[Disk], boot: Mapping[tuple[int, int], str], windows: VolumeRef = WINDOWS, store: bytes = b"no store") -> BootPlace:
    """Where that Windows starts from; `boot` are the volumes with all boot files ("uefi", "bios"), or a boot manager alone ("bios-")."""
    files = {}
    for ref, kind in boot.items():
        firmware = kind.rstrip("-")
        files[VolumeRef(*ref)] = {MANAGER[firmware]: b"manager", **({STORE[firmware]: store} if kind == firmware else {})}
    return find_boot_place(MemoryReader(disks, files), windows)


def where(found: BootPlace) -> tuple[str, Optional[tuple[int, int]], bool]:
    ref = found.volume.ref if found.volume is not None else None
    return found.firmware, (ref.disk, ref.partition) if ref is not None else None, found.reached


@pytest.mark.parametrize(
    ("first", "boot", "expected"),
    [
        (["ntfs", "ntfs"], {(1, 1): "bios"}, ("bios", (1, 1), True)),
        (["ntfs", "ntfs"], {(1, 1): "bios-"}, ("uefi", None, False)),
        (["fat", "ntfs"], {(1, 1): "bios"}, ("uefi", (0, 1), True)),
    ],
    ids=["an MBR disk that boots", "one that does not", "an EFI system partition of its own"],
)
def test_windows_on_a_gpt_disk_behind_an_mbr_disk(first: list[str], boot: dict[tuple[int, int], str], expected: Any) -> None:
    assert where(place([make_disk(0, first), make_disk(1, ["ntfs"], "mbr")], boot)) == expected


@pytest.mark.parametrize(
    ("boot", "expected"),
    [
        ({(1, 1): "uefi"}, ("uefi", (1, 1), True)),
        ({(1, 1): "uefi-"}, ("bios", (0, 1), True)),
        ({(1, 1): "uefi", (0, 1): "bios"}, ("bios", (0, 1), True)),
    ],
    ids=["a GPT disk that boots", "one that does not", "boot files of its own"],
)
def test_windows_on_an_mbr_disk_behind_a_gpt_disk(boot: dict[tuple[int, int], str], expected: Any) -> None:
    assert where(place([make_disk(0, ["ntfs", "ntfs"], "mbr"), make_disk(1, ["fat"])], boot)) == expected


def active(disk: Disk, *numbers: int) -> Disk:
    partitions = tuple(dataclasses.replace(p, active=p.number in numbers) for p in disk.table.partitions)
    return dataclasses.replace(disk, table=dataclasses.replace(disk.table, partitions=partitions))


@pytest.mark.parametrize(
    ("actives", "boot", "expected"),
    [
        (((1,), (1,)), {}, ((0, 1), True)),  # nothing anywhere: the active partition of Windows' own disk
        (((1,), (1,)), {(1, 1): "bios-"}, ((1, 1), True)),  # more of the boot files
        (((1,), (1,)), {(0, 1): "bios-", (1, 1): "bios"}, ((1, 1), True)),
        (((1,), (1,)), {(0, 1): "bios", (1, 1): "bios"}, ((0, 1), True)),  # alike: Windows' own disk
        (((2,), (1,)), {(0, 1): "bios", (1, 1): "bios"}, ((1, 1), True)),  # the one that is active
        (((2,), ()), {(0, 1): "bios"}, ((0, 1), False)),
        (((1, 2), ()), {(0, 1): "bios"}, ((0, 1), False)),  # two active ones start nothing
        (((), ()), {}, (None, False)),
    ],
)
def test_what_bios_would_start(actives: tuple[tuple[int, ...], ...], boot: dict[tuple[int, int], str], expected: Any) -> None:
    disks = [active(make_disk(n, ["ntfs", "ntfs"], "mbr"), *numbers) for n, numbers in enumerate(actives)]
    assert where(place(disks, boot)) == ("bios", *expected)


def test_of_disks_that_are_alike_windows_own_is_taken_wherever_it_stands() -> None:
    disks = [active(make_disk(n, ["ntfs", "ntfs"], "mbr"), 1) for n in range(3)]
    for number in range(3):
        assert where(place(disks, {(n, 1): "bios" for n in range(3)}, VolumeRef(number, 2))) == ("bios", (number, 1), True)


@pytest.mark.parametrize(("number", "starts"), [(1, True), (4, True), (5, False)])
def test_bios_starts_no_logical_partition(number: int, starts: bool) -> None:
    disk = make_disk(0, ["ntfs"] * 5, "mbr")
    assert bool(place([active(disk, number)], {(0, number): "bios"}).candidates) is starts


@pytest.mark.parametrize(("kind", "starts"), [("ntfs", True), ("fat", True), ("other", False), ("bitlocker", False)])
def test_bios_starts_from_ntfs_and_fat(kind: str, starts: bool) -> None:
    assert bool(place([make_disk(0, [kind, "ntfs"], "mbr")], {(0, 1): "bios"}).candidates) is starts
    assert place([make_disk(0, [kind, "ntfs"])], {(0, 1): "bios"}).candidates == (), "nothing of a GPT disk"


@pytest.mark.parametrize("kind", [ESP_TYPE, ESP_TYPE.lower(), "0xEF", "0xef"])
def test_the_type_of_an_efi_system_partition(kind: str) -> None:
    disk = make_disk(0, ["fat", "fat", "ntfs"])
    parts = tuple(dataclasses.replace(p, type=kind if p.number == 2 else DATA_TYPE) for p in disk.table.partitions)
    typed = dataclasses.replace(disk, table=dataclasses.replace(disk.table, partitions=parts))
    assert [v.ref.partition for v in efi_partitions([typed])] == [2]
    found = place([typed], {(0, 1): "uefi"}, VolumeRef(0, 3))
    assert where(found) == ("uefi", (0, 1), True), "OVMF starts it whatever its type says"
    assert [v.ref.partition for v in place([typed], {(0, 1): "uefi", (0, 2): "uefi"}, VolumeRef(0, 3)).candidates] == [2]


@pytest.mark.parametrize("name", ["osdevice", "device"])
def test_the_store_that_names_this_windows_decides_between_two_disks(name: str) -> None:
    disks = [make_disk(0, ["fat", "ntfs"]), make_disk(1, ["fat", "ntfs"])]
    named = element(disks[1], 2)
    devices = {"osdevice": b"", "device": b"", name: named}
    boot = {(0, 1): "uefi", (1, 1): "uefi"}
    for windows, fitting in ((VolumeRef(1, 2), [(0, 1), (1, 1)]), (VolumeRef(0, 2), [])):
        found = place(disks, boot, windows, bcd_store(**devices))
        assert [(v.ref.disk, v.ref.partition) for v in found.fitting] == fitting and found.ambiguous
    one = place(disks, {(0, 1): "uefi"}, VolumeRef(1, 2), bcd_store(**devices))
    assert not one.ambiguous and where(one) == ("uefi", (0, 1), True)
    both = {VolumeRef(0, 1): bcd_store(**devices), VolumeRef(1, 1): b"no store"}
    files = {ref: {MANAGER["uefi"]: b"manager", STORE["uefi"]: data} for ref, data in both.items()}
    found = find_boot_place(MemoryReader(disks, files), VolumeRef(1, 2))
    assert not found.ambiguous and where(found) == ("uefi", (0, 1), True), "though it is on the other disk"


@pytest.mark.parametrize(
    "store",
    [bcd_store(device=other_kind("boot"), osdevice=other_kind("boot")), bcd_store(device=b"", osdevice=b""), bcd_store(default=None, order=None)],
    ids=["a device that is no partition", "no device", "no default"],
)
def test_a_store_that_names_no_partition_tells_nothing(store: bytes) -> None:
    reader = MemoryReader([make_disk(0, ["fat", "ntfs"])], {BOOT: {STORE["uefi"]: store}})
    assert started_from(reader, reader.disks[0].volumes[0], "uefi") is None
    whole = MemoryReader(reader.disks, {BOOT: {STORE["uefi"]: bcd_store()}})
    assert started_from(whole, reader.disks[0].volumes[0], "uefi") == WINDOWS
