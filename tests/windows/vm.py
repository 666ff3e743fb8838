"""One QEMU that runs: watched by its monitor and its serial port, with a time limit, and gone when the block ends."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from tests.boot.qmp import Qmp
from tests.windows.steps import StepFailed

POLL = 0.5  # seconds
SHORTEST_PATH = 100  # characters; a socket's path has 107 at most


class Vm:
    """A QEMU on `argv`, whose monitor, ports and log are files of `place`; used as a context manager."""

    def __init__(self, step: str, argv: Sequence[str], place: Path, limit: float) -> None:
        self.step, self.argv, self.place = step, list(argv), place
        self.deadline = time.monotonic() + limit
        self.log = place / "qemu.log"

    def __enter__(self) -> Vm:
        if len(str(self.place / "agent")) > SHORTEST_PATH:
            raise StepFailed(self.step, f"{self.place}: too long a path for a socket", "WORK=, a shorter directory")
        for name in ("qmp", "agent", "serial"):
            (self.place / name).unlink(missing_ok=True)
        with open(self.log, "wb") as log:
            log.write((json.dumps(self.argv) + "\n").encode())
            log.flush()
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = self._connect()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _connect(self) -> Qmp:
        while True:
            try:
                return Qmp(self.place / "qmp", 60)
            except OSError:
                if self.process.poll() is not None or time.monotonic() > self.deadline:
                    raise StepFailed(self.step, "QEMU did not start", str(self.log)) from None
                time.sleep(POLL)

    def alive(self) -> bool:
        """Whether QEMU still runs; its events come along."""
        try:
            self.qmp.execute("query-status")
        except OSError:
            self.qmp.drain()
            return False
        return self.process.poll() is None

    def wait(self, until: Callable[[], bool], seconds: float, each: Optional[Callable[[], None]] = None) -> bool:
        """Until the condition holds (True), QEMU ends, or the time is up; `each` is done at each look."""
        end = min(time.monotonic() + seconds, self.deadline)
        while not until():
            if time.monotonic() > end or not self.alive():
                return until()
            if each is not None:
                each()
            time.sleep(POLL)
        return True

    @property
    def serial(self) -> str:
        """What the guest wrote to COM1."""
        path = self.place / "serial"
        return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""

    @property
    def events(self) -> list[str]:
        """The names of QEMU's events so far."""
        return [str(event.get("event")) for event in self.qmp.events]

    def press(self, *keys: str) -> None:
        self.qmp.execute("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def read_from(self, drive: str) -> int:
        """Bytes that the guest has read from a drive."""
        for each in self.qmp.execute("query-blockstats"):
            if each.get("device") == drive:
                return int(each["stats"]["rd_bytes"])
        return 0

    def picture(self, name: str) -> None:
        """The screen as a PNG of `place`; none where QEMU has ended."""
        if self.alive():
            self.qmp.execute("screendump", filename=str(self.place / f"{name}.png"), format="png")

    def shut_down(self, seconds: float) -> bool:
        """By the ACPI power button; whether the guest did."""
        if self.alive():
            self.qmp.execute("system_powerdown")
        return self.wait(lambda: self.process.poll() is not None, seconds)


def lines(serial: str, word: str) -> list[dict[str, Any]]:
    """The JSON objects behind `word` in whole lines of a serial port."""
    found = []
    for match in re.finditer(rf"{re.escape(word)} (\{{[^\r\n]*\}})\r?\n", serial):
        try:
            each = json.loads(match[1])
        except ValueError:
            continue
        if isinstance(each, dict):
            found.append(each)
    return found
