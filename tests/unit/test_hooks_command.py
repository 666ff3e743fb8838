"""`h2k hooks`: what one hook finds, told as this command spells it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.finding import Finding
from h2k.cli import hooks_command
from h2k.cli.main import main
from h2k.engine.hooks import Options, Setting
from h2k.guest.guest import Guest
from tests.unit.engine_world import START, World, made_guest, made_hook

FOUND = Finding("driver-not-boot-start", "broken", "made", "no virtio-win: --h2k-drivers PATH", "convert with --h2k-bus sata")


def propose(guest: Guest, options: Options) -> Iterator[Any]:
    yield FOUND
    yield START
    yield Setting("secure-boot", "off", "asked for by --h2k-accept driver-unsigned")


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path / "web.h2k", image=made_guest(3), hooks=[made_hook(propose)])

    @contextlib.contextmanager
    def opened(request: Any) -> Iterator[Any]:
        yield found.run().opened

    @contextlib.contextmanager
    def read(images: Any) -> Iterator[Any]:
        yield found.open_reader(images)

    monkeypatch.setattr(hooks_command, "open_tools", opened)
    monkeypatch.setattr(hooks_command, "open_reader", read)
    monkeypatch.setattr(hooks_command, "open_guest_files", lambda images: found.files)
    return found


def test_a_hook_s_texts_name_the_options_of_h2k(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", "made", "g"]) == 4
    text = capsys.readouterr().out
    assert "--drivers PATH" in text and "--bus sata" in text and "--h2k-" not in text


def test_so_does_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", "made", "g", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"status", "findings", "changes", "settings"} and len(told["changes"]) == 1
    assert (told["findings"][0]["repair"], told["settings"][0]["why"]) == ("convert with --bus sata", "asked for by --accept driver-unsigned")


def test_a_mistake_is_told_so_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_command, "find_hooks", lambda places: (_ for _ in ()).throw(hooks_command.UsageError("--h2k-skip x: no such hook")))
    assert main(["hooks", "list", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"] == "--skip x: no such hook" and "--h2k-" not in told.err
