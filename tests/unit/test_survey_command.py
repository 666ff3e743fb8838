"""h2k survey with a simulated reader: thousands of guests with a table that is right, and input that is bad."""

from __future__ import annotations

import csv
import errno
import json
import os
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import FAILED, NOT_READY, READY, REFUSED, USAGE
from h2k.cli import survey_command
from h2k.cli.main import main
from h2k.engine.pool import Ended
from h2k.fleet import look
from h2k.fleet.look import blank
from h2k.fleet.sources import Source

BROKEN = {0: ("the image is empty", 3), 1: ("this guest could not be read: it took longer than 120 s", 1), 2: ("running", 4)}
ROOM = 24 * 1024  # bytes for each guest beside the rows of the others: its row, its line of JSON, of CSV and of the table


def guests(top: Path, count: int) -> Path:
    """Empty files under a disk's name: the simulated reader looks at none."""
    place = top / f"exports{count}"
    place.mkdir()
    for number in range(count):
        (place / f"guest{number:05d}.qcow2").touch()
    return place


def reader(task: Any, jobs: Sequence[Source], workers: Any, limit: float) -> Iterator[Ended]:
    """One in twenty is broken, in three ways; the others have what a row has. They end in another order than they began."""
    for job in sorted(jobs, key=lambda job: job.name[::-1]):
        number = int(job.name[5:])
        if number % 20 == 0:
            reason, status = BROKEN[number // 20 % 3]
            yield Ended(job, None, reason, "copy it again", status)
            continue
        disk = {"path": job.place, "format": "qcow2", "size": 1 << 36, "allocated": number}
        found = {"id": "nic-ghost", "state": "broken", "subject": f"card {number}", "evidence": "e" * 200, "repair": "r" * 100}
        row = {**blank(job), "class": look.READY, "reason": "it goes", "windows": f"Windows {number}", "disks": [disk], "findings": [found], "bytes": number}
        yield Ended(job, row, seconds=0.1)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_command, "in_pool", reader)
    monkeypatch.setattr(survey_command, "_rate", lambda: None)


@pytest.mark.usefixtures("simulated")
def test_five_thousand_guests_and_a_right_row_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "survey.json", tmp_path / "survey.csv"
    assert main(["survey", str(guests(tmp_path, 5000)), "-o", str(out), "--csv", str(table)]) == REFUSED
    content = json.loads(out.read_text())
    assert content["classes"] == {look.READY: 4750, look.REPAIRS: 0, look.UNKNOWN: 166, look.REFUSED_CLASS: 84}
    assert [row["name"] for row in content["guests"]] == [f"guest{number:05d}" for number in range(5000)]
    for number, row in enumerate(content["guests"]):
        if number % 20 == 0:
            reason, status = BROKEN[number // 20 % 3]
            assert (row["class"] == look.REFUSED_CLASS) == (status == REFUSED) and row["reason"] == reason, row
        else:
            assert (row["class"], row["windows"], row["bytes"]) == (look.READY, f"Windows {number}", number)
    with open(table, encoding="utf-8-sig", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [row["name"] for row in content["guests"]]
    text = capsys.readouterr()
    assert text.err.count("\n") == 5000 and "4750 ready to convert, 166 unknown, 84 refused" in text.out
    assert f"84 × refused: {BROKEN[0][0]} → copy it again" in text.out


@pytest.mark.usefixtures("simulated")
def test_a_guest_takes_the_room_of_its_row(tmp_path: Path) -> None:
    """Nothing grows faster than the rows, and a row is small: what a guest more costs at the peak."""
    peaks = []
    for count in (200, 1000):
        place = guests(tmp_path, count)
        tracemalloc.start()
        main(["survey", str(place), "-o", str(tmp_path / "s.json"), "--csv", str(tmp_path / "s.csv"), "--html", str(tmp_path / "s.html")])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert 0 < (peaks[1] - peaks[0]) / 800 < ROOM, peaks


# Bad input


def test_an_empty_directory_is_told_with_what_guests_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", str(tmp_path)]) == USAGE
    assert "no guest found" in (told := capsys.readouterr().err) and ".vmx, .ova" in told
    assert main(["survey"]) == USAGE
    assert "nothing is named to look at" in capsys.readouterr().err


@pytest.mark.usefixtures("simulated")
def test_two_guests_of_one_name_are_two_rows(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "guest00001.qcow2").touch()
    assert main(["survey", str(tmp_path), "-o", str(tmp_path / "survey.json")]) == READY
    rows = json.loads((tmp_path / "survey.json").read_text())["guests"]
    assert [row["key"] for row in rows] == [str(tmp_path / place / "guest00001.qcow2") for place in "ab"]


@pytest.mark.parametrize("option", ["--output", "--csv", "--html"])
@pytest.mark.usefixtures("simulated")
def test_a_full_disk_is_one_line(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "guest00001.qcow2").touch()
    monkeypatch.setattr(os, "fsync", full)
    assert main(["survey", str(tmp_path), option, str(tmp_path / "out")]) == FAILED
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and f"{tmp_path / 'out'}" in told[1] and "No space left on device" in told[1], told
    assert [path.name for path in tmp_path.iterdir()] == ["guest00001.qcow2"]


@pytest.mark.usefixtures("simulated")
def test_a_list_with_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def each(task: Any, jobs: Sequence[Source], *_: Any) -> Iterator[Ended]:
        return (Ended(job, None, "no such file", "", NOT_READY) for job in jobs)

    monkeypatch.setattr(survey_command, "in_pool", each)
    (tmp_path / "list").write_text("/nowhere/a.vmx\n\n# a remark\n/nowhere/b.ova\n")
    assert main(["survey", "--list", str(tmp_path / "list"), "-o", str(tmp_path / "survey.json")]) == NOT_READY
    rows = json.loads((tmp_path / "survey.json").read_text())["guests"]
    assert [(row["key"], row["kind"], row["class"]) for row in rows] == [(f"/nowhere/{n}", "missing", look.UNKNOWN) for n in ("a.vmx", "b.ova")]


def test_a_libvirt_that_is_not_reachable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import libvirt

    def refuse(uri: str) -> Any:
        raise libvirt.libvirtError("unable to connect to server at 'esx1:16514': Connection refused")

    monkeypatch.setattr(libvirt, "openReadOnly", refuse)
    assert main(["survey", "--libvirt", "qemu+tls://esx1/system"]) == 1
    told = capsys.readouterr().err
    assert "qemu+tls://esx1/system: libvirt does not answer" in told and "virsh -r -c URI list --all" in told
