"""The pool: what a worker answers, and what its parent makes of how it ended. The processes: tests/integration/test_pool.py."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, ClassVar

import pytest

from h2k.base.errors import FAILED, REFUSED, Refused
from h2k.engine import pool
from h2k.engine.request import Request


@pytest.fixture
def pipes() -> tuple[Connection, Connection]:
    return Pipe()


def refuse(job: Any) -> Any:
    raise Refused("web.vmdk: empty", hint="copy it again")


def fail(job: Any) -> Any:
    raise KeyError("Select")


@pytest.mark.parametrize(
    ("task", "result", "error", "hint", "status"),
    [
        (str.upper, "WEB", "", "", 0),
        (refuse, None, "web.vmdk: empty", "copy it again", REFUSED),
        (fail, None, "KeyError: 'Select'", "h2k -v inspect tells more", FAILED),
        (lambda job: refuse, refuse, "", "", 0),
    ],
)
def test_an_answer(
    pipes: tuple[Connection, Connection], task: Callable[[Any], Any], result: Any, error: str, hint: str, status: int
) -> None:
    ours, theirs = pipes
    pool._answer(theirs, task, "web")
    assert ours.recv() == pool.Ended(None, result, error, hint, status)


def test_a_result_that_cannot_be_carried_is_an_error_of_that_guest(pipes: tuple[Connection, Connection]) -> None:
    ours, theirs = pipes
    pool._answer(theirs, lambda job: (lambda: job), "web")
    outcome = ours.recv()
    assert outcome.exit_status == FAILED and "local object" in outcome.error


def test_how_a_worker_ended() -> None:
    assert pool._how_it_ended(-11) == "was ended by signal 11"
    assert pool._how_it_ended(3) == "ended with status 3" and pool._how_it_ended(0) == "ended with status 0"
    assert pool._how_it_ended(-1) == "was ended by signal 1"


def test_the_task_is_carried_without_the_tools_that_it_has_open() -> None:
    look = pool.Look(Request(bus="sata"))
    look._tools = object()  # type: ignore[assignment]
    carried = pickle.loads(pickle.dumps(look))
    assert carried.request == Request(bus="sata") and carried._tools is None


def test_the_tools_are_opened_once_in_a_worker_and_closed_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    @contextmanager
    def open_tools(request: Request) -> Iterator[Any]:
        done.append(request)
        yield "tools"
        done.append("closed")

    monkeypatch.setattr(pool, "open_tools", open_tools)
    monkeypatch.setattr(pool, "examine", lambda *given: SimpleNamespace(outcome=given[0], report=given[1:]))
    look, image = pool.Look(Request(bus="sata")), ((Path("web.qcow2"), None),)
    found = [look(pool.Job(key, image, side=side)) for key, side in (("a", "source"), ("b", "result"))]
    assert [(f.outcome, f.report) for f in found] == [("tools", (image, side, None)) for side in ("source", "result")]
    look.close()
    assert done == [Request(bus="sata"), "closed"]


def test_a_job_is_carried() -> None:
    job = pool.Job("web", ((Path("web.qcow2"), None),))
    assert pickle.loads(pickle.dumps(job)) == job and job.side == "source"


def test_nothing_global_is_asked_for() -> None:
    source = Path(pool.__file__).read_text(encoding="utf-8")
    for word in ("os.chdir", "signal.signal", "os.environ[", "set_start_method"):
        assert word not in source


class Worker:
    """A worker without a process: it ends its jobs at once, the job "bad" with a worker that can't be used again."""

    made: ClassVar[list[Any]] = []

    def __init__(self, task: bytes) -> None:
        self.task, self.jobs, self.ended, self.deadline = pickle.loads(task), [], False, 0.0
        Worker.made.append(self)

    def give(self, job: Any, limit: float) -> None:
        self.jobs.append(job)

    def take(self) -> tuple[pool.Ended, bool]:
        job = self.jobs[-1]
        return pool.Ended(job, self.task(job)), job != "bad"

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    Worker.made = []
    monkeypatch.setattr(pool, "_Worker", Worker)
    monkeypatch.setattr(pool, "_ready", lambda busy: list(busy[:1]))
    return Worker.made


