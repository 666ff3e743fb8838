"""Facts of a domain: UUID and MACs that stay."""

from __future__ import annotations

import dataclasses

import pytest

from h2k.domain.facts import AFTER_VIRT_V2V, DomainFacts, NicFacts, Topology, complete, with_source
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.libvirt_writer import bootstrap_xml
from tests.unit.machines import make


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


@pytest.mark.parametrize("nics", [(), (NicFacts("00:0c:29:00:00:01"),) * 3])
def test_what_does_not_fit_the_result_stays_out(nics: tuple[NicFacts, ...]) -> None:
    result = DomainFacts("web", 1 << 30, 2, (), (NicFacts(None),), tpm="tpm-tis", secure_boot=True)
    found = with_source(result, DomainFacts("srv", 1 << 30, 4, (), nics, topology=Topology(2, 2, 1), tpm="tpm-crb"))
    assert (found.topology, found.nics, found.tpm, found.secure_boot) == (None, result.nics, "tpm-tis", False)
