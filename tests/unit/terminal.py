"""A terminal for tests: a pty that standard output and standard error are attached to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from typing import TextIO

import pytest


class Terminal:
    """A pty of that size: what is written to `stream` comes back from `seen`."""

    def __init__(self, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self._parts: list[bytes] = []
        # Read all the time: a terminal holds some KiB, and whoever writes more waits for a reader.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(self.master, 65536):
                self._parts.append(part)

    def attach(self) -> None:
        """Make it standard output and standard error; in the test itself, for pytest puts its own in place before."""
        self.monkeypatch.setattr(sys, "stdout", self.stream)
        self.monkeypatch.setattr(sys, "stderr", self.stream)

    def close(self) -> None:
        """Close both ends."""
        if not self.stream.closed:
            self.stream.close()
        self._reader.join()
        os.close(self.master)

    def seen(self) -> str:
        """All that was written; nothing can be written afterwards."""
        self.stream.close()
        self._reader.join()
        return b"".join(self._parts).decode("utf-8", "replace")
