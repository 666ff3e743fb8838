"""The bytes of an image as they lie in its file: of all of it, of a part, or of the start of what lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from h2k.disk.image_bytes import Part


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    (tmp_path / "g").write_bytes(bytes(range(100)))
    with open(tmp_path / "g", "rb") as found:
        yield found


def test_a_whole_file(file: BinaryIO) -> None:
    part = Part(file)
    assert (part.size, part.known, part.allocated) == (100, 100, os.fstat(file.fileno()).st_blocks * 512)
    assert (part.at(98, 10), part.at(100, 1), part.at(5, 0), part.at(5, -1)) == (b"bc", b"", b"", b"")
    assert part.has(90, 10) and not part.has(90, 11)
    assert part.head(102) == bytes(range(100)) + b"\0\0"


def test_a_part_of_a_file_ends_where_it_ends(file: BinaryIO) -> None:
    part = Part(file, 10, 20)
    assert part.at(0, 2) == b"\x0a\x0b" and part.at(19, 5) == b"\x1d" and part.at(20, 5) == b"", "what follows in the archive is not its own"
    assert Part(file, 90).size == 10


def test_the_start_of_what_lies_elsewhere(file: BinaryIO) -> None:
    part = Part(file, size=1 << 40, known=50)
    assert part.size == 1 << 40 and part.at(49, 5) == b"1" and part.at(50, 5) == b"" and not part.has(50, 1)


def test_a_device_is_as_large_as_it_says() -> None:
    with open("/dev/null", "rb") as device:
        assert Part(device, size=4096).allocated == 4096
