"""The source's network, read offline, and whose card gets what: nothing lost, nothing guessed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.windows.network import Adapter, Gateway, Network, Route, hardware_of, mac_of_serial, read_network
from h2k.windows.network_carry import leaving, settings_of
from tests.unit.helpers import corpus_hive, few, hive

GUESTS = Path(__file__).resolve().parents[1] / "guests"
ONE, TWO, THREE = (f"{{11111111-0000-4000-8000-00000000000{n}}}" for n in (1, 2, 3))
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")


def network(name: str, more: str = "", software: str = "") -> Network:
    text = (GUESTS / f"{name}.reg").read_text(encoding="utf-8") + more
    return read_network(hive(text.replace("$cs", "ControlSet001")), hive(software, "SOFTWARE") if software else None, 1)


def adapter(found: Network, guid: str) -> Adapter:
    return next(a for a in found.adapters if a.guid == guid)


def test_three_cards_are_read_whole() -> None:
    found = network("net-three")
    first, second, third = found.cards
    assert (first.guid, first.name, first.service, first.hardware) == (ONE, "Ethernet0", "vmxnet3ndis6", "vmware")
    assert first.addresses == ("192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/25")
    assert first.gateways == (Gateway("192.0.2.1", 0), Gateway("192.0.2.2", 256))
    assert first.dns == ("192.0.2.53", "192.0.2.54") and first.metric == 15
    assert first.addresses6 == ("2001:db8::10/64",) and first.gateways6 == (Gateway("2001:db8::1"),)
    assert first.dns6 == ("2001:db8::53",)
    assert (first.mac, first.mac_source, first.slot) == (MACS[0], "NetworkSetup2", 160)
    assert not first.dhcp and first.static and first.unread == ()
    assert (second.mac, second.mac_source) == (MACS[1], "device serial number")
    assert second.addresses == ("10.20.30.40/16",) and second.gateways == () and second.dns == ()
    assert second.unread == ("IPv6 address 2001:db8:1::20",), "an address that is not manual is not taken for one"
    assert third.dhcp and not third.static and third.mac is None and third.slot == 224
    assert found.routes == (Route("10.0.0.0/8", "192.0.2.254", 1), Route("172.16.0.0/12", "10.20.0.1", 5))
    assert len(found.adapters) == 4, "the software adapter is listed, and has no hardware"


def test_network_json_is_json() -> None:
    content = json.loads(json.dumps(network("net-three").as_json()))
    assert content["schema"] == 1
    assert content["adapters"][0]["addresses"][0] == "192.0.2.10/24"


@pytest.mark.parametrize(
    ("instance", "whose"),
    [
        (r"PCI\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\FF290C008E0E28FE00", "vmware"),
        (r"PCI\VEN_8086&DEV_10D3&SUBSYS_07D015AD&REV_00\000C29FFFFF3FFDE00", "vmware"),
        (r"PCI\VEN_8086&DEV_10D3&SUBSYS_00008086&REV_00\525400FFFF123456", "qemu"),
        (r"PCI\VEN_8086&DEV_100E&SUBSYS_11001AF4&REV_03\3&13c0b0c5&0&18", "qemu"),
        (r"PCI\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\3&11583659&0&18", "virtio"),
        (r"PCI\VEN_8086&DEV_100E&SUBSYS_001E8086&REV_02\3&267a616a&2&18", "virtualbox"),
        (r"PCI\VEN_8086&DEV_1533&SUBSYS_15338086&REV_03\A0369FFFFF112233", "physical"),
        (r"VMBUS\{f8615163-df3e-46c5-913f-f2d2f965ed0e}\5&1&0&{c4b3}", "hyper-v"),
        (r"XENVIF\VEN_XS0002&DEV_NET&REV_08000009\0", "xen"),
        (r"PCI\VEN_5853&DEV_0001&SUBSYS_00015853&REV_01\3&1", "xen"),
        (r"SWD\MSRRAS\MS_NDISWANIP", ""),
        (r"ROOT\KDNIC\0000", ""),
        ("", ""),
    ],
)
def test_whose_card_it_is(instance: str, whose: str) -> None:
    assert hardware_of(instance) == whose


def test_serial_numbers_of_vmwares_cards() -> None:
    assert mac_of_serial(r"PCI\VEN_15AD&DEV_07B0\FF290C008E0E28FE00") == "00:0c:29:28:0e:8e"
    assert mac_of_serial(r"PCI\VEN_8086&DEV_10D3\000C29FFFFF3FFDE00") == "00:0c:29:f3:ff:de"
    for other in (r"PCI\X\4&2f4c1a3&0&00B0", r"PCI\X\FF290C008E0E28FE01", r"PCI\X\000C29AAAAF3FFDE00", r"USB\X\000C29FFFFF3FFDE00"):
        assert mac_of_serial(other) is None


def test_hostile_values_are_left_out_and_named() -> None:
    more = """
