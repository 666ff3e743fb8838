"""Drive letters, as SYSTEM\\MountedDevices has them: which partition each stands for."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Optional

from h2k.disk.partition import Partition
from h2k.guest.guest import Guest

MAX_LETTERS = 1024  # values that are looked at; Windows has 26 letters
_PREFIX = "\\dosdevices\\"


@dataclasses.dataclass(frozen=True)
class DriveLetter:
    """A letter ("C:"). `disk` and `partition` are where it leads, disks counted from 0; `missing` is what it names and
    none of the disks has. All three are None for what names no partition, such as a CD-ROM."""

    name: str
    disk: Optional[int] = None
    partition: Optional[int] = None
    missing: Optional[str] = None


def drive_letters(guest: Guest) -> Iterator[DriveLetter]:
    """The letters, in the order of the hive. A letter is an MBR signature with an offset, or a GPT partition's GUID; both
    stay with the disk when its bus changes."""
    key = guest.system.key("MountedDevices")
    for value in (key.values() if key is not None else ())[:MAX_LETTERS]:
        letter = value.name.rpartition("\\")[2]
        if value.name.lower().startswith(_PREFIX) and len(letter) == 2 and letter[1] == ":":
            yield _resolved(guest, letter, value.raw)


def _resolved(guest: Guest, letter: str, raw: bytes) -> DriveLetter:
    if len(raw) == 12:
        signature, start = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
        for disk in guest.disks:
            if disk.table.scheme == "mbr" and int(disk.table.id, 16) == signature:
                for partition in disk.table.partitions:
                    if partition.start == start:
                        return _found(letter, disk.index, partition)
        return DriveLetter(letter, missing=f"no partition at {start} on a disk with signature {signature:#010x}")
    if len(raw) == 24 and raw[:8] == b"DMIO:ID:":
        guid = str(uuid.UUID(bytes_le=raw[8:])).upper()
        for disk in guest.disks:
            for partition in disk.table.partitions:
                if (partition.guid or "").upper() == guid:
                    return _found(letter, disk.index, partition)
        return DriveLetter(letter, missing=f"no partition with the GUID {guid}")
    return DriveLetter(letter)


def _found(letter: str, disk: int, partition: Partition) -> DriveLetter:
    return DriveLetter(letter, disk, partition.number)
