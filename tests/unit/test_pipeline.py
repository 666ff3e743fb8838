"""The way of a repair, on guests in memory: nothing is committed that was not proven, and nothing written that is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.base.finding import Finding
from h2k.disk.reader import VolumeRef
from h2k.engine import pipeline, proof
from h2k.engine.examination import SOURCE
from h2k.engine.pipeline import facts_of, finish_earlier, fix, look, look_deep
from h2k.engine.preconditions import require_rights
from h2k.engine.request import Request
from h2k.guest.guest import Guest
from tests.guests.hivelog import make_dirty_pair
from tests.unit.engine_world import FOUND, START, Disks, World, made_domain, made_guest, made_hook, wants_boot_start
from tests.unit.memory_reader import MemoryReader


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path / "g.h2k")
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: found.damage)
    return found


def written(world: World) -> list[str]:
    """The steps that could have changed something."""
    return [step for step in world.done if step in ("create-overlays", "apply", "commit", "discard")]


# Ready


def test_what_is_broken_is_repaired_proven_and_committed(world: World) -> None:
    run = world.run()
    outcome = fix(run)
    assert (outcome.status, outcome.word) == (0, "READY") and "1 change" in outcome.sentence
    assert written(world) == ["create-overlays", "apply", "commit"]
    assert START.holds(world.image) and run.committed == outcome.sentence
    assert [(f.id, f.state) for f in run.report.findings] == [("driver-not-boot-start", "repaired")]


def test_the_locks_come_first_then_the_question_who_uses_it_then_what_was_left(world: World) -> None:
    fix(world.run())
    assert world.done[:4] == ["held", "require-unused", "recover", "read /image"]
    assert world.done[-1] == "released"


def test_the_overlay_is_read_again_before_the_commit(world: World) -> None:
    fix(world.run())
    steps = [s for s in world.done if s.split()[-1] in ("apply", "verify", "/overlay", "commit")]
    assert steps == ["told apply", "apply", "told verify", "read /overlay", "told commit", "commit"]


def test_a_healthy_guest_gets_no_write(world: World) -> None:
    world.image = made_guest(0)
    run = world.run()
    assert fix(run).status == 0
    assert written(world) == [] and not run.committed


def test_a_dry_run_takes_no_lock_and_writes_nothing(world: World) -> None:
    world.dry_run = True
    assert fix(world.run()).status == 4
    assert set(world.done) == {"read /image"}


def test_what_is_not_windows_is_left_alone(world: World) -> None:
    world.image.reader.files.clear()  # type: ignore[attr-defined]
    outcome = fix(world.run())
    assert (outcome.status, outcome.word) == (0, "LEFT ALONE") and written(world) == []


def test_what_is_wrong_in_the_domain_alone_leaves_the_disks(world: World) -> None:
    wrong = Finding("boot-disk-ambiguous", "broken", "vda", "the order names another")
    world.image, world.hooks = made_guest(0), [made_hook(lambda guest, options: iter([wrong]))]
    run = world.run()
    outcome = fix(run)
    assert outcome.status == 0 and "right in h2k's domains" in outcome.sentence and written(world) == []
    assert run.report.findings[0].state == "repaired"


def test_what_no_change_repairs_is_not_ready(world: World) -> None:
    world.hooks = [made_hook(lambda guest, options: iter([FOUND]))]
    run = world.run()
    assert fix(run).status == 4 and written(world) == []
    assert run.report.findings[0].state == "broken"


# Refused before the first write


def test_every_refusal_is_told_and_nothing_is_written(world: World) -> None:
    def refuses(guest: Guest, options: Any) -> Iterator[Any]:
        yield Finding("volume-encrypted", "refused", "C:", "BitLocker", "decrypt it")
        yield Finding("made-of-the-test", "refused", "D:", "another reason", "another way out")

    world.hooks = [made_hook(refuses), made_hook(wants_boot_start, "later")]
    outcome = fix(world.run())
    assert outcome.status == 3 and written(world) == []
    assert all(word in outcome.sentence for word in ("BitLocker → decrypt it", "another reason → another way out"))


@pytest.mark.parametrize("step", ["held", "require-unused", "recover"])
def test_what_somebody_uses_is_refused_before_it_is_read(world: World, step: str) -> None:
    world.fails[step] = Refused("in use")
    with pytest.raises(Refused, match="in use"):
        fix(world.run())
    assert not any(s.startswith("read") for s in world.done) and written(world) == []


def test_a_name_that_no_domain_can_have_is_refused_before_the_first_write(world: World) -> None:
    world.domain = made_domain("team/web01")
    with pytest.raises(Refused, match="team/web01"):
        fix(world.run())
    assert written(world) == []


def test_an_output_that_can_not_use_the_domains_is_asked_before_the_first_write(world: World) -> None:
    world.domain = made_domain()
    run = world.run()

    def refuse(domains: Any) -> None:
        assert set(domains) == {"bootstrap", "final"}
        raise Refused("no IDE there")

    run.accepts = refuse
    with pytest.raises(Refused, match="no IDE"):
        fix(run)
    assert written(world) == []


def test_a_damaged_image_is_not_written(world: World) -> None:
    world.damage = "qemu-img check finds 3 errors in it"
    with pytest.raises(Refused, match="3 errors"):
        fix(world.run())
    assert written(world) == []


def test_kept_overlays_of_a_boot_are_not_worked_below(world: World) -> None:
    world.left = "kept"
    with pytest.raises(Refused, match=r"overlays of a boot are kept.*h2k boot .*g\.h2k"):
        fix(world.run())
    assert written(world) == []


def test_a_run_that_was_cut_off_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.left = "finished"
    run = world.run()
    run.steps.quiet = False
    finish_earlier(Disks(world), run.steps)  # type: ignore[arg-type]
    assert "an unfinished run was found and finished" in capsys.readouterr().err


def test_rights_are_asked_first(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    image.write_bytes(b"x")
    monkeypatch.setattr("os.access", lambda path, mode: path != image)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    files = dataclasses.replace(world.files, images=((image, "qcow2"),))
    with pytest.raises(Refused, match="run it with sudo"):
        require_rights(files)
    monkeypatch.setattr("os.access", lambda path, mode: path == image)
    with pytest.raises(Refused, match="may not write there"):
        require_rights(files)


@pytest.mark.parametrize(
    ("user", "owner", "hint"),
    [
        (1000, 0, "run it with sudo"), (1000, 1000, "give h2k a copy that it may write"),
        (0, 1000, "give h2k a copy that it may write"), (0, 0, "give h2k a copy that it may write"),
    ],
)  # fmt: skip
def test_sudo_is_the_way_out_where_the_file_is_another_user_s(user: int, owner: int, hint: str, world: World, monkeypatch: Any) -> None:
    image = SimpleNamespace(exists=lambda: True, stat=lambda: SimpleNamespace(st_uid=owner))
    monkeypatch.setattr("os.access", lambda path, mode: path is not image)
    monkeypatch.setattr("os.geteuid", lambda: user)
    with pytest.raises(Refused, match="this user may not write it") as caught:
        require_rights(dataclasses.replace(world.files, images=((image, "qcow2"),)))  # type: ignore[arg-type]
    assert caught.value.hint == hint


def test_rights_are_asked_of_a_run_that_writes_and_of_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("h2k.engine.pipeline.require_rights", asked.append)
    world.dry_run = True
    fix(world.run())
    assert asked == []
    world.dry_run = False
    fix(world.run())
    assert asked == [world.files]


def test_the_boot_configuration_is_backed_up_whatever_is_repaired(world: World) -> None:
    fix(world.run())
    assert not (world.state / "backup").exists()
    world.image, world.written = made_guest(3, bcd=b"the store"), made_guest(0, bcd=b"the store")
    fix(world.run())
    assert (world.state / "backup" / "BCD").read_bytes() == b"the store"


@pytest.mark.parametrize(("findings", "said"), [([FOUND, FOUND], "repairing driver-not-boot-start\n"), ([], "repairing the guest\n")])
def test_what_is_being_repaired_is_told(world: World, findings: list[Finding], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.hooks = [made_hook(lambda guest, options: iter([] if START.holds(guest) else [*findings, START]))]
    run = world.run()
    run.steps.quiet = False
    fix(run)
    assert said in capsys.readouterr().err


# Not proven: thrown away


@pytest.mark.parametrize("error", [H2kError("no room"), OSError("no room")])
def test_a_writer_that_fails_leaves_no_overlay(world: World, error: Exception) -> None:
    world.fails["apply"] = error
    with pytest.raises(type(error), match="no room"):
        fix(world.run())
    assert written(world) == ["create-overlays", "apply", "discard"]


def not_proven(world: World) -> str:
    before = world.image
    outcome = fix(world.run())
    assert (outcome.status, outcome.word) == (5, "NOT VERIFIED")
    assert "discard" in world.done and "commit" not in world.done and world.image is before
    return outcome.sentence


def test_changes_that_do_not_hold_are_thrown_away(world: World) -> None:
    world.written = made_guest(3)
    assert "does not hold" in not_proven(world)


def test_a_finding_that_remains_is_thrown_away(world: World) -> None:
    def never_content(guest: Guest, options: Any) -> Iterator[Any]:
        yield FOUND
        yield START

    world.hooks = [made_hook(never_content)]
    assert "driver-not-boot-start" in not_proven(world)


def test_a_refusal_that_only_the_repair_shows_is_thrown_away(world: World) -> None:
    def refuses_the_result(guest: Guest, options: Any) -> Iterator[Any]:
        if START.holds(guest):
            yield Finding("volume-encrypted", "refused", "C:", "now it is")
        else:
            yield from wants_boot_start(guest, options)

    world.hooks = [made_hook(refuses_the_result)]
    assert "now it is" in not_proven(world)


def test_what_would_still_be_changed_is_thrown_away(world: World) -> None:
    more = dataclasses.replace(START, name="Type")

    def wants_more(guest: Guest, options: Any) -> Iterator[Any]:
        yield from wants_boot_start(guest, options)
        if START.holds(guest):
            yield more

    world.hooks = [made_hook(wants_more)]
    assert "still to do" in not_proven(world)


def system_file(guest: Guest) -> tuple[dict[str, bytes], str]:
    """(the files of Windows' volume, the path of SYSTEM among them)."""
    files = next(f for f in guest.reader.files.values() if any(p.endswith("/SYSTEM") for p in f))  # type: ignore[attr-defined]
    return files, next(p for p in files if p.endswith("/SYSTEM"))


def test_a_hive_that_was_left_dirty_is_thrown_away_though_its_logs_hold_the_change(world: World) -> None:
    files, path = system_file(world.written)
    dirty, logs = make_dirty_pair(system_file(world.image)[0][path], files[path], "new")
    files[path] = dirty
    files.update({f"{path}.{suffix}": data for suffix, data in logs.items()})
    world.written = Guest(world.written.reader)
    assert "SYSTEM is dirty" in not_proven(world)


def test_an_unsound_hive_is_thrown_away(world: World) -> None:
    files, path = system_file(world.written)
    files[path] = b"junk" + files[path][4:]
    world.written = Guest(world.written.reader)
    assert "SYSTEM" in not_proven(world)


def test_every_cell_of_a_written_hive_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, sound = [], proof.regf.check

    def check(data: bytes, name: str, deep: bool = False) -> list[str]:
        if not deep:
            return sound(data, name)
        asked.append(name)
        return ["a cell is wrong"]

    monkeypatch.setattr(proof.regf, "check", check)
    assert "a cell is wrong" in not_proven(world)
    assert asked == ["SYSTEM"]


# After the commit


def test_a_commit_that_fails_is_no_success(world: World) -> None:
    world.fails["commit"] = H2kError("the commit failed, and the disks have their old content again")
    run = world.run()
    with pytest.raises(H2kError, match="old content"):
        fix(run)
    assert not run.committed


def test_domains_that_can_not_be_written_come_after_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.domain = made_domain()

    def full(*_: Any) -> None:
        raise H2kError("no space left")

    monkeypatch.setattr("h2k.engine.pipeline.write_domains", full)
    run = world.run()
    with pytest.raises(H2kError, match="no space"):
        fix(run)
    assert "repaired and verified" in run.committed and written(world)[-1] == "commit"


def test_both_domains_and_the_next_commands(world: World) -> None:
    world.domain = made_domain()
    run = world.run()
    outcome = fix(run)
    state = world.state
    assert set(run.report.files) == {"bootstrap", "final"}
    assert (state / "bootstrap.xml").exists() and (state / "final.xml").exists()
    assert outcome.next == (f"h2k boot {state}", f"h2k rollback {state}")
    world.image = made_guest(0)
    assert fix(world.run()).next == (f"h2k boot {state}",)


@pytest.mark.parametrize(("asked", "bus"), [(None, "virtio-scsi"), ("sata", "sata")])
def test_a_result_is_judged_for_the_bus_that_it_was_made_for(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: Optional[str], bus: str
) -> None:
    seen = []

    def asks_the_bus(guest: Guest, options: Any) -> Iterator[Any]:
        seen.append(options.bus)
        yield from wants_boot_start(guest, options)

    monkeypatch.setattr("h2k.engine.runs.known_bus", lambda files: "virtio-scsi")
    world.hooks, world.request = [made_hook(asks_the_bus)], Request(bus=asked)
    fix(world.run())
    assert set(seen) == {bus}


def test_the_deep_look_finds_what_lies_beside_the_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.image, sound = made_guest(0), proof.regf.check

    def check(data: bytes, name: str, deep: bool = False) -> list[str]:
        return [f"{name}: a cell is wrong"] if deep and name == "SOFTWARE" else sound(data, name)

    monkeypatch.setattr(proof.regf, "check", check)
    run = world.run("h2k verify")
    assert look(run).outcome.status == 0
    look_deep(run)
    look_deep(run)
    assert [(f.id, f.state, f.subject) for f in run.report.findings] == [("hive-corrupt", "refused", "SOFTWARE")]


# What h2k inspect shows


def test_windows_version_is_shown_where_there_is_one_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = made_guest(0)
    monkeypatch.setattr(pipeline, "open_reader", lambda images: windows.reader)
    assert facts_of([(Path("/image"), "qcow2")])["version"] == "10.0"
    assert isinstance(windows.reader, MemoryReader)
    windows.reader.files[VolumeRef(0, 1)] = windows.reader.files[VolumeRef(0, 2)]
    two = facts_of([(Path("/image"), "qcow2")])
    assert two["windows"] is True and "version" not in two
    windows.reader.files.clear()
    nothing = facts_of([(Path("/image"), "qcow2")])
    assert nothing["windows"] is False and "version" not in nothing


# A source


def test_a_source_is_ok_to_convert_and_its_missing_drivers_are_no_faults(world: World) -> None:
    outcome = look(world.run(), SOURCE).outcome
    assert (outcome.status, outcome.word) == (0, "OK TO CONVERT")
    assert "driver-not-boot-start" not in outcome.sentence


def test_the_findings_of_the_source_stay_first(world: World) -> None:
    run = world.run()
    earlier = Finding("hive-dirty", "repaired", "SYSTEM", "replayed")
    run.report.findings = [earlier]
    fix(run)
    assert run.report.findings[0] == earlier and len(run.report.findings) == 2
