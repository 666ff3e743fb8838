"""Signs of life of a run that writes to the disks: whether somebody else has written since it was killed.

While a run writes, the file `alive` in NAME.h2k follows the clock. When the run ends, or is killed, the file gets the
inode, size and time stamp of each disk as the run left it: of a killed run a small program notes them, which outlives it
(h2k.disk.alive_keeper). A disk that stands otherwise was written by somebody else. Where nothing outlived the run (the
host lost its power) its last sign of life tells until when it can have written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from h2k.base.files import create, open_own, opened_directory
from h2k.disk import alive_keeper, in_use

BEAT, LATE = 0.2, 3.0  # seconds: how often a run says that it lives, and how long after the last time it may have written
_PATIENCE = 65.0  # seconds for the keeper of a killed run to say how it left the disks
_LIMIT = 1024 * 1024  # bytes of the file
Disk = dict[str, Any]


def noted(file: Path, disks: Sequence[str]) -> None:
    """Say how the disks stand before a run begins to write to them."""
    handle = _new(file)
    try:
        alive_keeper.note(handle, disks)
    finally:
        os.close(handle)


def _new(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
    with opened_directory(file.parent) as directory:
        return create(directory, file.name)


@contextmanager
def beating(file: Path, disks: Sequence[str]) -> Iterator[None]:
    """While the block writes to the disks, a kill leaves a note of how they stood when it had come."""
    ended, handle = threading.Event(), _new(file)

    def beat() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(handle)

    thread = threading.Thread(target=beat, name="alive", daemon=True)
    try:
        with _kept(handle, disks):
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                with contextlib.suppress(OSError):
                    alive_keeper.note(handle, disks)
    finally:
        os.close(handle)


@contextmanager
def _kept(handle: int, disks: Sequence[str]) -> Iterator[None]:
    """The program that outlives a kill. Our lock on the file is its own too: who goes on waits for its note."""
    in_use.lock(handle, Path(str(handle)))
    token = secrets.token_hex(16)
    argv = [sys.executable, "-I", "-S", alive_keeper.__file__, str(handle), token, *disks]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=(handle,)
    ) as keeper:
        assert keeper.stdin is not None
        os.environ[alive_keeper.VARIABLE] = token
        try:
            yield
        finally:
            os.environ.pop(alive_keeper.VARIABLE, None)
            with contextlib.suppress(OSError):  # somebody has ended it
                keeper.stdin.write(b".")
                keeper.stdin.close()


def written_after(file: Path, disks: Iterable[Disk]) -> Optional[str]:
    """The first disk that was written after the unfinished run had written for the last time; None where there is none,
    or no telling."""
    try:
        left, last = _left(file)
    except FileNotFoundError:
        return None  # h2k 0.1 left none
    for disk in disks:
        path = str(disk["path"])
        now = alive_keeper.state_of(path)
        if path in left:
            if now != left[path]:
                return path
        elif now[2] not in (disk["found"], disk["mtime"]) and now[2] > last + int(LATE * 1e9):
            return path
    return None


def _left(file: Path) -> tuple[dict[str, Any], int]:
    """(how the run left the disks, {} where nobody noted it; its last sign of life in nanoseconds)."""
    deadline = time.monotonic() + _PATIENCE
    with open(open_own(file), "rb") as content:
        while in_use.is_locked(content.fileno()) and time.monotonic() < deadline:
            time.sleep(0.01)
        last = os.fstat(content.fileno()).st_mtime_ns
        try:
            found = json.loads(content.read(_LIMIT))
        except (ValueError, RecursionError):
            return {}, last
    return (found if isinstance(found, dict) else {}), last
