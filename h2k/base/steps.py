"""Timed steps: each is announced with its elapsed time on standard error and kept for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from h2k.base.progress import Progress


def counted(number: float, noun: str) -> str:
    """`1 disk`, `2 disks`, `0.5 minutes`."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


class Steps:
    """Prints `[ 12.3 s] what` lines and collects the timings (seconds) of a run; on a terminal a long step has a spinner."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = time.monotonic()
        self.timings: list[dict[str, Any]] = []
        self._progress = Progress()

    def say(self, text: str) -> None:
        """One line for people, with the time since the run began."""
        if not self.quiet:
            self._progress.line(f"h2k [{time.monotonic() - self.started:7.1f} s] {text}")

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """A named step; its duration is recorded even when it fails."""
        self.say(text)
        began = time.monotonic()
        try:
            if self.quiet:
                yield
            else:
                with self._progress.during(name, text):
                    yield
        finally:
            self.timings.append({"step": name, "seconds": round(time.monotonic() - began, 3)})
