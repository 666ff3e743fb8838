"""Facts of a domain: UUID and MACs that stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.domain.facts import AFTER_VIRT_V2V, DiskFacts, DomainFacts, NicFacts, Topology, complete, remembered, with_source
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from tests.unit.machines import SECURE, UUID, make


def test_complete_is_idempotent_through_the_earlier_bootstrap() -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 3)
    bare = dataclasses.replace(facts, uuid=None, nics=(facts.nics[0], NicFacts(None), NicFacts(None)))
    first = complete(bare)
    assert first.nics[0].mac == "00:0c:29:00:00:00"
    assert all(n.mac is not None and n.mac.startswith("52:54:00:") for n in first.nics[1:])
    previous = read_domain_xml(bootstrap_xml(first, choices), "bootstrap.xml")
    assert complete(bare, previous) == first
    assert complete(first) == first
    assert complete(dataclasses.replace(bare, name="other"), previous).uuid != first.uuid


def test_complete_gives_no_mac_twice() -> None:
    facts, _ = make("bios", "q35", "virtio", 1, 2)
    previous = dataclasses.replace(facts, nics=(facts.nics[1], facts.nics[1]))
    done = complete(dataclasses.replace(facts, nics=(facts.nics[1], NicFacts(None))), previous)
    assert done.nics[0].mac != done.nics[1].mac


def test_it_is_decided_for_each_fact_what_becomes_of_it() -> None:
    assert set(AFTER_VIRT_V2V) == {field.name for field in dataclasses.fields(DomainFacts)}


def test_what_virt_v2v_leaves_out_comes_from_the_source() -> None:
    result = DomainFacts("web", 1 << 30, 4, (), (NicFacts(None), NicFacts("52:54:00:00:00:02")), firmware="uefi")
    source = DomainFacts(
        "srv", 2 << 30, 4, (), (NicFacts("00:0c:29:00:00:01"), NicFacts("00:0c:29:00:00:02")), uuid="u",
        topology=Topology(2, 2, 1), secure_boot=True, tpm="tpm-crb", cdrom=True, sound="es1371", os_id="o",
    )  # fmt: skip
    found = with_source(result, source)
    assert (found.name, found.memory, found.uuid, found.firmware) == ("web", 1 << 30, None, "uefi")
    assert (found.topology, found.secure_boot, found.tpm) == (Topology(2, 2, 1), True, "tpm-crb")
    assert (found.cdrom, found.sound, found.os_id) == (True, "es1371", "o")
    assert [nic.mac for nic in found.nics] == ["00:0c:29:00:00:01", "52:54:00:00:00:02"]
    assert set(found.sourced or ()) == {"topology", "secure_boot", "tpm", "cdrom", "sound", "os_id"}


@pytest.mark.parametrize("nics", [(), (NicFacts("00:0c:29:00:00:01"),) * 3])
def test_what_does_not_fit_the_result_stays_out(nics: tuple[NicFacts, ...]) -> None:
    result = DomainFacts("web", 1 << 30, 2, (), (NicFacts(None),), tpm="tpm-tis", secure_boot=True)
    found = with_source(result, DomainFacts("srv", 1 << 30, 4, (), nics, topology=Topology(2, 2, 1), tpm="tpm-crb"))
    assert (found.topology, found.nics, found.tpm, found.secure_boot) == (None, result.nics, "tpm-tis", False)


# Converted before: what only the source told stays, and what its owner changed by hand stands above it

PHASES = {"bootstrap": bootstrap_xml, "final": final_xml}
# A value of each fact that is none of the defaults, of a machine on q35.
WHOLE: dict[str, Any] = {
    "name": "web", "memory": 3 << 30, "vcpus": 4, "firmware": "uefi", "uuid": UUID, "graphics": "spice", "video": "vga",
    "disks": (DiskFacts(Path("/d/web-sda"), "qcow2", "virtio", "vda"),),
    "nics": (NicFacts("00:0c:29:00:00:01", "virtio", "bridge", "br0"), NicFacts("00:0c:29:00:00:02", "virtio", "network", "lan")),
    "topology": Topology(2, 2, 1), "secure_boot": True, "tpm": "tpm-crb", "nvram": Path("/d/web.fd"),
    "nvram_template": SECURE.template, "cdrom": True, "sound": "ich9", "os_id": "http://microsoft.com/win/2k22",
    "sourced": ("topology", "tpm", "cdrom", "sound", "os_id", "secure_boot"),
}  # fmt: skip
PLAIN_FACTS = {field.name: field.default for field in dataclasses.fields(DomainFacts)}


def whole(**other: Any) -> DomainFacts:
    return DomainFacts(**{**WHOLE, **other})


def choices(facts: DomainFacts) -> Choices:
    firmware = None if facts.firmware == "bios" else SECURE
    return Choices(firmware=firmware, scratch=Path("/d/web.h2k/scratch.qcow2"), driver_iso=Path("/d/virtio-win.iso"))


def silent(facts: DomainFacts) -> DomainFacts:
    """What virt-v2v's description has of a machine: nothing of what only its source told."""
    gone = {name: PLAIN_FACTS[name] for name in facts.sourced or ()}
    nics = tuple(dataclasses.replace(nic, mac=None) for nic in facts.nics)
    return dataclasses.replace(facts, uuid=None, nics=nics, sourced=None, **gone)


