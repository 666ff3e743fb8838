"""The one read-only interface to the disks of a guest, and what its two readers share."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Callable, Optional, Protocol

from h2k.base.errors import BadData
from h2k.disk.image import ImageInfo
from h2k.disk.ntfs import NtfsVolumeState, volume_state
from h2k.disk.partition import PartitionTable, ReadAt, read_table

log = logging.getLogger("h2k.reader")

MAX_ENTRIES = 200_000  # of one directory; a full WinSxS has some 30,000
TOTAL_LIMIT = 600.0  # seconds for one whole request; the direct reader's child ends itself a little later
FILE_SYSTEMS = ("ntfs", "fat", "iso9660")


@dataclasses.dataclass(frozen=True)
class VolumeRef:
    """A volume by disk index (from 0) and partition number (from 1; 0 is the whole disk)."""

    disk: int
    partition: int


@dataclasses.dataclass(frozen=True)
class Volume:
    """A volume: where it lies (bytes) and its kind, "ntfs", "fat", "iso9660", "bitlocker" or "other"."""

    ref: VolumeRef
    start: int
    size: int
    kind: str
    serial: str


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk of the guest with its partition table and volumes."""

    index: int
    info: ImageInfo
    table: PartitionTable
    volumes: tuple[Volume, ...]


@dataclasses.dataclass(frozen=True)
class FileStat:
    """A file: its path as the disk spells it, its size in bytes, and why it can't be read, if it can't.

    The size is 0 for a directory and for what can't be read (a link, a WOF-compressed or an encrypted file). A path
    that leads through a link has a FileStat that says so: what it names is neither known to be there nor missing.
    """

    path: str
    size: int
    directory: bool
    readable: bool = True
    why: str = ""


class ReaderEnded(BadData):
    """The reader itself crashed, hung or answered nonsense: what it was asked for may be whole."""


class Reader(Protocol):
    """Bytes and files of a guest's disks; paths are case-insensitive, with '/' or '\\' between components."""

    disks: tuple[Disk, ...]
    how: str
    failure: str  # what ended the reader, "" while it answers: from then on what hooks find is no guest's

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        """The file or directory, or None."""

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        """The whole file; BadData when it is missing, unreadable or larger than `limit` bytes."""

    def read_range(self, ref: VolumeRef, path: str, offset: int, length: int) -> bytes:
        """Some bytes of the file, fewer at its end; BadData when it is missing or unreadable."""

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        """The first bytes of the file."""

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        """The entries of a directory, sorted by path; BadData when it is none. stat alone tells encrypted files."""

    def ntfs_state(self, ref: VolumeRef) -> NtfsVolumeState:
        """Whether the NTFS volume was left in order."""

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        """Bytes of a disk."""

    def close(self) -> None:
        """End the processes behind the reader."""

    def __enter__(self) -> Reader:
        """Readers are context managers."""

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Close."""


class WholeReader(ABC):
    """What both readers do alike, over what each answers in its own way."""

    disks: tuple[Disk, ...]
    failure = ""

    @abstractmethod
    def _content(self, ref: VolumeRef, path: str, limit: Optional[int], length: int, offset: int = 0) -> bytes:
        """Up to `length` bytes of a file from `offset`; BadData when it is larger than `limit` bytes."""

    @abstractmethod
    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        """Bytes of a disk."""

    @abstractmethod
    def close(self) -> None:
        """End the processes behind the reader."""

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        """The whole file."""
        return self._content(ref, path, limit, limit)

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        """The first bytes of the file."""
        return self._content(ref, path, None, length)

    def read_range(self, ref: VolumeRef, path: str, offset: int, length: int) -> bytes:
        """Some bytes of the file."""
        return self._content(ref, path, None, length, offset)

    def ntfs_state(self, ref: VolumeRef) -> NtfsVolumeState:
        """Whether the NTFS volume was left in order."""
        volume = find_volume(self.disks, ref, ("ntfs",))
        return volume_state(lambda at, n: self.read_at(ref.disk, at, n), volume.start, place(self.disks, ref))

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def components(path: str) -> list[str]:
    """The components of a guest path; BadData for one that no Windows path can be."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if len(parts) > 64 or any(part in (".", "..") or "\0" in part for part in parts):
        raise BadData(f"{path[:80]!r}: not a path inside a volume")
    return parts


