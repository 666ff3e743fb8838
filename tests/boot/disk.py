"""Partitions of a disk image as plain files, so that mtools and ntfscp can work on them without mounting anything."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTOR = 512
CHUNK = 1024 * 1024
ESP = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
Extent = tuple[int, int]


@contextlib.contextmanager
def opened(disk: Path, fmt: str) -> Iterator[Any]:
    """A libnbd handle on the image, which qemu-nbd serves until the block ends."""
    import nbd

    handle = nbd.NBD()
    handle.connect_systemd_socket_activation(["qemu-nbd", "-f", fmt, str(disk)])
    try:
        yield handle
        handle.flush()
    finally:
        handle.shutdown()


def boot_partition(handle: Any, firmware: str) -> Extent:
    """Start and size, in bytes, of the active partition (BIOS) or of the EFI system partition (UEFI)."""
    found = [p for flag, p in (_gpt(handle) if firmware == "uefi" else _mbr(handle)) if flag]
    if len(found) != 1:
        raise ValueError(f"{len(found)} boot partitions for {firmware} on this disk, not one")
    return found[0]


def largest_partition(handle: Any, firmware: str) -> Extent:
    """Start and size, in bytes, of the largest partition: on a made guest, Windows."""
    return max((p for _, p in (_gpt(handle) if firmware == "uefi" else _mbr(handle))), key=lambda p: p[1])


def _mbr(handle: Any) -> list[tuple[bool, Extent]]:
    table = handle.pread(SECTOR, 0)[446:510]
    rows = [struct.unpack_from("<B3xB3xII", table, at) for at in range(0, 64, 16)]
    return [(flag == 0x80, (start * SECTOR, size * SECTOR)) for flag, kind, start, size in rows if kind]


def _gpt(handle: Any) -> list[tuple[bool, Extent]]:
    header = handle.pread(SECTOR, SECTOR)
    start, count, size = struct.unpack_from("<QII", header, 72)
    if header[:8] != b"EFI PART" or count > 1024 or size != 128:
        raise ValueError("no GPT that the lab can read")
    table = handle.pread(count * size, start * SECTOR)
    rows = [struct.unpack_from("<16s16xQQ", table, at) for at in range(0, len(table), size)]
    return [
        (uuid.UUID(bytes_le=kind) == ESP, (first * SECTOR, (last - first + 1) * SECTOR)) for kind, first, last in rows if any(kind)
    ]


@contextlib.contextmanager
def as_file(handle: Any, extent: Extent, path: Path) -> Iterator[Path]:
    """The partition as the sparse file `path`; what the block changes in it is written back, and the file removed."""
    start, size = extent
    before: dict[int, bytes] = {}
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size, CHUNK):
            data = bytes(handle.pread(min(CHUNK, size - at), start + at))
            if data.count(0) != len(data):
                before[at] = data
                file.seek(at)
                file.write(data)
    yield path
    with open(path, "rb") as file:
        for at in range(0, size, CHUNK):
            data = file.read(min(CHUNK, size - at))
            if data != before.get(at, bytes(len(data))):
                handle.pwrite(data, start + at)
    path.unlink()


def read_windows_file(disk: Path, fmt: str, firmware: str, workdir: Path, path: str) -> bytes:
    """A file of a made guest's Windows volume, through ntfscat; CalledProcessError when it is missing."""
    with opened(disk, fmt) as handle, as_file(handle, largest_partition(handle, firmware), workdir / "windows.raw") as volume:
        done = subprocess.run(["ntfscat", "-f", str(volume), path], check=True, capture_output=True)
    return done.stdout


def write_windows_file(disk: Path, fmt: str, firmware: str, workdir: Path, path: str, data: bytes) -> None:
    """Replaces a file of a made guest's Windows volume, or makes it in a directory that is there, through ntfscp."""
    with opened(disk, fmt) as handle:
        write_file(handle, largest_partition(handle, firmware), workdir, path, data)


def write_file(handle: Any, extent: Extent, workdir: Path, path: str, data: bytes) -> None:
    """The same on the NTFS volume of this extent."""
    source = workdir / "file.raw"
    source.write_bytes(data)
    with as_file(handle, extent, workdir / "volume.raw") as volume:
        subprocess.run(["ntfscp", "-f", "-q", str(volume), str(source), path], check=True, capture_output=True)
    source.unlink()
