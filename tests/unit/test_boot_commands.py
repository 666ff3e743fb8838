"""`h2k boot` and `h2k validate`: their records, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import jsonschema
import pytest

from h2k.base.errors import H2kError, NotVerified, Refused
from h2k.boot.disk_evidence import Check
from h2k.boot.record import BootReport
from h2k.cli import boot_commands
from h2k.cli.main import main
from h2k.engine import records

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "record.json"
FINAL = (
    "<domain type='kvm'><name>g</name><uuid>2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001</uuid><memory>1048576</memory><os><type>hvm</type></os>"
    "<devices><disk type='file' device='disk'><driver type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
)
Boot = Callable[[Callable[[str], None]], BootReport]


class World:
    """A guest that was repaired; `boot` is what its boots do."""

    boot: Boot

    def __init__(self, place: Path) -> None:
        self.state, self.disk = place / "g.h2k", place / "g.raw"
        self.disk.write_bytes(b"x" * 512)
        fixed = {
            "command": "h2k fix", "argv": ["fix"], "status": 0, "word": "READY", "verdict": "repaired", "findings": [],
            "disks": records.disks_now([(self.disk, "raw")]),
        }  # fmt: skip
        records.keep(self.state, fixed)
        (self.state / "final.xml").write_text(FINAL.format(self.disk))
        self.boot = lambda done: BootReport(0, "both boots observed and committed", "production")

    @property
    def newest(self) -> dict[str, Any]:
        content = records.newest(self.state)
        assert content is not None
        jsonschema.validate(content, json.loads(SCHEMA.read_text()))
        return content


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(boot_commands, "boot", lambda request, steps, done: world.boot(done))
    monkeypatch.setattr(records, "versions", records.own_version)
    return world


def raising(error: Exception, done: str = "") -> Boot:
    def fail(told: Callable[[str], None]) -> BootReport:
        if done:
            told(done)
        raise error

    return fail


def reported(world: World, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main(["report", str(world.state), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_record_of_a_boot_has_the_disks_and_stands(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", str(world.state)]) == 0
    assert world.newest["disks"] == records.disks_now([(world.disk, "raw")]) and world.newest["boot"]["stage"] == "production"
    status, found = reported(world, capsys)
    assert (status, found["word"], found["standing"]["state"]) == (0, "BOOTED", "stands")


def test_a_boot_that_was_kept_out_leaves_the_guest_ready(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.boot = raising(Refused("the name 'g' is taken by another domain"))
    assert main(["boot", str(world.state)]) == 3 and world.newest["word"] == "REFUSED"
    status, found = reported(world, capsys)
    assert (status, found["word"], found["newer"]["verdict"]) == (0, "READY", "the name 'g' is taken by another domain")


def test_a_boot_that_failed_is_what_report_tells(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.boot = raising(NotVerified("final: a reboot loop; the disks are what they were"))
    assert main(["boot", str(world.state)]) == 5
    assert reported(world, capsys)[0] == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), H2kError("no"), Refused("no"), ZeroDivisionError("no")])
@pytest.mark.parametrize("done", ["committed", "kept"])
def test_what_fails_once_there_is_no_way_back_says_what_was_done(done: str, error: Exception, world: World) -> None:
    world.boot = raising(error, f"both boots observed and {done}")
    assert main(["boot", str(world.state)]) == 1
    assert world.newest["word"] == "FAILED" and world.newest["verdict"].startswith(f"both boots observed and {done}; but ")


@pytest.mark.parametrize("final", [None, "<domain"])
def test_without_disks_to_name_the_boot_says_why(final: Any, world: World) -> None:
    (world.state / "final.xml").unlink()
    if final is not None:
        (world.state / "final.xml").write_text(final)
    world.boot = raising(Refused("final.xml makes no sense"))
    assert main(["boot", str(world.state)]) == 3
    assert world.newest["disks"] == [] and world.newest["verdict"] == "final.xml makes no sense"


@pytest.mark.parametrize(("state", "status", "word"), [("passed", 0, "VALIDATED"), ("unknown", 0, "VALIDATED"), ("failed", 4, "NOT VALIDATED")])
def test_validate_says_what_failed(
    state: Any, status: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot_commands, "validate_target", lambda name, uri, policy: [Check("running", state, "g", "as it is")])
    assert main(["validate", "g", "--json"]) == status
    content = json.loads(capsys.readouterr().out)
    assert content["word"] == word and [c["state"] for c in content["checks"]] == [state]
