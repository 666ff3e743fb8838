"""libguestfs' appliance with time limits: one that hangs is ended, and so is what launched it.

A handle is locked while it works, and Python's bindings hold the interpreter while they wait for that lock: nothing may be
asked of it from another thread, not even its process id. So the processes that a launch started are told by the kernel
(proc(5), /proc/PID/task/TID/children; where a kernel has no such file there is no limit).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from h2k.base.children import Also, temporary_directory_and_more
from h2k.base.errors import H2kError

LAUNCH_LIMIT = 600.0  # seconds; without KVM on a busy host a launch takes minutes
_POLL = 0.02  # seconds
_SOCKET = re.compile(r" ([0-9]{1,20}) (/\S{1,80}/libguestfs\w{1,20})/guestfsd\.sock$", re.MULTILINE)
HINT = "see h2k doctor, and what LIBGUESTFS_DEBUG=1 shows"


@contextlib.contextmanager
def placed(appliance: Any) -> Iterator[Path]:
    """Files and sockets of a guestfs handle are gone after the block, however we end in it: libguestfs leaves them behind
    when we are killed (guestfs(3), TMPDIR and XDG_RUNTIME_DIR). Of root's sockets it lets nobody choose the place. The directory
    is for files of ours as well."""
    with temporary_directory_and_more("h2k-appliance-", mode=0o711) as (place, also):  # QEMU's user passes through
        cache = appliance.get_cachedir()  # which would follow TMPDIR, and the appliance be built anew in it
        appliance.parse_environment_list([f"TMPDIR={place}", f"XDG_RUNTIME_DIR={place}"])
        appliance.set_cachedir(cache)
        over = threading.Event()
        watch = threading.Thread(target=_note_sockets, args=(also, over), daemon=True)
        watch.start()
        try:
            yield place
        finally:
            over.set()
            watch.join()


def _note_sockets(also: Also, over: threading.Event) -> None:
    """Once we listen on libguestfs' socket, its directory is to go as well."""
    while not over.wait(_POLL):
        for directory in _socket_directories():
            with contextlib.suppress(OSError):
                also(Path(directory))
            return


def _socket_directories() -> Iterator[str]:
    """Where the sockets of libguestfs lie that this process has open (proc(5): net/unix and fd)."""
    ours = set()
    with contextlib.suppress(OSError):
        sockets = Path("/proc/self/net/unix").read_text(errors="replace")
        for entry in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):  # closed since it was listed
                ours.add(str(entry.readlink()))
        yield from (directory for inode, directory in _SOCKET.findall(sockets) if f"socket:[{inode}]" in ours)


def launch(appliance: Any, subject: str, hint: str = HINT) -> frozenset[int]:
    """Launch a guestfs handle and return its processes. H2kError, in one line about the subject, when it fails or is not
    up within LAUNCH_LIMIT. A full disk is an error for the appliance: QEMU's own answer is to stop the machine (qemu(1),
    -drive werror=), and libguestfs would wait for ever."""
    started = _children_of_this_thread()
    before = started()
    with ended_after(LAUNCH_LIMIT, lambda: started() - before) as late:
        try:
            appliance.config("-global", "scsi-hd.werror=report")
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
