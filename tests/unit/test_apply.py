"""What changes become, file by file: paths as the disk spells them, directories to make, status bytes, backups."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData
from h2k.engine.apply import Backups, work_of
from h2k.engine.writing import FileWrite
from h2k.guest.boot_files import ESP_TYPE
from h2k.guest.changes import SetActive, SetPartitionType, WriteFile
from tests.guests.tables import gpt
from tests.unit.memory_reader import MemoryReader, windows_guest


def written(guest: Any, path: str, data: bytes = b"new") -> WriteFile:
    return WriteFile(guest.volume, path, data, "a test")


def test_paths_are_spelt_as_the_disk_has_them(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/System32/drivers/acpi.sys": b"old"})
    changes = [written(guest, "\\windows\\SYSTEM32\\DRIVERS\\ACPI.SYS"), written(guest, "windows/system32/drivers/viostor.sys")]
    (volume,) = work_of(guest, changes, Backups(tmp_path)).volumes
    assert volume.volume.ref == guest.volume and volume.directories == ()
    assert volume.files == (
        FileWrite("/Windows/System32/drivers/acpi.sys", b"new", b"old"),
        FileWrite("/Windows/System32/drivers/viostor.sys", b"new", None),
    )
    assert [p.read_bytes() for p in tmp_path.glob("*ACPI.SYS")] == [b"old"]


def test_missing_directories_are_made_once_each_after_its_parent(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/Temp/.keep": b""})
    changes = [written(guest, "/ProgramData/h2k/a"), written(guest, "/programdata/H2K/b"), written(guest, "/windows/temp/new/c")]
    (volume,) = work_of(guest, changes, Backups(tmp_path)).volumes
    assert volume.directories == ("/ProgramData", "/ProgramData/h2k", "/Windows/Temp/new")
    assert [f.path for f in volume.files] == ["/ProgramData/h2k/a", "/ProgramData/h2k/b", "/Windows/Temp/new/c"]


def test_the_last_content_of_a_file_counts(tmp_path: Path) -> None:
    guest = windows_guest()
    (volume,) = work_of(guest, [written(guest, "/a", b"1"), written(guest, "/a", b"2")], Backups(tmp_path)).volumes
    assert [f.data for f in volume.files] == [b"2"]


def test_a_file_on_the_way_is_no_directory(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/file": b""})
    with pytest.raises(BadData, match="no such directory"):
        work_of(guest, [written(guest, "/Windows/file/below")], Backups(tmp_path))


def test_the_active_flag_is_a_byte_of_each_entry_that_differs(tmp_path: Path) -> None:
    guest = windows_guest(firmware="bios")
    active = [p.number for p in guest.disks[0].table.partitions if p.active]
    other = next(p.number for p in guest.disks[0].table.partitions if not p.active)
    work = work_of(guest, [SetActive(0, other)], Backups(tmp_path))
    assert work.volumes == ()
    assert set(work.bytes) == {(0, 446 + 16 * (n - 1), b"\0") for n in active} | {(0, 446 + 16 * (other - 1), b"\x80")}


def test_a_partition_s_type_is_written_in_both_copies_of_the_table(tmp_path: Path) -> None:
    guest = windows_guest()
    assert isinstance(guest.reader, MemoryReader)
    size = guest.disks[0].info.size
    pieces = gpt(size, {p.number: (p.start, p.size) for p in guest.disks[0].table.partitions})
    image = {at: bytes(data) for at, data in pieces.items()}

    def read_at(disk: int, offset: int, length: int) -> bytes:
        return image.get(offset, b"").ljust(length, b"\0")[:length]

    guest.reader.read_at = read_at  # type: ignore[method-assign]
    work = work_of(guest, [SetPartitionType(0, 1, ESP_TYPE)], Backups(tmp_path))
    assert work.volumes == () and [(disk, offset) for disk, offset, _ in work.bytes] == [
        (0, 1024), (0, 512), (0, size - 512 - 16384), (0, size - 512),
    ]  # fmt: skip
    assert all(uuid.UUID(ESP_TYPE).bytes_le == data[:16] for _, _, data in work.bytes[::2])
