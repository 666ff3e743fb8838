"""How fast this host copies guests: measured, kept with its date and what it was measured on, and never guessed."""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from h2k.base.children import temporary_directory
from h2k.base.errors import H2kError
from h2k.base.files import write_json
from h2k.base.run import run
from h2k.engine.records import read_json

_SAMPLE = 64 * 1024 * 1024  # bytes of the trial copy
_PIECE = 1024 * 1024
_WHOLE = 1024**3  # bytes from which on the copy, and not what each guest takes anyway, decides how long it was
_LEAST, _MOST = 1024, 1024**4  # bytes a second that can be true


@dataclasses.dataclass(frozen=True)
class Rate:
    """Bytes a second, the date (ISO 8601) and the basis: how it was measured."""

    bytes_per_second: float
    date: str
    basis: str

    def seconds_for(self, size: int) -> float:
        """How long a copy of so many bytes takes."""
        return size / self.bytes_per_second

    def as_json(self) -> dict[str, Any]:
        """As the survey has it."""
        return dataclasses.asdict(self)


def state_file() -> Path:
    """Where the rate of this host is kept."""
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib/h2k/rate.json")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "h2k" / "rate.json"


def kept(path: Optional[Path] = None) -> Optional[Rate]:
    """The rate that was kept, None when there is none that can be read."""
    try:
        content = read_json(path or state_file(), "rate")
        found = Rate(float(content["bytes_per_second"]), str(content["date"]), str(content["basis"]))
    except (H2kError, KeyError, TypeError, ValueError):
        return None
    return found if _LEAST <= found.bytes_per_second <= _MOST else None


def keep(rate: Rate, path: Optional[Path] = None) -> bool:
    """Keep a rate for later estimates; whether that went well. An estimate is no reason for a run to fail."""
    place = path or state_file()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, rate.as_json())
    except (H2kError, OSError):
        return False
    return True


def of_runs(done: Iterable[tuple[int, float]]) -> Optional[Rate]:
    """The rate of guests of 1 GiB and more that were converted: (bytes of the source, seconds) of each; None for smaller ones."""
    pairs = [(size, seconds) for size, seconds in done if size >= _WHOLE and seconds > 0]
    if not pairs:
        return None
    speed = sum(size for size, _ in pairs) / sum(seconds for _, seconds in pairs)
    return Rate(min(max(speed, _LEAST), _MOST), _today(), f"{len(pairs)} guests converted on this host")


def measured() -> Optional[Rate]:
    """A trial: qemu-img convert of 64 MiB of random bytes in the temporary directory; None where that is not possible."""
    try:
        with temporary_directory("h2k-rate-") as work:
            source, target = work / "source.raw", work / "target.qcow2"
            with open(source, "wb") as file:
                for _ in range(_SAMPLE // _PIECE):
                    file.write(os.urandom(_PIECE))
            began = time.monotonic()
            run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(target)], timeout=60)
            seconds = time.monotonic() - began
    except (H2kError, OSError):
        return None
    return Rate(_SAMPLE / max(seconds, 0.001), _today(), "qemu-img convert of 64 MiB here; guests converted here will replace it")


def _today() -> str:
    return datetime.date.today().isoformat()
