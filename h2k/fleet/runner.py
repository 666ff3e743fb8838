"""The run of a fleet: each guest one subprocess, within the limits; nothing is kept but in the guests' own directories.

A guest that an earlier run left working counts for the limits and is waited for. So a fleet that was killed goes on by
the same command, and two commands on the same waves do not convert a guest twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import READY, H2kError
from h2k.fleet import guest_state
from h2k.fleet.conversion import argv_for, boot_argv_for, is_passing, last_line
from h2k.fleet.guest_state import BEGUN_AGAIN, DONE, INTERRUPTED, LOG, RUNNING, GuestState, lock, state_of, write_mark
from h2k.fleet.waves import Entry

_POLL = 0.2  # seconds between two looks at what runs
_FOREIGN = 5.0  # seconds between two looks at guests that another run began
_GRACE = 60.0  # seconds for a program to clean up before it is killed
_BLOCK = 512  # bytes of st_blocks
Heard = Callable[[Entry, GuestState], None]


def _nothing() -> None:
    """Nobody waits for the time."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """`until`: seconds since 1970 by which the last guest should have ended; `retries` of what failed by the network,
    `pause` seconds before the first of them, and twice that before the next."""

    jobs: int
    per_source: int
    until: Optional[float] = None
    retries: int = 2
    pause: float = 30.0


@dataclasses.dataclass
class _Job:
    """A guest that this run works on."""

    entry: Entry
    process: subprocess.Popen[bytes]
    began: float
    booting: bool
    stopped: bool = False
    killed_at: float = 0.0


class Runner:
    """One run. `again`: begin what failed or was refused as well. `tick` is called again and again while it goes on."""

    def __init__(self, entries: Sequence[Entry], limits: Limits, boot: bool, again: bool, heard: Heard, tick: Callable[[], None] = _nothing) -> None:
        self._limits, self._boot, self._heard, self._tick = limits, boot, heard, tick
        self._waiting: list[Entry] = []
        self._foreign: list[Entry] = []
        self._jobs: list[_Job] = []
        self._tries: dict[Path, int] = {}
        self._not_before: dict[Path, float] = {}
        self._to_boot: set[Path] = set()
        self._asked_foreign = 0.0
        self.signals = 0
        self.took: list[tuple[int, float]] = []
        for entry in entries:
            found = state_of(entry, boot)
            heard(entry, found)
            if found.state == RUNNING:
                self._foreign.append(entry)
            elif found.state in BEGUN_AGAIN or (again and found.state != DONE):
                self._waiting.append(entry)

    def run(self) -> None:
        """Work until nothing is left that may be begun, and nothing runs."""
        with self._hearing_signals():
            while self._jobs or self._foreign or (self._waiting and not self.signals):
                self._reap()
                self._tick()
                if not self.signals:
                    self._begin_all()
                elif not self._jobs:
                    return  # what another run began goes on by itself
                if not self._jobs and not self._foreign and not self._can_wait():
                    return
                time.sleep(_POLL)

    def _can_wait(self) -> bool:
        """Whether a guest will be begun later: it waits for its next attempt."""
        return any(self._in_time(entry) for entry in self._waiting)

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """The first Ctrl-C begins no more; the second, or a SIGTERM, stops what runs."""

        def hear(number: int, _: Any) -> None:
            self.signals += 1 if number == signal.SIGINT else 2
            if self.signals > 1:
                self._stop_all()

        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # Beginning

    def _begin_all(self) -> None:
        for entry in list(self._waiting):
            if self._busy() >= self._limits.jobs:
                return
            if self._may_begin(entry):
                self._waiting.remove(entry)
                self._begin(entry)

    def _busy(self) -> int:
        return len(self._jobs) + len(self._foreign)

    def _may_begin(self, entry: Entry) -> bool:
        store = entry.datastore or str(Path(entry.source).parent)
        here = [e for e in self._at_work() if (e.datastore or str(Path(e.source).parent)) == store]
        if len(here) >= self._limits.per_source or time.time() < self._not_before.get(entry.state, 0.0):
            return False
        return self._in_time(entry) and self._has_room(entry)

    def _at_work(self) -> list[Entry]:
        return [*(job.entry for job in self._jobs), *self._foreign]

    def _in_time(self, entry: Entry) -> bool:
        return self._limits.until is None or time.time() + (entry.estimate or 0) <= self._limits.until

    def _has_room(self, entry: Entry) -> bool:
        """Whether its copy fits beside what the running ones are still to write. A guest alone is begun in any case: it
        says itself, with a record, that there is no room."""
        place = _existing(entry.output)
        beside = [e for e in self._at_work() if _same_device(_existing(e.output), place)]
        if not beside:
            return True
        promised = sum(max(0, e.bytes - _written(e)) for e in beside)
        return shutil.disk_usage(place).free - promised >= entry.bytes

    def _begin(self, entry: Entry) -> None:
        try:
            handle = lock(entry)
            if handle is None:
                self._foreign.append(entry)
                return
            try:
                self._spawn(entry, handle)
            finally:
                os.close(handle)
        except (H2kError, OSError) as e:
            why = e.message if isinstance(e, H2kError) else f"{e.filename}: {e.strerror}"
            self._heard(entry, GuestState(guest_state.FAILED, why))

    def _spawn(self, entry: Entry, handle: int) -> None:
        """Start its program with the lock, in a group of its own: Ctrl-C is the fleet's to hear."""
        booting = state_of(entry, self._boot).converted
        argv = boot_argv_for(entry) if booting else argv_for(entry)
        began = time.time()
        write_mark(entry, state=RUNNING, began=began, host=platform.node(), argv=argv, attempt=self._tries.get(entry.state, 0) + 1)
        with open(os.open(entry.state / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[handle], start_new_session=True
            )
        self._jobs.append(_Job(entry, process, began, booting))
        self._heard(entry, GuestState(RUNNING, "boot" if booting else ""))

    # Ending

    def _reap(self) -> None:
        for job in list(self._jobs):
            status = job.process.poll()
            if status is None:
                if job.killed_at and time.time() > job.killed_at + _GRACE:
                    _signal(job, signal.SIGKILL)
                continue
            self._jobs.remove(job)
            self._ended(job, status)
        if self._foreign and time.time() > self._asked_foreign + _FOREIGN:
            self._asked_foreign = time.time()
            for entry in list(self._foreign):
                found = state_of(entry, self._boot)
                if found.state != RUNNING:
                    self._foreign.remove(entry)
                    self._settle(entry, found)

    def _ended(self, job: _Job, status: int) -> None:
        entry, seconds = job.entry, round(time.time() - job.began, 1)
        log = entry.state / LOG
        mark = {"began": job.began, "host": platform.node(), "seconds": seconds, "status": status}
        state = INTERRUPTED if job.stopped else "ended"
        reason = "stopped" if job.stopped else "" if status == READY else last_line(log)
        with contextlib.suppress(H2kError):  # a full disk: the record, or that there is none, tells
            write_mark(entry, state=state, reason=reason, attempt=self._tries.get(entry.state, 0) + 1, **mark)
        if status == READY and not job.booting:
            self.took.append((entry.bytes, seconds))
        if not job.stopped and is_passing(status, log) and self._try_again(entry):
            self._heard(entry, GuestState(guest_state.WAITING, f"to be tried again: {reason}", seconds))
            return
        self._settle(entry, state_of(entry, self._boot))

    def _settle(self, entry: Entry, found: GuestState) -> None:
        """A guest that stopped running: what is left of it (the boots) waits again."""
        self._heard(entry, found)
        if found.state == guest_state.WAITING and found.converted and entry.state not in self._to_boot:
            self._to_boot.add(entry.state)  # once: a boot that leaves no record is not begun for ever
            self._waiting.insert(0, entry)

    def _try_again(self, entry: Entry) -> bool:
        tries = self._tries[entry.state] = self._tries.get(entry.state, 0) + 1
        if tries > self._limits.retries:
            return False
        self._not_before[entry.state] = time.time() + self._limits.pause * 2 ** (tries - 1)
        self._waiting.append(entry)
        return True

    def _stop_all(self) -> None:
        """Ask what runs to end: twice the signal that Ctrl-C sends would leave no time to clean up."""
        for job in self._jobs:
            if not job.stopped:
                job.stopped, job.killed_at = True, time.time()
                _signal(job, signal.SIGINT)


def _signal(job: _Job, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, number)


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _written(entry: Entry) -> int:
    """Bytes of the result so far: NAME.qcow2, its part, or virt-v2v's NAME-sda."""
    total = 0
    names = (f"{entry.name}.qcow2", f".{entry.name}.qcow2.h2k-part", *(f"{entry.name}-sd{letter}" for letter in "abcdefghij"))
    for name in names:
        with contextlib.suppress(OSError):
            total += (entry.output / name).stat().st_blocks * _BLOCK
    return total


def until_time(text: str, now: Optional[datetime.datetime] = None) -> float:
    """The next HH:MM, in seconds since 1970. ValueError for anything else."""
    now = now or datetime.datetime.now()
    hour, minute = (int(part) for part in text.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then if then > now else then + datetime.timedelta(days=1)).timestamp()


def in_window(window: str, now: Optional[datetime.datetime] = None) -> bool:
    """Whether it is between the two times of 22:00-05:30, which may span midnight."""
    now = now or datetime.datetime.now()
    first, last = window.split("-")
    time_now = now.strftime("%H:%M")
    return first <= time_now < last if first < last else time_now >= first or time_now < last
