"""Screenshots: PPM and PNG read within bounds, the picture that stands still, and damaged input."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path

import pytest

from h2k.base.errors import BadData
from h2k.boot import screenshots
from h2k.boot.screenshots import Picture, Screens, read_shot

Image = pytest.importorskip("PIL.Image")

WIDTH, HEIGHT = 64, 40


def ppm(colour: bytes = b"\x00\x40\x80", spot: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A picture of one colour, `spot` pixels at its end in another."""
    pixels = colour * (width * height - spot) + b"\xff\xff\xff" * spot
    return b"P6\n%d %d\n255\n" % (width, height) + pixels


def decode(png: bytes) -> tuple[int, int, bytes]:
    """Size and pixels of a PNG."""
    with Image.open(io.BytesIO(png)) as image:
        return (*image.size, image.convert("RGB").tobytes())


def test_ppm_becomes_png() -> None:
    picture = read_shot(ppm(spot=3))
    assert decode(picture.png) == (WIDTH, HEIGHT, ppm(spot=3).split(b"255\n", 1)[1])


def test_ppm_with_a_comment() -> None:
    assert decode(read_shot(ppm().replace(b"P6\n", b"P6\n# written by a test\n")).png)[0] == WIDTH


def test_png_is_kept_as_it_is() -> None:
    png = read_shot(ppm()).png
    again = read_shot(png)
    assert again.png == png and again.differs(read_shot(ppm())) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(40),
        b"P6\n0 4\n255\n",
        b"P6\n99999 99999\n255\n",
        b"P6\n9000 1\n255\n" + bytes(27000),
        ppm()[:-1],
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 0xFFFFFFFF, b"IHDR"),
    ],
)
def test_what_is_no_screenshot(data: bytes) -> None:
    with pytest.raises(BadData):
        read_shot(data)


def test_a_png_that_unpacks_to_more_than_it_says() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    header = struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", bomb), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )
    with contextlib.suppress(BadData):
        assert decode(read_shot(data).png)[:2] == (10, 10), "the rest is left packed"


def test_damaged_screenshots_raise_bad_data_alone() -> None:
    rng = random.Random(4)
    for original in (ppm(), read_shot(ppm(spot=9)).png):
        for _ in range(300):
            data = bytearray(original[: rng.randrange(1, len(original) + 1)])
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with contextlib.suppress(BadData):
                assert isinstance(read_shot(bytes(data)), Picture)


def test_a_cursor_is_no_change_and_a_progress_bar_is(tmp_path: Path) -> None:
    screens = Screens(tmp_path, "final")
    assert screens.still_for(0) is None
    for second in range(10):  # a cursor that blinks: one pixel of 2560
        screens.take(ppm(spot=second % 2), now=float(second))
    assert screens.still_for(10.0) == 10.0
    screens.take(ppm(spot=40), now=11.0)
    assert screens.still_for(12.0) == 1.0


def test_a_slow_change_is_a_change(tmp_path: Path) -> None:
    screens = Screens(tmp_path, "final")
    for second in range(30):  # each too small to count alone
        screens.take(ppm(spot=second), now=float(second))
    still = screens.still_for(30.0)
    assert still is not None and still < 5


def test_another_resolution_is_a_change(tmp_path: Path) -> None:
    assert read_shot(ppm()).differs(read_shot(ppm(width=32))) == 1


def test_what_is_kept(tmp_path: Path) -> None:
    screens = Screens(tmp_path, "bootstrap")
    screens.take(None)
    screens.take(b"nonsense")
    screens.keep_stop()
    assert list(tmp_path.iterdir()) == []
    screens.take(ppm(colour=b"\0\0\0"), now=1)  # black: nothing is shown yet
    assert not (tmp_path / "bootstrap-first.png").exists()
    screens.take(ppm(spot=100), now=2)
    screens.take(ppm(spot=200), now=3)
    screens.keep_stop()
    first, last = (decode((tmp_path / f"bootstrap-{which}.png").read_bytes()) for which in ("first", "last"))
    assert first[2].count(b"\xff") == 300 and last[2].count(b"\xff") == 600
    assert (tmp_path / "bootstrap-stop.png").read_bytes() == (tmp_path / "bootstrap-last.png").read_bytes()


def test_without_pillow_the_png_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = read_shot(ppm()).png, read_shot(ppm(spot=1)).png
    monkeypatch.setattr(screenshots, "can_read", lambda: False)
    with pytest.raises(BadData, match="no PNG"):
        read_shot(ppm())
    screens = Screens(tmp_path, "final")
    for second, shot in enumerate((ppm(), one, one)):
        screens.take(shot, now=float(second))
    assert screens.still_for(5.0) == 4.0
    screens.take(other, now=6.0)
    assert screens.still_for(6.0) == 0.0, "any difference is a change"
    assert (tmp_path / "final-first.png").read_bytes() == one and (tmp_path / "final-last.png").read_bytes() == other