@pytest.mark.parametrize(("count", "jobs", "made"), [(1, "abc", 1), (2, "abc", 2), (9, "abc", 3), (2, "", 0)])
def test_every_job_is_done_by_so_many_workers_that_are_used_again(workers: list[Any], count: int, jobs: str, made: int) -> None:
    found = list(pool.in_pool(str.upper, iter(jobs), count))
    assert [(e.job, e.result) for e in found] == [(job, job.upper()) for job in jobs]
    assert len(workers) == made and all(w.ended for w in workers)


def test_a_worker_that_failed_gets_no_other_job(workers: list[Any]) -> None:
    assert [e.job for e in pool.in_pool(str.upper, ["bad", "a", "b"], 1)] == ["bad", "a", "b"]
    assert [w.jobs for w in workers] == [["bad"], ["a", "b"]]


def test_one_worker_a_processor_and_no_job_is_taken_before_its_turn(workers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda process: asked.append(process) or {0, 1})  # type: ignore[func-returns-value]
    taken: list[str] = []
    jobs = (taken.append(job) or job for job in "abcdef")  # type: ignore[func-returns-value]
    found = pool.in_pool(str.upper, jobs)
    next(found)
    assert asked == [0] and len(workers) == 2 and len(taken) == 3
    found.close()  # type: ignore[attr-defined]
    assert all(w.ended for w in workers) and len(taken) == 3


class Process:
    """A process that has ended."""

    pid, returncode = 1, -11

    def wait(self) -> None:
        """It has."""


def test_a_worker_that_went_away_costs_its_guest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for late, why in ((False, "its worker was ended by signal 11"), (True, "it took longer than 3 s")):
        ours, theirs = Pipe()
        worker = object.__new__(pool._Worker)
        worker.pipe, worker._job, worker._process, worker._task = ours, "web", Process(), None  # type: ignore[assignment]
        worker._began, worker.deadline = 10.0, 13.0
        killed: list[Any] = []
        monkeypatch.setattr(pool.os, "waitid", lambda *_: True)
        monkeypatch.setattr(pool.os, "killpg", lambda *a, killed=killed: killed.append(a))
        if not late:
            theirs.close()
        ended, usable = worker.take()
        assert (ended.job, ended.error, usable, ended.exit_status) == ("web", f"this guest could not be read: {why}", False, FAILED)
        assert killed == [(1, pool.signal.SIGKILL)] and ours.closed


# A worker's two sides, over a socket without a process


class Started:
    """What takes the place of Popen: notes how it is started, and ends when its pipe is closed, or when it is killed."""

    def __init__(self, argv: list[str], **options: Any) -> None:
        self.argv, self.options, self.returncode, self.pid = argv, options, 0, 4711
        (handle,) = options["pass_fds"]
        self.theirs = Connection(os.dup(handle))
        self.waited = False

    def wait(self) -> None:
        self.waited = True
        self.theirs.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(pool, "_GRACE", 0.01)
    found = pool._Worker(pickle.dumps(str.upper))
    yield found
    found._process.wait()
    found.pipe.close()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(os, "killpg", lambda *given: found.append(given))
    return found


def test_a_worker_imports_nothing_of_the_current_directory_and_leads_a_group(worker: Any) -> None:
    program, isolated, _, code = worker._process.argv
    assert (program, isolated) == (sys.executable, "-I")
    assert f"sys.path[:] = ['{Path(pool.__file__).parents[2]}'" in code and "''" not in code
    assert f"work({worker._process.options['pass_fds'][0]})" in code
    assert worker._process.options["start_new_session"] and worker._process.options["stdin"] == subprocess.DEVNULL
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(worker._process.options["pass_fds"][0])


