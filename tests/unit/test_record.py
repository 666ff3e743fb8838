"""boot.json and what lies beside it: written whole, never through a link, and read without belief."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h2k.base.errors import NOT_READY, NOT_VERIFIED, READY, Refused
from h2k.boot.com1 import Ending
from h2k.boot.disk_evidence import Check
from h2k.boot.record import BootReport, Evidence, explain, next_commands, read_json, word
from h2k.boot.watcher import Observation
from h2k.engine.outcome import WORDS


def test_the_report_object(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    assert evidence.earlier() == {}
    evidence.begin()
    evidence.keep(BootReport(reached="committing", commits=2, connect="qemu:///session", observed=[Observation("final")]))
    found = evidence.earlier()
    assert (found["stage"], found["commits"], found["connect"], found["phases"][0]["phase"]) == ("committing", 2, "qemu:///session", "final")
    assert found["status"] == NOT_VERIFIED and (tmp_path / "boot").stat().st_mode & 0o777 == 0o711


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir(mode=0o711)
    (tmp_path / "boot/boot.json").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="a link"):
        Evidence(tmp_path).earlier()
    (tmp_path / "boot").chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        Evidence(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '"\\ud800'])
def test_a_file_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    assert read_json(tmp_path / "x.json") is None and read_json(tmp_path / "missing.json") is None


def test_the_next_cycle_begins_with_an_empty_directory(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    evidence.begin()
    for name in ("nvram.fd", "scratch-0.qcow2", "final-com1.log"):
        (evidence.path / name).write_text("x")
    evidence.throw_away()
    assert [path.name for path in evidence.path.iterdir()] == ["final-com1.log"]
    evidence.begin()
    assert list(evidence.path.iterdir()) == []


def test_a_full_disk_does_not_hide_why_a_boot_failed(tmp_path: Path) -> None:
    Evidence(tmp_path).keep(BootReport())  # the directory is not there


def test_for_people(tmp_path: Path) -> None:
    stopped = Observation("final", ending=Ending(False, "it panicked"), files={"screen-last": "a.png", "screen-stop": "b.png"})
    checks = [Check("done", "unknown", "done", "told"), Check("done", "passed", "done", "seen")]
    lines = list(explain(BootReport(READY, "both boots", observed=[Observation("bootstrap"), stopped], checks=checks)))
    assert lines[0] == "h2k: BOOTED: both boots"
    text = "\n".join(lines)
    assert "not ended" in text and "it panicked" in text and text.count(" done ") == 1 and "seen" in text and "b.png" in text
    assert [word(status) for status in (READY, NOT_READY, NOT_VERIFIED)] == ["BOOTED", "BOOTED, NOT VALIDATED", "NOT VERIFIED"]
    assert json.dumps(BootReport().as_json())


def test_the_next_commands_fit_a_guest_that_runs_or_does_not(tmp_path: Path) -> None:
    state, other = Path("/o/a b.h2k"), "qemu:///session"
    assert next_commands(BootReport(READY, reached="production", name="a b"), state) == ("h2k validate '/o/a b.h2k'",)
    assert next_commands(BootReport(READY, connect=other), state) == ("h2k validate '/o/a b.h2k' --connect qemu:///session",)
    assert next_commands(BootReport(NOT_READY, reached="production", name="a b", connect=other), state) == (
        "h2k validate '/o/a b.h2k' --connect qemu:///session", "virsh --connect qemu:///session shutdown 'a b'", "h2k rollback '/o/a b.h2k'",
    )  # fmt: skip
    for report in (BootReport(NOT_READY, reached="committed"), BootReport()):
        assert next_commands(report, state) == ("h2k boot '/o/a b.h2k'",)


def test_the_words_are_those_of_every_outcome() -> None:
    assert word(NOT_VERIFIED) == word(77) == WORDS[NOT_VERIFIED]
