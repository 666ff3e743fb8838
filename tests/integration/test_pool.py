"""Many guests at once: real workers on real images; one that hangs or crashes costs its own guest alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import FAILED, NOT_READY, REFUSED
from h2k.disk.open_reader import open_reader
from h2k.engine.pool import Job, examine_many, in_pool
from h2k.engine.request import Request
from tests.guests import build


def behave(job: Any) -> Any:
    """A task for the workers, by the job's name."""
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "exit":
        os._exit(7)
    if job == "hang":
        child = subprocess.Popen(["sleep", "600"])
        Path("/tmp", f"h2k-test-pool-{os.getppid()}").write_text(str(child.pid))
        time.sleep(600)
    return job, os.getpid()


def test_one_that_hangs_or_crashes_costs_its_own_guest_alone() -> None:
    note = Path("/tmp", f"h2k-test-pool-{os.getpid()}")
    jobs = ["a", "hang", "b", "crash", "c", "exit", *map(str, range(20))]
    try:
        outcomes = {o.job: o for o in in_pool(behave, jobs, workers=2, limit=3)}
        left = int(note.read_text())
    finally:
        note.unlink(missing_ok=True)
    assert set(outcomes) == set(jobs)
    assert {o.job: o.error.partition(": ")[2] for o in outcomes.values() if o.error} == {
        "hang": "it took longer than 3 s",
        "crash": "its worker was ended by signal 11",
        "exit": "its worker ended with status 7",
    }
    assert all(o.exit_status == FAILED for o in outcomes.values() if o.error)
    assert not Path(f"/proc/{left}").exists() or "Z" in Path(f"/proc/{left}/stat").read_text().split()[2]
    assert len({o.result[1] for o in outcomes.values() if not o.error}) <= 5  # workers are used again


def test_jobs_come_as_the_caller_has_them_and_closing_ends_all() -> None:
    taken = []

    def jobs() -> Any:
        for number in range(1000):
            taken.append(number)
            yield number

    found = in_pool(behave, jobs(), workers=2)
    first = next(found)
    found.close()
    assert first.result[0] in (0, 1) and len(taken) <= 5
    assert not Path(f"/proc/{first.result[1]}").exists()


def test_guests_are_examined_from_a_thread_and_bad_images_are_their_own(tmp_path: Path, drivers: Path) -> None:
    known = build.cached()
    jobs = []
    for name in ("win2022", "win2012r2", "win7-x86"):
        image = Path(shutil.copy(known[name].disks[0], tmp_path))
        for copy in range(2):
            overlay = tmp_path / f"{name}-{copy}.qcow2"
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay)]
            subprocess.run(argv, check=True)
            jobs.append(Job(overlay.stem, ((overlay, "qcow2"),), side="result"))
    (tmp_path / "empty").touch()
    jobs.append(Job("empty", ((tmp_path / "empty", None),)))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    outcomes: dict[str, Any] = {}

    def look() -> None:
        outcomes.update((o.job.key, o) for o in examine_many(jobs, Request(drivers=str(drivers), allow_under=(str(known["win2022"].disks[0].parents[1]),)), workers=2))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert set(outcomes) == {job.key for job in jobs}
    bad = outcomes.pop("empty")
    assert bad.exit_status == REFUSED and "the image is empty" in bad.error
    for key, outcome in outcomes.items():
        assert outcome.result.outcome.status == NOT_READY, key
        assert outcome.result.report.guest["windows"] and outcome.result.report.changes
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_forked_child_of_the_reader_ends_as_a_spawned_one_does() -> None:
    """The reader in a worker: its child crashes, and the reader says so."""
    (outcome,) = in_pool(crash_the_reader, [str(build.cached()["win2022"].disks[0])], workers=1)
    assert "the file system reader crashed" in outcome.error and not outcome.error.startswith("this guest")


def crash_the_reader(image: str) -> Any:
    with open_reader([(Path(image), "qcow2")]) as reader:
        assert type(reader._child).__name__ == "_Forked"  # type: ignore[attr-defined]
        os.kill(reader._child.pid, signal.SIGSEGV)  # type: ignore[attr-defined]
        return reader.read_at(0, 0, 512)


def test_with_a_thread_the_reader_starts_a_program_and_does_not_fork() -> None:
    """A fork would have the locks that the other thread holds, and nobody to give them back."""
    (outcome,) = in_pool(read_beside_a_thread, [str(build.cached()["win2022"].disks[0])], workers=1)
    assert outcome.result == "Popen"


def read_beside_a_thread(image: str) -> str:
    ended = threading.Event()
    beside = threading.Thread(target=ended.wait)
    beside.start()
    try:
        with open_reader([(Path(image), "qcow2")]) as reader:
            return type(reader._child).__name__  # type: ignore[attr-defined]
    finally:
        ended.set()
        beside.join()


@pytest.mark.parametrize("workers", [1, 3])
def test_no_jobs(workers: int) -> None:
    assert list(in_pool(behave, [], workers)) == []
