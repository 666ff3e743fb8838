"""Runs one phase: starts its domain, watches it until it is up or has stopped, and has it shut down by itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import NotVerified
from h2k.base.libvirt_connection import Domain
from h2k.base.steps import Steps
from h2k.boot.com1 import Com1, Ending, Seen, Signal, ending_of
from h2k.boot.screenshots import Screens

TICK = 0.5  # seconds
PICTURE = 5.0  # seconds between two screenshots
PING = 5.0  # seconds between two questions to the guest agent
PRESS = 20.0  # seconds after which the power button is pressed again: a sleeping display swallows the first
STOPPED_CLEANLY = "shutdown"


@dataclasses.dataclass
class Phase:
    """What was observed of one phase."""

    name: str
    signals: Sequence[Signal] = ()
    ending: Optional[Ending] = None
    agent: bool = False
    restarts: int = 0
    seconds: float = 0.0
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The phase as boot.json has it."""
        return {
            "phase": self.name,
            "up": self.ending.good if self.ending else None,
            "why": self.ending.why if self.ending else "",
            "signals": [{"step": s.step, "state": s.state, "detail": s.detail} for s in self.signals],
            "agent": self.agent,
            "restarts": self.restarts,
            "seconds": round(self.seconds, 1),
            "files": self.files,
        }


class Watcher:
    """Watches one running domain: COM1, libvirt's events, the screen, the guest agent."""

    def __init__(
        self, domain: Domain, name: str, directory: Path, com1: Optional[Path], limits: Mapping[str, int], steps: Steps
    ) -> None:
        self.domain, self.limits, self.steps = domain, limits, steps
        self.phase = Phase(name)
        self.com1 = Com1(com1) if com1 is not None else None
        self.screens = Screens(directory, name)
        self.started = time.monotonic()
        self._next_picture = self._next_ping = 0.0
        if com1 is not None:
            self.phase.files["com1"] = str(com1)

    def until_up(self, expects_done: bool, channel: bool) -> Ending:
        """Wait until the guest is up or has stopped; `channel`: the domain has one for the guest agent."""
        while True:
            time.sleep(TICK)
            ending = ending_of(self._look(channel), self.limits, expects_done)
            if ending is not None:
                self._take_picture()
                self._end(ending)
                return ending

    def _look(self, channel: bool) -> Seen:
        now = time.monotonic()
        state = self.domain.state()
        if self.com1 is not None:
            for signal in self.com1.poll(now):
                self.steps.say(f"{self.phase.name}: {signal.step}: {signal.state}" + (f", {signal.detail}" if signal.detail else ""))
        if now >= self._next_picture and state.active:
            self._take_picture()
            self._next_picture = time.monotonic() + PICTURE
        if channel and not self.phase.agent and now >= self._next_ping:
            self.phase.agent = self.domain.agent("guest-ping", seconds=1) is not None
            self._next_ping = time.monotonic() + PING
        restarts = [event.at for event in self.domain.events if event.kind == "reboot" and event.at >= self.started]
        if len(restarts) > self.phase.restarts:
            self.steps.say(f"{self.phase.name}: the guest restarts (number {len(restarts)})")
        self.phase.restarts = len(restarts)
        errors = [event.detail for event in self.domain.events if event.kind == "io-error" and event.at >= self.started]
        return Seen(
            started=self.started,
            now=time.monotonic(),
            state=state,
            signals=self.com1.signals if self.com1 is not None else (),
            restarts=len(restarts),
            restarted=max(restarts, default=0.0),
            panicked=any(event.kind == "crashed" and event.at >= self.started for event in self.domain.events),
            io_error=errors[-1] if errors else "",
            agent=self.phase.agent,
            still_for=self.screens.still_for(),
            flooded=self.com1 is not None and self.com1.flooded,
        )

    def _take_picture(self) -> None:
        self.screens.take(self.domain.screenshot())

    def _end(self, ending: Ending) -> None:
        self.phase.ending = ending
        self.phase.signals = tuple(self.com1.signals) if self.com1 is not None else ()
        self.phase.seconds = time.monotonic() - self.started
        if not ending.good:
            self.screens.keep_stop()
        for which in ("first", "last", "stop"):
            if self.screens.path(which).exists():
                self.phase.files[f"screen-{which}"] = str(self.screens.path(which))
        self.steps.say(f"{self.phase.name}: {'up' if ending.good else 'NOT UP'}: {ending.why}")

    def shut_down(self) -> None:
        """Have the guest shut itself down: through its agent, then by the power button. NotVerified when it does not."""
        limit = float(self.limits["shutdown"])
        began = time.monotonic()
        if self.phase.agent and self.domain.ask_to_shut_down("agent"):
            self._wait_until_off(began + limit / 2)
        while self.domain.state().active and time.monotonic() < began + limit:
            self.domain.ask_to_shut_down("acpi")
            self._wait_until_off(min(time.monotonic() + PRESS, began + limit))
        if self.domain.state().active:
            self._take_picture()
            still = self.screens.still_for()
            picture = f"; the same picture for {still:.0f} s" if still is not None and still > limit / 2 else ""
            self._end(Ending(False, f"it did not shut down in {limit:.0f} s, asked by its agent and the power button{picture}"))
            raise NotVerified(f"{self.phase.name}: {self._why()}")
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
            raise NotVerified(f"{self.phase.name}: {self._why()}")

    def _why(self) -> str:
        return self.phase.ending.why if self.phase.ending is not None else ""


