"""Screens: what libvirt's screenshots hold, PNG files of them, and whether the picture still changes."""

from __future__ import annotations

import dataclasses
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Optional

from h2k.errors import BadData

MAX_SIDE = 8192  # pixels
# A blinking text cursor changes 18 pixels of 288,000, a clock in a corner a few hundred; a stop screen's per cent
# figure about 1,000. Windows' spinner and any scrolling text change far more from one picture to the next.
STILL_SHARE = 0.001
_PPM = re.compile(rb"P6\s(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s", re.DOTALL)
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A screen of 24-bit pixels, row by row."""

    width: int
    height: int
    pixels: bytes = dataclasses.field(repr=False)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        row = self.width * 3
        lines = b"".join(b"\0" + self.pixels[at : at + row] for at in range(0, row * self.height, row))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
        return _PNG + b"".join(_chunk(kind, data) for kind, data in chunks)

    def differs(self, other: Picture) -> float:
        """The share of the picture's bytes that differ, 0 to 1; 1 when the sizes do."""
        if (self.width, self.height) != (other.width, other.height):
            return 1.0
        if self.pixels == other.pixels:
            return 0.0
        apart = int.from_bytes(self.pixels, "big") ^ int.from_bytes(other.pixels, "big")
        size = len(self.pixels)
        return 1 - apart.to_bytes(size, "big").count(0) / size

    @property
    def blank(self) -> bool:
        """Whether it has one colour only: nothing was drawn yet, or the display sleeps."""
        return self.pixels == self.pixels[:3] * (self.width * self.height)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_ppm(data: bytes) -> Picture:
    """A binary PPM of 8 bits a colour (netpbm's P6), as QEMU writes it. BadData for anything else."""
    header = _PPM.match(data[:4096])
    if header is None:
        raise BadData("the screenshot is no PPM picture")
    width, height = int(header[1]), int(header[2])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise BadData(f"a screenshot of {width} × {height} pixels")
    pixels = data[header.end() : header.end() + width * height * 3]
    if len(pixels) != width * height * 3:
        raise BadData(f"the screenshot of {width} × {height} pixels is cut off")
    return Picture(width, height, pixels)


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
            picture = read_ppm(shot) if shot is not None else None
        except BadData:
            picture = None
        if picture is None:
            return
        at = time.monotonic() if now is None else now
        # Against the last picture that was another one, so that a slow change does not pass as none.
        if self._reference is None or self._reference.differs(picture) > STILL_SHARE:
            self._reference, self._changed = picture, at
        if not picture.blank and not self.path("first").exists():
            self.path("first").write_bytes(picture.png())
        if self.last != picture:
            self.path("last").write_bytes(picture.png())
        self.last = picture

    def still_for(self, now: Optional[float] = None) -> Optional[float]:
        """For how many seconds the picture has not changed but for a cursor; None when there was none."""
        at = time.monotonic() if now is None else now
        return None if self._changed is None else at - self._changed

    def path(self, which: str) -> Path:
        """Where the "first" or "last" screenshot is kept, or the one at the "stop"."""
        return self.directory / f"{self.name}-{which}.png"

    def keep_stop(self) -> Optional[Path]:
        """Keep the newest picture as the one of the stop; None when there is none."""
        if self.last is None:
            return None
        self.path("stop").write_bytes(self.last.png())
        return self.path("stop")
