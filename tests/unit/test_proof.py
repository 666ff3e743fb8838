"""The one proof of a repair: what it finds in a guest that was written, and that a good one has no problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.engine import proof
from h2k.engine.proof import problems_of, replayed_hives, written_hives
from h2k.guest.changes import ReplayLogs, SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword
from tests.guests.hivelog import make_dirty_pair
from tests.unit.engine_world import FOUND, START, World, made_guest, made_hook


def test_every_hive_that_is_not_sound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = made_guest(0, bcd=made_guest(0).hive_bytes("SYSTEM"), drivers=made_guest(0).hive_bytes("SYSTEM"))
    monkeypatch.setattr(proof.regf, "check", lambda data, name, deep=False: [f"{name}: first", "second"] if deep else [])
    assert [(f.id, f.subject, f.evidence) for f in proof.deep_findings(guest)] == [
        ("hive-corrupt", "SYSTEM", "SYSTEM: first"), ("hive-corrupt", "SOFTWARE", "SOFTWARE: first"),
        ("hive-corrupt", "DRIVERS", "DRIVERS: first"), ("bcd-corrupt", "BCD", "BCD: first"),
    ]  # fmt: skip


def problems(world: World, made: Sequence[Any] = (START,), **more: Any) -> list[str]:
    """What the proof says of the world's written guest after those changes."""
    run = world.run()
    tools = dataclasses.replace(run.opened, request=dataclasses.replace(run.opened.request, **more))

    def read(images: Any) -> Any:
        assert images == [(Path("/overlay"), "qcow2")]
        return world.written.reader

    return problems_of(tools, [(Path("/overlay"), "qcow2")], made, None, read)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "g.h2k")


def test_a_guest_that_was_written_as_it_should_has_no_problem(world: World) -> None:
    assert problems(world) == []


def test_what_was_not_written_is_three_problems(world: World) -> None:
    """The change does not hold, its finding remains, and the hook would make it again."""
    world.written = made_guest(3)
    first, second, third = problems(world)
    assert first.startswith("does not hold: ") and "Start" in first
    assert (second, third.partition(": ")[0]) == ("driver-not-boot-start, made: Start is 3", "still to do")


def test_a_refusal_is_a_problem_and_what_is_of_the_domain_alone_is_none(world: World) -> None:
    found = [Finding("volume-encrypted", "refused", "C:", "BitLocker"), Finding("boot-disk-ambiguous", "broken", "vda", "the order"), Finding("driver-not-boot-start", "warning", "x", "y")]
    world.hooks = [made_hook(lambda guest, options: iter(found))]
    assert problems(world) == ["volume-encrypted, C:: BitLocker"]


def test_the_hooks_are_asked_as_for_a_result_and_a_skipped_one_is_not(world: World) -> None:
    asked: list[str] = []

    def ask(guest: Guest, options: Any) -> Iterator[Any]:
        asked.append(options.phase)
        yield FOUND

    world.hooks = [made_hook(ask, "asked")]
    assert len(problems(world)) == 1 and problems(world, skip=("asked",)) == [] and asked == ["result"]


def test_what_can_not_be_read_is_a_problem_itself(world: World) -> None:
    def fail(guest: Guest, options: Any) -> Iterator[Any]:
        raise BadData("disk 0: can't be read at byte 7")
        yield

    class Broken:
        def holds(self, guest: Guest) -> bool:
            raise BadData("SYSTEM: a cell is wrong")

    assert problems(world, [Broken()]) == ["SYSTEM: a cell is wrong"]
    world.hooks = [made_hook(fail)]
    assert any("can't be read at byte 7" in problem for problem in problems(world))


def test_the_reader_is_closed_whatever_is_found(world: World) -> None:
    closed: list[bool] = []
    reader: Any = world.written.reader
    reader.close = lambda: closed.append(True)
    assert problems(world) == [] and closed == [True]


def test_only_hives_that_were_written_are_read_to_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof.regf, "check", lambda data, name, deep=False: [f"{name}, deep: {deep}"] if deep else [])
    other = SetValue("SOFTWARE", "A", "Start", dword(0))
    assert written_hives(world.written, []) == []
    assert written_hives(world.written, [START, START]) == ["SYSTEM, deep: True"]
    assert written_hives(world.written, [START, other]) == ["SOFTWARE, deep: True", "SYSTEM, deep: True"]


def test_a_hive_that_is_not_clean_is_a_problem(world: World) -> None:
    dirty, _ = make_dirty_pair(world.image.hive_bytes("SYSTEM"), world.written.hive_bytes("SYSTEM"), "new")
    reader: Any = world.written.reader
    files = next(f for f in reader.files.values() if any(p.endswith("/SYSTEM") for p in f))
    files[next(p for p in files if p.endswith("/SYSTEM"))] = dirty
    assert any(problem.startswith("SYSTEM is ") for problem in written_hives(Guest(reader), [START]))


def test_a_replayed_hive_reads_back_as_the_replay_made_it(world: World) -> None:
    before: Any = SimpleNamespace(complete_hive=world.written.hive_bytes)
    replay = ReplayLogs("SYSTEM", "2 pages")
    assert replayed_hives(world.written, before, [replay, START]) == []
    before.complete_hive = lambda name: b"another"
    assert replayed_hives(world.written, before, [replay, START]) == ["SYSTEM: the replayed hive does not read back"]
    assert replayed_hives(world.written, before, [START]) == []


def test_a_hive_that_can_not_be_read_is_left_to_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(data: bytes, name: str, deep: bool = False) -> list[str]:
        if name == "SYSTEM":
            raise BadData("SYSTEM: no hive")
        return ["a cell is wrong"]

    monkeypatch.setattr(proof.regf, "check", check)
    assert [(f.subject, f.state) for f in proof.deep_findings(made_guest(0))] == [("SOFTWARE", "refused")]
