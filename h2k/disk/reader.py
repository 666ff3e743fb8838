"""One read-only interface to the disks of a guest; the direct reader behind it, libguestfs where that one can't."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional, Protocol

from h2k.disk.image import ImageInfo, probe
from h2k.disk.partition import PartitionTable
from h2k.errors import BadData, H2kError

log = logging.getLogger("h2k.reader")


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
    """A file: its path as the disk spells it, its size in bytes, and why it can't be read, if it can't."""

    path: str
    size: int
    directory: bool
    readable: bool = True
    why: str = ""


@dataclasses.dataclass(frozen=True)
class NtfsState:
    """$Volume's dirty flag, whether $LogFile has open transactions, and the NTFS version."""

    dirty: bool
    log_unclean: bool
    version: str


class Reader(Protocol):
    """Bytes and files of a guest's disks; paths are case-insensitive, with '/' or '\\' between components."""

    disks: tuple[Disk, ...]
    how: str

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        """The file or directory, or None."""

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        """The whole file; BadData when it is missing, unreadable or larger than `limit` bytes."""

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        """The first bytes of the file."""

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        """The entries of a directory; BadData when it is none."""

    def ntfs_state(self, ref: VolumeRef) -> NtfsState:
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


def components(path: str) -> list[str]:
    """The components of a guest path; BadData for one that no Windows path can be."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if len(parts) > 64 or any(part in (".", "..") or "\0" in part for part in parts):
        raise BadData(f"{path[:80]!r}: not a path inside a volume")
    return parts


def volume_kind(head: bytes, read_iso: Callable[[], bytes]) -> str:
    """The kind of a volume by its first 512 bytes (and, when those say nothing, the ISO 9660 descriptor)."""
    if head[3:11] == b"-FVE-FS-" or (head[3:11] == b"MSWIN4.1" and head[424:428] == bytes.fromhex("3bd66749")):
        return "bitlocker"  # the second form is BitLocker To Go: a FAT boot sector with BitLocker's GUID at 424
    if head[3:11] == b"NTFS    ":
        return "ntfs"
    if head[510:512] == b"\x55\xaa" and (head[54:57] == b"FAT" or head[82:87] == b"FAT32"):
        return "fat"
    return "iso9660" if read_iso() == b"CD001" else "other"


def open_reader(images: Sequence[tuple[Path, Optional[str]]], prefer: str = "direct") -> Reader:
    """Open (path, format or None) images read-only. The direct reader needs libnbd and The Sleuth Kit; where
    they are missing, or with H2K_READER=libguestfs, libguestfs reads. Refused for an image that can't be opened."""
    infos = [probe(path, form) for path, form in images]
    if os.environ.get("H2K_READER", prefer) == "direct":
        from h2k.disk.direct import DirectReader, available

        if available():
            return DirectReader(infos)
        log.warning("libnbd or The Sleuth Kit is not installed: reading through libguestfs")
    try:
        from h2k.disk.appliance import ApplianceReader
    except ImportError as e:
        raise H2kError("neither libnbd with pytsk3 nor guestfs is installed", hint="see h2k doctor") from e
    return ApplianceReader(infos)
