"""Drive letters lead to partitions, by a GPT partition's GUID or an MBR signature with an offset."""

from __future__ import annotations

import pytest

from h2k.guest.drive_letters import DriveLetter, drive_letters
from tests.unit.memory_reader import gpt_letter, mbr_letter, windows_guest


def letters(name: str, raw: bytes, scheme: str = "gpt") -> list[DriveLetter]:
    text = f'[MountedDevices]\n"{name}"=hex:{raw.hex(",")}\n'.replace("\\", "\\\\")
    return list(drive_letters(windows_guest(text, firmware="uefi" if scheme == "gpt" else "bios")))


@pytest.mark.parametrize(("scheme", "raw"), [("gpt", gpt_letter), ("mbr", mbr_letter)])
def test_a_letter_leads_to_its_partition(scheme: str, raw: object) -> None:
    partition = windows_guest(firmware="uefi" if scheme == "gpt" else "bios").disks[0].table.partitions[-1]
    assert letters("\\DosDevices\\C:", raw(partition), scheme) == [DriveLetter("C:", 0, partition.number)]  # type: ignore[operator]


@pytest.mark.parametrize("length", [8, 16, 23, 25])
def test_a_guid_that_is_cut_off_or_too_long_leads_nowhere(length: int) -> None:
    assert letters("\\DosDevices\\E:", (b"DMIO:ID:" + bytes(17))[:length]) == [DriveLetter("E:")]


@pytest.mark.parametrize(("raw", "why"), [(b"DMIO:ID:" + bytes(16), "GUID 00000000"), (bytes(12), "signature 0x00000000")])
def test_a_letter_of_what_is_not_here(raw: bytes, why: str) -> None:
    (found,) = letters("\\DosDevices\\E:", raw)
    assert found.disk is None and found.missing is not None and why in found.missing


@pytest.mark.parametrize("device", ["\\??\\IDE#CdRom", "\\??\\FDC#G_1", "\\??\\A"])
def test_a_drive_without_a_partition_is_not_missing(device: str) -> None:
    assert letters("\\DosDevices\\D:", device.encode("utf-16-le")) == [DriveLetter("D:")]


@pytest.mark.parametrize("name", ["\\??\\Volume{0b5d0f3e}", "\\DosDevices\\CC", "\\DosDevices\\AB:", "\\DosDevices\\C:x", "\\DosDevices\\", "\\DosDevices\\:", "\\Other\\C:"])
def test_what_is_no_letter(name: str) -> None:
    assert letters(name, bytes(12)) == []


def test_every_letter_is_looked_at_and_what_is_none_hides_no_other() -> None:
    text = "".join(f'"{name}"=hex:00\n' for name in ("\\\\DosDevices\\\\AB", "\\\\DosDevices\\\\C:", "#x", "\\\\dosdevices\\\\d:"))
    assert [found.name for found in drive_letters(windows_guest(f"[MountedDevices]\n{text}"))] == ["C:", "d:"]
    assert list(drive_letters(windows_guest())) == []
