"""One look at a guest: what is taken from the hooks, what is no business of h2k's, and which images are no guests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from h2k.base.errors import BadData, Refused
from h2k.base.finding import Finding
from h2k.disk.partition import PartitionTable
from h2k.engine.examination import RESULT, SOURCE, Examination, examine_guest, refuse_damaged
from h2k.engine.hooks import Document, Hook, Proposal, Setting
from h2k.engine.report import Report
from h2k.engine.request import Tools
from h2k.guest.changes import WriteFile
from h2k.guest.guest import Guest
from tests.unit.engine_world import FOUND, START, World, made_domain, made_guest, made_hook
from tests.unit.memory_reader import MemoryReader, make_disk


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Image → what is wrong with it."""
    found: dict[str, str] = {}
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: found.get(info.path.name, ""))
    return found


@pytest.fixture
def tools(tmp_path: Any) -> Tools:
    return World(tmp_path).run().opened


def saying(*items: Any) -> Hook:
    return made_hook(lambda guest, options: iter(items))


def guest_of(*kinds: Sequence[str], fault: str = "") -> Guest:
    """A guest without Windows on a disk for each list of kinds; the last one's partition table has that fault."""
    disks = [make_disk(number, found) for number, found in enumerate(kinds)]
    disks[-1] = dataclasses.replace(disks[-1], table=PartitionTable("none", "", (), fault=fault))
    return Guest(MemoryReader(disks, {}))


def test_what_the_hooks_say_is_in_the_report(tools: Tools) -> None:
    guest = made_guest(3)
    file = WriteFile(guest.volume, "/a", b"A", "made")
    hook = saying(FOUND, START, file, Setting("bus", "ide", "why"), Document("x.json", {"a": 1}))
    seen = examine_guest(dataclasses.replace(tools, hooks=(hook,)), guest, RESULT, made_domain("web"))
    assert (seen.windows, seen.side, seen.todo) == (True, RESULT, (START, file))
    report = seen.report
    assert (report.guest["name"], report.guest["version"], report.findings) == ("web", "10.0", [FOUND])
    assert [change["change"] for change in report.changes] == ["SetValue", "WriteFile"] and list(report.digests) == ["/a"]
    assert report.settings == [{"name": "bus", "value": "ide", "why": "why"}] and report.documents == {"x.json": {"a": 1}}


def test_nothing_is_to_be_done_where_the_guest_is_refused_or_the_change_holds(tools: Tools) -> None:
    refused = saying(dataclasses.replace(FOUND, state="refused"), START)
    seen = examine_guest(dataclasses.replace(tools, hooks=(refused,)), made_guest(3), RESULT, None)
    assert seen.todo == () and "version" not in seen.report.guest and "name" not in seen.report.guest
    seen = examine_guest(dataclasses.replace(tools, hooks=(saying(START),)), made_guest(0), RESULT, None)
    assert seen.todo == () and seen.report.guest["version"] == "10.0"


@pytest.mark.parametrize(
    ("os_id", "system"), [("http://debian.org/debian/12", "http://debian.org/debian/12"), ("", "another system, or none"), (None, "another system, or none")]
)
def test_another_system_is_left_alone(os_id: Any, system: str, tools: Tools, damaged: dict[str, str]) -> None:
    domain = made_domain("web", os_id=os_id) if os_id is not None else None
    seen = examine_guest(dataclasses.replace(tools, hooks=(saying(FOUND),)), guest_of(["ext4"]), SOURCE, domain)
    assert (seen.system, seen.windows, seen.todo, seen.side, seen.report.guest["system"]) == (system, False, (), SOURCE, system)
    assert seen.report.findings == [] and seen.outcome.word == "LEFT ALONE"


def test_a_volume_that_may_hold_windows_is_asked_about(tools: Tools) -> None:
    locked = Finding("volume-encrypted", "refused", "C:", "BitLocker")
    seen = examine_guest(dataclasses.replace(tools, hooks=(saying(locked),)), guest_of(["bitlocker"], ["fat"]), RESULT, None)
    assert seen.windows and seen.outcome.word == "REFUSED"


def test_every_image_must_be_whole(tools: Tools, damaged: dict[str, str]) -> None:
    refuse_damaged(guest_of(["ext4"], ["ext4"]))
    with pytest.raises(BadData, match="two partitions overlap"):
        refuse_damaged(guest_of(["ext4"], ["ext4"], fault="disk 1: two partitions overlap"))
    damaged["disk1.qcow2"] = "cut short"
    with pytest.raises(Refused, match=r"^/made/disk1\.qcow2: the image is damaged: cut short \(copy it from the source again\)$"):
        examine_guest(tools, guest_of(["ext4"], ["ext4"]), RESULT, None)


def test_a_windows_disk_is_not_refused_for_a_table_that_hooks_judge(damaged: dict[str, str]) -> None:
    windows = made_guest(0)
    assert isinstance(windows.reader, MemoryReader)
    table = dataclasses.replace(windows.disks[0].table, fault="odd")
    refuse_damaged(Guest(MemoryReader([dataclasses.replace(windows.disks[0], table=table)], windows.reader.files)))


def test_what_a_conversion_installs_is_no_fault_of_a_source() -> None:
    ids = ("hive-dirty", "driver-not-boot-start", "device-unbound", "hive-dirty", "nic-driver-missing", "san-policy-offline")
    findings = tuple(Finding(name, "broken", "s", "e") for name in ids)
    proposal = Proposal((*findings, Finding("volume-dirty", "warning", "s", "e")), (), ())
    seen = Examination(proposal, (), Report(findings=list(findings)), SOURCE)
    assert seen.repairs == ("hive-dirty", "san-policy-offline")
    assert seen.outcome.sentence == "will repair hive-dirty, san-policy-offline"
    assert dataclasses.replace(seen, side=RESULT).outcome.word == "NOT READY"
