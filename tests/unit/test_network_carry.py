"""Which card gets what an adapter had: by its MAC, its slot, by elimination, and never by a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from h2k.windows.network import Adapter, Network, read_network
from h2k.windows.network_carry import Card, assign, by_hand, leaving
from tests.unit.helpers import hive

GUESTS = Path(__file__).resolve().parents[1] / "guests"
ONE, TWO, THREE = (f"{{11111111-0000-4000-8000-00000000000{n}}}" for n in (1, 2, 3))
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")


def network(name: str, more: str = "", software: str = "") -> Network:
    text = (GUESTS / f"{name}.reg").read_text(encoding="utf-8") + more
    return read_network(hive(text.replace("$cs", "ControlSet001")), hive(software, "SOFTWARE") if software else None, 1)


def adapter(found: Network, guid: str) -> Adapter:
    return next(a for a in found.adapters if a.guid == guid)


def test_each_goes_to_its_own_mac_by_its_own_evidence() -> None:
    found = network("net-three")
    # The order of the domain's cards is not the order of the adapters.
    cards = [Card(MACS[2], 224), Card(MACS[1]), Card(MACS[0])]
    to = assign(leaving(found), cards)
    assert {guid: a.mac for guid, a in to.items()} == {ONE: MACS[0], TWO: MACS[1], THREE: MACS[2]}
    assert all(a.certain for a in to.values())
    assert to[ONE].why == f"MAC {MACS[0]} (NetworkSetup2)" and to[THREE].why == "slot 224"


def test_the_last_one_by_elimination_and_only_then() -> None:
    behind = leaving(network("net-three"))
    third = assign(behind, [Card(m) for m in MACS])[THREE]
    assert third.certain and third.mac == MACS[2] and third.why == "the one card that is left"
    more = assign(behind, [*(Card(m) for m in MACS), Card("00:0c:29:aa:00:04")])[THREE]
    assert not more.certain and more.mac is None


def test_without_a_domain_the_own_mac_decides() -> None:
    to = assign(leaving(network("net-three")), None)
    assert to[ONE].mac == MACS[0] and to[TWO].mac == MACS[1]
    assert not to[THREE].certain


@pytest.mark.parametrize("cards", [None, [Card("52:54:00:00:00:01"), Card("52:54:00:00:00:02")], [Card(None), Card(None)], []])
def test_an_unknowable_mapping_is_not_guessed(cards: Optional[list[Card]]) -> None:
    to = assign(leaving(network("net-unknown")), cards)
    assert len(to) == 2
    assert not any(a.certain for a in to.values())
    assert all("MAC" in a.why for a in to.values())


def test_two_adapters_that_claim_one_card_both_stay() -> None:
    # A replaced card with the same MAC: Windows 7 does not record which of them was there last.
    more = """
[$cs\\Control\\NetworkSetup2\\Interfaces\\{22222222-0000-4000-8000-000000000001}\\Kernel]
"PermanentAddress"=hex:00,0c,29,00,00,01
[$cs\\Control\\NetworkSetup2\\Interfaces\\{22222222-0000-4000-8000-000000000002}\\Kernel]
"PermanentAddress"=hex:00,0c,29,00,00,01
"""
    to = assign(leaving(network("net-unknown", more)), [Card("00:0c:29:00:00:01")])
    assert [a.certain for a in to.values()] == [False, False]
    assert all("two adapters claim" in a.why for a in to.values())


def test_one_adapter_and_one_card_need_no_mac() -> None:
    only = [a for a in network("net-unknown").cards if a.driver_key == "0007"]
    assert assign(only, [Card("52:54:00:00:00:01")])[only[0].guid].mac == "52:54:00:00:00:01"
    unnamed = assign(only, [Card(None)])[only[0].guid]
    assert unnamed.certain and unnamed.mac is None and unnamed.why == "the only card"


def test_a_slot_of_another_machine_is_no_evidence() -> None:
    more = '[$cs\\Enum\\PCI\\VEN_8086&DEV_100F&SUBSYS_075015AD&REV_01\\4&3ad87e0a&0&0888]\n"UINumber"=dword:00000004\n'
    cards = [Card("52:54:00:00:00:01", 4), Card("52:54:00:00:00:02", 5), Card("52:54:00:00:00:03", 6)]
    assert not any(a.certain for a in assign(leaving(network("net-unknown", more)), cards).values())


def test_a_card_that_was_gone_already_claims_nothing() -> None:
    base = "[$cs\\Enum\\PCI\\VEN_8086&DEV_100F&SUBSYS_075015AD&REV_01\\4&3ad87e0a&0&0888\\Properties"
    more = "".join(
        f'{base}\\{{83da6326-97a6-4088-9453-a1923f573b29}}\\{name}]\n@=hex(ffff0010):00,00,00,00,00,00,{last},01\n'
        for name, last in (("0066", "01"), ("0067", "02"))
    )
    found = network("net-unknown", more)
    assert [a.present for a in found.cards] == [False, None]
    to = assign(leaving(found), [Card("52:54:00:00:00:01")])
    assert [a.certain for a in to.values()] == [False, True]


def test_a_passed_through_card_stays_where_ours_are() -> None:
    physical = """
[$cs\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0009]
"NetCfgInstanceId"="{33333333-0000-4000-8000-000000000001}"
"DeviceInstanceID"="PCI\\\\VEN_8086&DEV_1533&SUBSYS_15338086&REV_03\\\\A0369FFFFF11223300"
"""
    ours = """
[$cs\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0010]
"NetCfgInstanceId"="{33333333-0000-4000-8000-000000000002}"
"DeviceInstanceID"="PCI\\\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\\\3&11583659&0&18"
"""
    assert [a.hardware for a in leaving(network("net-unknown", physical))].count("physical") == 1
    assert [a.hardware for a in leaving(network("net-unknown", physical + ours))].count("physical") == 0


def test_what_to_type_by_hand() -> None:
    text = by_hand(network("net-three").cards[0])
    assert "set address name=\"NAME\" source=static address=192.0.2.10/24" in text
    assert "add address name=\"NAME\" address=198.51.100.7/25" in text and "gateway=192.0.2.2" in text
    assert "gateway=192.0.2.1;" in text and "gateway=192.0.2.2 gwmetric=256;" in text, "a metric of 0 is automatic"
    assert 'ipv4 set interface interface="NAME" metric=15' in text
    assert "ipv6 add address NAME address=2001:db8::10/64" in text and "::/0 NAME 2001:db8::1" in text
