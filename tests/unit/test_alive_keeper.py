"""What outlives a killed run: it notes how the disks stood when nothing of the run could write any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2k.disk import alive_keeper
from h2k.disk.alive import Disk, written_after


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "g"
    path.write_bytes(b"as the run left it")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def known(image: Path) -> list[Disk]:
    """The disk in a journal: found at 1 s, and never written."""
    return [{"path": str(image), "found": 10**9, "mtime": 10**9}]


def touch(image: Path, later: float) -> None:
    at = image.stat().st_mtime_ns + int(later * 1e9)
    os.utime(image, ns=(at, at))


def test_a_note_takes_the_place_of_another(image: Path, file: Path) -> None:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    alive_keeper.note(handle, [str(image), __file__])
    alive_keeper.note(handle, [str(image)])
    os.close(handle)
    touch(image, 1e-9)
    assert written_after(file, known(image)) == str(image)
