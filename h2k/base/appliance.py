"""libguestfs' appliance with time limits: one that hangs is ended, and so is what launched it.

A handle is locked while it works, and Python's bindings hold the interpreter while they wait for that lock: nothing may be
asked of it from another thread, not even its process id. So the processes that a launch started are told by the kernel
(proc(5), /proc/PID/task/TID/children; where a kernel has no such file there is no limit).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from h2k.base.errors import H2kError

LAUNCH_LIMIT = 600.0  # seconds; without KVM on a busy host a launch takes minutes
HINT = "see h2k doctor, and what LIBGUESTFS_DEBUG=1 shows"


def launch(appliance: Any, subject: str, hint: str = HINT) -> frozenset[int]:
    """Launch a guestfs handle and return its processes. H2kError, in one line about the subject, when it fails or is not
    up within LAUNCH_LIMIT."""
    started = _children_of_this_thread()
    before = started()
    with ended_after(LAUNCH_LIMIT, lambda: started() - before) as late:
        try:
            appliance.launch()
        except RuntimeError as e:
            said = str(e).strip().splitlines() or ["no reason is given"]
            why = f"libguestfs' appliance was not up within {LAUNCH_LIMIT:.0f} s" if late.is_set() else said[0]
            raise H2kError(f"{subject}: {why}", hint=hint) from e
    return started() - before


@contextlib.contextmanager
def ended_after(seconds: float, processes: Callable[[], frozenset[int]]) -> Iterator[threading.Event]:
    """Kills the processes when the block takes longer, which sets the event. They must be children of ours that nobody has
    waited for yet, so that their ids are theirs still."""
    late = threading.Event()

    def end() -> None:
        late.set()
        for pid in processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield late
    finally:
        watchdog.cancel()


def _children_of_this_thread() -> Callable[[], frozenset[int]]:
    """What tells, in any thread, which children the thread that calls us now has."""
    listing = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")

    def children() -> frozenset[int]:
        try:
            return frozenset(map(int, listing.read_text().split()))
        except OSError:
            return frozenset()

    return children
