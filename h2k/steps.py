"""Timed steps: each is announced with its elapsed time on standard error and kept for the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steps:
    """Prints `[ 12.3 s] what` lines and collects the timings (seconds) of a run."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = time.monotonic()
        self.timings: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        """One line for people, with the time since the run began."""
        if not self.quiet:
            print(f"h2k [{time.monotonic() - self.started:7.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """A named step; its duration is recorded even when it fails."""
        self.say(text)
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings.append({"step": name, "seconds": round(time.monotonic() - began, 3)})
