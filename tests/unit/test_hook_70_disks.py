"""Data disks stay online through the change of their bus, and drive letters are checked."""

from __future__ import annotations

import struct
import uuid
from typing import Any, Optional

import pytest

from h2k.config.policy import Policy
from h2k.guest.changes import pending
from h2k.guest.virtio_win import DriverSource
from tests.unit.hooks import ask as plain_ask
from tests.unit.memory_reader import SIGNATURE, apply_changes, gpt_letter, mbr_letter, windows_guest
from tests.unit.moved_guests import MODERN, THREE, ask, ids, settings_of


def test_san_policy_of_every_set_is_kept_for_later(drivers: DriverSource) -> None:
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000004\n'
    guest = windows_guest(MODERN + THREE + san, data_disks=2, sets=(1, 2))
    found = ask(guest, drivers)
    assert settings_of(found).san == ((1, 4), (2, 4))
    fixed = apply_changes(guest, pending(found.changes, guest))
    for number in (1, 2):
        value = fixed.system.value(f"ControlSet{number:03d}\\Services\\partmgr\\Parameters", "SanPolicy")
        assert value is not None and value.dword() == 1
    assert settings_of(ask(fixed, drivers)).san == ((1, 4), (2, 4))


@pytest.mark.parametrize(
    ("policy", "disks", "server", "expected"),
    [("1", 2, True, False), ("3", 0, True, False), ("2", 1, False, True), (None, 1, True, True), (None, 1, False, False)],
)
def test_when_disks_would_go_offline(
    policy: Optional[str], disks: int, server: bool, expected: bool, drivers: DriverSource
) -> None:
    text = f'[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:{policy}\n' if policy else ""
    found = ask(windows_guest(MODERN + THREE + text, data_disks=disks, server=server), drivers)
    assert ("disks-offline-policy" in ids(found, "broken")) is expected


KEPT = """[$cs\\Enum\\SCSI\\Disk&Ven_VMware_&Prod_VMware_Virtual_S\\5&1ec51bf7&0&000100\\Device Parameters\\Partmgr]
"Attributes"=dword:00000002
"PartitionTableCache"=hex:{}
"""


@pytest.mark.parametrize(("san", "policy", "said"), [("3", "online", ["SanPolicy"]), ("1", "online", ["disk"]), ("3", "keep", ["SanPolicy"])])
def test_a_disk_that_the_owner_kept_back_keeps_the_policy(san: str, policy: Any, said: list[str], drivers: DriverSource) -> None:
    disk = windows_guest(data_disks=2).disks[2]
    cache = struct.pack("<II", 1, 2) + uuid.UUID(disk.table.id).bytes_le + bytes(20)
    text = f'[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:{san}\n' + KEPT.format(cache.hex(","))
    found = ask(windows_guest(MODERN + THREE + text, data_disks=2), drivers, policy=Policy(san=policy))
    told = [f for f in found.findings if f.id == "disks-offline-policy"]
    assert [(f.state, f.subject.split("\\")[-1].split(" ")[-1 if "SanPolicy" in f.subject else 0]) for f in told] == [("warning", s) for s in said]
    assert "1 data disk would" in told[0].evidence or said == ["disk"]
    if policy == "online":
        assert disk.table.id.lower() in (told[0].evidence + told[0].subject).lower(), "which one is named"
    assert not any("partmgr" in getattr(c, "key", "") for c in found.changes)


def test_a_cluster_node_keeps_its_policy(drivers: DriverSource) -> None:
    text = '[$cs\\Services\\ClusSvc]\n"Start"=dword:00000002\n[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000002\n'
    found = ask(windows_guest(MODERN + THREE + text, data_disks=2), drivers)
    assert "cluster-member" in ids(found, "warning") and "disks-offline-policy" not in ids(found, "broken")
    assert settings_of(found).san == () and not any("partmgr" in getattr(c, "key", "") for c in found.changes)


def test_letters(drivers: DriverSource) -> None:
    made = windows_guest(MODERN, data_disks=1)
    good = gpt_letter(made.disks[1].table.partitions[0])
    letters = {"D:": good, "E:": b"DMIO:ID:" + bytes(16), "F:": bytes.fromhex("01020304") + bytes(8), "G:": "\\??\\SCSI#CdRom".encode("utf-16-le")}
    text = "[MountedDevices]\n" + "".join(
        f'"\\\\DosDevices\\\\{letter}"=hex:{",".join(f"{b:02x}" for b in raw)}\n' for letter, raw in letters.items()
    )
    found = ask(windows_guest(MODERN + text, data_disks=1), drivers)
    assert {f.subject for f in found.findings if f.id == "drive-letter-unresolved"} == {"E:", "F:"}


LETTER = "[MountedDevices]\n"
PAGING = '[$cs\\Control\\Session Manager\\Memory Management]\n"PagingFiles"=multi:[{}]\n'


def page_file_findings(entries: str, letters: dict[str, bytes]) -> list[str]:
    mounted = LETTER + "".join(f'"\\\\DosDevices\\\\{k}"=hex:{v.hex(",")}\n' for k, v in letters.items()) if letters else ""
    said = plain_ask("disks", windows_guest(PAGING.format(entries) + mounted))
    return [f.evidence for f in said.findings if f.id == "page-file-misplaced"]


