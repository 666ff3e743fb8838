"""Signs of life: what was written after a run had written for the last time is somebody else's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.disk import alive, alive_keeper, in_use
from h2k.disk.alive import beating, noted, written_after
from tests.unit.made_disks import known, touch


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "g"
    path.write_bytes(b"as the run left it")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def test_a_write_right_after_the_run_is_told(image: Path, file: Path) -> None:
    assert written_after(file, known(image)) is None  # a journal of 0.1: there is no telling
    with beating(file, [str(image)]):
        touch(image, 5)
    assert written_after(file, known(image)) is None
    touch(image, 1e-9)
    assert written_after(file, known(image)) == str(image)


def test_another_file_in_its_place_is_told_whatever_its_time_is(image: Path, file: Path) -> None:
    noted(file, [str(image)])
    before = image.stat()
    assert written_after(file, known(image)) is None
    other = image.with_name("other")
    other.write_bytes(image.read_bytes())
    other.replace(image)
    os.utime(image, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert written_after(file, known(image)) == str(image)


def test_a_longer_file_is_told_whatever_its_time_is(image: Path, file: Path) -> None:
    noted(file, [str(image)])
    before = image.stat()
    os.truncate(image, 100)
    os.utime(image, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert written_after(file, known(image)) == str(image)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", '{"/other": [1, 2, 3]}'])
def test_where_nobody_noted_anything_the_last_sign_of_life_decides(content: str, image: Path, file: Path) -> None:
    file.write_text(content)
    file.chmod(0o600)
    last = file.stat().st_mtime
    for late, told in ((0.0, None), (alive.LATE - 0.1, None), (alive.LATE + 0.1, str(image))):
        os.utime(image, (last + late, last + late))
        assert written_after(file, known(image)) == told
    assert written_after(file, [{"path": str(image), "found": 1, "mtime": image.stat().st_mtime_ns}]) is None
    assert written_after(file, [{"path": str(image), "found": image.stat().st_mtime_ns, "mtime": 1}]) is None


def test_a_living_run_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "BEAT", 0.01)
    with beating(file, []):
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 5
        while file.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 2


def test_a_sign_of_life_is_no_link(image: Path, file: Path) -> None:
    file.symlink_to(file.with_name("elsewhere"))
    with beating(file, [str(image)]):
        assert not file.is_symlink() and file.stat().st_mode & 0o777 == 0o600
    assert not file.with_name("elsewhere").exists()
    with beating(file, [str(image)]):
        file.unlink()  # no reason for a commit to fail
    file.symlink_to(image)
    with pytest.raises(Refused, match="a link"):
        written_after(file, known(image))


def test_who_goes_on_waits_for_the_note(image: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.touch(0o600)
    handle = os.open(file, os.O_RDWR)
    in_use.lock(handle, file)  # as what outlives a killed run has it

    def note(seconds: float) -> None:
        alive_keeper.note(handle, [str(image)])
        os.close(handle)

    monkeypatch.setattr(alive.time, "sleep", note)
    touch(image, 60)
    assert written_after(file, known(image)) is None


def test_a_block_device_has_no_time_stamp_that_tells(file: Path) -> None:
    noted(file, ["/dev/null"])
    assert file.read_bytes() == b"{}"
