"""The Windows kit from an ISO to a table of evidence, with a stand-in for Windows: installed from autounattend.xml, broken,
converted with h2k and without, started, asked, and judged by the boot lab.

What is shown is the kit. A stand-in is no Windows, each row says so, and docs/proven.md can't be made of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from tests.windows import __main__ as kit
from tests.windows import stand_in, tables
from tests.windows.faults import all_faults
from tests.windows.guest_disk import GuestDisk

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]  # libvirt's own: `h2k boot` of the healthy guest

# What becomes of the made guest with h2k, without it, and which finding h2k must name. Results are started as they are.
UEFI = {
    "driver-not-boot-start:start": ("starts", "stops"),
    "driver-start-override:0": ("starts", "stops"),
    "driver-file-missing": ("starts", "stops"),
    "driver-file-invalid:empty": ("starts", "stops"),
    "driver-not-boot-start:service": ("starts", "stops"),
    "device-id-unbound:modern": ("starts", "stops"),
    "boot-stack-driver-disabled:start": ("starts", "stops"),
    "class-filter-dangling:service": ("starts", "stops"),
    "uefi-fallback-missing:file": ("starts", "stops"),
    "boot-manager-missing:empty": ("refused", "stops"),  # virt-v2v copies the empty one over the good fallback
}
BIOS = {"boot-partition-inactive:none": ("starts", "stops")}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The stand-in's ISO, a made virtio-win ISO, and the stand-in for rhsrvany.exe."""
    return stand_in.make_all(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit")


def run(media: tuple[Path, Path, Path], work: Path, faults: str, *more: str) -> int:
    iso, drivers, runner = media
    argv = ["--windows-iso", str(iso), "--virtio-win-iso", str(drivers), "--virt-tools", str(runner), "--work", str(work)]
    return kit.main([*argv, "--faults", faults, "--keep", "--libvirt", "none", *more])


def results_of(work: Path, guest: str) -> Path:
    (place,) = (work / "results").glob(f"{guest}-*")
    return place


def evidence_of(work: Path, guest: str, fault: str) -> Path:
    return results_of(work, guest) / "evidence" / fault.replace(":", "-")


def row_of(work: Path, guest: str, fault: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((evidence_of(work, guest, fault) / "row.json").read_text())
    return row


def check(row: dict[str, Any], place: Path, expected: tuple[str, str]) -> None:
    """A row with its evidence: outcomes, the lab's agreement, the mark, and that every file is there that it rests on."""
    assert (row["with"]["outcome"], row["without"]["outcome"]) == expected, row
    assert row["stand_in"] is True and "STAND-IN" in tables.markdown([row])
    assert tables.disagreements(row) == []  # the stand-in is the lab
    for side, outcome in zip(("with", "without"), expected):
        if outcome != "refused":
            assert (place / side / "start" / "serial").exists()
            if side == "without" and row[side]["lab"] == "not tried":  # where the lab finds no place for its loader
                assert row[side]["lab_reason"]
            else:
                assert (place / side / "lab" / "lab.png").exists()
        if outcome == "starts":
            assert row[side]["bound"], "no VirtIO device was seen to be bound"
            assert (place / side / "start" / "agent" / "bound.txt").exists()
        if outcome == "stops":
            assert row[side]["reason"] and (place / side / "start" / "screen.png").exists()


def test_the_healthy_guest_is_installed_converted_booted_and_asked(
    media: tuple[Path, Path, Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(media, work, "healthy", "--libvirt", "own") == 0
    row, place = row_of(work, "win2022-amd64-uefi", "healthy"), evidence_of(work, "win2022-amd64-uefi", "healthy")
    assert row["with"]["outcome"] == "starts" and row["with"]["boot_status"] == 0
    check(row, place, ("starts", row["without"]["outcome"]))
    assert (place / "source" / "agent" / "bound.txt").exists()
    assert "viostor" in row["with"]["bound"].values()
    assert json.loads((place / "qemu-img" / "side.json").read_text())["outcome"] == "starts"
    (installed,) = (work / "cache").glob("*/installed.json")
    about = json.loads(installed.read_text())
    assert about["stand_in"] is True and "STAND-IN" in about["image"]["name"] and (installed.parent / "install.log").exists()
    assert "this ISO is a STAND-IN" in capsys.readouterr().err


@pytest.mark.parametrize("fault", UEFI)
def test_a_fault_under_uefi(fault: str, media: tuple[Path, Path, Path], work: Path) -> None:
    assert run(media, work, fault) == 0
    row = row_of(work, "win2022-amd64-uefi", fault)
    check(row, evidence_of(work, "win2022-amd64-uefi", fault), UEFI[fault])
    assert fault.partition(":")[0] in row["with"]["findings"]


@pytest.mark.parametrize("fault", BIOS)
def test_a_fault_under_bios(fault: str, media: tuple[Path, Path, Path], work: Path) -> None:
    assert run(media, work, fault, "--firmware", "bios", "--edition", "2") == 0
    row = row_of(work, "win2016-amd64-bios", fault)
    check(row, evidence_of(work, "win2016-amd64-bios", fault), BIOS[fault])
    assert row["source_bus"] == "lsisas1068"


def test_a_fault_is_put_in_through_an_appliance_too(media: tuple[Path, Path, Path], work: Path, tmp_path: Path) -> None:
    """As into a real Windows, whose disk is too large to be copied out: files, hives, and bytes beside the file systems."""
    (installed,) = (work / "cache").glob("*-uefi-*/system.qcow2")
    disk = tmp_path / "system.qcow2"
    shutil.copy(installed, disk)
    wanted = {"bootstrap-controller-not-boot-start:override", "class-filter-dangling:file", "uefi-fallback-missing:file", "esp-type-wrong"}
    with GuestDisk(disk) as opened:
        for each in all_faults():
            if each.fault is not None and each.name in wanted:
                each.fault.inject(opened)
                opened.flush()
    argv = [ROOT / "wrappers" / "h2k", "plan", disk, "--drivers", media[1], "--json"]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = {finding["id"] for finding in json.loads(done.stdout)["findings"] if finding["state"] == "broken"}
    assert {name.partition(":")[0] for name in wanted} <= found


def test_the_table_has_them_all_and_proves_nothing_of_windows(
    media: tuple[Path, Path, Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is not done again: the whole table comes out at once."""
    assert run(media, work, ",".join(UEFI)) == 0
    assert capsys.readouterr().out.count("STAND-IN, not Windows") == len(UEFI) + 1
    rows = tables.read_table(results_of(work, "win2022-amd64-uefi") / "table.json")
    assert {row["fault"] for row in rows} == {"healthy", *UEFI} and len(UEFI) >= 10
    assert tables.main(["merge", str(results_of(work, "win2022-amd64-uefi") / "table.json"), "-o", str(work / "all.json")]) == 0
    with pytest.raises(UsageError, match="proves nothing of Windows"):
        tables.proven(rows)


def test_setup_that_stops_is_told_with_its_reason_and_picture(
    media: tuple[Path, Path, Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image for the other firmware: the stand-in stops where Setup would."""
    assert run(media, work / "stops", "healthy", "--edition", "2") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("FAILED install: the guest's set-up says: setup: the made guest of image 2") and "screen.png" in told
    assert [path.stat().st_size > 0 for path in (work / "stops" / "cache").glob("*/screen.png")] == [True]
