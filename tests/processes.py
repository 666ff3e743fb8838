"""The memory of a command and of all that it starts, by /proc."""

from __future__ import annotations

from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and all below it; itself first."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children(one)
    return found


def children(pid: int) -> list[int]:
    """What it started and what has not ended."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except (OSError, ValueError):
        pass
    return found


def resident(pid: int, what: str = "Pss") -> int:
    """Resident size in KiB. "Pss", the proportional one, counts once what several processes share; "Anonymous" is what a
    process has made itself, whoever shares it for a while."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{what}:")), 0)
