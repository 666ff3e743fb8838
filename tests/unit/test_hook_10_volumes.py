"""Volumes that must not be touched, and disks that can not be told apart."""

from __future__ import annotations

import dataclasses

import pytest

from h2k.config.policy import Policy
from h2k.disk.ntfs import NtfsVolumeState
from h2k.disk.partition import PartitionTable
from h2k.disk.reader import Disk, VolumeRef
from h2k.guest.boot_files import BootPlace
from h2k.guest.guest import Guest
from tests.guests.pe import make_pe
from tests.unit.hooks import ask
from tests.unit.memory_reader import MemoryReader, make_disk, windows_guest
from tests.unit.test_hook_50_boot_loader import element, store

WINDOWS = VolumeRef(0, 2)
SAFE = Policy()


def volume_findings(guest: Guest, policy: Policy = SAFE) -> dict[str, set[str]]:
    return ask("volumes", guest, policy=policy).states()


def with_states(guest: Guest, **states: NtfsVolumeState) -> Guest:
    assert isinstance(guest.reader, MemoryReader)
    refs = {"windows": WINDOWS, "data": VolumeRef(1, 1)}
    guest.reader.states.update({refs[name]: state for name, state in states.items()})
    return guest


def test_dirty_volumes() -> None:
    dirty = NtfsVolumeState(True, False, "3.1")
    assert volume_findings(with_states(windows_guest(), windows=dirty)) == {"volume-dirty": {"refused"}}
    assert volume_findings(with_states(windows_guest(data_disks=1), data=dirty)) == {"volume-dirty": {"warning"}}


def test_an_unclean_log_is_the_policy_s_to_judge() -> None:
    unclean = NtfsVolumeState(False, True, "3.1")
    assert volume_findings(with_states(windows_guest(), windows=unclean)) == {"volume-log-unclean": {"warning"}}
    refuse = dataclasses.replace(Policy(), log_unclean="refuse")
    assert volume_findings(with_states(windows_guest(), windows=unclean), refuse) == {"volume-log-unclean": {"refused"}}
    assert volume_findings(with_states(windows_guest(data_disks=1), data=unclean), refuse) == {"volume-log-unclean": {"warning"}}


@pytest.mark.parametrize(("magic", "found"), [(b"HIBR", True), (b"RSTR", True), (b"WAKE", False), (bytes(4), False), (b"", False)])
def test_hibernation(magic: bytes, found: bool) -> None:
    for content in (magic, magic + bytes(4096) if magic else b""):
        said = ask("volumes", windows_guest(files={"hiberfil.sys": content}))
        assert said.states() == ({"volume-hibernated": {"refused"}} if found else {})
        assert [f.evidence for f in said.findings] == ([f"hiberfil.sys begins with {magic.decode()}"] if found else [])


def test_disks_that_nobody_initialised_are_no_duplicates() -> None:
    guest = windows_guest(firmware="bios", data_disks=3)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)

    def named(*names: str) -> Guest:
        disks = [dataclasses.replace(d, table=dataclasses.replace(d.table, id=n)) for d, n in zip(reader.disks, names)]
        return Guest(MemoryReader(disks, reader.files))

    assert volume_findings(named("0x00000001", "0x00000000", "0x00000000", "0x00000002")) == {}
    same = ask("volumes", named("0x00000001", "0x00000002", "0x00000001", "0x00000003"))
    assert same.states() == {"disk-signature-duplicate": {"warning"}}
    assert same.findings[0].subject == "disk 0, disk 2"


# Disks beside the one that Windows starts from


def with_disk(disk: Disk, **files: bytes) -> Guest:
    """A sound guest and one more disk."""
    reader = windows_guest().reader
    assert isinstance(reader, MemoryReader)
    return Guest(MemoryReader([*reader.disks, disk], {**reader.files, VolumeRef(1, 1): files}))


def retyped(disk: Disk, kind: str) -> Disk:
    partitions = tuple(dataclasses.replace(p, type=kind) for p in disk.table.partitions)
    return dataclasses.replace(disk, table=dataclasses.replace(disk.table, partitions=partitions))


def test_a_hibernated_old_system_disk_is_a_warning() -> None:
    assert volume_findings(with_disk(make_disk(1, ["ntfs"]), **{"hiberfil.sys": b"HIBR"})) == {"volume-hibernated": {"warning"}}


