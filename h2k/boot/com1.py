"""The guest's own signals: the h2k-boot protocol on a serial port, and what they, libvirt's events and the screen add up to."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Optional

from h2k.base.libvirt_connection import State
from h2k.base.text import shown
from h2k.config.policy import TIMEOUTS
from h2k.windows.first_boot_steps import NAMES as STEPS

STATES = ("ok", "failed", "skipped")
LINE_LIMIT = 4096  # bytes of one signal
LOG_LIMIT = 32 * 1024 * 1024  # bytes on COM1 in one phase; Windows' boot and our steps write some KiB
DETAIL_LIMIT = 500  # characters
OWN_RESTARTS = 6  # of Windows itself in one boot, which restarts for devices once or twice; staged scripts have theirs
REST = 30.0  # seconds with the same picture after which a guest without signals has come to rest
PATIENCE = 5  # times the time to settle, for a guest whose picture never rests (a screen saver, a slide show)
STILL = 60.0  # seconds with the same picture that make a silent guest one that stands still
_LINE = re.compile(rb"h2k-boot (\{.*\})")


@dataclasses.dataclass(frozen=True)
class Signal:
    """One line of the h2k-boot protocol; `at` in seconds of the monotonic clock."""

    at: float
    step: str
    state: str
    detail: str = ""


def parse_line(line: bytes, at: float) -> Optional[Signal]:
    """The signal in a line of COM1's output, None when it holds none: firmware and loaders write there as well."""
    found = _LINE.search(line[:LINE_LIMIT])
    if found is None:
        return None
    try:
        content = json.loads(found[1].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("v") != 1:
        return None
    step, state, detail = content.get("step"), content.get("state"), content.get("detail", "")
    if step not in STEPS or state not in STATES or not isinstance(detail, str):
        return None
    return Signal(at, step, state, shown(detail)[:DETAIL_LIMIT])


class Com1:
    """Follows the file that COM1 is written to; virtlogd may rotate it (from 2 MiB on, as it is set up)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signals: list[Signal] = []
        self.bytes_read = 0
        self._file: Optional[BinaryIO] = None
        self._rest = b""

    @property
    def flooded(self) -> bool:
        """Whether the guest has written more than any boot does."""
        return self.bytes_read > LOG_LIMIT

    def poll(self, now: float) -> list[Signal]:
        """The signals that came since the last call; whole lines only."""
        new: list[Signal] = []
        for data in self._read():
            *lines, rest = (self._rest + data).split(b"\n")
            self._rest = rest[-LINE_LIMIT:]
            new += [signal for line in lines if (signal := parse_line(line, now)) is not None]
        self.signals += new
        return new

    def _read(self) -> list[bytes]:
        data = []
        if self._file is not None:
            data.append(self._take(self._file))
        if self._file is None or self._replaced(self._file):
            if self._file is not None:
                self._file.close()
            self._file = None
            if not self.path.exists():
                return data
            self._file = self.path.open("rb")
            data.append(self._take(self._file))
        return data

    def _replaced(self, file: BinaryIO) -> bool:
        try:
            there, ours = self.path.stat(), os.fstat(file.fileno())
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or there.st_size < file.tell()

    def _take(self, file: BinaryIO) -> bytes:
        data = file.read(max(0, LOG_LIMIT + 1 - self.bytes_read))
        self.bytes_read += len(data)
        return data


@dataclasses.dataclass(frozen=True)
class Seen:
    """All that can be observed of a running phase; times in seconds of the monotonic clock.

    `restarts` counts the guest's own resets, `allowed` is how many of them are no loop, `restarted` is the last.
    `still_for` is how long the picture has not changed, None without one. `agent`: the guest agent has answered;
    `marker`: it has seen the file that the last first-boot step leaves. `heard`: a serial port is free for signals.
    """

    started: float
    now: float
    state: State
    signals: Sequence[Signal] = ()
    restarts: int = 0
    allowed: int = OWN_RESTARTS
    restarted: float = 0.0
    panicked: bool = False
    io_error: str = ""
    agent: bool = False
    marker: bool = False
    heard: bool = True
    still_for: Optional[float] = None
    flooded: bool = False

    @property
    def done(self) -> bool:
        """Whether the first-boot steps have come to their end."""
        return any(signal.step == "done" for signal in self.signals)

    @property
    def last_sign(self) -> float:
        """When the guest was last heard of: its last signal or restart, or when it was started."""
        return max([self.started, self.restarted, *(signal.at for signal in self.signals)])


@dataclasses.dataclass(frozen=True)
class Ending:
    """How the waiting ended: whether the guest is up, and in one line why we think so."""

    good: bool
    why: str


def ending_of(seen: Seen, limits: Mapping[str, int], expects_done: bool) -> Optional[Ending]:
    """Whether the guest has come up or stopped; None while neither can be said.

    With `expects_done` the first-boot runner's own last signal counts as up, or its last marker, which the guest agent
    sees. Without a runner (it is not there, or was there in an earlier boot) the agent's answer does, and at last the
    time that passed without a crash: so too where something holds the serial port, or where the agent answers and no
    signal comes, but then only when the time for a first signal is over. What is lacking then must come from a clean
    shutdown and the disk. `limits` are the policy's time-outs.
    """
    return _stopped(seen) or _up(seen, limits, expects_done) or _silent(seen, limits, expects_done)


def _stopped(seen: Seen) -> Optional[Ending]:
    if seen.panicked or seen.state.state == "crashed":
        return Ending(False, "the guest panicked: it said so itself (pvpanic, or Hyper-V's crash registers)")
    if seen.io_error or seen.state == State("paused", "I/O error"):
        return Ending(False, f"this host's storage failed under the guest: {seen.io_error or 'I/O error'}; is there space left?")
    if seen.flooded:
        return Ending(False, f"the guest wrote more than {LOG_LIMIT >> 20} MiB to COM1")
    if seen.restarts > seen.allowed:
        return Ending(False, f"a reboot loop: it restarted {seen.restarts} times")
    if not seen.state.active and not seen.done:
        return Ending(False, "the guest switched itself off" + (f" ({seen.state.reason})" if seen.state.reason else ""))
    return None


def _up(seen: Seen, limits: Mapping[str, int], expects_done: bool) -> Optional[Ending]:
    if seen.done:
        return Ending(True, "its first-boot steps came to their end")
    if expects_done and seen.marker:
        return Ending(True, "its guest agent sees that the first-boot steps came to their end")
    if not expects_done and seen.agent:
        return Ending(True, "its guest agent answers")
    quiet = seen.now - seen.last_sign
    # A guest that still boots moves its picture; one that waits at its logon screen does not.
    at_rest = seen.still_for is None or seen.still_for >= min(REST, limits["settle"]) or quiet >= PATIENCE * limits["settle"]
    if not expects_done and not seen.signals and quiet >= limits["settle"] and at_rest:
        return Ending(True, f"no crash and no restart in {quiet:.0f} s; it gives no signals")
    # The steps may be at work unheard, at Windows' first installation of devices for one: all the time that they have for a
    # first signal. An agent that answers is no end of theirs; that it sees their last marker is.
    if expects_done and not seen.heard and not seen.signals and quiet >= limits.get(STEPS[0], TIMEOUTS[STEPS[0]]):
        return Ending(True, f"no crash and no restart in {quiet:.0f} s; its serial port is taken, and the disks decide")
    return None


def _silent(seen: Seen, limits: Mapping[str, int], expects_done: bool) -> Optional[Ending]:
    if not seen.signals and not (expects_done and seen.heard):
        return None
    awaited = _next_step(seen.signals)
    limit = limits.get(awaited, TIMEOUTS[awaited])
    silence = seen.now - seen.last_sign
    if silence < limit:
        return None
    if seen.agent and not seen.signals:
        return Ending(True, f"no signal for {silence:.0f} s, but its guest agent answers: the disks decide")
    after = f" after {seen.signals[-1].step!r}" if seen.signals else ""
    if seen.still_for is not None and seen.still_for > min(STILL, limit / 2):
        return Ending(
            False, f"it stands still: no signal{after} for {silence:.0f} s, and the same picture for {seen.still_for:.0f} s"
        )
    return Ending(False, f"no signal{after} for {silence:.0f} s, though the picture changes")


def _next_step(signals: Sequence[Signal]) -> str:
    """The step that the runner is at: it speaks at the end of each."""
    if not signals:
        return STEPS[0]
    return STEPS[min(STEPS.index(signals[-1].step) + 1, len(STEPS) - 1)]
