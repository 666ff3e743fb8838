"""Outlives a killed run by milliseconds: notes how the disks stood when nothing of the run could write any more.

A program of its own, which imports nothing of h2k: python3 -I alive_keeper.py HANDLE TOKEN DISK... It ends when its
standard input says that the run has ended by itself; when that ends without a word, the run was killed. What the run had
started is known by TOKEN in its environment, and killed with it; the kernel takes a moment, or long where a disk hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

VARIABLE = "H2K_WRITES"  # in the environment of what writes to the disks
_PATIENCE = 60.0  # seconds for what the run had started to end
_ENDED = (b"Z", b"X")  # states of a process that can't write any more


def state_of(path: str) -> list[int]:
    """By what a write is noticed: which file it is, its size in bytes, and its time stamp in nanoseconds."""
    facts = os.stat(path)  # noqa: PTH116 - pathlib would take longer to import than all else here
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns]


def note(handle: int, disks: Sequence[str]) -> None:
    """Write how the disks stand; block devices are left out, whose time stamps tell nothing."""
    found = {path: state_of(path) for path in disks if os.path.isfile(path)}  # noqa: PTH113
    data = json.dumps(found).encode()
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))  # the run may have noted something itself, just before it was killed
    os.fsync(handle)


def _processes(mark: bytes) -> list[str]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read(1 << 20).split(b"\0"):
                        found.append(name)
            except OSError:
                continue
    return found


def _lives(process: str) -> bool:
    """Whether it may write: one that is ending has no environment any more, and may still hand on what it wrote."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read(4096).rpartition(b") ")[2][:1] not in _ENDED
    except OSError:
        return False


def main(argv: Sequence[str]) -> None:
    """The program."""
    handle, token, disks = int(argv[0]), argv[1], argv[2:]
    if os.read(0, 1):
        return
    deadline, mark = time.monotonic() + _PATIENCE, f"{VARIABLE}={token}".encode()
    known: set[str] = set()
    while time.monotonic() < deadline:
        known = {process for process in known | set(_processes(mark)) if _lives(process)}
        if not known:
            note(handle, disks)
            return
        time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1:])
