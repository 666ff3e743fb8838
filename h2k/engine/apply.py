"""What changes become: backs up what will be replaced, edits copies of the hives, and has a writer write file by file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Optional

from h2k.base.children import temporary_directory
from h2k.base.errors import BadData
from h2k.base.files import own_directory
from h2k.disk.reader import VolumeRef, check_directory, components, find_volume
from h2k.engine.writers import write
from h2k.engine.writing import FileWrite, VolumeWrite, Work
from h2k.guest.changes import Change, ReplayLogs, SetActive, SetPartitionType, WriteFile
from h2k.guest.guest import FILE_LIMIT, Guest, HiveFile
from h2k.windows import hive_edit
from h2k.windows.hive_edit_child import edit_hive_apart


class Backups:
    """Copies of everything a run replaces, readable by their owner alone, with a SHA256SUMS file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, name: str, data: bytes) -> None:
        """Store data as `name` (numbered when another content has that name) and list its checksum."""
        own_directory(self.directory, 0o700)
        target, n = self.directory / name, 1
        while target.exists() and target.read_bytes() != data:
            target, n = self.directory / f"{name}.{n}", n + 1
        if target.exists():
            return
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
        line = f"{hashlib.sha256(data).hexdigest()}  {target.name}\n"
        with open(os.open(self.directory / "SHA256SUMS", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "a") as sums:
            sums.write(line)


def apply(
    overlays: Sequence[Path],
    guest: Guest,
    changes: Sequence[Change],
    backups: Backups,
    writer: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Carry out the changes on qcow2 overlays of the guest's disks, after backing up; the name of the writer that did it.

    Hives are edited by hivex on the host and written into their file, so that NTFS keeps the file's security
    descriptor; the overlay, and not a rename, is what makes the whole atomic. Raises H2kError.
    """
    return write(overlays, work_of(guest, changes, backups), writer, say)


def work_of(guest: Guest, changes: Sequence[Change], backups: Backups) -> Work:
    """What is to be written, file by file, its old content backed up; nothing is written yet."""
    files: dict[VolumeRef, dict[str, FileWrite]] = {}
    for ref, file in _files(guest, changes, backups):
        files.setdefault(ref, {})[file.path] = file
    volumes = tuple(_volume_write(guest, ref, list(found.values())) for ref, found in files.items())
    return Work(tuple(_table_bytes(guest, changes)), volumes)


def _files(guest: Guest, changes: Sequence[Change], backups: Backups) -> Iterator[tuple[VolumeRef, FileWrite]]:
    """Each file to be written, with its new bytes: the plain files, then the edited copies of the hives."""
    registry: dict[str, list[hive_edit.HiveEdit]] = {}
    for change in changes:
        if isinstance(change, WriteFile):
            found = guest.reader.stat(change.volume, change.path)
            old = None
            if found is not None and found.readable:
                old = guest.reader.read(change.volume, change.path, FILE_LIMIT)
                backups.keep(_backup_name(change.path), old)
            yield change.volume, FileWrite(found.path if found else change.path, change.data, old)
        elif not isinstance(change, (SetActive, SetPartitionType)):
            edits = registry.setdefault(change.hive, [])
            if not isinstance(change, ReplayLogs):  # which every edit of that hive builds on
                edits.append(change.edit())
    for name, edits in registry.items():
        where = guest.hive_file(name)
        if where is None:
            raise BadData(f"the {name} hive is missing")
        yield where.volume, FileWrite(where.path, _edited(guest, where, edits, backups), guest.hive_bytes(name))


def _volume_write(guest: Guest, ref: VolumeRef, files: Sequence[FileWrite]) -> VolumeWrite:
    """The files with each directory on their way spelt as the disk spells it, and those that are to be made first."""
    made: dict[str, None] = {}
    placed = []
    for file in files:
        *directories, name = components(file.path)
        here = ""
        for part in directories:
            wanted = next((m for m in made if m.lower() == f"{here}/{part}".lower()), None) or _spelt(guest, ref, f"{here}/{part}")
            here = wanted or f"{here}/{part}"
            if wanted is None:
                made[here] = None
        placed.append(dataclasses.replace(file, path=f"{here}/{name}"))
    return VolumeWrite(find_volume(guest.disks, ref), tuple(made), tuple(placed))


def _spelt(guest: Guest, ref: VolumeRef, path: str) -> Optional[str]:
    """A directory's path as the disk spells it, None where it is not there; BadData for what is none, or a link."""
    found = guest.reader.stat(ref, path)
    return check_directory(found, path).path if found is not None else None


def _backup_name(path: str) -> str:
    """A host file name for a guest path: never a path, only letters that are safe in one."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in path.strip("/"))[-120:]


def _edited(guest: Guest, where: HiveFile, edits: Sequence[hive_edit.HiveEdit], backups: Backups) -> bytes:
    """The hive with its logs applied and the edits made; hive and logs are backed up first."""
    backups.keep(where.name, guest.hive_bytes(where.name))
    for log, data in guest.hive_logs(where.name).items():
        backups.keep(f"{where.name}.{log}", data)
    complete = guest.complete_hive(where.name)
    if not edits:
        return complete
    with temporary_directory("h2k-") as work:
        copy = Path(work) / where.name
        copy.write_bytes(complete)
        edit_hive_apart(copy, edits)
        return copy.read_bytes()


def _table_bytes(guest: Guest, changes: Sequence[Change]) -> Iterator[tuple[int, int, bytes]]:
    """(disk, offset, bytes) of the partition tables."""
    for change in changes:
        if isinstance(change, SetActive):
            yield from _status_bytes(guest, change)
        elif isinstance(change, SetPartitionType):
            yield from ((change.disk, offset, data) for offset, data in change.writes(guest))


def _status_bytes(guest: Guest, change: SetActive) -> Iterator[tuple[int, int, bytes]]:
    """One status byte for each of the MBR's four entries (at 446, 16 bytes apart); nothing else of the table changes."""
    for partition in guest.disks[change.disk].table.partitions:
        wanted = partition.number == change.partition
        if partition.number <= 4 and partition.active != wanted:
            yield change.disk, 446 + 16 * (partition.number - 1), b"\x80" if wanted else b"\0"
