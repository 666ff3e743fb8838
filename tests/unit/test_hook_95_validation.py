"""validate.json: each card with its address, each gateway once, and what the policy asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.boot.validate import read_steps
from h2k.config.policy import NicOverride, Policy, Validation
from h2k.domain.facts import DomainFacts, NicFacts
from h2k.engine.hooks import Document
from tests.unit.hooks import ask
from tests.unit.memory_reader import windows_guest
from tests.unit.moved_guests import UNKNOWN, VIRTIO

NETWORK = (Path(__file__).resolve().parents[1] / "guests" / "net-three.reg").read_text(encoding="utf-8")
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")


def domain(*nics: NicFacts) -> DomainFacts:
    return DomainFacts("g", 1, 1, (), nics=nics)


def steps(**options: Any) -> list[dict[str, Any]]:
    (document,) = ask("validation", windows_guest(NETWORK, data_disks=1), **options).changes
    assert isinstance(document, Document) and document.name == "validate.json" and document.content["schema"] == 1
    found: list[dict[str, Any]] = document.content["steps"]
    return found


def test_what_the_machine_must_show(tmp_path: Path) -> None:
    policy = Policy(validation=Validation((3389, 5985), ("TermService",), 3))
    found = steps(policy=policy, domain=domain(*(NicFacts(mac, slot=slot) for mac, slot in zip(MACS, (160, 192, 224)))))
    assert {"step": "os", "version": "10.0", "build": 20348} in found and {"step": "disks", "count": 2} in found
    addresses = {s["mac"]: s["addresses"] for s in found if s["step"] == "address"}
    assert addresses == {
        MACS[0]: ["192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/25", "2001:db8::10/64"],
        MACS[1]: ["10.20.30.40/16"],
        MACS[2]: [],
    }
    assert [s["address"] for s in found if s["step"] == "gateway"] == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert [s["port"] for s in found if s["step"] == "port"] == [3389, 5985]
    assert [s["name"] for s in found if s["step"] == "service"] == ["TermService"]
    assert found[-1] == {"step": "quiet", "minutes": 3}
    (tmp_path / "validate.json").write_text(json.dumps({"schema": 1, "steps": found}))
    assert read_steps(tmp_path, policy) == found, "what the hook writes is what h2k validate reads"


def test_nothing_is_expected_of_a_card_that_nothing_is_carried_to() -> None:
    found = steps(domain=domain(NicFacts("52:54:00:00:00:01"), NicFacts("52:54:00:00:00:02")))
    assert [s["addresses"] for s in found if s["step"] == "address"] == [[], []]
    assert not [s for s in found if s["step"] == "gateway"]


def test_addresses_left_to_dhcp_by_the_policy() -> None:
    found = steps(policy=Policy(addresses="dhcp"), domain=domain(*(NicFacts(mac) for mac in MACS)))
    assert [s["addresses"] for s in found if s["step"] == "address"] == [[], [], []]


def test_nothing_is_written_before_the_copy() -> None:
    assert ask("validation", windows_guest(NETWORK), phase="source").changes == ()
    assert ask("validation", windows_guest(NETWORK, version="6.0", build="6002")).changes == (), "nor for a Windows that h2k leaves alone"


def test_a_card_of_ours_keeps_what_it_has() -> None:
    met = VIRTIO + '[$cs\\Control\\NetworkSetup2\\Interfaces\\{55555555-0000-4000-8000-000000000001}\\Kernel]\n'
    met += '"PermanentAddress"=hex:52,54,00,00,00,07\n'
    (document,) = ask("validation", windows_guest(met), domain=domain(NicFacts("52:54:00:00:00:07"), NicFacts("52:54:00:00:00:08"))).changes
    assert isinstance(document, Document)
    assert [s["addresses"] for s in document.content["steps"] if s["step"] == "address"] == [["192.0.2.77/24"], []]


def test_the_only_card_gets_all_whatever_its_mac() -> None:
    second = ("\\0008]", "0988]", "{22222222-0000-4000-8000-000000000002}")
    single = "[".join(part for part in UNKNOWN.split("[") if not any(mark in part for mark in second))

    def addresses(*macs: Optional[str]) -> list[tuple[str, list[str]]]:
        (document,) = ask("validation", windows_guest(single), domain=domain(*(NicFacts(mac) for mac in macs))).changes
        assert isinstance(document, Document)
        return [(s["mac"], s["addresses"]) for s in document.content["steps"] if s["step"] == "address"]

    assert addresses("52:54:00:00:00:01") == [("52:54:00:00:00:01", ["192.0.2.20/24"])]
    assert addresses(None) == [("", ["192.0.2.20/24"])]
    two = ("52:54:00:00:00:01", "52:54:00:00:00:02")
    assert addresses(*two) == [(mac, []) for mac in two], "which of the two had them, nobody knows"


@pytest.mark.parametrize(("count", "expected"), [(1, [["192.0.2.9/24"]]), (2, [[], []])])
def test_an_override_without_a_mac_is_the_only_card_s(count: int, expected: list[list[str]]) -> None:
    policy = Policy(addresses="override", overrides=(NicOverride(None, dhcp=False, addresses=("192.0.2.9/24",)),))
    found = steps(policy=policy, domain=domain(*(NicFacts(mac) for mac in MACS[:count])))
    assert [s["addresses"] for s in found if s["step"] == "address"] == expected
