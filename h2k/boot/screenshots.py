"""Screens: libvirt's screenshots read through Pillow, PNG files of them, and whether the picture still changes.

Without Pillow the PNG files that newer QEMU gives are kept unread, and any difference is a change; a PPM of an older one is
no picture then.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import time
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData
from h2k.base.files import write_bytes

MAX_SIDE = 8192  # pixels
# A blinking text cursor changes 18 pixels of 288,000, a clock in a corner a few hundred; a stop screen's per cent
# figure about 1,000. Windows' spinner and any scrolling text change far more from one picture to the next.
STILL_SHARE = 0.001
FORMATS = ("PNG", "PPM")  # what QEMU writes; Pillow knows dozens, and tries no other here
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A screen: `png` the file, `image` Pillow's RGB image of it, None without Pillow."""

    png: bytes = dataclasses.field(repr=False)
    image: Any = dataclasses.field(default=None, repr=False, compare=False)

    def differs(self, other: Picture) -> float:
        """The share of the pixels that differ, 0 to 1; 1 when the sizes do, and without Pillow for any difference."""
        if self.png == other.png:
            return 0.0
        if self.image is None or other.image is None or self.image.size != other.image.size:
            return 1.0
        from PIL import ImageChops

        red, green, blue = ImageChops.difference(self.image, other.image).split()
        counts = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
        return float(sum(counts[1:]) / sum(counts))

    @property
    def blank(self) -> bool:
        """Whether it is of one colour; not known without Pillow."""
        return self.image is not None and all(low == high for low, high in self.image.getextrema())


def can_read() -> bool:
    """Whether Pillow is here."""
    return importlib.util.find_spec("PIL") is not None


def read_shot(data: bytes) -> Picture:
    """A screenshot as QEMU writes it: PNG (since 7.1) or PPM. BadData for anything else."""
    if not can_read():
        if not data.startswith(_PNG):
            raise BadData("the screenshot is no PNG", hint="apt install python3-pil")
        return Picture(data)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as shot:
            if not (0 < shot.width <= MAX_SIDE and 0 < shot.height <= MAX_SIDE):
                raise BadData(f"a screenshot of {shot.width} × {shot.height} pixels")
            image = shot.convert("RGB")
            png = data if shot.format == "PNG" else _as_png(image)
    # What Pillow raises for damaged files is not one class: it names these, and zlib's and struct's come through.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, EOFError, MemoryError, Image.DecompressionBombError) as e:
        raise BadData(f"the screenshot is neither a PNG nor a PPM picture: {e}") from e
    return Picture(png, image)


def _as_png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6)
    return file.getvalue()


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
