"""What is written of a file: the blocks that differ from what it held."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.engine import writing
from h2k.engine.writing import FileWrite


def block(letter: str, count: int = 1) -> bytes:
    return letter.encode() * writing.BLOCK * count


@pytest.mark.parametrize(
    ("old", "new", "pieces"),
    [
        (None, b"", []),
        (None, b"new", [(0, 3)]),
        (b"old", b"old", []),
        (b"old!", b"old", [(0, 3)]),  # the last block is another one when it is shorter
        (b"old", b"old!", [(0, 4)]),
        (block("a", 4), block("a") + block("b", 2) + block("a"), [(4096, 8192)]),
        (block("a", 4), block("b") + block("a", 2) + block("b"), [(0, 4096), (12288, 4096)]),
        (block("a", 6), block("b") + block("a") + block("b", 3) + block("a"), [(0, 4096), (8192, 12288)]),
        (block("a", 2), block("a", 2) + b"tail", [(8192, 4)]),
        (block("a", 3), block("a", 2), []),  # the file is cut, which needs no bytes
        (bytes(4096), bytes(8192), [(4096, 4096)]),
    ],
)
def test_a_file_is_written_where_it_differs(old: Any, new: bytes, pieces: list[tuple[int, int]]) -> None:
    assert FileWrite("/a", new, old).pieces() == pieces


def test_what_a_guest_holds_is_not_in_a_log() -> None:
    assert repr(FileWrite("/a", b"secret", b"older secret")) == "FileWrite(path='/a')"
