"""The pool: what a worker answers, and what its parent makes of how it ended. The processes: tests/integration/test_pool.py."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
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


def test_the_task_is_carried_without_the_tools_that_it_has_open() -> None:
    look = pool.Look(Request(bus="sata"))
    look._tools = object()  # type: ignore[assignment]
    carried = pickle.loads(pickle.dumps(look))
    assert carried.request == Request(bus="sata") and carried._tools is None


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
