"""A terminal for tests: a pty that standard output and standard error are attached to."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from typing import TextIO

import pytest


class Terminal:
    """A pty of that size: what is written to `stream` comes back from `seen`."""

    def __init__(self, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        os.set_blocking(self.master, False)

    def attach(self) -> None:
        """Make it standard output and standard error; in the test itself, for pytest puts its own in place before."""
        self.monkeypatch.setattr(sys, "stdout", self.stream)
        self.monkeypatch.setattr(sys, "stderr", self.stream)

    def seen(self) -> str:
        self.stream.flush()
        parts = []
        while True:
            try:
                parts.append(os.read(self.master, 65536))
            except BlockingIOError:
                return b"".join(parts).decode("utf-8", "replace")
