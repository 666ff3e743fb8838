"""Watches a running guest until it is up or has stopped, and has it shut down by itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import NotVerified
from h2k.base.libvirt_connection import Domain
from h2k.base.steps import Steps
from h2k.boot.com1 import OWN_RESTARTS, Com1, Ending, Seen, Signal, ending_of
from h2k.boot.screenshots import Screens
from h2k.windows import first_boot

TICK = 0.5  # seconds
PICTURE = 5.0  # seconds between two screenshots
PING = 5.0  # seconds between two questions to the guest agent
# The last first-boot step's marker as the guest agent finds it: on the drive of Windows, where its service runs.
MARKER = f"{first_boot.DIRECTORY}/done/done".replace("/", "\\")
PRESS = 20.0  # seconds after which the power button is pressed again: a sleeping display swallows the first
STOPPED_CLEANLY = "shutdown"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a boot is expected to show.

    `done`: it runs first-boot steps, whose end is awaited; `heard`: a serial port is free for their signals; `restarts`:
    more of them are a loop; `channel`: the domain has one for the guest agent.
    """

    done: bool = False
    heard: bool = True
    restarts: int = OWN_RESTARTS
    channel: bool = False


@dataclasses.dataclass
class Observation:
    """What was observed of one start of the guest: "bootstrap", "final" or "production". `started` is of the monotonic clock."""

    name: str
    signals: Sequence[Signal] = ()
    ending: Optional[Ending] = None
    agent: bool = False
    restarts: int = 0
    seconds: float = 0.0
    started: float = 0.0
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The observation as boot.json has it."""
        return {
            "phase": self.name,
            "up": self.ending.good if self.ending else None,
            "why": self.ending.why if self.ending else "",
            "signals": [self._signal(signal) for signal in self.signals],
            "agent": self.agent,
            "restarts": self.restarts,
            "seconds": round(self.seconds, 1),
            "files": self.files,
        }

    def _signal(self, signal: Signal) -> dict[str, Any]:
        """A signal as boot.json has it; `at` in seconds since this start."""
        return {"step": signal.step, "state": signal.state, "detail": signal.detail, "at": round(signal.at - self.started, 1)}


class Watcher:
    """Watches one running domain: COM1, libvirt's events, the screen, the guest agent."""

    def __init__(
        self, domain: Domain, name: str, directory: Path, ports: Sequence[Path], limits: Mapping[str, int], steps: Steps
    ) -> None:
        self.domain, self.limits, self.steps = domain, limits, steps
        self.seen = Observation(name)
        self.ports = [Com1(path) for path in ports]
        self.screens = Screens(directory, name)
        self.started = self.seen.started = time.monotonic()
        self._next_picture = self._next_ping = 0.0
        self._marker = False
        for number, path in enumerate(ports, 1):
            self.seen.files[f"com{number}"] = str(path)

    @property
    def signals(self) -> list[Signal]:
        """The signals of all serial ports, in the order in which they came."""
        return sorted((signal for port in self.ports for signal in port.signals), key=lambda signal: signal.at)

    def until_up(self, expected: Expected) -> Ending:
        """Wait until the guest is up or has stopped."""
        while True:
            time.sleep(TICK)
            ending = ending_of(self._look(expected), self.limits, expected.done)
            if ending is not None:
                self._take_picture()
                self._end(ending)
                return ending

    def _look(self, expected: Expected) -> Seen:
        now = time.monotonic()
        state = self.domain.state()
        for port in self.ports:
            for signal in port.poll(now):
                self.steps.say(f"{self.seen.name}: {signal.step}: {signal.state}" + (f", {signal.detail}" if signal.detail else ""))
        if now >= self._next_picture and state.active:
            self._take_picture()
            self._next_picture = time.monotonic() + PICTURE
        if expected.channel and now >= self._next_ping:
            self._ask_agent(expected.done)
        restarts = [event.at for event in self.domain.events if event.kind == "reboot" and event.at >= self.started]
        if len(restarts) > self.seen.restarts:
            self.steps.say(f"{self.seen.name}: the guest restarts (number {len(restarts)})")
        self.seen.restarts = len(restarts)
        errors = [event.detail for event in self.domain.events if event.kind == "io-error" and event.at >= self.started]
        return Seen(
            started=self.started,
            now=time.monotonic(),
            state=state,
            signals=self.signals,
            restarts=len(restarts),
            allowed=expected.restarts,
            restarted=max(restarts, default=0.0),
            panicked=any(event.kind == "crashed" and event.at >= self.started for event in self.domain.events),
            io_error=errors[-1] if errors else "",
            agent=self.seen.agent,
            marker=self._marker,
            heard=expected.heard,
            still_for=self.screens.still_for(),
            flooded=any(port.flooded for port in self.ports),
        )

    def _ask_agent(self, done: bool) -> None:
        """Whether it answers, and with `done` whether it sees that the first-boot steps are over."""
        if not self.seen.agent:
            self.seen.agent = self.domain.agent("guest-ping", seconds=1) is not None
        if self.seen.agent and done and not self._marker:
            handle = self.domain.agent("guest-file-open", {"path": MARKER, "mode": "r"}, seconds=1)
            self._marker = isinstance(handle, int)
            if self._marker:
                self.domain.agent("guest-file-close", {"handle": handle}, seconds=1)
        self._next_ping = time.monotonic() + PING

    def _take_picture(self) -> None:
        self.screens.take(self.domain.screenshot())

    def _end(self, ending: Ending) -> None:
        self.seen.ending = ending
        self.seen.signals = tuple(self.signals)
        self.seen.seconds = time.monotonic() - self.started
        if not ending.good:
            self.screens.keep_stop()
        for which in ("first", "last", "stop"):
            if self.screens.path(which).exists():
                self.seen.files[f"screen-{which}"] = str(self.screens.path(which))
        self.steps.say(f"{self.seen.name}: {'up' if ending.good else 'NOT UP'}: {ending.why}")

    def shut_down(self) -> None:
        """Have the guest shut itself down: through its agent, then by the power button. NotVerified when it does not."""
        limit = float(self.limits["shutdown"])
        began = time.monotonic()
        if self.seen.agent and self.domain.ask_to_shut_down("agent"):
            self._wait_until_off(began + limit / 2)
        while self.domain.state().active and time.monotonic() < began + limit:
            self.domain.ask_to_shut_down("acpi")
            self._wait_until_off(min(time.monotonic() + PRESS, began + limit))
        if self.domain.state().active:
            self._take_picture()
            still = self.screens.still_for()
            picture = f"; the same picture for {still:.0f} s" if still is not None and still > limit / 2 else ""
            self._end(Ending(False, f"it did not shut down in {limit:.0f} s, asked by its agent and the power button{picture}"))
            raise NotVerified(f"{self.seen.name}: {self._why()}")
        time.sleep(TICK)  # its last events
        self._check_clean()

    def _wait_until_off(self, deadline: float) -> None:
        while time.monotonic() < deadline and self.domain.state().active:
            time.sleep(TICK)
            if time.monotonic() >= self._next_picture:
                self.screens.take(self.domain.screenshot() if self.domain.state().active else None)
                self._next_picture = time.monotonic() + PICTURE

    def _check_clean(self) -> None:
        """The guest has to have switched itself off; events that a restart of libvirtd swallowed prove nothing."""
        kinds = [event.kind for event in self.domain.events if event.at >= self.started]
        if STOPPED_CLEANLY not in kinds and "stopped" in kinds and self.domain.virt.reconnects == 0:
            self._end(Ending(False, "its QEMU process ended without a shutdown of the guest: killed on this host?"))
            raise NotVerified(f"{self.seen.name}: {self._why()}")

    def _why(self) -> str:
        return self.seen.ending.why if self.seen.ending is not None else ""


