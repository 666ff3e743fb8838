"""Many guests at once: one call that gives each to a process of a pool, and yields what became of it as it ends.

A worker that hangs or crashes costs the guest that it worked on, which is told with the reason; the others go on. The
caller's signals, directory, environment and threads are left alone: the workers are processes of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.children import dies_with_us
from h2k.base.errors import FAILED, H2kError
from h2k.disk import direct_reader
from h2k.domain.facts import DomainFacts
from h2k.engine.examination import SOURCE
from h2k.engine.outcome import Outcome
from h2k.engine.pipeline import examine
from h2k.engine.report import Report
from h2k.engine.request import Request, Tools, open_tools

LIMIT = 600.0  # seconds for one guest; then its worker is ended
_GRACE = 5.0  # seconds for a worker that has nothing more to do, or that has crashed, to be gone


@dataclasses.dataclass(frozen=True)
class Job:
    """One guest to look at. `key` is the caller's own name for it, and comes back with the result."""

    key: str
    images: tuple[tuple[Path, Optional[str]], ...]
    domain: Optional[DomainFacts] = None
    side: str = SOURCE


@dataclasses.dataclass(frozen=True)
class Ended:
    """What became of one job: the task's result, or `error` with its exit status and the way out; `seconds` it took."""

    job: Any
    result: Any
    error: str = ""
    hint: str = ""
    exit_status: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Looked:
    """What a look at one guest says."""

    outcome: Outcome
    report: Report


class Look:
    """The task of examine_many: the outcome and the report of one guest; the request's tools are opened once in each worker."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._tools: Optional[Tools] = None
        self._open = contextlib.ExitStack()

    def __reduce__(self) -> Any:
        return Look, (self.request,)

    def __call__(self, job: Job) -> Looked:
        if self._tools is None:
            self._tools = self._open.enter_context(open_tools(self.request))
        seen = examine(self._tools, job.images, job.side, job.domain)
        return Looked(seen.outcome, seen.report)

    def close(self) -> None:
        """Close the tools."""
        self._open.close()


def examine_many(jobs: Iterable[Job], request: Request, workers: Optional[int] = None, limit: float = LIMIT) -> Iterator[Ended]:
    """Look at many guests, read-only, `workers` at a time (one a processor): an Ended with a Looked for each.

    They come in the order in which they end. Closing the iterator ends the workers.
    """
    return in_pool(Look(request), jobs, workers, limit)


def in_pool(task: Callable[[Any], Any], jobs: Iterable[Any], workers: Optional[int] = None, limit: float = LIMIT) -> Iterator[Ended]:
    """Call `task` (which pickle can carry: a function of a module, or an object) with each job, in worker processes."""
    count = max(1, workers or len(os.sched_getaffinity(0)))
    waiting = iter(jobs)
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    carried = pickle.dumps(task)
    try:
        job = next(waiting, None)
        while job is not None or busy:
            while job is not None and len(busy) < count:
                worker = idle.pop() if idle else _Worker(carried)
                worker.give(job, limit)
                busy.append(worker)
                job = next(waiting, None)
            for worker in _ready(busy):
                busy.remove(worker)
                outcome, usable = worker.take()
                if usable:
                    idle.append(worker)
                yield outcome
    finally:
        for worker in (*busy, *idle):
            worker.end()


def _ready(busy: Sequence[_Worker]) -> list[_Worker]:
    """The workers that have an answer, have ended, or have run out of time; waits for the first."""
    now = time.monotonic()
    wait([w.pipe for w in busy], max(0.0, min(w.deadline for w in busy) - now))
    now = time.monotonic()
    return [w for w in busy if w.pipe.poll() or now >= w.deadline]


class _Worker:
    """One worker process, the leader of a group to which all that it starts belongs."""

    def __init__(self, task: bytes) -> None:
        ours, theirs = socket.socketpair()
        # -I, and our own module path: nothing from the current directory is imported.
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        code = f"import sys; sys.path[:] = {paths!r}; from h2k.engine.pool import work; work({theirs.fileno()})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                preexec_fn=dies_with_us(),
            )
        finally:
            theirs.close()
        self.pipe = Connection(ours.detach())
        self._job: Any = None
        self._task: Optional[bytes] = task

    def give(self, job: Any, limit: float) -> None:
        self._job, self._began = job, time.monotonic()
        self.deadline = self._began + limit
        with contextlib.suppress(OSError):  # it has ended, which take() tells
            if self._task is not None:
                self.pipe.send_bytes(self._task)
                self._task = None
            self.pipe.send(job)

    def take(self) -> tuple[Ended, bool]:
        """The outcome of its job, and whether it can have another."""
        seconds, job, why = time.monotonic() - self._began, self._job, ""
        if self.pipe.poll():
            try:
                outcome: Ended = self.pipe.recv()
                self._job = None
                return dataclasses.replace(outcome, job=job, seconds=seconds), True
            except (EOFError, OSError):
                self._await_end()
        else:
            why = f"it took longer than {self.deadline - self._began:.0f} s"
        self.end()
        why = why or f"its worker {_how_it_ended(self._process.returncode)}"
        return Ended(job, None, f"this guest could not be read: {why}", "look at it alone, with h2k -v inspect", FAILED, seconds), False

    def _await_end(self) -> bool:
        """Whether it ends by itself; its process id stays its own until it is waited for."""
        deadline = time.monotonic() + _GRACE
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def end(self) -> None:
        """End it, with all that it started if it was at work."""
        self.pipe.close()
        if self._job is not None or not self._await_end():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _how_it_ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def work(handle: int) -> None:
    """The worker's side: take the task, then jobs, until the other side hangs up."""
    os.dup2(2, 1)  # what a hook prints is no answer
    direct_reader.start_by_fork()
    pipe = Connection(handle)
    with contextlib.suppress(EOFError, ConnectionError):
        task = pickle.loads(pipe.recv_bytes())  # noqa: S301 - of our own parent
        with contextlib.closing(task) if hasattr(task, "close") else contextlib.nullcontext():
            while True:
                _answer(pipe, task, pipe.recv())


def _answer(pipe: Connection, task: Callable[[Any], Any], job: Any) -> None:
    try:
        answer = ForkingPickler.dumps(Ended(None, task(job)))
    except H2kError as e:
        answer = ForkingPickler.dumps(Ended(None, None, e.message, e.hint, e.exit_status))
    except Exception as e:  # whatever it is, it is this guest's alone
        traceback.print_exc()
        answer = ForkingPickler.dumps(Ended(None, None, f"{type(e).__name__}: {e}", "h2k -v inspect tells more", FAILED))
    pipe.send_bytes(answer)
