"""What a record is worth now: the disks of this moment decide."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from h2k.engine import records
from h2k.engine.standing import Standing, standing

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


def record(command: str = "h2k fix", status: int = 0, **more: Any) -> dict[str, Any]:
    return {**records.origin(command, ["g.xml"], NOW), "status": status, "changes": [], "settings": [], **more}


def disk(path: Path) -> dict[str, Any]:
    return records.disks_now([(path, "raw")])[0]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 512)
    return path


def test_a_record_stands_while_the_disks_are_as_it_says(image: Path) -> None:
    now = standing(record(disks=[disk(image)]))
    assert (now.state, now.sentence, now.status(0), now.status(3)) == ("stands", "", 0, 3)


def test_somebody_wrote_since(image: Path) -> None:
    known = record(disks=[disk(image)])
    image.write_bytes(b"y" * 513)
    now = standing(known)
    assert now.state == "changed since" and str(image) in now.sentence and now.status(0) == 4
    os.utime(image, ns=(1, 1))
    image.write_bytes(b"x" * 512)
    assert standing(known).state == "changed since", "as large as it was"
    image.unlink()
    assert standing(known) == Standing("gone", f"{image}: No such file or directory")


def test_the_first_disk_that_is_another_is_named(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "data.raw"
    other.write_bytes(b"")
    known = record(disks=[disk(image), disk(other)])
    other.write_bytes(b"x")
    assert str(other) in standing(known).sentence


@pytest.mark.parametrize(
    ("stage", "state", "status"), [("production", "in production", 0), ("kept", "changed since", 4), ("failed", "changed since", 4)]
)
def test_a_guest_that_a_boot_left_running_may_write(stage: str, state: str, status: int, image: Path) -> None:
    known = record("h2k boot", disks=[disk(image)], boot={"stage": stage})
    assert standing(known).state == "stands"
    image.write_bytes(b"y" * 1024)
    now = standing(known)
    assert (now.state, now.status(0)) == (state, status) and str(image) in now.sentence
    image.unlink()
    assert standing(known).state == "gone"


def test_a_ready_record_that_names_no_disks_is_unknown() -> None:
    assert standing(record()).state == "unknown" and standing(record(status=3)).state == "stands"


@pytest.mark.parametrize(
    ("found", "state"),
    [({"disks": []}, "unknown"), ({"disks": None, "status": 3}, "stands"), ({"status": 0}, "unknown"), ({"status": 5}, "stands")],
)
def test_a_record_without_disks(found: dict[str, Any], state: str) -> None:
    now = standing(found)
    assert now.state == state and bool(now.sentence) is (state == "unknown") and now.status(0) == (0 if state == "stands" else 4)


@pytest.mark.parametrize("wrong", [{}, {"bytes": 512}, {"bytes": "512", "mtime": "x"}])
def test_a_disk_of_which_a_record_says_less_has_changed(wrong: dict[str, Any], image: Path) -> None:
    now = standing({"status": 0, "disks": [{"path": str(image), **wrong}]})
    assert now.state == "changed since" and now.status(0) == now.status(3) == 4


def test_a_disk_without_a_path_is_another() -> None:
    assert standing({"status": 0, "disks": [{}]}).state in ("changed since", "gone")
