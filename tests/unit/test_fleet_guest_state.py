"""What has become of a guest, by its own directory: records, mark, lock."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from h2k.fleet import guest_state
from h2k.fleet.guest_state import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED_STATE,
    RUNNING,
    WAITING,
    is_running,
    lock,
    state_of,
    write_mark,
)
from h2k.fleet.waves import Entry


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry("web", "/exports/web.vmx", "vmx", 1, tmp_path, "h2k-v2v")


def record(entry: Entry, number: int, status: int, command: str = "h2k-v2v", **more: Any) -> None:
    (entry.state / "runs").mkdir(parents=True, exist_ok=True)
    content = {"run": number, "status": status, "command": command, "started": "2026-11-27T10:00:00+00:00", "verdict": "so it is", **more}
    (entry.state / "runs" / f"{number:05d}-x.json").write_text(json.dumps(content))


def mark(entry: Entry, **content: Any) -> None:
    entry.state.mkdir(exist_ok=True)
    write_mark(entry, **{"began": 0, **content})


def test_nothing_is_there(entry: Entry) -> None:
    assert state_of(entry).state == WAITING


@pytest.mark.parametrize(("status", "state"), [(0, DONE), (1, FAILED), (2, FAILED), (3, REFUSED_STATE), (5, FAILED), (143, INTERRUPTED)])
def test_by_the_record_of_the_last_run(entry: Entry, status: int, state: str) -> None:
    record(entry, 1, 3)
    record(entry, 2, status)
    found = state_of(entry)
    assert found.state == state and (found.converted == (status == 0)) and (state == DONE or found.reason == "so it is")


def test_a_mark_whose_program_is_gone_was_interrupted(entry: Entry) -> None:
    mark(entry, state="running", began=4e9)
    assert state_of(entry).state == INTERRUPTED
    record(entry, 1, 3)  # of an earlier attempt
    assert state_of(entry).state == INTERRUPTED
    mark(entry, state="ended", status=1, reason="no route", began=4e9)
    assert (state_of(entry).state, state_of(entry).reason) == (FAILED, "no route")
    mark(entry, state="interrupted", status=1, began=0)
    assert state_of(entry).state == INTERRUPTED


def test_a_program_that_lives_holds_the_lock(entry: Entry) -> None:
    handle = lock(entry)
    assert handle is not None and is_running(entry.state) and state_of(entry).state == RUNNING
    assert lock(entry) is None
    os.close(handle)
    assert not is_running(entry.state)


def test_a_look_at_the_lock_is_not_taken_for_work(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(lock(entry) or 0)
    asking = os.open(entry.state / "fleet.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(guest_state.time, "sleep", lambda _: os.close(asking) if is_open(asking) else None)
    handle = lock(entry)
    assert handle is not None
    os.close(handle)


def is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def test_a_guest_that_was_converted_waits_for_its_boot(entry: Entry) -> None:
    record(entry, 1, 0)
    found = state_of(entry, boot=True)
    assert found.state in (WAITING, DONE) and found.state == WAITING and found.converted
    record(entry, 2, 0, "h2k boot")
    assert state_of(entry, boot=True).state == DONE and state_of(entry).state == DONE
    record(entry, 3, 0, "h2k rollback", rollback={"kind": "boot"})
    assert state_of(entry, boot=True).state == WAITING
    record(entry, 4, 5, "h2k boot")
    found = state_of(entry, boot=True)
    assert found.state == FAILED and found.converted  # a retry boots it, and converts nothing


def test_a_rollback_that_was_refused_changes_nothing_and_one_that_failed_late_took_it_back(entry: Entry) -> None:
    record(entry, 1, 0)
    record(entry, 2, 3, "h2k rollback")
    assert state_of(entry, boot=True).state == WAITING and state_of(entry).state == DONE
    record(entry, 3, 0, "h2k boot")
    record(entry, 4, 1, "h2k rollback", rollback={"kind": "boot"})
    assert not state_of(entry, boot=True).booted


def test_disks_that_are_gone_are_told_and_the_guest_stays_done(entry: Entry) -> None:
    record(entry, 1, 0, disks=[{"path": "/nowhere/web", "bytes": 1, "mtime": 1}])
    assert state_of(entry).state == DONE and "No such file" in state_of(entry).reason


@pytest.mark.parametrize("text", ["", "[]", "{}", "x" * 10])
def test_a_mark_that_is_none(entry: Entry, text: str) -> None:
    entry.state.mkdir()
    (entry.state / "fleet.json").write_text(text)
    assert state_of(entry).state in (WAITING, FAILED)
