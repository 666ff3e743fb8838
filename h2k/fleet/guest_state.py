"""What has become of a guest of a wave, read from its own directory alone: NAME.h2k with its records, mark and lock.

fleet.json is the mark of the run at hand: when it began, how it ended. fleet.lock is locked for as long as the guest's
program lives, by an open file that the program and its children have inherited: so a fleet that was killed leaves
running guests that the next one sees, and a host that died leaves none. A record says what was done, and outweighs the
mark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import READY, REFUSED, H2kError
from h2k.base.files import own_directory, write_json
from h2k.engine.records import read_json, ready_record, records, took_back
from h2k.engine.standing import GONE, standing
from h2k.fleet.waves import Entry

MARK, LOCK, LOG = "fleet.json", "fleet.lock", "fleet.log"
SCHEMA = 1
WAITING, RUNNING, DONE, REFUSED_STATE, FAILED, INTERRUPTED = "waiting", "running", "done", "refused", "failed", "interrupted"
STATES = (DONE, RUNNING, WAITING, INTERRUPTED, FAILED, REFUSED_STATE)
BEGUN_AGAIN = (WAITING, INTERRUPTED)  # by the same command; the others by `retry`
_BY_SIGNAL = (130, 137, 143)  # 128 + SIGINT, SIGKILL, SIGTERM
_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class GuestState:
    """`state` is one of STATES, `reason` says why, `seconds` how long the last run took; `converted`: its disks are
    there and ready, so that only the boots are left where the state is not done."""

    state: str
    reason: str = ""
    seconds: Optional[float] = None
    converted: bool = False
    booted: bool = False


def state_of(entry: Entry, boot: bool = False) -> GuestState:
    """What has become of a guest; `boot`: it is done when it was booted too."""
    try:
        mark = _mark(entry.state)
        history = records(entry.state)
        record = ready_record(entry.state)
    except H2kError as e:
        return GuestState(FAILED, e.message)
    running = is_running(entry.state)
    converted = record is not None and record.get("status") == READY
    booted = converted and _booted(history)
    seconds = mark.get("seconds")
    if running:
        return GuestState(RUNNING, str(mark.get("host", "")), time.time() - mark.get("began", time.time()), converted, booted)
    if converted and (booted or not boot):
        assert record is not None
        return GuestState(DONE, _worth(record, booted), seconds, True, booted)
    state, reason = _undone(mark, history)
    if converted and state == DONE:  # converted, and never booted
        state, reason = WAITING, "converted; to be booted"
    return GuestState(state, reason, seconds, converted, booted)


def _booted(history: Iterable[dict[str, Any]]) -> bool:
    """Whether the last boot went well and was not taken back."""
    good = False
    for record in history:
        command = str(record.get("command", ""))
        if command.endswith(" boot"):
            good = record.get("status") == READY
        elif took_back(record):
            good = False
    return good


def _worth(record: dict[str, Any], booted: bool) -> str:
    """What is to be said of a guest that is done: its disks may be gone, and nobody converts over them."""
    now = standing(record)
    if now.state == GONE:
        return now.sentence
    return "booted" if booted else str(record.get("word", ""))


def _undone(mark: dict[str, Any], history: list[dict[str, Any]]) -> tuple[str, str]:
    """The state of a guest that is neither running nor done, by the mark and the newest record of its run."""
    if not mark and not history:
        return WAITING, ""
    told = [r for r in history if not str(r.get("command", "")).endswith(" rollback") or took_back(r)]
    record = told[-1] if told and _seconds(told[-1]) >= int(mark.get("began", 0)) else None
    status = record.get("status") if record is not None else mark.get("status")
    reason = str(record.get("verdict", "") if record is not None else mark.get("reason", ""))
    if mark.get("state") == INTERRUPTED or status is None or status in _BY_SIGNAL or status < 0 or reason.startswith("interrupted"):
        return INTERRUPTED, reason or "it was ended before it was done"
    if status == READY:
        return DONE, reason
    return (REFUSED_STATE if status == REFUSED else FAILED), reason or f"status {status}"


def _seconds(record: dict[str, Any]) -> float:
    """When a record's run began, in seconds since 1970."""
    try:
        return datetime.datetime.fromisoformat(str(record.get("started"))).timestamp()
    except ValueError:
        return 0.0


def _mark(state: Path) -> dict[str, Any]:
    path = state / MARK
    if not path.exists():
        return {}
    content: Any = read_json(path, "mark")
    if not isinstance(content, dict) or not isinstance(content.get("began"), (int, float)):
        return {}
    return content


# While it runs


def is_running(state: Path) -> bool:
    """Whether a program of the fleet works on the guest, of whichever run or host."""
    try:
        handle = os.open(state / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def lock(entry: Entry) -> Optional[int]:
    """A handle that holds the guest's lock, to be inherited by its program; None when it is being worked on.

    H2kError when the directory is not ours or can't be made.
    """
    directory = own_directory(entry.state)
    try:
        handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise H2kError(f"{directory / LOCK}: {e.strerror}", hint="see what lies there") from e
    for _ in range(_ATTEMPTS):  # somebody who only asks holds it for a moment
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        time.sleep(0.02)
    os.close(handle)
    return None


def write_mark(entry: Entry, **content: Any) -> None:
    """Write the mark of the run at hand."""
    write_json(entry.state / MARK, {"schema": SCHEMA, "source": entry.source, "datastore": entry.datastore, **content})

