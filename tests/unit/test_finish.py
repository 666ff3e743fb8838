"""What h2k does with a result of virt-v2v: repairs it, and writes beside it only when it is ready."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.convert.finish import for_result, repair, watch
from h2k.guest.guest import OTHER
from tests.unit.conversion_world import REFUSING, Conversion, Output
from tests.unit.engine_world import START, made_domain, made_guest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversion:
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: "")
    return Conversion(tmp_path / "web.h2k", domain=made_domain("web"))


WRITES = ("create-overlays", "apply", "commit", "finish")


def test_a_result_is_repaired_and_then_what_stands_beside_it_is_written(world: Conversion) -> None:
    run = world.run("h2k-v2v")
    outcome = repair(run, Output(world))  # type: ignore[arg-type]
    assert outcome.status == 0 and START.holds(world.image)
    assert world.steps_of("accepts", *WRITES) == ["accepts", *WRITES]
    assert outcome.next == (f"h2k boot {world.state}", f"h2k rollback {world.state}")


def test_a_healthy_result_gets_its_domains_and_no_rollback(world: Conversion) -> None:
    world.image = made_guest(0)
    run = world.run("h2k-v2v")
    outcome = repair(run, Output(world))  # type: ignore[arg-type]
    assert world.steps_of(*WRITES) == ["finish"] and outcome.next == (f"h2k boot {world.state}",)
    assert run.committed == outcome.sentence  # the domains are written: nothing is refused any more


def test_next_commands_know_what_the_output_wrote(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(output: Output, target: Any, report: Any, say: Any) -> None:
        report.files["bootstrap-script"] = "/out/web h2k/bootstrap.sh"

    monkeypatch.setattr(Output, "finish", finish)
    world.image = made_guest(0)
    assert repair(world.run("h2k-v2v"), Output(world)).next == ("sh '/out/web h2k/bootstrap.sh'",)  # type: ignore[arg-type]


def test_an_output_that_can_not_use_the_domains_is_heard_before_the_first_write(world: Conversion) -> None:
    world.fails["accepts"] = Refused("no IDE there")
    with pytest.raises(Refused, match="no IDE"):
        repair(world.run("h2k-v2v"), Output(world))  # type: ignore[arg-type]
    assert world.steps_of(*WRITES) == []


@pytest.mark.parametrize("hooks", [REFUSING, None])
def test_nothing_stands_beside_what_is_not_ready(world: Conversion, hooks: Any) -> None:
    if hooks is None:
        world.written = made_guest(3)
    else:
        world.hooks = hooks
    outcome = repair(world.run("h2k-v2v"), Output(world))  # type: ignore[arg-type]
    assert outcome.status == (5 if hooks is None else 3) and "finish" not in world.done


def test_without_a_description_nothing_stands_beside_it(world: Conversion) -> None:
    world.domain = None
    assert repair(world.run("h2k-v2v"), Output(world)).status == 0  # type: ignore[arg-type]
    assert "finish" not in world.done


def test_a_failure_beside_the_domains_comes_after_the_commit(world: Conversion) -> None:
    world.fails["finish"] = H2kError("no such pool")
    run = world.run("h2k-v2v")
    with pytest.raises(H2kError, match="no such pool"):
        repair(run, Output(world))  # type: ignore[arg-type]
    assert "repaired and verified" in run.committed


@pytest.mark.parametrize(("hooks", "status", "domains"), [(None, 4, True), (REFUSING, 3, False)])
def test_to_watch_writes_the_domains_and_nothing_to_the_guest(world: Conversion, hooks: Any, status: int, domains: bool) -> None:
    world.hooks = hooks or world.hooks
    assert watch(world.run("h2k-v2v")).status == status
    assert set(world.done) == {"read /image"}
    assert {p.name for p in world.state.glob("*.xml")} == ({"bootstrap.xml", "final.xml"} if domains else set())


def test_to_watch_judges_for_the_bus_that_the_result_was_made_for(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.runs.known_bus", lambda files: "virtio-scsi")
    monkeypatch.setattr("h2k.engine.write_domains._make_scratch", lambda state: None)
    world.request = dataclasses.replace(world.request, bus=None)
    run = world.run("h2k-v2v")
    watch(run)
    assert run.opened.bus == "virtio-scsi"


@pytest.mark.parametrize(
    ("system", "root"),
    [(None, "first"), ("http://microsoft.com/win/2k22", "first"), ("http://debian.org/debian/12", OTHER), ("http://microsoft.com.evil/", OTHER)],
)
def test_of_several_systems_the_one_that_virt_v2v_converted_is_meant(world: Conversion, system: Optional[str], root: str) -> None:
    world.domain = dataclasses.replace(made_domain("web"), os_id=system)
    world.request = dataclasses.replace(world.request, root="first")
    run = world.run("h2k-v2v")
    assert for_result(run).request.root == root
    for work in (lambda: repair(run, Output(world)), lambda: watch(run)):  # type: ignore[arg-type]
        run.tools = dataclasses.replace(run.opened, request=world.request)
        outcome = work()
        assert (outcome.word == "LEFT ALONE") == (root == OTHER)
