"""Screens: what libvirt's screenshots hold, PNG files of them, and whether the picture still changes."""

from __future__ import annotations

import dataclasses
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Optional

from h2k.base.errors import BadData
from h2k.base.files import write_bytes

MAX_SIDE = 8192  # pixels
# A blinking text cursor changes 18 pixels of 288,000, a clock in a corner a few hundred; a stop screen's per cent
# figure about 1,000. Windows' spinner and any scrolling text change far more from one picture to the next.
STILL_SHARE = 0.001
_PPM = re.compile(rb"P6\s(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s", re.DOTALL)
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by PNG's colour type; palettes are not what screens are saved as


@dataclasses.dataclass(frozen=True)
class Picture:
    """A screen: `lines` are its rows as PNG has them before compression, each with its filter byte; `png` the file.

    To be compared they need not be unfiltered: equal rows stay equal, and a small change stays small.
    """

    width: int
    height: int
    lines: bytes = dataclasses.field(repr=False)
    png: bytes = dataclasses.field(repr=False)

    def differs(self, other: Picture) -> float:
        """The share of the picture's bytes that differ, 0 to 1; 1 when the sizes do."""
        if len(self.lines) != len(other.lines) or self.width != other.width:
            return 1.0
        if self.lines == other.lines:
            return 0.0
        apart = int.from_bytes(self.lines, "big") ^ int.from_bytes(other.lines, "big")
        size = len(self.lines)
        return 1 - apart.to_bytes(size, "big").count(0) / size

    @property
    def blank(self) -> bool:
        """Whether nothing is on it: no more than the first row differs from the others."""
        row = len(self.lines) // self.height
        return self.lines[row:] == self.lines[row : 2 * row] * (self.height - 1)


def read_shot(data: bytes) -> Picture:
    """A screenshot as QEMU writes it: PNG (since 7.1) or PPM. BadData for anything else."""
    return _read_png(data) if data.startswith(_PNG) else _read_ppm(data)


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise BadData(f"a screenshot of {width} × {height} pixels")


def _read_ppm(data: bytes) -> Picture:
    header = _PPM.match(data[:4096])
    if header is None:
        raise BadData("the screenshot is neither a PNG nor a PPM picture")
    width, height = int(header[1]), int(header[2])
    _check_size(width, height)
    pixels = data[header.end() : header.end() + width * height * 3]
    if len(pixels) != width * height * 3:
        raise BadData(f"the screenshot of {width} × {height} pixels is cut off")
    row = width * 3
    lines = b"".join(b"\0" + pixels[at : at + row] for at in range(0, row * height, row))
    return Picture(width, height, lines, _as_png(width, height, lines))


def _as_png(width: int, height: int, lines: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _read_png(data: bytes) -> Picture:
    """A PNG of 8 bits a channel, not interlaced, without a palette."""
    header, packed, at = b"", [], len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        if len(content) != length or data[at + 8 + length : at + 12 + length] != struct.pack(">I", zlib.crc32(kind + content)):
            raise BadData(f"the screenshot's {kind!r} chunk is damaged")
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
        at += 12 + length
    if len(header) != 13:
        raise BadData("the screenshot is a PNG without a header")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    _check_size(width, height)
    if depth != 8 or interlace or colour not in _CHANNELS:
        raise BadData(f"the screenshot is a PNG of {depth} bits and colour type {colour}")
    size = height * (1 + width * _CHANNELS[colour])
    try:
        lines = zlib.decompressobj().decompress(b"".join(packed), size + 1)
    except zlib.error as e:
        raise BadData(f"the screenshot is a damaged PNG: {e}") from e
    if len(lines) != size:
        raise BadData(f"the screenshot of {width} × {height} pixels is cut off")
    return Picture(width, height, lines, data)


class Screens:
    """The screenshots of one phase: NAME-first.png is the first that shows anything, NAME-last.png the newest."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.last: Optional[Picture] = None
        self._reference: Optional[Picture] = None
        self._changed: Optional[float] = None

    def take(self, shot: Optional[bytes], now: Optional[float] = None) -> None:
        """Keep a screenshot as libvirt gave it; one that is missing or unreadable is passed over."""
        try:
            picture = read_shot(shot) if shot is not None else None
        except BadData:
            picture = None
        if picture is None:
            return
        at = time.monotonic() if now is None else now
        # Against the last picture that was another one, so that a slow change does not pass as none.
        if self._reference is None or self._reference.differs(picture) > STILL_SHARE:
            self._reference, self._changed = picture, at
        if not picture.blank and not self.path("first").exists():
            write_bytes(self.path("first"), picture.png)
        if self.last is None or self.last.png != picture.png:
            write_bytes(self.path("last"), picture.png)
        self.last = picture

    def still_for(self, now: Optional[float] = None) -> Optional[float]:
        """For how many seconds the picture has not changed but for a cursor; None when there was none."""
        at = time.monotonic() if now is None else now
        return None if self._changed is None else at - self._changed

    def path(self, which: str) -> Path:
        """Where the "first" or "last" screenshot is kept, or the one at the "stop"."""
        return self.directory / f"{self.name}-{which}.png"

    def keep_stop(self) -> None:
        """Keep the newest picture, where there is one, as the one of the stop."""
        if self.last is not None:
            write_bytes(self.path("stop"), self.last.png)
