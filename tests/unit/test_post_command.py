"""`h2k post`: what ends it early leaves a record, and the source that nobody looked at is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import Refused
from h2k.cli import post_command
from h2k.cli.main import main
from h2k.engine import records
from h2k.engine.outcome import Outcome
from tests.unit.engine_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "g.h2k")

    @contextmanager
    def tools(request: Any) -> Iterator[Any]:
        yield world.run().tools

    monkeypatch.setattr(post_command, "open_tools", tools)
    monkeypatch.setattr(post_command, "open_result", lambda result, report, connect, define: (None, world.files))
    monkeypatch.setattr(records, "versions", records.own_version)
    return world


def kept(world: World) -> dict[str, Any]:
    content = json.loads((world.state / "report.json").read_text())
    assert isinstance(content, dict)
    return content


def test_a_source_that_nobody_looked_at_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_command, "repair", lambda run, output: Outcome(0, "READY", "repaired"))
    assert main(["post", "g.xml"]) == 0
    assert [(f["id"], f["state"], f["subject"]) for f in kept(world)["findings"]] == [("hive-dirty", "warning", "g.xml")]


@pytest.mark.parametrize(("done", "status", "verdict"), [("", 3, "no space"), ("repaired: 1 change", 1, "repaired: 1 change; but no space")])
def test_what_ends_it_leaves_a_record(done: str, status: int, verdict: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Any, output: Any) -> Outcome:
        run.commit(done)
        raise Refused("no space")

    monkeypatch.setattr(post_command, "repair", refuse)
    assert main(["post", "g.xml"]) == status
    assert (kept(world)["status"], kept(world)["verdict"]) == (status, verdict)
