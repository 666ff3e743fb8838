"""Undo data: what proves a disk, until when a run can have written, how much room a commit takes, firmware variables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import undo
from h2k.disk.blocks import Mark

SIZE = 4096
OLD, NEW, OTHER, ZERO = (list(vars(Mark.of(bytes([n]) * SIZE)).values()) for n in (1, 2, 3, 0))


def disk(now: list[list[str]], monkeypatch: pytest.MonkeyPatch, new: list[list[str]]) -> dict[str, Any]:
    monkeypatch.setattr(undo, "marks", lambda _: undo.as_marks(now))
    return {"path": "/x", "format": "raw", "pieces": [[n * SIZE, SIZE] for n in range(len(new))], "old": [OLD] * len(new), "new": new}


@pytest.mark.parametrize(
    ("now", "new", "proves"),
    [
        ([NEW, OTHER], [NEW, NEW], True), ([OTHER, OTHER], [NEW, NEW], False), ([ZERO, ZERO], [ZERO, NEW], False),
        ([ZERO], [ZERO], False), ([OLD], [OLD], False), ([ZERO, NEW], [ZERO, NEW], True),
    ],
)  # fmt: skip
def test_zeros_and_what_was_there_before_prove_nothing(
    now: list[list[str]], new: list[list[str]], proves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert undo.holds_any(disk(now, monkeypatch, new)) == proves


def test_a_write_after_the_run_can_have_written(tmp_path: Path) -> None:
    image, alive = tmp_path / "g", tmp_path / "alive"
    image.touch()
    known = {"path": str(image), "found": 1, "mtime": 2}
    assert undo.written_after(alive, [known]) is None  # a journal of 0.1: there is no telling
    with undo.beating(alive):
        pass
    assert undo.written_after(alive, [known]) is None
    at = time.time() + undo.LATE + 1
    os.utime(image, (at, at))
    assert undo.written_after(alive, [known]) == str(image)
    assert undo.written_after(alive, [{**known, "mtime": image.stat().st_mtime_ns}]) is None


def test_a_living_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "BEAT", 0.01)
    with undo.beating(tmp_path / "alive"):
        os.utime(tmp_path / "alive", (1, 1))
        deadline = time.monotonic() + 5
        while (tmp_path / "alive").stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "alive").stat().st_mtime > 2


@pytest.mark.parametrize(
    ("pieces", "extents", "bytes_"),
    [
        ([[0, 10]], [[0, 10]], 10), ([[0, 10]], [], 0), ([[5, 10]], [[0, 10]], 5), ([[0, 10], [10, 10]], [[5, 10]], 10),
        ([[0, 4], [8, 4]], [[0, 2], [3, 6]], 4), ([[0, 100]], [[10, 10], [30, 10], [200, 9]], 20),
    ],
)  # fmt: skip
def test_how_much_of_the_pieces_lies_in_the_extents(pieces: list[list[int]], extents: list[list[int]], bytes_: int) -> None:
    assert undo._overlap(pieces, extents) == bytes_


def test_room_is_counted_for_each_file_system(tmp_path: Path) -> None:
    undo.require_room([(tmp_path, 0), (tmp_path, 1)])
    free = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
    with pytest.raises(H2kError, match=r"No space left for the commit.*the disks are what they were.*free some space"):
        undo.require_room([(tmp_path, free // 2), (tmp_path, free // 2)])


@pytest.mark.parametrize("name", ["shadow", "passwd.txt"])
def test_what_could_be_no_firmware_variables(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a name of firmware variables"):
        undo.require_nvram(tmp_path / name)
    (tmp_path / name).write_text("x" * 100)
    with pytest.raises(Refused, match="holds no firmware variables"):
        undo.require_nvram(tmp_path / name)


def test_what_are_firmware_variables(tmp_path: Path) -> None:
    undo.require_nvram(tmp_path / "new_VARS.fd")
    for name, data in (("raw", bytes(40) + b"_FVH" + bytes(50)), ("qcow2", b"QFI\xfb" + bytes(50)), ("fresh", b"")):
        (tmp_path / name).write_bytes(data)
        undo.require_nvram(tmp_path / name)
    (tmp_path / "link.fd").symlink_to(tmp_path / "raw")
    with pytest.raises(Refused, match="a link"):
        undo.require_nvram(tmp_path / "link.fd")
