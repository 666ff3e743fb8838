"""Ctrl-C, SIGTERM and SIGHUP during a boot: told by name where they may stop it, held back where they must not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody has told h2k to stop; the text is the signal's name. No Exception, so that nothing takes it for a failure."""


class Interrupts:
    """What the three signals do while h2k boots a guest."""

    def __init__(self) -> None:
        self._held = 0
        self._waiting: Optional[str] = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """In this block they raise Stopped; in a thread that is not the program's main one they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        name = signal.Signals(number).name
        if self._held:
            self._waiting = name
            return
        raise Stopped(name)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """In this block they wait; check() tells of one that came. Programs that are started meanwhile do not get the
        Ctrl-C of the terminal either."""
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        self._held += 1
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
            self._held -= 1

    def check(self) -> None:
        """Raise Stopped for a signal that was held back."""
        name, self._waiting = self._waiting, None
        if name is not None:
            raise Stopped(name)
