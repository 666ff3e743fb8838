"""The pool: what a worker answers, and what its parent makes of how it ended. The processes: tests/integration/test_pool.py."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Callable

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
    assert outcome.exit_status == FAILED and "pickle" in outcome.error


def test_how_a_worker_ended() -> None:
    assert pool._how_it_ended(-11) == "was ended by signal 11"
    assert pool._how_it_ended(3) == "ended with status 3"


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
