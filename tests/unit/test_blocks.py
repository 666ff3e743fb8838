"""Blocks of images: which pieces an overlay holds, and the marks by which a disk is known again."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.disk import blocks
from h2k.disk.blocks import PAGE, PIECE, Mark, copy_pieces, marks_of, pieces_of, sync, torn_between

OLD, NEW = b"\x11" * PIECE, b"\x22" * PIECE


def extent(start: int, length: int, depth: int = 0, **more: Any) -> dict[str, Any]:
    return {"start": start, "length": length, "depth": depth, "data": True, "zero": False, **more}


def pieces(extents: list[dict[str, Any]], patch: pytest.MonkeyPatch) -> list[list[int]]:
    patch.setattr(blocks, "run", lambda argv: SimpleNamespace(stdout=json.dumps(extents).encode()))
    return pieces_of(Path("/overlay"))


@pytest.mark.parametrize(
    ("extents", "wanted"),
    [
        ([], []),
        ([extent(0, 4), extent(4, 4), extent(8, 4)], [[0, 12]]),
        ([extent(0, 4), extent(8, 4), extent(20, 4), extent(24, 4)], [[0, 4], [8, 4], [20, 8]]),
        ([extent(0, 4), extent(4, 4, 1), extent(8, 4)], [[0, 4], [8, 4]]),
        ([extent(0, 4, present=False), extent(4, 4, present=True)], [[4, 4]]),
        ([extent(0, 4, data=False), extent(4, 4, data=False, zero=True)], [[4, 4]]),
        ([extent(0, 4, data=False, zero=True, present=False)], []),
        ([extent(5, 2 * PIECE + 3)], [[5, PIECE], [5 + PIECE, PIECE], [5 + 2 * PIECE, 3]]),
        ([extent(7, PIECE)], [[7, PIECE]]),
        ([extent(0, 4096), extent(4096, 4096)], [[0, 8192]]),
    ],
)  # fmt: skip
def test_what_an_overlay_holds_itself(extents: list[dict[str, Any]], wanted: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert pieces(extents, monkeypatch) == wanted


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool, bytearray]]:
    """The images that were served, with their content."""
    found: list[tuple[str, str, bool, bytearray]] = []

    @contextmanager
    def serving(path: Path, form: str, write: bool = False) -> Iterator[Any]:
        content = bytearray(bytes(range(100, 110)) if path.name == "source" else bytes(10))
        found.append((path.name, form, write, content))

        def put(data: bytes, at: int) -> None:
            content[at : at + len(data)] = data

        yield SimpleNamespace(pread=lambda length, at: bytes(content[at : at + length]), pwrite=put)

    monkeypatch.setattr(blocks, "serving", serving)
    return found


def test_the_marks_of_an_image(opened: list[Any]) -> None:
    assert marks_of(Path("source"), "vmdk", []) == [] == opened
    assert marks_of(Path("source"), "vmdk", [[1, 2], [9, 1]]) == [Mark.of(b"ef"), Mark.of(b"m")]
    assert [image[:3] for image in opened] == [("source", "vmdk", False)]


def test_a_copy_writes_to_the_target_alone_and_returns_the_marks(opened: list[Any]) -> None:
    assert copy_pieces(Path("source"), "raw", Path("target"), "qcow2", []) == [] == opened
    assert copy_pieces(Path("source"), "raw", Path("target"), "qcow2", [[1, 2], [9, 1]]) == [Mark.of(b"ef"), Mark.of(b"m")]
    assert opened == [
        ("source", "raw", False, bytearray(b"defghijklm")), ("target", "qcow2", True, bytearray(b"\0ef\0\0\0\0\0\0m")),
    ]  # fmt: skip


def test_files_and_directories_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()
    handles: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: handles.append((handle, os.fstat(handle).st_ino)))
    for path in (tmp_path, tmp_path / "f"):
        sync(path)
    assert [inode for _, inode in handles] == [tmp_path.stat().st_ino, (tmp_path / "f").stat().st_ino]
    for handle, _ in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_a_piece_that_is_partly_new() -> None:
    rng = random.Random(2)
    for _ in range(20):
        pages = [rng.choice((OLD, NEW))[:PAGE] for _ in range(PIECE // PAGE)]
        assert torn_between(Mark.of(b"".join(pages)), Mark.of(OLD), Mark.of(NEW))


def test_every_bit_of_a_page_s_sum_counts() -> None:
    now, old, new = (Mark(name, base64.b64encode(sums).decode()) for name, sums in (("n", b"\1\2\3\4"), ("o", b"\1\2\3\5"), ("w", bytes(4))))
    assert not torn_between(now, old, new) and torn_between(now, new, now)


@pytest.mark.parametrize("at", [0, PAGE - 1, PIECE - 1])
def test_one_strange_byte_makes_a_stranger(at: int) -> None:
    data = bytearray(OLD)
    data[at] ^= 1
    assert not torn_between(Mark.of(bytes(data)), Mark.of(OLD), Mark.of(NEW))


@pytest.mark.parametrize("length", [1, 512, PAGE + 1])
def test_the_last_piece_may_be_short(length: int) -> None:
    assert torn_between(Mark.of(NEW[:length]), Mark.of(OLD[:length]), Mark.of(NEW[:length]))
    assert not torn_between(Mark.of(NEW[:length]), Mark.of(OLD), Mark.of(NEW))
