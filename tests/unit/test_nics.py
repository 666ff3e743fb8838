"""What becomes of the source's network: facts, domain and policy put together."""

from __future__ import annotations

import pytest

from h2k.config.policy import NicOverride, Policy
from h2k.domain.facts import NicFacts
from h2k.guest.guest import Guest
from h2k.guest.nics import carry, has_cmdlets
from h2k.windows.network import Gateway
from tests.unit.memory_reader import windows_guest
from tests.unit.moved_guests import MACS, MODERN, THREE, domain

NICS = domain(*(NicFacts(mac, slot=slot) for mac, slot in zip(MACS, (160, 192, 224))))


def guest() -> Guest:
    return windows_guest(MODERN + THREE)


def test_each_card_gets_what_its_mac_had() -> None:
    found = carry(guest(), NICS, Policy())
    assert [card.mac for card in found.settings] == list(MACS) and len(found.leaving) == 3
    assert found.settings[0].addresses[0] == "192.0.2.10/24" and found.theirs == frozenset()
    content = found.as_json()
    assert content["first_boot"][0]["mac"] == MACS[0] and len(content["leaving"]) == 3 and content["virt_v2v"] == []


def test_dhcp_leaves_the_names_alone() -> None:
    found = carry(guest(), NICS, Policy(addresses="dhcp"))
    assert [(card.name, card.required) for card in found.settings] == [("Ethernet0", False), ("Backup LAN", False), ("DMZ", False)]


def test_the_policys_own_addresses() -> None:
    wanted = NicOverride(MACS[1], "LAN", False, ("192.0.2.5/24", "2001:db8::5/64"), ("192.0.2.1", "2001:db8::1"), ("192.0.2.53", "2001:db8::53"))
    (card,) = carry(guest(), NICS, Policy(addresses="override", overrides=(wanted, NicOverride(MACS[0])))).settings
    assert (card.mac, card.addresses, card.addresses6) == (MACS[1], ("192.0.2.5/24",), ("2001:db8::5/64",))
    assert (card.gateways, card.gateways6) == ((Gateway("192.0.2.1"),), (Gateway("2001:db8::1"),))
    assert (card.dns, card.dns6, card.dhcp, card.name) == (("192.0.2.53",), ("2001:db8::53",), False, "LAN")


def test_a_card_of_virt_v2vs_keeps_all_but_addresses() -> None:
    files = {
        "Program Files/Guestfs/Firstboot/scripts/1-network-configure.bat": b"x",
        "Program Files/Guestfs/Firstboot/Temp/network-configure.ps1": f"$mac_address = '{MACS[0]}'".encode(),
    }
    theirs = windows_guest(MODERN + THREE + '[$cs\\Services\\firstboot]\n"Start"=dword:00000002\n', files=files)
    first, second, _ = carry(theirs, NICS, Policy()).settings
    assert not first.static and first.dhcp and first.metric == 15 and first.name == "Ethernet0"
    assert second.addresses == ("10.20.30.40/16",)


@pytest.mark.parametrize(("version", "build", "there"), [("6.1", "7601", False), ("6.2", "9200", True), ("6.3", "9600", True), ("10.0", "20348", True)])
def test_cmdlets_of_the_network_are_a_thing_of_windows_8(version: str, build: str, there: bool) -> None:
    assert has_cmdlets(windows_guest(version=version, build=build)) is there
