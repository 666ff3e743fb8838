"""What a fleet has come to: the summary for programs, what needs somebody, and the page that is rewritten while a run goes on."""

from __future__ import annotations

import collections
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import FAILED as FAILED_STATUS
from h2k.base.errors import NOT_READY, READY, REFUSED, H2kError
from h2k.base.files import PRIVATE, own_directory, write_text
from h2k.base.text import shown
from h2k.engine.guest_pages import write_guest_page
from h2k.engine.records import NEWEST, newest
from h2k.fleet.guest_state import DONE, FAILED, INTERRUPTED, REFUSED_STATE, RUNNING, STATES, WAITING, GuestState
from h2k.fleet.waves import Entry, Waves
from h2k.pages.fleet_page import FleetFacts, fleet_page
from h2k.pages.guest_page import PAGE

States = Mapping[str, GuestState]  # by the guest's report directory
_SETTLED = (DONE, FAILED, REFUSED_STATE, INTERRUPTED)
_SOON, _HEARTBEAT = 1.0, 30.0  # seconds between two pages: after news, and without any
_REASON = 200  # characters of a reason by which guests are one group


def summary_of(waves: Waves, entries: Sequence[Entry], states: States) -> dict[str, Any]:
    """The summary (docs/schemas/fleet.json)."""
    count = collections.Counter(found.state for found in states.values())
    guests = []
    for entry in entries:
        found = states[str(entry.state)]
        guests.append({
            "name": entry.name, "wave": entry.wave, "source": entry.source, "state": found.state, "reason": found.reason,
            "seconds": found.seconds, "estimate": entry.estimate, "bytes": entry.bytes, "report": str(entry.state),
        })  # fmt: skip
    return {"schema": 1, "waves": str(waves.path), "status": _status(count), "states": {s: count.get(s, 0) for s in STATES}, "guests": guests}


def _status(count: Mapping[str, int]) -> int:
    """The exit status by the worst that became of a guest."""
    if count.get(FAILED):
        return FAILED_STATUS
    if count.get(REFUSED_STATE):
        return REFUSED
    return READY if all(state == DONE for state in count) else NOT_READY


def next_commands(summary: Mapping[str, Any]) -> list[str]:
    """What can be done about the guests that are not done."""
    states, waves = summary["states"], shlex.quote(summary["waves"])
    if states[FAILED] or states[REFUSED_STATE]:
        return [f"h2k fleet retry {waves}"]
    return [f"h2k fleet run {waves}"] if states[WAITING] or states[INTERRUPTED] else []


# What needs somebody


def groups_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same refusal or failure across guests: how many, which, what to do, and the one command."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    again = {INTERRUPTED: f"h2k fleet run {shlex.quote(summary['waves'])}", FAILED: f"h2k fleet retry {shlex.quote(summary['waves'])}"}
    for guest in summary["guests"]:
        for name, action in _causes(guest):
            start = {"id": name, "state": guest["state"], "count": 0, "guests": [], "action": action, "command": again.get(guest["state"], "")}
            group = found.setdefault((guest["state"], name), start)
            group["count"] += 1
            group["guests"].append(guest["report"])
    rank = {REFUSED_STATE: 0, FAILED: 1, INTERRUPTED: 2}
    return sorted(found.values(), key=lambda group: (rank[group["state"]], -group["count"], group["id"]))


def _causes(guest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(finding, remedy) of each refusal of a guest, else (its reason, what helps)."""
    if guest["state"] == REFUSED_STATE:
        refusals = dict(_refusals(Path(guest["report"])))
        if refusals:
            yield from refusals.items()
            return
    if guest["state"] in (REFUSED_STATE, FAILED, INTERRUPTED):
        action = "the same command goes on" if guest["state"] == INTERRUPTED else "when the reason is mended; NAME.h2k/fleet.log has the rest"
        yield _without_name(guest)[:_REASON], action


def _refusals(report_dir: Path) -> Iterator[tuple[str, str]]:
    try:
        record = newest(report_dir) or {}
    except H2kError:
        return
    for finding in record.get("findings") or []:
        if isinstance(finding, dict) and finding.get("state") == "refused":
            yield str(finding.get("id")), str(finding.get("repair"))


def _without_name(guest: Mapping[str, Any]) -> str:
    """The reason without the guest's own names before it, so that the same reason is one group."""
    reason = str(guest["reason"])
    for own in (guest["source"], guest["report"], guest["name"]):
        reason = reason[len(own) + 2 :] if reason.startswith(f"{own}: ") else reason
    return reason or "no reason was given"


# The page


class FleetPage:
    """The page of a fleet at `path`: `heard` takes what became of a guest, `tick` writes when it is time to.

    A page that can't be written is told once; it ends no run.
    """

    def __init__(self, path: Path, waves: Waves, entries: Sequence[Entry], jobs: int, per_source: int, clock: Callable[[], float] = time.time) -> None:
        self.path, self.waves, self.entries = path, waves, entries
        self._limits, self._clock = (jobs, per_source), clock
        self._states: dict[str, GuestState] = {}
        self._began: Optional[float] = None
        self._since: dict[str, float] = {}  # when each running guest was begun
        self._news, self._written = False, 0.0
        self._told: set[str] = set()

    def heard(self, entry: Entry, found: GuestState) -> None:
        """What became of a guest. One that has come to rest gets its page, where it has none that is new."""
        key = str(entry.state)
        self._states[key], self._news = found, True
        if found.state == RUNNING:
            self._since.setdefault(key, self._clock() - (found.seconds or 0.0))
        else:
            self._since.pop(key, None)
        if found.state in _SETTLED:
            self._guest_page(entry.state)

    def tick(self) -> None:
        """Write the page of a run that goes on, after news, and else twice a minute: its reader sees that it lives."""
        now = self._clock()
        self._began = self._began or now
        if len(self._states) < len(self.entries) or now - self._written < (_SOON if self._news else _HEARTBEAT):
            return
        self._news, self._written = False, now
        self._tried(lambda: self._write(running=True))

    def end(self) -> None:
        """Write the page for good, as the run left it."""
        self._tried(lambda: self._write(running=False))

    def write(self) -> None:
        """Write the page of a fleet that no run of ours works on. H2kError when that is not possible."""
        self._write(running=False)

    def _write(self, running: bool) -> None:
        now = self._clock()
        states = {key: replace(found, seconds=now - self._since[key]) if key in self._since else found for key, found in self._states.items()}
        summary = summary_of(self.waves, self.entries, states)
        facts = FleetFacts(
            *self._limits, dict(self.waves.windows), groups_of(summary), [] if running else next_commands(summary),
            f"h2k fleet status {shlex.quote(str(self.waves.path))}", platform.node(), _when(now), now,
            _when(self._began) if self._began is not None else None, running,
        )  # fmt: skip
        write_text(self.path, fleet_page(self.path, summary, facts), PRIVATE)

    def _guest_page(self, report_dir: Path) -> None:
        page, record = report_dir / PAGE, report_dir / NEWEST

        def write() -> None:
            if record.is_file() and not (page.is_file() and page.stat().st_mtime_ns >= record.stat().st_mtime_ns):
                write_guest_page(own_directory(report_dir) / PAGE, report_dir)

        self._tried(write)

    def _tried(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as e:  # a disk that fails, or a mistake in a page, must not end a run of forty guests
            said = str(e) if isinstance(e, H2kError) else f"{type(e).__name__}: {shown(str(e))}"
            if said not in self._told:
                self._told.add(said)
                print(f"h2k: no page: {said}", file=sys.stderr)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
