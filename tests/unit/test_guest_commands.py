"""plan, verify and `fix --dry-run` of a guest that is not ready name the command that repairs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest

from h2k.base.errors import Refused
from h2k.cli.main import main
from h2k.engine import records
from h2k.engine.runs import Run
from tests.unit.engine_world import World, made_domain, made_guest

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "record.json"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A guest in memory that the commands take for whatever they are given."""
    world = World(tmp_path / "my guest.h2k")

    @contextmanager
    def opened(run: Run, words: Sequence[str], report: Optional[str], wishes: dict[str, Any]) -> Iterator[None]:
        made = world.run()
        run.files, run.tools, run.parts = made.files, made.tools, made.parts
        yield

    monkeypatch.setattr("h2k.cli.guest_commands.opened", opened)
    return world


def said(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit status, and the commands that come next."""
    status = main(list(argv))
    return status, [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  next: ")]


@pytest.mark.parametrize("argv", [["verify"], ["plan"], ["fix", "--dry-run"]])
def test_a_guest_that_is_not_ready_gets_its_repair(argv: list[str], world: World, tmp_path: Path, capsys: Any) -> None:
    disk = tmp_path / "my guest.qcow2"
    disk.touch()
    status, following = said([*argv, str(disk), "--bus", "sata", "--report", "/r d"], capsys)
    assert status == 4
    assert following == [f"next: h2k fix '{disk}' --bus sata --report '/r d'", f"next: h2k explain '{disk}'"]
    assert "commit" not in world.done and not (world.state / "report.json").exists()


@pytest.mark.parametrize("argv", [["verify"], ["plan"], ["fix", "--dry-run"]])
def test_a_healthy_guest_needs_no_repair(argv: list[str], world: World, tmp_path: Path, capsys: Any) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.touch()
    world.image = made_guest(0)
    assert said([*argv, str(disk)], capsys) == (0, [])


def test_domains_takes_the_lock_before_it_looks(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    world.image, world.domain = made_guest(0), made_domain("web")

    @contextmanager
    def locked(directory: Path) -> Iterator[None]:
        world.done.append("lock")
        yield
        world.done.append("unlock")

    monkeypatch.setattr("h2k.cli.guest_commands.locked_directory", locked)
    monkeypatch.setattr(records, "versions", records.own_version)
    assert main(["domains", "web.xml"]) == 0
    assert world.done[0] == "lock" and world.done[-1] == "unlock" and any(step.startswith("read") for step in world.done), world.done
    assert (world.state / "final.xml").exists()


@pytest.mark.parametrize(("start", "status"), [(0, 0), (3, 4)], ids=["healthy", "to repair"])
def test_domains_keeps_a_record(start: int, status: int, world: World, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    world.image, world.domain = made_guest(start), made_domain("web")
    monkeypatch.setattr(records, "versions", records.own_version)
    assert main(["domains", "web.xml", "--json"]) == status
    kept = json.loads((world.state / "report.json").read_text())
    jsonschema.validate(kept, json.loads(SCHEMA.read_text()))
    assert kept == json.loads(capsys.readouterr().out) and (kept["command"], kept["status"], kept["run"]) == ("h2k domains", status, 1)
    assert ("final" in kept["files"]) == (status == 0) == (world.state / "final.xml").exists()


def test_domains_that_are_refused_leave_a_record_too(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    world.image, world.domain = made_guest(0), made_domain("web")
    monkeypatch.setattr(records, "versions", records.own_version)

    def refuse(run: Any, seen: Any) -> Any:
        raise Refused("no UEFI firmware on this host")

    monkeypatch.setattr("h2k.cli.guest_commands.build_domains", refuse)
    assert main(["domains", "web.xml"]) == 3
    kept = records.records(world.state)
    assert [(r["command"], r["word"]) for r in kept] == [("h2k domains", "REFUSED")] and not (world.state / "final.xml").exists()


def test_domains_without_a_description_has_no_record(world: World) -> None:
    assert main(["domains", "disk.qcow2"]) == 2 and not world.state.exists()
