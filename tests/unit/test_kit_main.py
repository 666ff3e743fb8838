"""`make windows`: its options, and what one row is made of, with every tool replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kit_world import SHA, a_row, answers
from tests.unit.test_kit_convert import XML
from tests.windows import __main__ as kit_main
from tests.windows.convert import Converted, described
from tests.windows.steps import StepFailed
from tests.windows.tables import read_table


def options(tmp_path: Path, *more: str) -> Any:
    return kit_main.parse(["--windows-iso", "w.iso", "--virtio-win-iso", "v.iso", "--work", str(tmp_path / "work"), *more])


def test_the_options_have_defaults(tmp_path: Path) -> None:
    found = options(tmp_path)
    assert (found.faults, found.firmware, found.edition, found.libvirt, found.keep) == ("", "", "", "system", False)
    assert found.work.is_dir()


@pytest.mark.parametrize("more", [["--firmware", "coreboot"], ["--libvirt", "vmware"]])
def test_other_words_are_refused(more: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        options(tmp_path, *more)


def test_a_failure_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--windows-iso", str(tmp_path / "none.iso"), "--virtio-win-iso", "v.iso", "--work", str(tmp_path / "w")]
    kit_main.kvm_works, kept = (lambda: True), kit_main.kvm_works
    try:
        assert kit_main.main(argv) == 1
    finally:
        kit_main.kvm_works = kept
    assert capsys.readouterr().err.splitlines()[-1] == f"FAILED media: {tmp_path}/none.iso is not there; look at WINDOWS_ISO="


def test_the_table_is_written_after_each_row_and_for_people_too(tmp_path: Path) -> None:
    kit_main.write([a_row("b"), a_row("a", with_h2k="stops")], tmp_path)
    assert [row["run"] for row in read_table(tmp_path / "table.json")] == ["a", "b"]
    assert "| guest |" in (tmp_path / "table.md").read_text()


def test_a_row_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    kit = kit_main.Kit(None, None, None, None, tmp_path)  # type: ignore[arg-type]
    fault = kit_main.KitFault(kit_main.HEALTHY, "source")
    place = tmp_path / "evidence" / "healthy"
    place.mkdir(parents=True)
    (place / "row.json").write_text(json.dumps(a_row()))
    assert kit.run(fault) == a_row()


def test_what_fails_leaves_no_disks_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = kit_main.Kit(None, None, None, None, tmp_path)  # type: ignore[arg-type]

    def fails(fault: Any, work: Path, place: Path) -> Any:
        (work / "disk").write_text("x")
        raise StepFailed("convert", "no", "log")

    monkeypatch.setattr(kit, "_source", fails)
    fault = kit_main.chosen("nic-ghost", kit_main.guest_facts(answers()))[1]
    with pytest.raises(StepFailed):
        kit.run(fault)
    assert not (kit.work / "nic-ghost").exists() and not (tmp_path / "evidence" / "nic-ghost" / "row.json").exists()


def test_a_copy_of_the_result_names_its_own_disks(tmp_path: Path) -> None:
    """`h2k fix` on the copy must never reach the healthy disks."""
    kit = kit_main.Kit(None, None, None, None, tmp_path)  # type: ignore[arg-type]
    old, new = tmp_path / "with", tmp_path / "broken"
    (old / "source.h2k").mkdir(parents=True)
    xml = XML.format(bus="virtio", dev="vda", place=old, format="qcow2")
    for name in ("source.xml", "source.h2k/final.xml"):
        (old / name).write_text(xml)
    for name in ("journal.json", "undo-0-0.qcow2", "written.json", "report.json"):
        (old / "source.h2k" / name).write_text(str(old))
    (old / "source-sda").write_text("disk")
    disks, bus = described(old / "source.xml")
    copied = kit._copied(Converted("h2k-v2v", 0, tmp_path / "log", disks, bus, old / "source.h2k"), new)
    assert [disk.path for disk in copied.disks] == [new / "source-sda"] and copied.disks[0].path.read_text() == "disk"
    assert str(old) not in (new / "source.h2k" / "final.xml").read_text() and copied.state == new / "source.h2k"
    assert {path.name for path in copied.state.iterdir()} == {"final.xml", "report.json"}, "the way back is of the other disks"


def test_a_description_of_other_disks_is_never_fixed(tmp_path: Path) -> None:
    kit = kit_main.Kit(None, None, None, None, tmp_path)  # type: ignore[arg-type]
    old = tmp_path / "with"
    old.mkdir()
    (old / "source.xml").write_text(XML.format(bus="virtio", dev="vda", place="/elsewhere", format="qcow2"))
    healthy = Converted("h2k-v2v", 0, tmp_path / "log", (kit_main.convert.Disk(old / "source-sda", "qcow2"),), "virtio", old / "source.h2k")
    with pytest.raises(StepFailed, match="other disks than its own"):
        kit._copied(healthy, tmp_path / "broken")


def test_what_was_ended_keeps_its_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = kit_main.Kit(None, None, None, None, tmp_path)  # type: ignore[arg-type]

    def ended(fault: Any, work: Path, place: Path) -> Any:
        (work / "disk").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(kit, "_source", ended)
    with pytest.raises(KeyboardInterrupt):
        kit.run(kit_main.KitFault(kit_main.HEALTHY, kit_main.SOURCE))
    assert (kit.work / "healthy" / "disk").exists()


def test_another_isos_rows_are_elsewhere(tmp_path: Path) -> None:
    names = set()
    for digest in (SHA, "cd" * 32):
        media = kit_main.Media(tmp_path / "a.iso", digest, "EVAL", False, ())
        machine = kit_main.Machine("uefi", 4096, True)
        names.add(kit_main.results_name(kit_main.Wanted(media, answers(), machine, tmp_path, tmp_path, 1)))
    assert names == {"win2022-amd64-uefi-abababab", "win2022-amd64-uefi-cdcdcdcd"}
