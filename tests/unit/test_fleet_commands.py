"""h2k fleet: the exit status, the summary and its schema, the window, and texts for people."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from h2k.base.errors import Refused, UsageError
from h2k.cli import fleet_commands
from h2k.cli.fleet_commands import _deadline
from h2k.cli.main import main
from h2k.fleet.look import READY, blank
from h2k.fleet.sources import VMX, Source
from h2k.fleet.survey import document
from h2k.fleet.waves import read_waves

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "schemas" / "fleet.json").read_text())


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    path = tmp_path / "waves.yaml"
    path.write_text("version: 1\noutput: out\nwaves:\n  - {wave: 1, guests: [{name: web, source: /x, kind: vmx, estimate: 60}]}\n")
    return path


def test_the_summary_keeps_its_schema(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "status", str(waves), "--json"]) == 4
    content = json.loads(capsys.readouterr().out)
    jsonschema.validate(content, SCHEMA)
    assert content["guests"][0]["report"] == str(waves.parent / "out" / "web.h2k") and content["states"]["waiting"] == 1
    assert main(["fleet", "status", str(waves)]) == 4
    text = capsys.readouterr().out
    assert "waiting  1  web  of 60 s" in text and f"next: h2k fleet run {waves}" in text


def test_mistakes_are_one_line(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "status", str(waves), "--wave", "7"]) == 2
    assert main(["fleet", "status", "/nowhere.yaml"]) == 2
    assert main(["fleet", "plan", "/nowhere.json"]) == 2
    assert main(["survey", "/nowhere"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_window_and_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _deadline(None, None) is None
    monkeypatch.setattr(fleet_commands, "in_window", lambda window: False)
    with pytest.raises(Refused, match="outside of this wave's window, 22:00-05:30"):
        _deadline(None, "22:00-05:30")
    assert _deadline("06:00", "22:00-05:30") == fleet_commands.until_time("06:00")
    monkeypatch.setattr(fleet_commands, "in_window", lambda window: True)
    assert _deadline(None, "22:00-05:30") == fleet_commands.until_time("05:30")
    with pytest.raises(UsageError, match="not a time"):
        _deadline("6 o'clock", None)


def test_two_runs_do_not_share_the_waves(waves: Path) -> None:
    with fleet_commands._alone(waves), pytest.raises(Refused, match="another h2k fleet run"), fleet_commands._alone(waves):
        raise AssertionError("both hold them")


def test_a_command_at_the_end_that_fails_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fleet_commands._tell("'unbalanced", {})
    assert "--on-end can't be run" in capsys.readouterr().err


def test_what_is_done_is_compared_with_its_estimate(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = waves.parent / "out" / "web.h2k"
    (state / "runs").mkdir(parents=True)
    (state / "runs" / "00001-x.json").write_text('{"status": 0, "command": "h2k-v2v", "started": "2026-11-27T10:00:00+00:00"}')
    (state / "fleet.json").write_text('{"began": 1, "seconds": 30, "status": 0, "state": "ended"}')
    assert read_waves(waves).entries[0].state == state
    assert main(["fleet", "status", str(waves)]) == 0
    assert "what is done took 30 s, estimated 60 s" in capsys.readouterr().out


def test_a_plan_as_json_is_a_waves_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**blank(Source("/x/web.vmx", VMX, "/x/web.vmx", "web", "/x")), "class": READY}
    (tmp_path / "survey.json").write_text(json.dumps(document([row], None)))
    assert main(["fleet", "plan", str(tmp_path / "survey.json"), "--json", "--output", "/out", "--window", "22:00-05:30"]) == 0
    (tmp_path / "waves.json").write_text(capsys.readouterr().out)
    waves = read_waves(tmp_path / "waves.json")
    assert waves.entries[0].output == Path("/out") and waves.window(1) == "22:00-05:30"


def test_a_site_is_written(waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "ansible", str(waves), "-o", str(tmp_path / "site"), "--host", "conv1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    jsonschema.validate(content, json.loads((Path(__file__).resolve().parents[2] / "docs" / "schemas" / "fleet-site.json").read_text()))
    assert "conv1" in Path(content["written"][0]).read_text()


def test_the_page_of_a_fleet(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = waves.parent / "fleet.html"
    assert main(["fleet", "report", str(waves), "--html", str(page), "--json"]) == 4
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMA)
    assert "0 of 1 done" in page.read_text() and "data-running" not in page.read_text()
    assert main(["fleet", "report", str(waves), "--html", str(waves.parent / "nowhere" / "fleet.html")]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert main(["fleet", "report", str(waves)]) == 2


def test_a_run_rewrites_its_page_and_leaves_one_that_rests(waves: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page, seen = waves.parent / "fleet.html", []

    class Runner(fleet_commands.Runner):
        def run(self) -> None:
            self._tick()
            seen.append(page.read_text())
            raise OSError(5, "an error of the disk")

    monkeypatch.setattr(fleet_commands, "Runner", Runner)
    assert main(["fleet", "run", str(waves), "--html", str(page)]) == 1
    assert "data-running" in seen[0] and "data-running" not in page.read_text()
    assert main(["fleet", "run", str(waves)]) == 1
