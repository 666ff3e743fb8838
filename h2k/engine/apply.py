"""Carries changes out on an overlay: backs up what will change, edits copies of the hives, one libguestfs session."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2k.base.children import temporary_directory
from h2k.base.errors import BadData, H2kError
from h2k.base.host import guestfs_settings
from h2k.disk.reader import VolumeRef
from h2k.guest.changes import Change, ReplayLogs, SetActive, WriteFile
from h2k.guest.guest import FILE_LIMIT, Guest, HiveFile, device
from h2k.windows import hive_edit
from h2k.windows.hive_edit_child import edit_hive_apart


class Backups:
    """Copies of everything a run replaces, readable by their owner alone, with a SHA256SUMS file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, name: str, data: bytes) -> None:
        """Store data as `name` (numbered when another content has that name) and list its checksum."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        target, n = self.directory / name, 1
        while target.exists() and target.read_bytes() != data:
            target, n = self.directory / f"{name}.{n}", n + 1
        if target.exists():
            return
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
        line = f"{hashlib.sha256(data).hexdigest()}  {target.name}\n"
        with open(os.open(self.directory / "SHA256SUMS", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as sums:
            sums.write(line)


def apply(overlays: Sequence[Path], guest: Guest, changes: Sequence[Change], backups: Backups) -> None:
    """Carry out the changes on qcow2 overlays of the guest's disks, in one libguestfs session, after backing up.

    Hives are edited by hivex on the host and uploaded over their file, so that NTFS keeps the file's security
    descriptor; the overlay, and not a rename, is what makes the whole atomic. Raises H2kError.
    """
    import guestfs

    guestfs_settings()
    files = _new_contents(guest, changes, backups)
    appliance = guestfs.GuestFS(python_return_dict=True)
    try:
        for overlay in overlays:
            appliance.add_drive_opts(str(overlay), format="qcow2", cachemode="unsafe")
        appliance.launch()
        for change in changes:
            if isinstance(change, SetActive):
                _set_active(appliance, guest, change)
        for volume in dict.fromkeys(volume for volume, _ in files):
            _write_volume(appliance, volume, {path: data for (v, path), data in files.items() if v == volume})
        appliance.shutdown()
    except RuntimeError as e:
        raise H2kError(f"libguestfs could not carry out the changes: {e}", hint="the image is as it was") from e
    finally:
        appliance.close()


def _new_contents(guest: Guest, changes: Sequence[Change], backups: Backups) -> dict[tuple[VolumeRef, str], bytes]:
    """Each file to be written, with its new bytes: edited copies of the hives, then the plain files."""
    contents: dict[tuple[VolumeRef, str], bytes] = {}
    registry: dict[str, list[hive_edit.HiveEdit]] = {}
    for change in changes:
        if isinstance(change, WriteFile):
            old = guest.reader.stat(change.volume, change.path)
            if old is not None and old.readable:
                backups.keep(_backup_name(change.path), guest.reader.read(change.volume, change.path, FILE_LIMIT))
            contents[change.volume, old.path if old else change.path] = change.data
        elif not isinstance(change, SetActive):
            edits = registry.setdefault(change.hive, [])
            if not isinstance(change, ReplayLogs):  # which every edit of that hive builds on
                edits.append(change.edit())
    for name, edits in registry.items():
        where = guest.hive_file(name)
        if where is None:
            raise BadData(f"the {name} hive is missing")
        contents[where.volume, where.path] = _edited(guest, where, edits, backups)
    return contents


def _backup_name(path: str) -> str:
    """A host file name for a guest path: never a path, only letters that are safe in one."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in path.strip("/"))[-120:]


def _edited(guest: Guest, where: HiveFile, edits: Sequence[hive_edit.HiveEdit], backups: Backups) -> bytes:
    """The hive with its logs applied and the edits made; hive and logs are backed up first."""
    backups.keep(where.name, guest.hive_bytes(where.name))
    for log, data in guest.hive_logs(where.name).items():
        backups.keep(f"{where.name}.{log}", data)
    complete = guest.hive_state(where.name).data
    if not edits:
        return complete
    with temporary_directory("h2k-") as work:
        copy = Path(work) / where.name
        copy.write_bytes(complete)
        edit_hive_apart(copy, edits)
        return copy.read_bytes()


def _set_active(appliance: Any, guest: Guest, change: SetActive) -> None:
    """One status byte for each of the MBR's four entries (at 446, 16 bytes apart); nothing else of the table changes."""
    disk = device(VolumeRef(change.disk, 0))
    for partition in guest.disks[change.disk].table.partitions:
        wanted = partition.number == change.partition
        if partition.number <= 4 and partition.active != wanted:
            appliance.pwrite_device(disk, b"\x80" if wanted else b"\0", 446 + 16 * (partition.number - 1))


def _write_volume(appliance: Any, volume: VolumeRef, files: dict[str, bytes]) -> None:
    appliance.mount(device(volume), "/")
    known: dict[str, list[str]] = {}
    with temporary_directory("h2k-") as work:
        for number, (path, data) in enumerate(files.items()):
            local = Path(work) / str(number)
            local.write_bytes(data)
            target = _existing_case(appliance, "/" + path.replace("\\", "/").strip("/"), known)
            appliance.upload(str(local), target)
    appliance.umount("/")


def _existing_case(appliance: Any, path: str, known: dict[str, list[str]]) -> str:
    """The path with each component that exists spelt as the disk spells it; its missing directories are made.

    `known` keeps the listings of one volume: dozens of files go into the same few directories.
    """
    *directories, name = path.strip("/").split("/")
    done = ""
    for part in directories:
        names = _names(appliance, done, known)
        found = next((n for n in names if n.lower() == part.lower()), None)
        if found is None:
            appliance.mkdir(f"{done}/{part}")
            names.append(part)
            known[f"{done}/{part}"] = []
        done += "/" + (found or part)
    return f"{done}/" + next((n for n in _names(appliance, done, known) if n.lower() == name.lower()), name)


def _names(appliance: Any, directory: str, known: dict[str, list[str]]) -> list[str]:
    if directory not in known:
        known[directory] = appliance.ls(directory or "/")
    return known[directory]