def test_several_systems_are_the_owner_s_to_choose_from() -> None:
    reader = windows_guest(data_disks=1).reader
    assert isinstance(reader, MemoryReader)
    reader.files[VolumeRef(1, 1)] = reader.files[WINDOWS]
    (finding,) = ask("volumes", Guest(reader)).findings
    assert (finding.id, finding.state, finding.evidence) == ("boot-disk-ambiguous", "refused", "several Windows systems")
    assert finding.subject == "/dev/sda2, /dev/sdb1" and "--root" in finding.spelled("h2k-v2v").repair
    assert ask("volumes", Guest(reader, "/dev/sdb1")).findings == ()
    reader.states[VolumeRef(1, 1)] = NtfsVolumeState(True, False, "3.1")
    assert ask("volumes", Guest(reader)).states()["volume-dirty"] == {"refused"}, "it may be the one that is meant"
    assert ask("volumes", Guest(reader, "first")).states() == {"volume-dirty": {"warning"}}
    assert ask("volumes", Guest(MemoryReader([make_disk(0, ["ntfs"])], {}))).findings == (), "none is not several"


def test_bitlocker_on_a_data_disk_stops_virt_v2v_alone() -> None:
    guest = with_disk(make_disk(1, ["bitlocker"]))
    assert volume_findings(guest) == {"volume-encrypted": {"warning"}}
    said = ask("volumes", guest, phase="source")
    assert said.states() == {"volume-encrypted": {"refused"}} and "--key" in said.findings[0].repair
    assert ask("volumes", guest, phase="source", keys=True).states() == {"volume-encrypted": {"warning"}}


def test_bitlocker_on_what_the_default_loader_starts_is_refused_though_an_old_windows_is_beside_it() -> None:
    guest = windows_guest()
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    first, second = make_disk(0, ["fat", "bitlocker"]), make_disk(1, ["ntfs"])
    named = element(first, 2)
    boot = {"EFI/Microsoft/Boot/BCD": store(device=named, osdevice=named), "EFI/Microsoft/Boot/bootmgfw.efi": b"manager"}
    old = Guest(MemoryReader([first, second], {VolumeRef(0, 1): boot, VolumeRef(1, 1): reader.files[WINDOWS]}))
    assert old.volume == VolumeRef(1, 1)
    assert volume_findings(old) == {"volume-encrypted": {"refused"}}
    assert "decrypt" in ask("volumes", old).findings[0].repair


@pytest.mark.parametrize("kind", ["0x42", "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "AF9B60A0-1431-4F62-BC68-3311714A69AD",
                                  "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"])  # fmt: skip
def test_dynamic_disks_and_pools(kind: str) -> None:
    assert volume_findings(with_disk(retyped(make_disk(1, ["ntfs"]), kind))) == {"disk-dynamic": {"warning"}}
    reader = windows_guest(data_disks=1).reader
    assert isinstance(reader, MemoryReader)
    own = Guest(MemoryReader([retyped(reader.disks[0], kind), reader.disks[1]], reader.files))
    assert volume_findings(own) == {"disk-dynamic": {"refused"}}
    what = "part of a Storage Spaces pool" if kind.startswith("E75CAF8F") else "a dynamic disk (LDM)"
    (told,) = [f for f in ask("volumes", own).findings if f.id == "disk-dynamic"]
    assert (told.subject, told.evidence.partition(":")[0]) == ("disk 0", what)
    alone = Guest(MemoryReader([retyped(make_disk(0, ["other"]), kind)], {}))
    assert volume_findings(alone) == {"disk-dynamic": {"refused"}}


def test_a_dynamic_disk_of_data_hides_no_other() -> None:
    reader = windows_guest().reader
    assert isinstance(reader, MemoryReader)
    disks = [retyped(make_disk(0, ["ntfs"]), "0x42"), retyped(make_disk(1, ["fat", "ntfs"]), "0x42")]
    said = ask("volumes", Guest(MemoryReader(disks, {VolumeRef(1, 2): reader.files[WINDOWS]})))
    assert [(f.subject, f.state) for f in said.findings if f.id == "disk-dynamic"] == [("disk 0", "warning"), ("disk 1", "refused")]


def test_two_halves_of_a_mirror_are_no_two_systems() -> None:
    reader = windows_guest(firmware="bios").reader
    assert isinstance(reader, MemoryReader)
    halves = [retyped(make_disk(n, ["ntfs", "ntfs"], "mbr"), "0x42") for n in (0, 1)]
    content = {VolumeRef(n, 2): reader.files[WINDOWS] for n in (0, 1)}
    said = ask("volumes", Guest(MemoryReader(halves, content)))
    assert said.states() == {"disk-dynamic": {"refused"}} and len(said.findings) == 2
    assert not any("--root" in f.repair for f in said.findings)


