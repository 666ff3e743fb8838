"""What a report says of a guest: the facts that are cheap to read, the digests, the drivers, the order of findings."""

from __future__ import annotations

import hashlib

import pytest

from h2k.base.finding import STATES, Finding
from h2k.disk.reader import VolumeRef
from h2k.engine.report import Report, by_weight, diff, digests_of, guest_facts, installed_drivers, windows_facts
from h2k.guest.changes import WriteFile
from h2k.guest.guest import Guest
from tests.unit.engine_world import START
from tests.unit.memory_reader import DATA_TYPE, MemoryReader, make_disk, windows_guest

DRIVERS = "Windows/System32/drivers"


def written(path: str, data: bytes = b"MZ") -> WriteFile:
    return WriteFile(VolumeRef(0, 2), path, data, "made")


def test_the_facts_of_a_windows() -> None:
    guest = windows_guest(bcd=b"store", drivers=b"regf")
    facts = guest_facts(guest)
    assert (facts["windows"], facts["read"], facts["firmware"], facts["boot_disk"]) == (True, "memory", "uefi", 0)
    assert facts["system_root"] == "/Windows" and facts["system_volume"] == {"disk": 0, "partition": 2}
    assert list(facts["hives"]) == ["SYSTEM", "SOFTWARE", "DRIVERS", "BCD"]
    assert facts["hives"]["BCD"] == "/EFI/Microsoft/Boot/BCD"
    (disk,) = facts["disks"]
    assert (disk["path"], disk["format"], disk["scheme"], disk["size"]) == ("/made/disk0.qcow2", "qcow2", "gpt", 1 << 30)
    system = disk["partitions"][1]
    assert (system["number"], system["start"], system["size"], system["type"], system["active"]) == (
        2, 128 << 20, 64 << 20, DATA_TYPE, False,
    )  # fmt: skip


def test_a_hive_that_is_not_there_is_not_named() -> None:
    assert list(guest_facts(windows_guest())["hives"]) == ["SYSTEM", "SOFTWARE"]


def test_of_what_is_no_windows_or_two_the_disks_alone_are_told() -> None:
    alone = {"windows", "read", "disks"}
    nothing = Guest(MemoryReader([make_disk(0, ["ntfs"])], {}))
    assert set(guest_facts(nothing)) == alone and guest_facts(nothing)["windows"] is False
    one = windows_guest()
    assert isinstance(one.reader, MemoryReader)
    files = {VolumeRef(disk, 2): one.reader.files[VolumeRef(0, 2)] for disk in (0, 1)}
    two = Guest(MemoryReader([make_disk(0, ["fat", "ntfs"]), make_disk(1, ["fat", "ntfs"])], files))
    assert set(guest_facts(two)) == alone and guest_facts(two)["windows"] is True and len(guest_facts(two)["disks"]) == 2


def test_windows_itself() -> None:
    facts = windows_facts(windows_guest(sets=(2, 1)))
    assert (facts["version"], facts["build"], facts["arch"]) == ("10.0", 20348, "amd64")
    assert facts["control_sets"]["default"] == 2


def test_digests_for_an_auditor() -> None:
    changes = [START, written("/a", b"A"), written("/b", b"B")]
    assert digests_of(changes) == {"/a": hashlib.sha256(b"A").hexdigest(), "/b": hashlib.sha256(b"B").hexdigest()}


def test_drivers_that_are_installed_are_named_once() -> None:
    paths = ["/Windows/System32/drivers/viostor.sys", "\\Windows\\SYSTEM32\\Drivers\\NetKVM.SYS", "/Windows/System32/drivers/viostor.sys"]
    others = ["/Windows/System32/drivers/viostor.inf", "/Windows/System32/viofs.sys", "/Temp/drivers/x.sys"]
    assert installed_drivers([START, *map(written, (*others, *paths))]) == ("viostor", "netkvm")


def test_what_stops_a_run_comes_first_and_then_by_name() -> None:
    findings = [Finding(name, state, "s", "e") for name in ("b", "a") for state in sorted(STATES)]
    assert [(f.state, f.id) for f in by_weight(findings)] == [
        (state, name) for state in ("refused", "broken", "repaired", "warning", "ok") for name in ("a", "b")
    ]


@pytest.mark.parametrize(("changes", "text"), [([], ""), ([{"diff": "~ a\x1b"}, {"diff": "+ b"}], "  ~ a\ufffd\n  + b")])
def test_the_plan_is_a_line_a_change(changes: list[dict[str, str]], text: str) -> None:
    assert diff(changes) == text


def test_what_commands_add_stands_beside_the_rest() -> None:
    record = Report(guest={"name": "w"}, findings=[Finding("x", "ok", "s", "e")], more={"boot": 1}).as_json()
    assert record["guest"] == {"name": "w"} and record["findings"][0]["id"] == "x" and record["boot"] == 1
