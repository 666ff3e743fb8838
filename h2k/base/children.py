"""Children that end with us, however we end, and temporary directories that are gone then.

The kernel tells a child of its parent's end (prctl(2), PR_SET_PDEATHSIG). It counts as the end of the *thread* that
made the child, so that a child is to be waited for in the thread that starts it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Optional

from h2k.base.errors import H2kError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl
# It makes the directory, names it, and removes it when nobody holds its standard input open any more: so there is no
# moment at which a kill leaves the directory behind. What a signal to the whole group would end is in a session of its own.
# Each line of its standard input is a path that goes as well; nothing that lies in the directory is asked for any.
# With a token ($4) it first ends what has the token in its environment: two seconds with SIGTERM, then SIGKILL. Where
# root's libguestfs has its sockets, which nobody can choose, tells QEMU's argument for them, taken whole (a disk's name
# stands in another argument, whatever it holds), or a process that has them open.
_KEEPER = r"""
name=libguestfs[A-Za-z0-9]*/guestfsd.sock
sockets() {
  sed -zn "s|^socket,path=\(/.*/$name\)\(,[a-z0-9=]*\)*$|\1\n|p" /proc/$1/cmdline | tr -d '\0'
  for i in $(ls -l /proc/$1/fd | sed -n 's/.*socket:\[\([0-9]*\)\]$/\1/p'); do sed -n "s|.* $i \(/.*/$name\)$|\1|p" /proc/net/unix; done
}
d=$(mktemp -d "$1/$2XXXXXXXX") && chmod "$3" "$d" && echo "$d" || exit
t=$4
set --
while IFS= read -r line; do set -- "$@" "$line"; done
n=0
while [ -n "$t" ] && [ $n -lt 50 ]; do
  p=$(grep -lsxz "$t" /proc/[0-9]*/environ | tr -dc '0-9\n')
  [ -n "$p" ] || break
  [ $n -gt 0 ] || for s in $(for q in $p; do sockets $q; done | sort -u); do [ ! -S "$s" ] || set -- "$@" "${s%/*}"; done
  [ $n -lt 20 ] && s=TERM || s=KILL
  [ $((n % 10)) -ne 0 ] && [ $n -lt 20 ] || kill -$s $p
  sleep 0.1; n=$((n + 1))
done 2> /dev/null
chmod -R u+rwX "$d"; rm -rf -- "$d" "$@"
"""
LARGE = "/var/tmp"  # noqa: S108 - libguestfs' documented default
Also = Callable[[Path], None]
RUN = "H2K_RUN"  # in the environment of what a program starts that may leave something behind


def dies_with_us(number: int = signal.SIGKILL, memory: Optional[int] = None) -> Callable[[], None]:
    """For Popen's preexec_fn: what the child does before it becomes another program, so that it gets signal `number`
    when we end. Nothing is left to chance if we ended before it could ask for that. `memory`: the bytes of addresses
    that it may have."""
    parent = os.getpid()

    def ask() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


@contextmanager
def temporary_directory(prefix: str, where: Optional[Path] = None, mode: int = 0o700) -> Iterator[Path]:
    """A directory that is gone when the block ends, and when we are killed in it. H2kError when none can be made."""
    with _kept(prefix, str(where) if where is not None else tempfile.gettempdir(), mode, "") as (path, _):
        yield path


@contextmanager
def temporary_directory_and_more(prefix: str, mode: int) -> Iterator[tuple[Path, Also]]:
    """The same, and a function that takes what is to go with the directory: made later, or lying elsewhere."""
    with _kept(prefix, tempfile.gettempdir(), mode, "") as kept:
        yield kept


@contextmanager
def cleaned_up(prefix: str) -> Iterator[dict[str, str]]:
    """The environment for a program that leaves things behind when it is killed: temporary files in directories of
    ours, and processes. All are gone when the block ends, however that and the program end.

    Large files stay on the file system where libguestfs and virt-v2v would put them, and the appliance that libguestfs
    has built before is used again (guestfs(3), LIBGUESTFS_CACHEDIR; virt-v2v(1), VIRT_V2V_TMPDIR)."""
    token = secrets.token_hex(16)
    cache = os.environ.get("LIBGUESTFS_CACHEDIR") or os.environ.get("TMPDIR") or LARGE
    large = Path(os.environ.get("VIRT_V2V_TMPDIR") or cache, f"{prefix}{token}")
    with _kept(prefix, tempfile.gettempdir(), 0o711, f"{RUN}={token}") as (path, also):  # QEMU's user passes through
        try:
            also(large.absolute())
            large.mkdir(mode=0o711)
        except OSError as e:
            raise H2kError(f"{large.parent}: {e.strerror}", hint="virt-v2v's large files go there: free some space, or set VIRT_V2V_TMPDIR") from e
        yield {"TMPDIR": str(path), "VIRT_V2V_TMPDIR": str(large), "LIBGUESTFS_CACHEDIR": cache, RUN: token}


@contextmanager
def _kept(prefix: str, place: str, mode: int, token: str) -> Iterator[tuple[Path, Also]]:
    argv = ["/bin/sh", "-c", _KEEPER, "sh", place, prefix, f"{mode:o}", token]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        line = keeper.stdin

        def also(path: Path) -> None:
            if "\n" in str(path):  # two lines would name two other places
                raise OSError(errno.EINVAL, "a line break is in its name")
            line.write(os.fsencode(path) + b"\n")
            line.flush()

        try:
            name = os.fsdecode(keeper.stdout.readline()).rstrip("\n")
            if not name or "\n" in place:
                raise H2kError(f"{place}: no directory can be made there", hint="free some space, or set TMPDIR")
            yield Path(name), also
        finally:
            with suppress(OSError):  # somebody has ended it
                line.close()