def test_a_damaged_table_beside_windows() -> None:
    disk = make_disk(1, [])
    damaged = dataclasses.replace(disk, table=PartitionTable("none", "", (), fault="disk1: neither GPT header is valid"))
    said = ask("volumes", with_disk(damaged))
    assert said.states() == {"disk-table-damaged": {"warning"}} and "neither GPT header" in said.findings[0].evidence


@pytest.mark.parametrize(
    ("path", "state"), [("/windows/system32/cmd.exe", "refused"), ("/windows/system32/ntoskrnl.exe", "refused"), ("/windows/explorer.exe", "warning")]
)
def test_compact_os(path: str, state: str) -> None:
    programs = {f"Windows/{p}": make_pe("amd64", b"x") for p in ("System32/cmd.exe", "explorer.exe")}
    guest = windows_guest(files=programs)
    assert isinstance(guest.reader, MemoryReader)
    assert volume_findings(guest) == {}
    guest.reader.unreadable[WINDOWS, path] = "WOF-compressed (compact /exe)"
    said = ask("volumes", guest)
    assert said.states() == {"system-files-compressed": {state}}
    assert state == "warning" or "/CompactOS:never" in said.findings[0].repair
    assert said.findings[0].subject.lower() == path
    assert state == "refused" or said.findings[0].evidence == "1 of 5 programs that were looked at are WOF-compressed"
    guest.reader.unreadable[WINDOWS, path] = "encrypted by EFS"
    assert volume_findings(guest) == {}


def test_a_dynamic_disk_that_the_firmware_starts_is_windows_own() -> None:
    guest = with_disk(retyped(make_disk(1, ["ntfs"]), "0x42"))
    guest.__dict__["boot_place"] = BootPlace("bios", guest.disks[1].volumes[0], True, (), ())
    assert volume_findings(guest) == {"disk-dynamic": {"refused"}}


def unreadable(guest: Guest, ref: VolumeRef) -> Guest:
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files.setdefault(ref, {})["/hiberfil.sys"] = b"HIBR"
    guest.reader.unreadable[ref, "/hiberfil.sys"] = "its record is damaged"
    return guest


def test_a_volume_that_can_t_be_read() -> None:
    said = ask("volumes", unreadable(windows_guest(), WINDOWS))
    assert said.states() == {"file-unreadable": {"refused"}} and said.findings[0].repair == "run chkdsk /f on the source"
    said = ask("volumes", unreadable(windows_guest(data_disks=1), VolumeRef(1, 1)))
    assert said.states() == {"file-unreadable": {"warning"}} and "does not start from it" in said.findings[0].repair


def test_the_boot_partition_of_a_bios_guest_is_needed_too() -> None:
    guest = windows_guest(firmware="bios", data_disks=1)
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.states[VolumeRef(0, 1)] = NtfsVolumeState(True, False, "3.1")
    assert guest.boot_volume is not None  # found anew, as a reader may give it
    own = dataclasses.replace(guest.boot_volume, ref=dataclasses.replace(guest.boot_volume.ref))
    guest.__dict__["boot_place"] = dataclasses.replace(guest.boot_place, volume=own)
    said = ask("volumes", guest)
    assert said.states() == {"volume-dirty": {"refused"}} and "--h2k-accept volume-dirty" in said.findings[0].repair
    guest.reader.states = {VolumeRef(1, 1): NtfsVolumeState(True, False, "3.1")}
    assert ask("volumes", guest).states() == {"volume-dirty": {"warning"}}


@pytest.mark.parametrize(("firmware", "what"), [("bios", "MBR signature 0x1234abcd"), ("uefi", "GPT disk GUID ")])
def test_what_two_disks_share_is_named(firmware: str, what: str) -> None:
    guest = windows_guest(firmware=firmware, data_disks=1)
    table = dataclasses.replace(guest.disks[1].table, id=guest.disks[0].table.id)
    same = Guest(MemoryReader([guest.disks[0], dataclasses.replace(guest.disks[1], table=table)], guest.reader.files))  # type: ignore[attr-defined]
    (finding,) = ask("volumes", same).findings
    assert finding.id == "disk-signature-duplicate" and finding.evidence.startswith(what)


def test_a_dirty_volume_with_an_unclean_log_is_told_once() -> None:
    assert volume_findings(with_states(windows_guest(), windows=NtfsVolumeState(True, True, "3.1"))) == {"volume-dirty": {"refused"}}
