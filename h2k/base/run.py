"""The one place that runs external commands: closed input, clean locale, argv logged, a line to replay on failure."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from h2k.base.children import dies_with_us
from h2k.base.errors import H2kError, UsageError
from h2k.base.text import mask_argv

log = logging.getLogger("h2k.run")
_WRAPPERS = ("h2k-v2v", "h2k-qemu-img")
NO_SPACE = os.strerror(errno.ENOSPC)
CALLED = "H2K_CALLED"  # tells the program that we call, in its environment, that h2k has called it


class CommandFailed(H2kError):
    """An external command ended with a non-zero status, could not be started, or ran out of time."""

    def __init__(self, argv: Sequence[str], status: Optional[int], stderr: str) -> None:
        self.argv, self.status, self.stderr = list(argv), status, stderr
        what = "timed out" if status is None else f"ended with status {status}"
        tail = stderr.strip().splitlines()[-1:] or [""]
        if NO_SPACE in tail[0]:  # no fault of the command's, which would end so again
            super().__init__(tail[0].removeprefix(f"{Path(argv[0]).name}: "), hint="free some space, then give the same command")
        else:
            super().__init__(f"{argv[0]} {what}: {tail[0]}", hint=f"to replay: {replayable(argv)}")


def replayable(argv: Sequence[str]) -> str:
    """A command line for people: quoted for a shell, with *** in the place of secrets."""
    return shlex.join(mask_argv(argv))


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: Optional[bytes] = None,
    timeout: Optional[float] = None,
    env: Optional[Mapping[str, str]] = None,
    memory: Optional[int] = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run argv, capture both outputs; LC_ALL=C.UTF-8, standard input closed unless given, timeout in seconds, memory
    (addresses) in bytes.

    Raises CommandFailed for a missing program, a time-out, or (with check) a non-zero status.
    """
    log.debug("run: %s", replayable(argv))
    full = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            argv, preexec_fn=dies_with_us(memory=memory), executable=find_program(argv[0]), input=stdin if stdin is not None else b"", capture_output=True,
            timeout=timeout, env={**full, CALLED: argv[0]}, check=False,
        )  # fmt: skip
    except FileNotFoundError as e:
        raise CommandFailed(argv, 127, f"{argv[0]}: not installed") from e
    except subprocess.TimeoutExpired as e:
        raise CommandFailed(argv, None, f"no answer within {timeout} s") from e
    if check and done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr.decode("utf-8", "replace"))
    return done


def pass_through(argv: Sequence[str], env: Optional[Mapping[str, str]] = None) -> int:
    """Run argv on our own standard streams and open files, untouched, and return its exit status (128+N for signal N).

    A SIGTERM or SIGHUP that we get is passed on, and its end awaited.
    """
    log.debug("pass through: %s", replayable(argv))
    try:
        with _passing_on() as children:
            full = {**os.environ, **(env or {}), CALLED: argv[0]}
            child = subprocess.Popen(
                argv, executable=find_program(argv[0]), env=full, close_fds=False, preexec_fn=dies_with_us(signal.SIGTERM)
            )
            children.append(child)
            with child:
                status = child.wait()
    except FileNotFoundError as e:
        raise CommandFailed(argv, 127, f"{argv[0]}: not installed") from e
    return status if status >= 0 else 128 - status


def find_program(name: str) -> str:
    """The first program of that name on PATH that is none of h2k's wrappers: a link to one may stand there under the
    name of the tool that it wraps. The name itself where there is none."""
    found = (shutil.which(name, path=directory) for directory in os.get_exec_path() if "/" not in name)
    return next((p for p in found if p and Path(p).resolve().name not in _WRAPPERS), name)


def not_called_by_h2k(name: str) -> None:
    """UsageError in a wrapper that h2k has called as `name`: a copy of it, or a script that starts it, has that name."""
    if os.environ.get(CALLED) == name:
        way_out = f"put the directory of the real {name} before it, or a link in the place of the copy or script"
        raise UsageError(f"the {name} on PATH leads back to h2k", hint=way_out)


@contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The signals that end us go to the children in the list instead."""
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: Any) -> None:
        for child in children:
            child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield children
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
