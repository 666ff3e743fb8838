"""Records: a history that no run loses, the newest as report.json, and what each is worth now."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.engine import records
from h2k.engine.standing import standing

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


def record(command: str = "h2k fix", status: int = 0, **more: Any) -> dict[str, Any]:
    return {**records.origin(command, ["g.xml"], NOW), "status": status, "changes": [], "settings": [], **more}


def test_each_run_keeps_its_record(tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    records.keep(place, record(changes=[{"diff": "~ x"}]))
    records.keep(place, record("h2k-v2v", 3))
    assert sorted(p.name for p in (place / "runs").iterdir()) == ["00001-h2k-fix.json", "00002-h2k-v2v.json"]
    assert [r["status"] for r in records.records(place)] == [0, 3]
    assert records.newest(place) == records.records(place)[-1]
    assert json.loads((place / "plan.json").read_text()) == {"changes": [], "settings": []}
    assert (place / "runs" / "00001-h2k-fix.json").stat().st_mode & 0o777 == 0o600


def test_a_report_of_the_first_version_begins_the_history(tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "report.json").write_text('{"status": 0, "verdict": "old"}')
    assert [r["verdict"] for r in records.records(place)] == ["old"]
    records.keep(place, record())
    assert [r.get("verdict") for r in records.records(place)] == ["old", None]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"status": "0"}', "[" * 100_000, '"x"', "\x00"])
def test_what_is_no_record_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UsageError, match=r"report\.json") as error:
        records.newest(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_record_hides_no_other(tmp_path: Path) -> None:
    records.keep(tmp_path / "g.h2k", record())
    (tmp_path / "g.h2k" / "runs" / "00002-h2k-fix.json").write_text("{")
    (tmp_path / "g.h2k" / "runs" / "notes.txt").write_text("mine")
    assert len(records.records(tmp_path / "g.h2k")) == 1 and records.next_number(tmp_path / "g.h2k") == 3


def test_a_place_that_can_not_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "g.h2k").write_text("a file")
    with pytest.raises(H2kError):
        records.keep(tmp_path / "g.h2k", record())


def test_command_lines_are_kept_without_secrets() -> None:
    kept = records.origin("h2k-v2v", ["-ic", "esx://root:pw@host/x", "-oo", "rhv-password=hunter2", "g"], NOW)
    assert "pw@" not in json.dumps(kept) and "hunter2" not in json.dumps(kept) and kept["argv"][-1] == "g"
    assert records.command_line({"command": "h2k fix", "argv": ["fix", "my guest.xml"]}) == "h2k fix 'my guest.xml'"


# Whether the guest is ready, after boots and the way back


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        ([record()], 0),
        ([record(), record("h2k boot", 5)], 0),
        ([record(), record("h2k boot", 0), record("h2k rollback", 0, rollback={"kind": "boot"})], 0),
        ([record(), record("h2k boot", 5), record("h2k rollback", 0, rollback={"kind": "unfinished boot"})], 0),
        ([record(), record("h2k rollback", 0, rollback={"kind": "fix"})], 4),
        ([record(), record("h2k rollback", 3)], 0),
        ([record(), record("h2k-v2v", 3, findings=[{"state": "refused"}])], 3),
        ([record(), record("h2k fix", 3)], 0),  # rights, say: nothing is said of the guest
        ([record(), record("h2k fix", 3, findings=[{"id": "source-running", "state": "refused"}])], 0),
        ([record("h2k boot", 5)], None),
    ],
)
def test_the_record_that_says_whether_a_guest_is_ready(tmp_path: Path, runs: list[dict[str, Any]], status: Any) -> None:
    for one in runs:
        records.keep(tmp_path / "g.h2k", dict(one))
    found = records.ready_record(tmp_path / "g.h2k")
    assert (found["status"] if found is not None else None) == status


# What a record is worth now


def disk(path: Path) -> dict[str, Any]:
    return records.disks_now([(path, "raw")])[0]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 512)
    return path


def test_a_record_stands_while_the_disks_are_as_it_says(image: Path) -> None:
    now = standing([record(disks=[disk(image)])])
    assert (now.state, now.sentence, now.status(0), now.status(3)) == ("stands", "", 0, 3)


def test_somebody_wrote_since(image: Path) -> None:
    history = [record(disks=[disk(image)])]
    image.write_bytes(b"y" * 513)
    now = standing(history)
    assert now.state == "changed since" and str(image) in now.sentence and now.status(0) == 4
    image.unlink()
    assert standing(history).state == "gone"


def test_rolled_back_and_superseded(image: Path) -> None:
    first = record(disks=[disk(image)], changes=[{"diff": "x"}], run=1)
    back = record("h2k rollback", run=2, disks=[disk(image)])
    assert standing([first, back], 0).state == "rolled back"
    assert standing([first, record(changes=[{"diff": "y"}], run=2)], 0).state == "superseded"
    assert standing([first, record("h2k rollback", 3)], 0).state == "stands"
    assert standing([first, record()], 0).state == "stands"


def test_a_ready_record_that_names_no_disks_is_unknown() -> None:
    assert standing([record()]).state == "unknown" and standing([record(status=3)]).state == "stands"