def fold(name: str) -> str:
    """The name as Windows compares it: in upper case, each character for itself (NTFS's $UpCase maps no ß to SS)."""
    return name.upper() if name.isascii() else "".join(map(_upper, name))


@lru_cache(maxsize=4096)
def _upper(character: str) -> str:
    upper = character.upper()
    return upper if len(upper) == 1 and upper.lower() == character else character


def choose(name: str, candidates: Sequence[str]) -> Optional[str]:
    """Which of the names that fold alike is meant: the one spelt the same, else the first."""
    if name in candidates:
        return name
    return min(candidates) if candidates else None


def behind_link(parts: Sequence[str], link: str) -> FileStat:
    """What stat answers for a path that leads through a link."""
    return FileStat("/" + "/".join(parts), 0, False, False, f"it lies behind {link}, a link, which is not followed")


def check_file(found: Optional[FileStat], path: str, limit: Optional[int]) -> FileStat:
    """The file if it can be read and is no larger than `limit` bytes; BadData otherwise."""
    if found is None or (found.directory and found.readable):
        raise BadData(f"{path}: no such file")
    if not found.readable:
        raise BadData(f"{path}: {found.why}")
    if limit is not None and found.size > limit:
        raise BadData(f"{path}: {found.size} bytes, more than the {limit} that make sense for it")
    return found


def check_directory(found: Optional[FileStat], path: str) -> FileStat:
    """The directory if it can be listed; BadData otherwise."""
    if found is not None and found.directory and found.readable:
        return found
    raise BadData(f"{path}: {found.why if found is not None and found.why else 'no such directory'}")


def read_disk(index: int, info: ImageInfo, read: ReadAt) -> Disk:
    """The disk with its partition table and the kind of each volume; none of a table that can't be read."""
    try:
        table = read_table(read, info.size, str(info.path))
    except BadData as bad:
        return Disk(index, info, PartitionTable("none", "", (), fault=str(bad)), ())
    spans = [(p.number, p.start, p.size) for p in table.partitions] or [(0, 0, info.size)]
    volumes = []
    for number, start, size in spans:
        head = (read(start, 512) if size >= 512 else b"").ljust(512, b"\0")
        kind = volume_kind(head, lambda at=start, n=size: read(at + 32769, 5) if n >= 32774 else b"")  # type: ignore[misc]
        serial = head[72:80].hex() if kind == "ntfs" else ""
        volumes.append(Volume(VolumeRef(index, number), start, size, kind, serial))
    return Disk(index, info, table, tuple(volumes))


def find_volume(disks: Sequence[Disk], ref: VolumeRef, kinds: Sequence[str] = FILE_SYSTEMS) -> Volume:
    """The volume, if it is of one of these kinds; BadData otherwise."""
    for disk in disks:
        for volume in disk.volumes:
            if volume.ref == ref and volume.kind in kinds:
                return volume
    raise BadData(f"{place(disks, ref)}: no {' or '.join(kinds)} file system")


def place(disks: Sequence[Disk], ref: VolumeRef) -> str:
    """How messages name a volume: the image, and the partition if there are any."""
    image = str(disks[ref.disk].info.path) if ref.disk < len(disks) else f"disk {ref.disk}"
    return f"{image}: partition {ref.partition}" if ref.partition else image


def volume_kind(head: bytes, read_iso: Callable[[], bytes]) -> str:
    """The kind of a volume by its first 512 bytes (and, when those say nothing, the ISO 9660 descriptor)."""
    if head[3:11] == b"-FVE-FS-" or (head[3:11] == b"MSWIN4.1" and head[424:428] == bytes.fromhex("3bd66749")):
        return "bitlocker"  # the second form is BitLocker To Go: a FAT boot sector with BitLocker's GUID at 424
    if head[3:11] == b"NTFS    ":
        return "ntfs"
    if head[510:512] == b"\x55\xaa" and (head[54:57] == b"FAT" or head[82:87] == b"FAT32"):
        return "fat"
    return "iso9660" if read_iso() == b"CD001" else "other"