def written_again(now: DomainFacts, phase: str, before: DomainFacts) -> bytes:
    """final.xml of a later command, which knows the domains of the conversion and what the description says now."""
    earlier = read_domain_xml(PHASES[phase](before, choices(before)), f"{phase}.xml")
    facts = complete(remembered(now, earlier), earlier)
    return final_xml(facts, choices(facts))


def test_the_whole_machine_of_these_tests_has_every_fact() -> None:
    assert set(WHOLE) == set(PLAIN_FACTS)
    assert [name for name, value in WHOLE.items() if value == PLAIN_FACTS[name]] == []


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("left_out", [None, *(n for n, d in PLAIN_FACTS.items() if d is not dataclasses.MISSING)])
def test_every_fact_is_the_same_after_a_later_command(phase: str, left_out: Optional[str]) -> None:
    facts = whole(**{left_out: PLAIN_FACTS[left_out]}) if left_out is not None else whole()
    if left_out == "uuid":
        facts = dataclasses.replace(facts, uuid="11111111-2222-3333-4444-555555555555")
    if left_out == "firmware":
        facts = dataclasses.replace(facts, secure_boot=False)
    facts = dataclasses.replace(facts, sourced=tuple(n for n in facts.sourced or () if getattr(facts, n) != PLAIN_FACTS[n]))
    assert written_again(silent(facts), phase, facts) == final_xml(facts, choices(facts))


@pytest.mark.parametrize("phase", PHASES)
def test_what_the_owner_changes_by_hand_stands_above_what_the_source_told(phase: str) -> None:
    facts = whole()
    for name, value in (("tpm", "tpm-tis"), ("sound", "ich6"), ("topology", Topology(1, 2, 2)), ("os_id", "http://microsoft.com/win/11")):
        changed = dataclasses.replace(silent(facts), **{name: value})
        earlier = read_domain_xml(PHASES[phase](facts, choices(facts)), phase)
        found = remembered(changed, earlier)
        assert getattr(found, name) == value and name not in (found.sourced or ()), name
    more = dataclasses.replace(silent(facts), vcpus=8, memory=8 << 30)
    again = remembered(more, read_domain_xml(PHASES[phase](facts, choices(facts)), phase))
    assert (again.vcpus, again.memory, again.topology, again.tpm) == (8, 8 << 30, None, "tpm-crb")
    bios = remembered(dataclasses.replace(silent(facts), firmware="bios"), earlier)
    assert (bios.firmware, bios.secure_boot) == ("bios", False)


@pytest.mark.parametrize("name", ["tpm", "cdrom", "sound", "os_id", "secure_boot"])
def test_what_the_description_told_at_the_conversion_and_tells_no_more_was_taken_away(name: str) -> None:
    facts = whole(sourced=tuple(n for n in WHOLE["sourced"] if n != name))
    now = dataclasses.replace(silent(facts), **{name: PLAIN_FACTS[name]})
    for phase, write in PHASES.items():
        assert getattr(remembered(now, read_domain_xml(write(facts, choices(facts)), phase)), name) == PLAIN_FACTS[name]


def test_what_is_taken_out_of_final_xml_by_hand_stays_out() -> None:
    facts = whole()
    edited = final_xml(facts, choices(facts)).replace(b'<tpm model="tpm-crb">', b"<!--").replace(b"</tpm>", b"-->")
    assert b"<!--" in edited
    found = remembered(silent(facts), read_domain_xml(edited, "final.xml"))
    assert found.tpm is None and found.sound == "ich9"


def test_a_domain_without_the_note_counts_as_the_source_where_the_description_is_silent() -> None:
    facts = whole()
    earlier = dataclasses.replace(read_domain_xml(final_xml(facts, choices(facts)), "final.xml"), sourced=None)
    found = remembered(silent(facts), earlier)
    assert (found.tpm, found.cdrom, found.sound, found.topology, found.secure_boot) == ("tpm-crb", True, "ich9", Topology(2, 2, 1), True)


def test_another_machine_gets_nothing_of_it_and_a_renamed_one_keeps_it() -> None:
    facts = whole()
    earlier = read_domain_xml(final_xml(facts, choices(facts)), "final.xml")
    assert remembered(dataclasses.replace(silent(facts), name="web02"), earlier).tpm == "tpm-crb"
    other = dataclasses.replace(silent(facts), name="db", disks=(DiskFacts(Path("/d/db-sda"), "qcow2", "virtio", "vda"),))
    assert remembered(other, earlier) is other


def test_secure_boot_is_not_read_out_of_a_firmware_that_runs_in_smm_without_it() -> None:
    facts = whole(secure_boot=False, cdrom=False)
    for phase, write in PHASES.items():
        found = read_domain_xml(write(facts, choices(facts)), phase)
        assert (found.secure_boot, found.cdrom) == (False, False), "nor a drive out of that of the VirtIO ISO"
