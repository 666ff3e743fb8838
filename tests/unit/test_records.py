"""Records: a history that no run loses, the newest as report.json, and what each is worth now."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import H2kError, Refused, UsageError
from h2k.base.run import CommandFailed
from h2k.engine import records
from tests.unit.helpers import ended

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
        ([record(), record("h2k rollback", 1, rollback={"kind": "fix"})], 4),  # it was taken back, and something failed after that
        ([record(), record("h2k rollback", 1, rollback={"kind": "kept overlay"})], 0),
        ([record(), record("h2k domains", 4)], 4),
    ],
)
def test_the_record_that_says_whether_a_guest_is_ready(tmp_path: Path, runs: list[dict[str, Any]], status: Any) -> None:
    for one in runs:
        records.keep(tmp_path / "g.h2k", dict(one))
    found = records.ready_record(tmp_path / "g.h2k")
    assert (found["status"] if found is not None else None) == status


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        ([record(), record("h2k validate", 5)], 0),
        ([record(), record("h2k rollback", 0, rollback={"kind": "kept overlay"})], 0),
        ([record("h2k rollback", 0, rollback={"kind": "fix"})], None),
        ([record(), record("h2k rollback", 0, rollback="fix")], 4),
        ([record(), record("h2k fix", 3, findings=[{"state": "ok"}, {"state": "warning"}])], 0),
        ([record(), record("h2k fix", 3, findings=[{"state": "ok"}, {"state": "refused"}])], 3),
        ([record(), record("h2k fix", 5, findings=[{"state": "ok"}])], 5),
        ([record(), record("h2k fix", 3, findings="refused")], 0),
    ],
)
def test_what_leaves_it_standing(tmp_path: Path, runs: list[dict[str, Any]], status: Any) -> None:
    test_the_record_that_says_whether_a_guest_is_ready(tmp_path, runs, status)


@pytest.mark.parametrize(
    ("runs", "number"),
    [
        ([record()], 0),
        ([record(), record("h2k boot", 3)], 0),  # its name is taken
        ([record(), record("h2k boot", 0), record("h2k rollback", 3)], 1),
        ([record(), record("h2k boot", 5), record("h2k boot", 3)], 1),
        ([record(), record("h2k fix", 3, findings=[{"id": "source-running", "state": "refused"}])], 0),
        ([record(), record("h2k-v2v", 3, findings=[{"id": "hive-corrupt", "state": "refused"}])], 1),
        ([record(), record("h2k fix", 1)], 1),
        ([record("h2k fix", 3), record("h2k fix", 3)], 1),
    ],
)
def test_the_record_that_tells_how_a_guest_is(runs: list[dict[str, Any]], number: int) -> None:
    assert records.judging_record(runs) is runs[number]


def test_a_repair_that_was_rolled_back_says_so(tmp_path: Path) -> None:
    for one in (record(verdict="repaired"), record("h2k rollback", rollback={"kind": "fix"})):
        records.keep(tmp_path / "g.h2k", one)
    found = records.ready_record(tmp_path / "g.h2k")
    assert found is not None and (found["verdict"], found["command"]) == ("the repair was rolled back", "h2k fix")


# How records are kept


def test_records_are_numbered_and_the_newest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "g.h2k"
    assert records.next_number(place) == 1 and records.records(place) == []
    kept = [record() for _ in range(4)]
    for one in kept:
        records.keep(place, one)
    assert [one["run"] for one in kept] == [1, 2, 3, 4] and (place / "runs").stat().st_mode & 0o777 == 0o700
    (place / "runs" / "00002-h2k-fix.json").unlink()
    for nothing in ("[]", "{"):
        (place / "runs" / "00001-h2k-fix.json").write_text(nothing)
        assert [r["run"] for r in records.records(place)] == [3, 4] and records.next_number(place) == 5
    (place / "runs" / "00002-h2k-fix.json").write_text('{"run": 2}')
    monkeypatch.setattr(records, "MAX_RECORDS", 1)
    assert [r["run"] for r in records.records(place)] == [4]


def test_a_report_of_the_first_version_that_is_damaged_is_not_kept(tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "report.json").write_text("{")
    records.keep(place, record())
    assert [p.name for p in (place / "runs").iterdir()] == ["00001-h2k-fix.json"]


def test_a_record_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text("[10]")
    monkeypatch.setattr(records, "RECORD_LIMIT", 4)
    assert records.read_json(tmp_path / "x.json") == [10]
    monkeypatch.setattr(records, "RECORD_LIMIT", 3)
    with pytest.raises(UsageError, match="larger than 3 bytes; not a plan of h2k"):
        records.read_json(tmp_path / "x.json", "plan")
    with pytest.raises(UsageError, match=r"No such file or directory \(no record here"):
        records.read_json(tmp_path / "y.json")


def test_the_file_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "runs").write_text("a file")
    with pytest.raises(H2kError, match=r"g\.h2k/runs: not a directory"):
        records.keep(place, record())

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(records, "own_directory", fail)
    with pytest.raises(H2kError, match=r"g\.h2k: the record can't be written: Input/output error"):
        records.keep(place, record())


def test_who_ran_it_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    later = NOW + datetime.timedelta(seconds=12.34)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=later.astimezone), timezone=datetime.timezone)
    monkeypatch.setattr(records, "datetime", clock)
    monkeypatch.setattr("os.geteuid", lambda: 12345678)  # who has no name
    kept = record()
    assert (kept["started"], kept["seconds"], kept["user"]) == ("2026-01-02T03:04:05+00:00", 12.3, "12345678")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert record()["user"] == "root"


def test_versions_of_what_worked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], check: bool, timeout: float) -> Any:
        if argv[0] == "virt-v2v":
            raise CommandFailed(argv, 127, "not installed")
        return ended(argv, 1, "qemu-img version 7.2.9 (Debian 1:7.2)\n", capture_output=True, check=check)

    class Handle:
        def __init__(self, python_return_dict: bool) -> None:
            self.found = {"major": 1, "minor": 48, "release": 6, "extra": "rhel"}
            assert python_return_dict, "else it is a list"

        def version(self) -> dict[str, Any]:
            return self.found

    monkeypatch.setattr(records, "run", run)
    monkeypatch.setitem(sys.modules, "guestfs", SimpleNamespace(GuestFS=Handle))
    found = records.versions.__wrapped__()
    assert (found["virt-v2v"], found["qemu"], found["libguestfs"]) == ("", "7.2.9", "1.48.6")
    monkeypatch.setitem(sys.modules, "guestfs", None)
    monkeypatch.setattr(records, "run", lambda argv, **_: ended(argv, 0, "no number", capture_output=True))
    found = records.versions.__wrapped__()
    assert (found["qemu"], found["libguestfs"], found["h2k"]) == ("", "", records.own_version()["h2k"])


# What a record is worth now


def test_a_history_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "g.h2k").mkdir(mode=0o711)
    (tmp_path / "g.h2k" / "runs").symlink_to("../victim")
    with pytest.raises(Refused, match="runs: a link"):
        records.keep(tmp_path / "g.h2k", record())
    assert list((tmp_path / "victim").iterdir()) == []
