"""What a record is worth now: whether the disks still are what it speaks of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from h2k.base.errors import NOT_READY

STANDS, CHANGED, GONE, UNKNOWN = "stands", "changed since", "gone", "unknown"
IN_PRODUCTION = "in production"  # a guest that a boot left running writes to its disks: that outdates no record of it


@dataclasses.dataclass(frozen=True)
class Standing:
    """`state` is one of the words above; `sentence` says it for people, "" when nothing was written since."""

    state: str
    sentence: str = ""

    def status(self, recorded: int) -> int:
        """The exit status of the record, as it is worth now."""
        return recorded if self.holds else NOT_READY

    @property
    def holds(self) -> bool:
        """Whether the record is worth what it was."""
        return self.state in (STANDS, IN_PRODUCTION)


def standing(record: dict[str, Any]) -> Standing:
    """What the record that tells how a guest is is worth: the disks of this moment decide."""
    disks = record.get("disks")
    if not disks:
        return Standing(STANDS) if record.get("status") else Standing(UNKNOWN, "the record does not say how the disks were")
    written = None
    for disk in disks:
        path = Path(str(disk.get("path", "")))
        try:
            status = path.stat()
        except OSError as e:
            return Standing(GONE, f"{path}: {e.strerror}")
        if (status.st_size, status.st_mtime_ns) != (disk.get("bytes"), disk.get("mtime")):
            written = written or path
    if written is None:
        return Standing(STANDS)
    if _left_running(record):
        return Standing(IN_PRODUCTION, f"{written} was written since, as a guest that runs does")
    return Standing(CHANGED, f"{written} was written since (by a boot, a person, another tool): h2k verify says how it is")


def _left_running(record: dict[str, Any]) -> bool:
    """Whether a boot committed and left the guest running on its disks."""
    boot = record.get("boot")
    return isinstance(boot, dict) and boot.get("stage") == "production"

