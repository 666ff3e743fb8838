"""The command h2k: one object of its schema for every exit with --json, one line for people, and the same words everywhere."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from h2k.cli.main import cli, every_command, main
from h2k.engine import records
from h2k.engine.catalogue import ACCEPTABLE, ENTRIES
from h2k.engine.ending import guarded
from h2k.engine.outcome import Outcome
from tests.unit.engine_world import World, made_domain

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"


def checked(text: str, schema: str) -> dict[str, Any]:
    """The one object, valid by its schema."""
    content = json.loads(text)
    jsonschema.validate(content, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda p: p.stem)
def test_every_schema_is_one(path: Path) -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["verify", "--bus", "scsi", "x", "--json"], "scsi"),
        (["verify", "--json"], "Missing argument"),
        (["fx", "--json"], "no such command"),
        (["verify", "--nosuch", "x", "--json"], "nosuch"),
    ],
)
def test_wrong_usage_is_an_object_and_a_line(argv: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    seen = capsys.readouterr()
    assert word in checked(seen.out, "error")["verdict"] and word in seen.err and "--help" in seen.err
    assert "Traceback" not in seen.err


@pytest.mark.parametrize("command", ["inspect", "plan", "verify", "fix", "domains", "rollback", "report", "drivers", "boot"])
def test_a_guest_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    (drivers / "viostor").mkdir()
    monkeypatch.setenv("VIRTIO_WIN", str(drivers))
    assert main([command, str(tmp_path / "nowhere.xml"), "--json"]) == 2
    record = checked(capsys.readouterr().out, "record")
    assert record["status"] == 2 and "nowhere" in record["verdict"] and list(tmp_path.iterdir()) == [drivers]


@pytest.mark.parametrize("option", [["--skip", "boot-storrage"], ["--accept", "volume-drity"], ["--skip", "60-network.py"]])
def test_a_hook_or_finding_that_does_not_exist(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h2k.cli.handles.open_guest_files", lambda images, report: World(tmp_path / "g.h2k").files)
    assert main(["verify", "x", *option, "--json"]) == 2
    assert "did you mean" in checked(capsys.readouterr().out, "record")["verdict"]


@pytest.mark.parametrize("name", ["boot-storage", "30-boot-storage", "30-boot-storage.py"])
def test_a_hook_is_known_by_each_of_its_names(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(run: Any, side: str) -> Any:
        assert run.opened.request.skip == ("boot-storage",)
        raise ZeroDivisionError("far enough")

    monkeypatch.setattr("h2k.cli.handles.open_guest_files", lambda images, report: World(tmp_path / "g.h2k").files)
    monkeypatch.setattr("h2k.cli.guest_commands.look", look)
    assert main(["verify", "x", "--skip", name]) == 1
    assert "far enough" in capsys.readouterr().err


def test_what_is_not_ready_says_the_next_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path / "g.h2k")

    @contextlib.contextmanager
    def opened(run: Any, images: Any, report: Any, wishes: Any) -> Any:
        run.files, run.tools, run.parts = world.files, world.run().tools, world.run().parts
        yield

    monkeypatch.setattr("h2k.cli.guest_commands.opened", opened)
    assert main(["verify", "my disk", "--bus", "sata", "--skip", "a", "--skip", "b", "--json"]) == 4
    record = checked(capsys.readouterr().out, "record")
    assert record["next"] == ["h2k fix 'my disk' --bus sata --skip a --skip b", "h2k explain 'my disk'"]


def test_hooks_list_prints_the_names_that_skip_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "list", "--json"]) == 0
    names = [h["name"] for h in checked(capsys.readouterr().out, "hooks")["hooks"]]
    assert main(["hooks", "list", "--words"]) == 0
    assert capsys.readouterr().out.split() == names and "boot-storage" in names


def test_the_record_of_a_repair_is_of_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from h2k.engine.pipeline import fix

    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: "")
    monkeypatch.setattr(records, "versions", records.own_version)
    world = World(tmp_path / "g.h2k", domain=made_domain())
    run = world.run()
    run.records, run.as_json = world.state, True
    assert guarded(run, lambda: fix(run)) == 0
    record = checked(capsys.readouterr().out, "record")
    assert record["guest"]["name"] == made_domain().name and record["guest"]["windows_name"].startswith("Windows ")
    assert record["run"] == 1 and record["changes"] and record["next"] == [f"h2k boot {world.state}", f"h2k rollback {world.state}"]
    assert checked((world.state / "report.json").read_text(), "record") == record


def test_report_says_what_the_record_is_worth_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(records, "versions", records.own_version)
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x" * 512)
    run = World(tmp_path / "g.h2k").run()
    run.files = None
    run.records, run.steps.quiet = tmp_path / "g.h2k", True
    guarded(run, lambda: Outcome(0, "READY", "healthy"), quiet=False)
    kept = json.loads((tmp_path / "g.h2k" / "report.json").read_text())
    kept["disks"] = records.disks_now([(image, "raw")])
    records.keep(tmp_path / "g.h2k", kept)
    capsys.readouterr()
    for handle in (tmp_path / "g.h2k", tmp_path / "g.xml", tmp_path / "g", tmp_path / "g.h2k" / "report.json"):
        assert main(["report", str(handle), "--json"]) == 0
        assert checked(capsys.readouterr().out, "record")["standing"]["state"] == "stands"
    image.write_bytes(b"y" * 1024)
    assert main(["report", str(tmp_path / "g.h2k")]) == 4
    assert "READY, CHANGED SINCE" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "g.h2k"), "--history", "--json"]) == 0
    assert len(checked(capsys.readouterr().out, "history")["runs"]) == 2


def test_a_report_that_is_garbage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "report.json").write_text("[" * 50_000)
    assert main(["report", str(place)]) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and len(seen.err.splitlines()) == 1
    assert "nested too deeply" in seen.err or "not a record of h2k" in seen.err, "Python 3.14 reads on"


@pytest.mark.parametrize("argv", [[], ["fleet"]])
def test_nothing_asked_is_the_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """click before 8.2 prints it, and a later one raises it."""
    assert main(argv) == 0
    seen = capsys.readouterr()
    assert seen.out.startswith("Usage: h2k") and "Commands:" in seen.out and seen.err == ""


def test_a_click_that_raises_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class NoArgsIsHelpError(click.UsageError):
        pass

    def raises(*_: Any, **more: Any) -> Any:
        raise NoArgsIsHelpError("Usage", ctx=click.Context(cli, info_name="h2k"))

    monkeypatch.setattr(type(cli), "main", raises)
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: h2k")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_every_finding_is_explained(entry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", entry.id]) == 0
    seen = capsys.readouterr().out
    assert seen.startswith(f"{entry.id}: ") and "by hand:" in seen and "--h2k-bus" not in seen and "`" not in seen
    assert ("--accept" in seen.split("override:")[-1]) == (entry.id in ACCEPTABLE) or "override:" not in seen


def test_explain_knows_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "hive-drity"]) == 2
    assert "did you mean hive-dirty?" in capsys.readouterr().err
    assert main(["explain", "--words"]) == 0
    assert capsys.readouterr().out.split() == [e.id for e in ENTRIES]
    assert main(["explain", "--json"]) == 0
    assert len(checked(capsys.readouterr().out, "explain")["findings"]) == len(ENTRIES)


LEAVES = [command for _, command in every_command() if not isinstance(command, click.Group)]


@pytest.mark.parametrize("command", LEAVES, ids=lambda c: c.name)
def test_every_command_has_an_example_json_and_v(command: click.Command) -> None:
    options = {o for p in command.params for o in p.opts}
    if command.name != "check":
        assert "--json" in options, "no --json"
    assert "Example: h2k" in (command.help or ""), "no example"
    assert "-v" in options, "no -v behind the command"
