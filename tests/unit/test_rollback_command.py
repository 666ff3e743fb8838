"""`h2k rollback`: every ending leaves a record, and none is a refusal once the disks were taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import jsonschema
import pytest

from h2k.base.errors import H2kError, Refused
from h2k.boot import take_back
from h2k.cli import rollback_command
from h2k.cli.main import main
from h2k.disk.overlay import RollbackResult
from h2k.domain.guest_files import GuestFiles
from h2k.engine import records

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "record.json"


class World:
    """A guest whose overlays are kept, with a libvirt that knows it."""

    def __init__(self, place: Path) -> None:
        self.state, self.disk = place / "g.h2k", place / "g.raw"
        self.disk.write_bytes(b"x")
        self.phase = "kept"
        self.refused: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.rolled_back = 0

    def kept(self) -> dict[str, Any]:
        content = json.loads((self.state / "report.json").read_text())
        jsonschema.validate(content, json.loads(SCHEMA.read_text()))
        assert isinstance(content, dict)
        return content


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)

    class Disks:
        def __init__(self, *_: Any) -> None:
            self.how_far = world.phase

        @contextmanager
        def held(self) -> Iterator[None]:
            world.state.mkdir(exist_ok=True, mode=0o700)
            yield

        def rollback(self, force: bool) -> RollbackResult:
            world.refused()
            world.rolled_back += 1
            return RollbackResult({str(world.disk): 1}, "kept overlay" if world.phase == "kept" else "fix")

    virt = SimpleNamespace(lookup=lambda uuid: None, close=lambda: None)
    domain = SimpleNamespace(virt=virt, name="g", uuid="u")
    monkeypatch.setattr(take_back, "DiskSet", Disks)
    monkeypatch.setattr(take_back, "_domain", lambda state: domain)
    def forget(*_: Any) -> str:
        world.after()
        return ""

    monkeypatch.setattr(take_back, "forget", forget)
    files = GuestFiles(((world.disk, "raw"),), world.state)
    monkeypatch.setattr(rollback_command, "open_guest_files", lambda images, report: files)
    monkeypatch.setattr(records, "versions", records.own_version)
    return world


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(("phase", "kind"), [("kept", "kept overlay"), ("idle", "fix")])
def test_what_was_taken_back_is_in_the_record(phase: str, kind: str, world: World) -> None:
    world.phase = phase
    assert main(["rollback", "g"]) == 0
    kept = world.kept()
    assert (kept["word"], kept["rollback"]["kind"]) == ("ROLLED BACK", kind) and kept["disks"][0]["path"] == str(world.disk)


@pytest.mark.parametrize("phase", ["kept", "idle"])
def test_a_rollback_that_is_refused_has_a_record(phase: str, world: World) -> None:
    world.phase, world.refused = phase, raising(Refused("nothing was committed, so there is nothing to roll back"))
    assert main(["rollback", "g"]) == 3
    kept = world.kept()
    assert (kept["status"], kept["word"]) == (3, "REFUSED") and "nothing was committed" in kept["verdict"] and "rollback" not in kept


def test_evidence_that_is_a_link_is_refused_before_anything_is_taken_back(world: World, tmp_path: Path) -> None:
    world.state.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (world.state / "boot").symlink_to(tmp_path / "elsewhere")
    assert main(["rollback", "g"]) == 3
    assert world.rolled_back == 0 and world.kept()["word"] == "REFUSED"


@pytest.mark.parametrize("error", [H2kError("g: its definition names overlays that are gone"), Refused("no"), OSError(5, "Input/output error")])
def test_what_fails_after_the_disks_were_taken_back_says_that_they_were(
    error: Exception, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.after = raising(error)
    assert main(["rollback", "g", "--json"]) == 1
    kept = world.kept()
    assert kept == json.loads(capsys.readouterr().out) and kept["word"] == "FAILED"
    assert kept["verdict"].startswith(f"the kept overlay is undone: {world.disk} (1 bytes restored); but ")
    assert kept["rollback"]["kind"] == "kept overlay" and world.rolled_back == 1
