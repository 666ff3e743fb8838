"""What a record is worth now: whether the disks still are what it speaks of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from h2k.base.errors import NOT_READY

STANDS, CHANGED, GONE, UNKNOWN = "stands", "changed since", "gone", "unknown"


@dataclasses.dataclass(frozen=True)
class Standing:
    """`state` is one of the words above; `sentence` says it for people, "" when the record stands."""

    state: str
    sentence: str = ""

    def status(self, recorded: int) -> int:
        """The exit status of the record, as it is worth now."""
        return recorded if self.state == STANDS else NOT_READY


def standing(record: dict[str, Any]) -> Standing:
    """What the newest record of a guest is worth: the disks of this moment decide."""
    disks = record.get("disks")
    if not disks:
        return Standing(STANDS) if record.get("status") else Standing(UNKNOWN, "the record does not say how the disks were")
    for disk in disks:
        path = Path(str(disk.get("path", "")))
        try:
            status = path.stat()
        except OSError as e:
            return Standing(GONE, f"{path}: {e.strerror}")
        if (status.st_size, status.st_mtime_ns) != (disk.get("bytes"), disk.get("mtime")):
            return Standing(CHANGED, f"{path} was written since (by a boot, a person, another tool): h2k verify says how it is")
    return Standing(STANDS)