def test_the_task_goes_before_the_first_job_alone(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 200.0, 200.5, 203.25])
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: next(now)))
    worker.give("a", 600.0)
    assert worker.deadline == 700.0 and pickle.loads(worker._process.theirs.recv_bytes()) is str.upper
    assert worker._process.theirs.recv() == "a"
    worker.give("b", 5.0)
    assert worker.deadline == 205.0 and worker._process.theirs.recv() == "b"
    worker._process.theirs.send(pool.Ended(None, "B"))
    assert worker.take() == (pool.Ended("b", "B", seconds=0.5), True)


def test_what_a_worker_that_went_away_is_given_fails_when_it_is_asked_for(worker: Any) -> None:
    worker._process.theirs.close()
    worker.give("a", 600.0)
    assert worker.pipe.poll()


@pytest.mark.parametrize(("at_work", "ends", "kills"), [(False, True, []), (False, False, [(4711, signal.SIGKILL)]), (True, True, [(4711, signal.SIGKILL)])])
def test_a_worker_is_killed_with_its_children_when_it_is_at_work_or_does_not_end(
    worker: Any, at_work: bool, ends: bool, kills: list[Any], killed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(os, "waitid", lambda *given: asked.append(given) or (True if ends and len(asked) > 1 else None))
    if at_work:
        worker.give("a", 600.0)
    worker.end()
    assert killed == kills and worker._process.waited and worker.pipe.closed
    assert set(asked) == (set() if at_work else {(os.P_PID, 4711, os.WEXITED | os.WNOWAIT | os.WNOHANG)})


def test_one_that_is_gone_when_it_is_killed_is_no_fault(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", gone)
    worker.give("a", 600.0)
    worker.end()
    assert worker._process.waited


def test_who_has_an_answer_or_no_time_left_is_ready(pipes: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pipes
    quiet, _open = Pipe()
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: 100.0))
    answered, late, busy = (SimpleNamespace(pipe=p, deadline=d) for p, d in ((ours, 900.0), (quiet, 100.0), (quiet, 100.001)))
    theirs.send("x")
    assert pool._ready([answered, busy]) == [answered]  # type: ignore[list-item]
    ours.recv()
    assert pool._ready([answered, late]) == [late] and pool._ready([answered, busy]) == []  # type: ignore[list-item]


class Task:
    """A task with something open."""

    closed = 0

    def __call__(self, job: str) -> str:
        return job.upper()

    def close(self) -> None:
        Task.closed += 1


@pytest.mark.parametrize("task", [Task(), str.upper])
def test_the_other_side_answers_each_job_until_we_hang_up(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    Task.closed = 0
    monkeypatch.setattr(pool.direct_reader, "start_by_fork", lambda: done.append("fork"))
    ours, theirs = socket.socketpair()
    pipe = Connection(os.dup(ours.fileno()))
    pipe.send_bytes(pickle.dumps(task))
    for job in ("a", "b"):
        pipe.send(job)
    ours.shutdown(socket.SHUT_WR)
    with monkeypatch.context() as patch:  # pytest uses it at the end of a test
        patch.setattr(os, "dup2", lambda *given: done.append(given))
        pool.work(theirs.detach())
    assert done == [(2, 1), "fork"], "what a hook prints is no answer"
    assert [pipe.recv().result for _ in "ab"] == ["A", "B"] and Task.closed == isinstance(task, Task)
    ours.close()
    pipe.close()


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset")])
def test_however_its_pipe_breaks(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> Any:
        raise error

    worker = object.__new__(pool._Worker)
    worker.pipe = type("Broken", (), {"poll": lambda s: True, "recv": lambda s: broken(), "close": lambda s: None})()  # type: ignore[assignment]
    worker._job, worker._process, worker._began, worker.deadline = "web", Process(), 0.0, 1.0  # type: ignore[assignment]
    monkeypatch.setattr(pool.os, "waitid", lambda *_: True)
    monkeypatch.setattr(pool.os, "killpg", lambda *_: None)
    assert "signal 11" in worker.take()[0].error
