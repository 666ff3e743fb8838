"""The page at the end of a run: when the policy wants one or one is there, and never a reason for another status."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.config.policy import Policy
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.engine import guest_pages, records
from h2k.engine.ending import guarded, record_of
from h2k.engine.outcome import Outcome
from h2k.engine.runs import Run
from tests.unit.engine_world import World


@pytest.fixture(autouse=True)
def no_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "versions", lambda: {"h2k": "0"})


def ended(state: Path, page: Optional[bool] = None, tools: bool = False, status: int = 0) -> Run:
    """A run that ended, with what its policy says of the page: with tools, or by itself as a boot has it."""
    run = Run("h2k fix", ("fix", "g.xml"), records=state, as_json=True, wants_page=page)
    if tools:
        opened = World(state).run()
        assert opened.tools is not None
        run.tools = dataclasses.replace(opened.tools, policy=Policy(page=bool(page)))
    assert guarded(run, lambda: Outcome(status, "READY", "it went well")) == status
    return run


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("page", [True, False])
def test_the_policy_decides(page: bool, tools: bool, tmp_path: Path) -> None:
    ended(tmp_path / "g.h2k", page, tools)
    assert (tmp_path / "g.h2k" / "page.html").exists() == page


@pytest.mark.parametrize("page", [True, False])
def test_a_run_without_a_policy_asks_the_hosts(page: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_pages, "load_policy", lambda: Policy(page=page))
    ended(tmp_path / "g.h2k")
    assert (tmp_path / "g.h2k" / "page.html").exists() == page


def test_a_page_that_is_there_is_written_anew(tmp_path: Path) -> None:
    ended(tmp_path / "g.h2k", page=True)
    page = tmp_path / "g.h2k" / "page.html"
    before = page.read_text()
    ended(tmp_path / "g.h2k", page=False, status=4)
    assert before != page.read_text() and "<td>4</td>" not in before and page.read_text().count("h2k fix g.xml") == before.count("h2k fix g.xml") + 1
    assert page.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [H2kError("no space", hint="free some"), OSError(28, "no space"), ZeroDivisionError("no space")])
@pytest.mark.parametrize("status", [0, 3])
def test_a_page_that_cannot_be_written_is_one_line_and_no_other_status(
    error: Exception, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(guest_pages, "write_page", fail)
    ended(tmp_path / "g.h2k", page=True, status=status)
    told = capsys.readouterr().err
    assert told.startswith("h2k: no page of this run: ") and "no space" in told and told.count("\n") == 1
    assert (tmp_path / "g.h2k" / "report.json").exists()


def test_a_page_replaces_a_link_and_follows_none(tmp_path: Path) -> None:
    place, other = tmp_path / "g.h2k", tmp_path / "other"
    place.mkdir(mode=0o700)
    other.write_text("mine")
    os.symlink(other, place / "page.html")
    ended(place, page=True)
    assert other.read_text() == "mine" and not (place / "page.html").is_symlink()


def test_a_page_says_when_it_was_made_and_what_tells_what_is_true_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_pages.time, "gmtime", lambda: (2026, 1, 2, 3, 4, 5, 0, 1, 0))
    ended(tmp_path / "g.h2k", page=True)
    text = (tmp_path / "g.h2k" / "page.html").read_text()
    assert "at 2026-01-02 03:04 UTC" in text and f"h2k report {tmp_path}/g.h2k" in text


def test_no_records_no_page(tmp_path: Path) -> None:
    guest_pages.write_guest_page(tmp_path / "page.html", tmp_path / "none.h2k")
    assert not (tmp_path / "page.html").exists()


def test_the_record_has_the_machine_that_was_converted(tmp_path: Path) -> None:
    run = Run("h2k-v2v")
    assert record_of(run, Outcome(0, "READY", ""))["source_machine"] == {}
    run.source_domain = DomainFacts("g", 1 << 30, 2, (DiskFacts(None, None, "scsi", "sda"),), (NicFacts("52:54:00:00:00:01", "vmxnet3"),))
    assert record_of(run, Outcome(0, "READY", ""))["source_machine"] == {
        "firmware": "bios", "disks": [{"bus": "scsi", "target": "sda"}], "nics": [{"mac": "52:54:00:00:00:01", "model": "vmxnet3"}],
    }  # fmt: skip


def test_the_page_is_of_the_record_that_tells_how_the_guest_is(tmp_path: Path) -> None:
    ended(tmp_path / "g.h2k")
    run = Run("h2k boot", ("boot", "g.h2k"), records=tmp_path / "g.h2k", as_json=True, wants_page=True)

    def refuse() -> Outcome:
        raise Refused("the name 'g' is taken")

    assert guarded(run, refuse) == 3
    made = guest_pages.gathered(tmp_path / "g.h2k", records.records(tmp_path / "g.h2k"))
    assert made.judging == 0 and "is taken" in (tmp_path / "g.h2k" / "page.html").read_text()
