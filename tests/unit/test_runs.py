"""One run: what it knows from which moment, and how it spells its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

import pytest

from h2k.domain.guest_files import GuestFiles
from h2k.engine import runs
from h2k.engine.request import Request
from h2k.engine.runs import Parts, Run
from tests.unit.engine_world import World, made_domain


def test_what_a_run_looks_at_is_known_once_it_looks(tmp_path: Path) -> None:
    empty = Run("h2k fix")
    for ask in (lambda: empty.opened, lambda: empty.guest_files):
        with pytest.raises(AssertionError):
            ask()
    assert empty.domain is None
    run = World(tmp_path).run()
    assert run.opened is run.tools and run.guest_files is run.files
    run.files = GuestFiles((), tmp_path, made_domain("web"))
    assert run.domain is not None and run.domain.name == "web"


@pytest.mark.parametrize(("asked", "bus"), [(None, "virtio-scsi"), ("sata", "sata")])
def test_the_bus_is_asked_of_the_guest_where_nobody_named_one(asked: Optional[str], bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "known_bus", lambda files: "virtio-scsi")
    run = World(tmp_path).run()
    run.tools = dataclasses.replace(run.opened, request=Request(bus=asked, skip=("x",)))
    run.know_the_bus()
    assert (run.opened.request.bus, run.opened.request.skip) == (bus, ("x",))
    run.tools, run.files = dataclasses.replace(run.opened, request=Request()), None
    run.know_the_bus()
    assert run.opened.request.bus is None, "without files there is nobody to ask"


def test_options_are_spelled_for_the_command() -> None:
    assert Run("h2k fix").spelled("give --h2k-bus") == "give --bus" and Run("h2k-v2v").spelled("give --h2k-bus") == "give --h2k-bus"


def test_each_run_has_its_own_report_and_time() -> None:
    one, other = Run("h2k fix"), Run("h2k fix")
    assert one.report is not other.report and one.steps is not other.steps and one.started.tzinfo is not None


def test_what_writes_is_loaded_when_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.disk.overlay.DiskSet", lambda *given: ("set", *given))
    monkeypatch.setattr("h2k.engine.apply.apply", lambda *given: ("apply", *given))
    assert Parts().disk_set(1, 2) == ("set", 1, 2) and Parts().apply(3) == ("apply", 3)
