"""A sandbox for programs that parse what a guest wrote: namespaces of its own, by bubblewrap, and almost nothing in it.

No network, no new privileges, own user, mount, process and IPC namespaces; of the host only /usr, read-only, the files
that are named, and file descriptors that are handed over. It ends with the process that started it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

PYTHON = "/usr/bin/python3"
_FUSE = "/dev/fuse"
# Mounting needs CAP_SYS_ADMIN of the sandbox's own user namespace; CAP_SETFCAP maps its root in the inner one (Linux 5.12).
_MOUNTING = ("--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETFCAP")
# ntfs-3g gives up where it is root and may not call setgroups, so what mounts is another user in an inner user namespace.
_ANOTHER_USER = ("unshare", "--user", "--mount", "--map-user=1000", "--map-group=1000", "--keep-caps")


def missing(fuse: bool = False) -> list[str]:
    """What the sandbox lacks on this host; with `fuse` also what mounting in it needs."""
    lacking = [] if shutil.which("bwrap") else ["bubblewrap"]
    if not os.access(PYTHON, os.X_OK):
        lacking.append(PYTHON)
    if fuse:
        lacking += [] if shutil.which("unshare") else ["unshare"]
        lacking += [] if os.access(_FUSE, os.R_OK | os.W_OK) else [_FUSE]
    return lacking


def sandboxed(argv: Sequence[str], files: Mapping[str, str], fuse: bool = False) -> list[str]:
    """The command line that runs argv in a sandbox; `files` are {path on the host: path inside}, read-only.

    With `fuse` argv may mount with /dev/fuse, below /run.
    """
    room = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
    room += ["--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LC_ALL", "C.UTF-8"]
    room += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run", "--dir", "/etc"]
    for name in ("bin", "sbin", "lib", "lib64"):
        room += ["--symlink", f"usr/{name}", f"/{name}"]
    if fuse:
        room += [*_MOUNTING, "--dev-bind", _FUSE, _FUSE]
    for host, inside in files.items():
        room += ["--ro-bind", host, inside]
    return [*room, "--chdir", "/", *(_ANOTHER_USER if fuse else ()), *argv]
