"""From what a person gives to the report directory: NAME, NAME.xml, NAME.h2k, its record, or a domain of libvirt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from h2k.cli import handles
from h2k.cli.handles import opened, record_directory
from h2k.domain.guest_files import GuestFiles
from h2k.engine.runs import Run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest of that name with a record."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("h2k.convert.libvirt_result.report_directory", lambda name, uri: Path(f"{name} of {uri}"))
    state = tmp_path / "web.01.h2k"
    state.mkdir()
    (state / "report.json").write_text("{}")
    (tmp_path / "web.01.xml").touch()
    return state


@pytest.mark.parametrize("handle", ["web.01", "web.01.xml", "web.01.h2k", "web.01.h2k/report.json", "./web.01", "{}/web.01.xml"])
def test_each_handle_leads_to_it(handle: str, place: Path) -> None:
    assert record_directory(handle.format(place.parent)).absolute() == place


def test_a_directory_of_runs_alone_is_one(place: Path) -> None:
    (place / "report.json").unlink()
    (place / "runs").mkdir()
    assert record_directory("web.01.h2k") == Path("web.01.h2k")


@pytest.mark.parametrize("handle", ["other.xml", "other.h2k", "./other", "disk.qcow2"])
def test_a_file_without_a_record_is_told_and_libvirt_is_not_asked(handle: str, place: Path) -> None:
    (place.parent / "disk.qcow2").touch()
    with pytest.raises(UsageError, match=rf"{handle}: no report directory of h2k \(h2k fix NAME.xml makes"):
        record_directory(handle)


def test_any_other_name_may_be_a_domain_of_libvirt(place: Path) -> None:
    assert record_directory("db", "qemu:///session") == Path("db of qemu:///session")


def test_what_an_opened_run_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []

    @contextlib.contextmanager
    def open_tools(request: Any) -> Iterator[Any]:
        done.append(f"tools for {request.bus}")
        yield tools
        done.append("closed")

    tools: Any = object()
    monkeypatch.setattr(handles, "open_tools", open_tools)
    monkeypatch.setattr(handles.direct_reader, "start_by_fork", lambda: done.append("fork"))
    monkeypatch.setattr(handles, "open_guest_files", lambda images, report: GuestFiles((), Path(str(report))))
    monkeypatch.setattr(Run, "know_the_bus", lambda run: done.append("bus"))
    run = Run("h2k verify")
    with opened(run, ["g.xml"], str(tmp_path), {"bus": "sata"}):
        assert run.tools is tools and run.guest_files.state == tmp_path
    assert done == ["fork", "tools for sata", "bus", "closed"]
