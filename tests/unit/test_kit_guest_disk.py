"""A disk of a real guest: what the faults ask of a disk reaches the appliance, at the right partition and spelling."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.guests.faults import by_name
from tests.guests.surgery import Surgery
from tests.windows.guest_disk import GuestDisk
from tests.windows.steps import StepFailed

SIZE = 8 << 20


def gpt() -> bytearray:
    """A GPT disk with three partitions: 1 MiB each."""
    disk = bytearray(SIZE)
    disk[512:520] = b"EFI PART"
    struct.pack_into("<QII", disk, 512 + 72, 2, 4, 128)
    for number in range(3):
        struct.pack_into("<QQ", disk, 1024 + 128 * number + 32, 2048 * (number + 1), 2048 * (number + 2) - 1)
    return disk


class Appliance:
    """A libguestfs handle over bytes, whose volumes are dictionaries."""

    def __init__(self) -> None:
        self.disk, self.mounts, self.points = gpt(), {}, set()  # type: ignore[var-annotated]
        self.files = {"/boot/EFI/Boot": ["bootx64.efi"], "/windows/Windows/System32/drivers": ["Partmgr.sys"]}
        self.calls: list[str] = []

    def pread_device(self, device: str, length: int, offset: int) -> bytes:
        return bytes(self.disk[offset : offset + length])

    def pwrite_device(self, device: str, data: bytes, offset: int) -> None:
        self.disk[offset : offset + len(data)] = data

    def blockdev_getsize64(self, device: str) -> int:
        return SIZE

    def mkmountpoint(self, path: str) -> None:
        assert path not in self.points, f"{path} is there already"
        self.points.add(path)

    def rmmountpoint(self, path: str) -> None:
        self.points.remove(path)

    def vfs_type(self, device: str) -> str:
        return {"/dev/sda1": "vfat"}.get(device, "ntfs")

    def mount_vfs(self, options: str, kind: str, device: str, path: str) -> None:
        assert kind == self.vfs_type(device)
        if device in self.mounts:
            raise RuntimeError("already mounted, or hibernated")
        self.mounts[device] = path

    def umount_all(self) -> None:
        self.mounts.clear()

    def case_sensitive_path(self, path: str) -> str:
        return next(known for known in self.files if known.lower() == path.lower())

    def ls(self, path: str) -> list[str]:
        return self.files[path]

    def upload(self, local: str, path: str) -> None:
        self.calls.append(f"upload {path} {Path(local).read_bytes()!r}")

    def download(self, path: str, local: str) -> None:
        Path(local).write_bytes(b"content")

    def rm(self, path: str) -> None:
        self.calls.append(f"rm {path}")

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def disk() -> GuestDisk:
    opened = GuestDisk(Path("guest.qcow2"))
    opened._appliance = Appliance()
    return opened


def test_the_first_partition_and_the_last_are_the_volumes(disk: GuestDisk) -> None:
    disk.volume("boot"), disk.volume("windows")
    assert disk._appliance.mounts == {"/dev/sda1": "/boot", "/dev/sda3": "/windows"}
    assert disk.firmware == "uefi" and disk.size == SIZE


def test_names_are_spelled_as_they_are_on_the_volume_and_new_ones_as_given(disk: GuestDisk) -> None:
    volume = disk.volume("windows")
    volume.put("windows/system32/DRIVERS/PARTMGR.SYS", b"x")
    volume.put("Windows/System32/drivers/new.sys", b"y")
    assert volume.get("Windows/System32/drivers/partmgr.sys") == b"content"
    place = "/windows/Windows/System32/drivers"
    assert disk._appliance.calls == [f"upload {place}/Partmgr.sys b'x'", f"upload {place}/new.sys b'y'"]


def test_a_file_is_removed_and_bytes_are_changed_by_the_matrixs_own_faults(disk: GuestDisk) -> None:
    by_name("uefi-fallback-missing:file").inject(disk)
    disk.flush()
    assert disk._appliance.calls == ["rm /boot/EFI/Boot/bootx64.efi"] and not disk._appliance.mounts
    by_name("esp-type-wrong").inject(disk)
    assert bytes(disk._appliance.disk[512 + 88 : 512 + 92]) != bytes(4), "the table's checksum was not made anew"


def test_a_volume_can_be_taken_again_after_a_flush(disk: GuestDisk) -> None:
    for _ in range(2):
        disk.volume("windows")
        disk.flush()


def test_a_volume_that_can_not_be_written_is_told(disk: GuestDisk) -> None:
    disk._appliance.mounts["/dev/sda3"] = "elsewhere"
    with pytest.raises(StepFailed, match="/dev/sda3 can't be mounted to be written"):
        disk.volume("windows")


@pytest.mark.parametrize(("fails", "calls"), [(False, ["shutdown", "close"]), (True, ["close"])])
def test_nothing_is_flushed_after_a_failure(fails: bool, calls: list[str], disk: GuestDisk) -> None:
    disk.__exit__(*((ValueError, ValueError(), None) if fails else (None, None, None)))
    assert disk._appliance.calls == calls


def test_everything_that_faults_ask_of_a_disk_is_there() -> None:
    public: set[Any] = {name for name in vars(Surgery) if not name.startswith("_")}
    assert {"read", "write", "size", "volume", "flush"} <= public & set(vars(GuestDisk))
