"""`h2k report`: the record that tells how the guest is, what it is worth now, and newer runs that were kept out."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from h2k.cli.main import main
from h2k.engine import records
from tests.unit.made_pages import guest_record

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
WORDS = {0: "READY", 1: "FAILED", 3: "REFUSED", 4: "NOT READY", 5: "NOT VERIFIED"}


class Guest:
    """A report directory with one disk; each run leaves a record."""

    def __init__(self, place: Path) -> None:
        self.state, self.disk = place / "g.h2k", place / "g.raw"
        self.disk.write_bytes(b"x" * 512)

    def ran(self, command: str, status: int = 0, disks: bool = True, **more: Any) -> None:
        started = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
        content = {
            **records.origin(f"h2k {command}", [command, "g.h2k"], started),
            "source": "", "status": status, "word": WORDS.get(status, "?"), "verdict": f"how {command} ended", "next": [], "accepted": [],
            "guest": {}, "findings": [], "changes": [], "settings": [], "files": {}, "timings": [], "versions": records.own_version(),
            "virtio_win": "", "disks": records.disks_now([(self.disk, "raw")]) if disks else [], **more,
        }  # fmt: skip
        records.keep(self.state, content)


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def reported(guest: Guest, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    status = main(["report", str(guest.state), "--json"])
    content = json.loads(capsys.readouterr().out)
    jsonschema.validate(content, json.loads((SCHEMAS / "record.json").read_text()))
    assert isinstance(content, dict)
    return {**content, "exit": status}


def test_a_guest_that_was_booted_is_ready_and_may_write(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix")
    guest.ran("boot", word="BOOTED", boot={"stage": "production"})
    found = reported(guest, capsys)
    assert (found["exit"], found["word"], found["standing"]["state"]) == (0, "BOOTED", "stands")
    guest.disk.write_bytes(b"y" * 1024)
    found = reported(guest, capsys)
    assert (found["exit"], found["word"], found["standing"]["state"]) == (0, "BOOTED", "in production")
    assert found["verdict"] == f"how boot ended; since then: {guest.disk} was written since, as a guest that runs does"


@pytest.mark.parametrize("command", ["boot", "rollback", "fix", "domains"])
def test_a_run_that_was_kept_out_is_told_in_a_line(command: str, guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix")
    guest.ran(command, 3, disks=False, verdict="the name 'g' is taken")
    assert main(["report", str(guest.state)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("h2k: READY: how fix ended")
    assert f"  newer:     h2k {command} g.h2k: REFUSED: the name 'g' is taken" in lines
    found = reported(guest, capsys)
    assert (found["exit"], found["run"], found["newer"]["run"], found["newer"]["status"]) == (0, 1, 2, 3)
    guest.disk.write_bytes(b"y" * 1024)
    found = reported(guest, capsys)
    assert (found["exit"], found["word"], found["standing"]["state"]) == (4, "READY, CHANGED SINCE", "changed since")


@pytest.mark.parametrize(("command", "status"), [("boot", 5), ("boot", 1), ("fix", 5), ("rollback", 0)])
def test_a_run_that_looked_at_the_disks_is_shown(command: str, status: int, guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix")
    guest.ran(command, status)
    found = reported(guest, capsys)
    assert (found["exit"], found["command"]) == (status, f"h2k {command}") and "newer" not in found


def test_where_every_run_was_kept_out_the_last_is_shown(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix", 3)
    guest.ran("fix", 3, verdict="g.raw: in use")
    found = reported(guest, capsys)
    assert (found["exit"], found["run"], found["verdict"]) == (3, 2, "g.raw: in use") and "newer" not in found


def test_the_history_marks_the_run_that_tells_how_the_guest_is(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix")
    guest.ran("boot", 3)
    assert main(["report", str(guest.state), "--history"]) == 0
    fixed, booted = capsys.readouterr().out.splitlines()
    assert fixed.endswith("h2k fix g.h2k  [stands]") and booted.endswith("h2k boot g.h2k")


@pytest.mark.parametrize("change", [{"disks": ["g.raw"]}, {"status": "0"}, {"details": 7, "verdict": None}])
def test_a_record_that_makes_no_sense_is_no_traceback(change: dict[str, Any], guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.ran("fix", **change)
    assert main(["report", str(guest.state), "--json"]) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["guest", "findings", "timings", "files", "next", "details", "word", "argv", "settings", "changes"])
@pytest.mark.parametrize("value", [7, None, "x", [7], [None], {"a": 1}, True])
@pytest.mark.parametrize("more", [[], ["--json"], ["--history"], ["--html", "page.html"]])
def test_a_record_that_somebody_made_is_a_line_at_most(
    key: str, value: Any, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NAME.h2k may have come with the disks."""
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "g.h2k"
    state.mkdir(mode=0o711)
    (state / "report.json").write_text(json.dumps({**guest_record(), key: value}))
    assert main(["report", str(state), *more]) in (0, 3, 4)
    seen = capsys.readouterr()
    assert "Traceback" not in seen.err and "h2k itself failed" not in seen.err and len(seen.err.splitlines()) <= 1
