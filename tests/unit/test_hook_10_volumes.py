"""Volumes that must not be touched, and disks that can not be told apart."""

from __future__ import annotations

import dataclasses

import pytest

from h2k.config.policy import Policy
from h2k.disk.ntfs import NtfsVolumeState
from h2k.disk.reader import VolumeRef
from h2k.guest.guest import Guest
from tests.unit.hooks import ask
from tests.unit.memory_reader import MemoryReader, windows_guest

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


@pytest.mark.parametrize(("magic", "found"), [(b"HIBR", True), (b"RSTR", True), (b"WAKE", False), (bytes(4), False), (b"", False)])
def test_hibernation(magic: bytes, found: bool) -> None:
    guest = windows_guest(files={"hiberfil.sys": magic})
    assert volume_findings(guest) == ({"volume-hibernated": {"refused"}} if found else {})


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