def test_a_page_file_on_a_drive_that_is_not_here() -> None:
    own = gpt_letter(windows_guest().disks[0].table.partitions[1])
    letters = {"C:": own, "D:": b"DMIO:ID:" + bytes(16)}
    assert len(page_file_findings('"D:\\\\pagefile.sys 0 0"', letters)) == 1
    assert len(page_file_findings('"d:\\\\pagefile.sys"', {"C:": own})) == 1
    assert page_file_findings('"C:\\\\pagefile.sys 0 0"', letters) == []
    assert page_file_findings('"C:\\\\pagefile.sys 0 0"', {"D:": own}) == []  # Windows' own drive is where it is
    assert page_file_findings('"?:\\\\pagefile.sys"', letters) == []
    assert page_file_findings('"E:\\\\pagefile.sys 0 0"', {"C:": own, "E:": own}) == []
    assert page_file_findings('"D:\\\\pagefile.sys 0 0"', {}) == []


def test_letters_of_mbr_disks() -> None:
    disks = windows_guest(firmware="bios", data_disks=1).disks
    own, data = disks[0].table.partitions[1], disks[1].table.partitions[0]
    letters = {
        "C:": mbr_letter(own), "D:": mbr_letter(data, 1),
        "E:": mbr_letter(own, 7),  # a disk that is not here
        "F:": struct.pack("<IQ", SIGNATURE, own.start + 512),  # a partition that is not there
        "G:": struct.pack("<IQ", SIGNATURE + 1, own.start),  # one of the other disk
        "H:": "\\??\\FDC#G_1".encode("utf-16-le")[:24].ljust(24, b"\0"),  # a device's name, as long as a GUID is
    }  # fmt: skip
    mounted = LETTER + "".join(f'"\\\\DosDevices\\\\{k}"=hex:{v.hex(",")}\n' for k, v in letters.items())
    said = plain_ask("disks", windows_guest(mounted, firmware="bios", data_disks=1))
    found = {f.subject: f.evidence for f in said.findings if f.id == "drive-letter-unresolved"}
    assert set(found) == {"E:", "F:", "G:"}
    assert found["F:"] == f"no partition at {own.start + 512} on a disk with signature {SIGNATURE:#010x}"


@pytest.mark.parametrize(
    ("policy", "words"),
    [(None, "not set, which is offline shared on a server"), (2, "2, offline shared"), (3, "3, offline all"), (4, "4, offline internal")],
)
def test_the_policy_of_each_control_set_is_told_in_words(policy: Optional[int], words: str) -> None:
    text = f'[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:{policy:08x}\n' if policy else ""
    guest = windows_guest(MODERN + THREE + text, data_disks=2, sets=(1, 2))
    for wanted, state, repair in (("keep", "warning", "kept, as the policy says"), ("online", "broken", "1, online all; first boot")):
        told = [f for f in plain_ask("disks", guest, policy=Policy(san=wanted)).findings if f.id == "disks-offline-policy"]
        assert [(f.state, f.subject) for f in told] == [(state, f"ControlSet00{n}\\Services\\partmgr\\Parameters SanPolicy") for n in (1, 2)]
        assert {f.evidence for f in told} == {f"{words}: 2 data disks would come up offline on the new bus"}
        assert all(f.repair.startswith(repair) for f in told)


@pytest.mark.parametrize(("start", "member"), [(0, True), (3, True), (4, False), (None, False)])
def test_a_cluster_service_that_may_start_makes_a_node(start: Optional[int], member: bool) -> None:
    value = f'"Start"=dword:{start:08x}\n' if start is not None else '"Type"=dword:00000010\n'
    said = plain_ask("disks", windows_guest(f"[$cs\\Services\\ClusSvc]\n{value}"))
    assert [f.subject for f in said.findings if f.id == "cluster-member"] == ["ControlSet001\\Services\\ClusSvc"] * member


def test_every_page_file_that_is_misplaced_is_named_and_windows_own_drive_is_none() -> None:
    own = gpt_letter(windows_guest().disks[0].table.partitions[1])
    mounted = f'{LETTER}"\\\\DosDevices\\\\X:"=hex:{own.hex(",")}\n'
    software = '[Microsoft\\Windows NT\\CurrentVersion]\n"SystemRoot"="d:\\\\Windows"\n'
    long = "E:\\\\" + "x" * 77 + "yz"
    entries = f'"D:\\\\pagefile.sys","","1:\\\\pagefile.sys","  {long}","C:\\\\pagefile.sys 0 0"'
    found = [f for f in plain_ask("disks", windows_guest(PAGING.format(entries) + mounted, software)).findings if f.id == "page-file-misplaced"]
    assert {f.subject for f in found} == {"SYSTEM\\ControlSet001\\Control\\Session Manager\\Memory Management PagingFiles"}
    assert [f.evidence.rpartition("' ")[2] for f in found] == [f"lies on {d}:, which is on none of these disks" for d in "EC"]
    assert "x'" in found[0].evidence, "80 characters of it"
