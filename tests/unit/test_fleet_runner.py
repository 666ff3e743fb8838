"""The run: limits, order, time, room, retries, Ctrl-C; programs are stand-ins, and no process is started."""

from __future__ import annotations

import datetime
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.fleet import runner as module
from h2k.fleet.guest_state import DONE, FAILED, INTERRUPTED, RUNNING, WAITING, GuestState
from h2k.fleet.runner import Limits, Runner, in_window, until_time
from h2k.fleet.waves import Entry


class World:
    """Programs that each take `steps` looks; what they end with; the most that ran at once, in all and by source."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.states, self.ends, self.now, self.free = tmp_path, {}, {}, 1000.0, 10**12
        self.running: list[Any] = []
        self.begun: list[str] = []
        self.most, self.most_of = 0, 0
        self.signalled: list[int] = []
        self.at_step: dict[int, Any] = {}
        self.steps = 0
        monkeypatch.setattr(module, "state_of", lambda entry, boot=False: self.states.get(entry.name, GuestState(WAITING)))
        monkeypatch.setattr(module, "lock", lambda entry: os.open(os.devnull, os.O_RDONLY))
        monkeypatch.setattr(module, "write_mark", lambda entry, **_: entry.state.mkdir(exist_ok=True))
        monkeypatch.setattr(module, "last_line", lambda log: "why")
        monkeypatch.setattr(module, "is_passing", lambda status, log: status == 1)
        monkeypatch.setattr(module.subprocess, "Popen", self.popen)
        monkeypatch.setattr(module.os, "killpg", lambda pid, number: self.signalled.append(number))
        monkeypatch.setattr(module.time, "sleep", self.sleep)
        monkeypatch.setattr(module.time, "time", lambda: self.now)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=self.free))
        monkeypatch.setattr(module, "argv_for", lambda entry: [entry.name, entry.datastore])
        monkeypatch.setattr(module, "boot_argv_for", lambda entry: [entry.name, entry.datastore, "boot"])

    def popen(self, argv: list[str], **_: Any) -> Any:
        process = SimpleNamespace(argv=argv, left=3, pid=4711)
        process.poll = lambda: self.poll(process)
        self.running.append(process)
        self.begun.append(" ".join(word for word in (argv[0], *argv[2:]) if word))
        self.most = max(self.most, len(self.running))
        self.most_of = max(self.most_of, *(sum(p.argv[1] == q.argv[1] for p in self.running) for q in self.running))
        return process

    def poll(self, process: Any) -> Optional[int]:
        process.left -= 1
        if process.left > 0:
            return None
        self.running.remove(process)
        name = process.argv[0]
        status = self.ends.get(name, [0]).pop(0) if self.ends.get(name) else 0
        self.states[name] = GuestState(DONE if status == 0 else FAILED, converted=status == 0)
        return int(status)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.steps += 1
        assert self.steps < 5000, "the run has no end"
        if self.steps in self.at_step:
            self.at_step[self.steps]()

    def run(self, *entries: Entry, again: bool = False, boot: bool = False, **limits: Any) -> dict[str, str]:
        heard: dict[str, str] = {}
        self.runner = Runner(
            entries, Limits(**{"jobs": 2, "per_source": 2, **limits}), boot, again, lambda e, s: heard.__setitem__(e.name, s.state)
        )
        self.runner.run()
        return heard


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def entries(world: World, count: int, **more: Any) -> list[Entry]:
    return [Entry(f"g{n}", f"/x/g{n}", "vmx", 1, world.out, "h2k-v2v", **{"datastore": f"s{n % 2}", **more}) for n in range(count)]


def test_all_are_converted_within_the_limits(world: World) -> None:
    found = world.run(*entries(world, 9), jobs=3, per_source=1)
    assert set(found.values()) == {DONE} and len(found) == 9
    assert world.most == 2 and world.most_of == 1  # two sources, one each
    world.begun.clear()
    world.run(*entries(world, 9))
    assert world.begun == []  # given again: nothing to do


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs(world: World, jobs: int) -> None:
    world.run(*entries(world, 9, datastore="one"), jobs=jobs, per_source=9)
    assert world.most == jobs


def test_a_failure_stops_nobody_and_is_left_for_retry(world: World) -> None:
    world.ends["g0"] = [5]
    found = world.run(*entries(world, 3))
    assert found == {"g0": FAILED, "g1": DONE, "g2": DONE}
    world.begun.clear()
    world.run(*entries(world, 3))
    assert world.begun == []
    assert world.run(*entries(world, 3), again=True)["g0"] == DONE and world.begun == ["g0"]


def test_what_was_interrupted_goes_on(world: World) -> None:
    world.states["g0"] = GuestState(INTERRUPTED)
    world.run(*entries(world, 1))
    assert world.begun == ["g0"]


def test_errors_of_the_network_are_tried_again(world: World) -> None:
    world.ends["g0"] = [1, 1, 0]
    assert world.run(*entries(world, 2), pause=30.0)["g0"] == DONE
    assert world.begun == ["g0", "g1", "g0", "g0"] and world.now > 1000 + 30 + 60
    world.states.clear()
    world.ends["g0"] = [1, 1, 1, 0]
    assert world.run(*entries(world, 1), retries=2)["g0"] == FAILED


def test_none_is_begun_that_would_end_too_late(world: World) -> None:
    world.run(*entries(world, 4, estimate=50), until=1050.0)
    assert world.begun == ["g0", "g1"]
    world.begun.clear()
    world.run(*entries(world, 4, estimate=51), until=world.now + 50)
    assert world.begun == []


def test_room_is_looked_at_for_all_that_run_together(world: World) -> None:
    world.free = 150
    world.run(*entries(world, 3, bytes=100), jobs=3, per_source=3)
    assert world.most == 1 and len(world.begun) == 3
    world.most, world.free = 0, 250
    world.states.clear()
    world.run(*entries(world, 3, bytes=100), jobs=3, per_source=3)
    assert world.most == 2


def test_a_guest_that_another_run_left_working_counts(world: World) -> None:
    world.states["g0"] = GuestState(RUNNING)
    world.at_step[100] = lambda: world.states.__setitem__("g0", GuestState(DONE))
    found = world.run(*entries(world, 4, datastore="one"), jobs=2, per_source=2)
    assert world.most == 1 and found["g0"] == DONE and "g0" not in world.begun and len(world.begun) == 3


def test_ctrl_c_once_begins_no_more_and_twice_stops(world: World) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell has put the tests in the background
    world.at_step[1] = lambda: signal.raise_signal(signal.SIGINT)
    found = world.run(*entries(world, 5))
    assert world.begun == ["g0", "g1"] and found["g0"] == DONE and found["g4"] == WAITING and not world.signalled
    world.states.clear()
    world.at_step = {world.steps + 1: lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT))}
    world.run(*entries(world, 5))
    assert world.signalled == [signal.SIGINT, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_was_converted_is_booted_and_not_converted_again(world: World) -> None:
    world.states["g0"] = GuestState(FAILED, converted=True)
    world.run(*entries(world, 1), again=True, boot=True)
    assert world.begun == ["g0 boot"]


def test_a_boot_without_a_record_is_not_begun_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "state_of", lambda entry, boot=False: GuestState(WAITING, converted=bool(world.begun)))
    world.run(*entries(world, 1), boot=True)
    assert world.begun == ["g0", "g0 boot"]


def test_times() -> None:
    now = datetime.datetime(2026, 11, 27, 23, 0)
    assert until_time("23:30", now) == datetime.datetime(2026, 11, 27, 23, 30).timestamp()
    assert until_time("06:00", now) == datetime.datetime(2026, 11, 28, 6, 0).timestamp()
    for text in ("6", "25:00", "a:b", ""):
        with pytest.raises(ValueError):
            until_time(text, now)
    assert in_window("22:00-05:30", now) and not in_window("05:30-22:00", now)
    assert in_window("22:00-05:30", now.replace(hour=5, minute=29)) and not in_window("22:00-05:30", now.replace(hour=5, minute=30))


def test_the_page_of_a_run_is_asked_for_at_every_look(world: World) -> None:
    looks: list[float] = []
    Runner(entries(world, 2), Limits(2, 2), False, False, lambda *_: None, lambda: looks.append(world.now)).run()
    assert looks[0] == 1000.0 and len(looks) >= world.steps > 2
