"""The marks by which a disk is known again: whole pieces, half-written ones, and strangers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.disk.blocks import PAGE, PIECE, Mark, torn_between
from h2k.disk.overlay import DiskSet, RollbackResult

OLD, NEW = b"\x11" * PIECE, b"\x22" * PIECE


def test_a_piece_that_is_partly_new() -> None:
    rng = random.Random(2)
    for _ in range(20):
        pages = [rng.choice((OLD, NEW))[:PAGE] for _ in range(PIECE // PAGE)]
        assert torn_between(Mark.of(b"".join(pages)), Mark.of(OLD), Mark.of(NEW))


@pytest.mark.parametrize("at", [0, PAGE - 1, PIECE - 1])
def test_one_strange_byte_makes_a_stranger(at: int) -> None:
    data = bytearray(OLD)
    data[at] ^= 1
    assert not torn_between(Mark.of(bytes(data)), Mark.of(OLD), Mark.of(NEW))


@pytest.mark.parametrize("length", [1, 512, PAGE + 1])
def test_the_last_piece_may_be_short(length: int) -> None:
    assert torn_between(Mark.of(NEW[:length]), Mark.of(OLD[:length]), Mark.of(NEW[:length]))
    assert not torn_between(Mark.of(NEW[:length]), Mark.of(OLD), Mark.of(NEW))


def test_a_new_directory_is_clean_and_has_nothing_to_roll_back(tmp_path: Path) -> None:
    image = tmp_path / "g-sda"
    image.write_bytes(bytes(4096))
    disks = DiskSet([(image, "raw")], tmp_path / "g.h2k")
    assert (disks.recover(), disks.phase, disks.history) == ("clean", "idle", ())
    with pytest.raises(Refused, match="nothing was committed"):
        disks.rollback()


def test_what_people_read_about_a_rollback() -> None:
    assert str(RollbackResult({"/g-sda": 5}, "boot")) == "rolled back (boot): /g-sda (5 bytes restored)"
