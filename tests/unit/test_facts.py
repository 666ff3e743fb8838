"""Facts of a domain: UUID and MACs that stay."""

from __future__ import annotations

import dataclasses

from h2k.domain.facts import NicFacts, complete
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