[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{22222222-0000-4000-8000-000000000001}]
"IPAddress"=multi:["192.0.2.20", "1.2.3.4 & calc", "192.0.2.21"]
"SubnetMask"=multi:["255.0.255.0", "255.255.255.0", "255.255.255.0"]
"DefaultGateway"=multi:["%COMSPEC%"]
"NameServer"="192.0.2.53 evil\\u0022,::1"
[$cs\\Control\\Network\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\{22222222-0000-4000-8000-000000000001}\\Connection]
"Name"="a\\u0022 & calc %PATH%"
"""
    first = adapter(network("net-unknown", more), "{22222222-0000-4000-8000-000000000001}")
    assert first.addresses == ("192.0.2.21/24",) and first.gateways == () and first.dns == ("192.0.2.53",)
    assert len(first.unread) == 5
    assert settings_of(first, None, True, True).name == ""


def test_two_adapters_with_one_luid_get_no_ipv6() -> None:
    more = '[$cs\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0002]\n"NetLuidIndex"=dword:00008001\n'
    first = network("net-three", more).cards[0]
    assert first.addresses6 == () and "LUID" in first.unread[0]


def _nsi(name: str, data: bytes) -> Adapter:
    text = (GUESTS / "net-three.reg").read_text(encoding="utf-8").split("# Static IPv6")[0].replace("$cs", "ControlSet001")
    shown = ",".join(f"{b:02x}" for b in data)
    text += f'[ControlSet001\\Control\\Nsi\\{{eb004a01-9b1a-11d4-9123-0050047759bc}}\\10]\n"{name}"=hex:{shown}\n'
    return read_network(hive(text), None, 1).cards[0]


GOOD = struct.pack("<IIIIBB", 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 64, 0).ljust(24, b"\0") + b"\xff" * 24
NAME = "0000000180000600" + "20010db8" + "0" * 22 + "10"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (NAME, GOOD[:16]),
        (NAME, struct.pack("<IIIIBB", 3600, 3600, 1, 1, 64, 0)),
        (NAME, struct.pack("<IIIIBB", 0xFFFFFFFF, 0xFFFFFFFF, 3, 4, 64, 0)),
        (NAME, struct.pack("<IIIIBB", 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 129, 0)),
        (NAME, struct.pack("<IIIIBB", 0xFFFFFFFF, 0xFFFFFFFF, 1, 1, 64, 9)),
        (NAME[:-2], GOOD),
        (NAME[:16] + "ff" + NAME[18:], GOOD),
    ],
)
def test_an_ipv6_value_with_any_other_meaning_is_unread(name: str, data: bytes) -> None:
    assert _nsi(NAME, GOOD).addresses6 == ("2001:db8::10/64",)
    found = _nsi(name, data)
    assert found.addresses6 == () and len(found.unread) == 1


@few
@given(st.binary(max_size=60), st.text(alphabet="0123456789abcdefxyz", max_size=60))
def test_any_nsi_value_is_read_or_named(data: bytes, rest: str) -> None:
    found = _nsi("0000000180000600" + rest, data)
    assert len(found.addresses6) + len(found.unread) <= 1


@few
@given(st.lists(st.text(max_size=30).filter(lambda t: "\0" not in t), max_size=5), st.text(max_size=60))
def test_any_text_is_an_address_or_named(texts: list[str], servers: str) -> None:
    shown = json.dumps([t.encode("utf-16-le", "replace").decode("utf-16-le") for t in texts])
    name = json.dumps(servers.replace("\0", "").encode("utf-16-le", "replace").decode("utf-16-le"))
    guid = "{22222222-0000-4000-8000-000000000001}"
    more = f'[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{guid}]\n"IPAddress"=multi:{shown}\n"NameServer"={name}\n'
    found = adapter(network("net-unknown", more), guid)
    assert all(a.count(".") == 3 for a in found.addresses)


def test_profiles() -> None:
    software = """
[Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\{44444444-0000-4000-8000-000000000001}]
"ProfileName"="Office"
"Category"=dword:00000001
"Managed"=dword:00000000
[Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\{44444444-0000-4000-8000-000000000002}]
"ProfileName"="corp.example"
"Category"=dword:00000002
"Managed"=dword:00000001
[Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\nonsense]
"ProfileName"="x"
"""
    profiles = network("net-three", software=software).profiles
    assert [(p.name, p.category, p.managed) for p in profiles] == [("Office", "private", False), ("corp.example", "domain", True)]


def test_corpus_windows_10() -> None:
    found = read_network(corpus_hive("win10-1903-vmware.SYSTEM"), None, 1)
    (card,) = found.cards
    assert (card.name, card.service, card.hardware) == ("Ethernet0", "e1i65x64", "vmware")
    assert (card.mac, card.mac_source, card.slot) == ("00:0c:29:f3:ff:de", "NetworkSetup2", 192)
    assert mac_of_serial(card.instance) == card.mac, "both sources of a real hive agree"
    assert card.dhcp and not card.static and card.present is True and card.luid == "0000000180000600"
    assert len(found.adapters) == 11 and found.routes == ()
    assert leaving(found) == (card,)


def test_corpus_windows_8() -> None:
    found = read_network(corpus_hive("win8.1-virtualbox.SYSTEM"), None, 1)
    (card,) = found.cards
    assert (card.name, card.hardware, card.mac) == ("Ethernet", "virtualbox", None)
    assert card.dhcp and card.unread == ()


def test_a_hive_without_a_network() -> None:
    assert read_network(hive("[ControlSet001]\n"), None, 1) == Network((), (), ())
