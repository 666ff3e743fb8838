"""Blocks of images through qemu-nbd and libnbd: what an overlay holds, digests of it, copies of it, in pieces."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from h2k.base.run import run
from h2k.disk.nbd_server import serving

PIECE = 1024 * 1024  # bytes; the most that is read, copied or digested at once
PAGE = 4096  # bytes; what the page cache writes back as one, so that a torn write mixes no smaller units

Piece = Sequence[int]  # offset and length in bytes


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a piece held: its SHA-256, and a CRC of each of its pages, by which a half-written piece is known."""

    digest: str
    pages: str  # base64 of one little-endian CRC-32 a page

    @staticmethod
    def of(data: bytes) -> Mark:
        """The mark of a piece's bytes."""
        sums = [zlib.crc32(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
        return Mark(hashlib.sha256(data).hexdigest(), base64.b64encode(struct.pack(f"<{len(sums)}I", *sums)).decode())


def torn_between(now: Mark, old: Mark, new: Mark) -> bool:
    """Whether every page of the piece is what one of the two marks says: a write between them was interrupted."""
    pages = [base64.b64decode(mark.pages) for mark in (now, old, new)]
    each = [[pages_of[at : at + 4] for at in range(0, len(pages_of), 4)] for pages_of in pages]
    return len({len(e) for e in each}) == 1 and all(n in (o, w) for n, o, w in zip(*each))


def pieces_of(overlay: Path) -> list[list[int]]:
    """[offset, length] of what a qcow2 overlay holds itself, zeroes included, in pieces of at most PIECE bytes."""
    done = run(["qemu-img", "map", "-f", "qcow2", "--output=json", str(overlay)])
    extents: list[list[int]] = []
    for extent in json.loads(done.stdout):
        if extent["depth"] != 0 or not extent.get("present", extent["data"] or extent["zero"]):
            continue
        if extents and sum(extents[-1]) == extent["start"]:
            extents[-1][1] += extent["length"]
        else:
            extents.append([extent["start"], extent["length"]])
    return [
        [at, min(PIECE, start + length - at)] for start, length in extents for at in range(start, start + length, PIECE)
    ]


def marks_of(path: Path, form: str, pieces: Sequence[Piece]) -> list[Mark]:
    """The marks of the pieces of an image. H2kError when the image is in use or can't be read."""
    if not pieces:
        return []
    with serving(path, form) as image:
        return [Mark.of(image.pread(length, at)) for at, length in pieces]


def copy_pieces(source: Path, source_format: str, target: Path, target_format: str, pieces: Sequence[Piece]) -> list[Mark]:
    """Copy the pieces from one image to another, and return their marks. H2kError, for lack of space too."""
    if not pieces:
        return []
    marks = []
    with serving(source, source_format) as old, serving(target, target_format, write=True) as new:
        for at, length in pieces:
            data = old.pread(length, at)
            new.pwrite(data, at)
            marks.append(Mark.of(data))
    return marks


def sync(path: Path) -> None:
    """Have the file's bytes on the disk; for a directory its entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
