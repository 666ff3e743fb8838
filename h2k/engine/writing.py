"""What changes, file by file, for either writer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Protocol

from h2k.base.errors import H2kError
from h2k.disk.reader import Volume

BLOCK = 4096  # bytes; files are compared, and written, in such blocks
Piece = tuple[int, int]  # offset and length in bytes


@dataclasses.dataclass(frozen=True)
class FileWrite:
    """The file at `path`, spelt as the disk spells it, gets `data`; `old` is what it holds, None for a file that is new."""

    path: str
    data: bytes = dataclasses.field(repr=False)
    old: Optional[bytes] = dataclasses.field(default=None, repr=False)

    def pieces(self) -> list[Piece]:
        """The parts of `data` that differ from `old`, whole blocks of them."""
        old = self.old or b""
        found: list[Piece] = []
        for at in range(0, len(self.data), BLOCK):
            block = self.data[at : at + BLOCK]
            if block == old[at : at + BLOCK]:
                continue
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + len(block))
            else:
                found.append((at, len(block)))
        return found


@dataclasses.dataclass(frozen=True)
class VolumeWrite:
    """The directories to be made in a volume, each after its parent, and then its files."""

    volume: Volume
    directories: tuple[str, ...]
    files: tuple[FileWrite, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """All that is written for one guest: `bytes` are (disk, offset, bytes) of the partition tables, then the volumes."""

    bytes: tuple[tuple[int, int, bytes], ...]
    volumes: tuple[VolumeWrite, ...]


class Unavailable(Exception):
    """The writer can't work on this host, for the reason given; it has written nothing."""


def not_carried_out(writer: str, why: str) -> H2kError:
    """What a writer raises when it fails in the middle: it has touched its overlays alone."""
    space = "; free some space, then give the same command" if "no space left" in why.lower() else ""
    return H2kError(f"{writer} could not carry out the changes: {why}", hint=f"the image is as it was{space}")


class Writer(Protocol):
    """Carries work out on qcow2 overlays of a guest's disks."""

    name: str

    def write(self, overlays: Sequence[Path], work: Work) -> None:
        """Raises H2kError; Unavailable before anything is written."""
