"""What an earlier record is worth now: whether the disks still are what it speaks of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2k.base.errors import NOT_READY

STANDS, ROLLED_BACK, SUPERSEDED, CHANGED, GONE, UNKNOWN = (
    "stands", "rolled back", "superseded", "changed since", "gone", "unknown",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Standing:
    """`state` is one of the words above; `sentence` says it for people, "" when the record stands."""

    state: str
    sentence: str = ""

    def status(self, recorded: int) -> int:
        """The exit status of the record, as it is worth now."""
        return recorded if self.state == STANDS else NOT_READY


def standing(history: Sequence[dict[str, Any]], index: int = -1) -> Standing:
    """What the record `history[index]` is worth (oldest first): later runs and the disks of this moment decide."""
    record = history[index]
    later = history[index:][1:] if index != -1 else ()
    for run in later:
        if str(run.get("command", "")).endswith("rollback") and run.get("status") == 0:
            return Standing(ROLLED_BACK, f"rolled back by run {run.get('run')}: the disks are what they were before")
    if any(run.get("changes") or run.get("files", {}).get("defined") for run in later if run.get("status") == 0):
        return Standing(SUPERSEDED, f"a later run, {later[-1].get('run')}, changed the guest")
    return _disks(record)


def _disks(record: dict[str, Any]) -> Standing:
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
