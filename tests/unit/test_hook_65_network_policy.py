"""Hook network-policy: ghosts go, and what they were set to goes to the new cards, or is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from h2k.config.policy import NicOverride, Policy
from h2k.domain.facts import NicFacts
from h2k.guest.changes import DeleteKey, pending
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource
from h2k.windows.network import Gateway
from tests.unit.memory_reader import apply_changes, windows_guest
from tests.unit.moved_guests import MACS, MODERN, NATIVE, THREE, UNKNOWN, VIRTIO, ask, domain, ids, settings_of
from tests.unit.test_hooks_real_hives import HIVES, real_guest


def test_what_the_ghosts_leave(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE + '[$cs\\Services\\vmxnet3ndis6]\n"Start"=dword:00000003\n')
    nics = domain(*(NicFacts(mac) for mac in MACS))
    fixed = apply_changes(guest, pending(ask(guest, drivers, domain=nics).changes, guest))
    text = repr([key.path for key in _walk(fixed.system.root)]).lower()
    for number in (1, 2, 3):
        assert f"11111111-0000-4000-8000-00000000000{number}" not in text
    assert "ven_15ad" not in text and "subsys_07d015ad" not in text
    assert fixed.system.key("ControlSet001\\Services\\vmxnet3ndis6") is not None, "the driver is the way back"
    assert fixed.system.key("ControlSet001\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0004") is not None
    nsi = fixed.system.key("ControlSet001\\Control\\Nsi\\{eb004a01-9b1a-11d4-9123-0050047759bc}\\10")
    assert nsi is not None and nsi.values() == ()
    routes = fixed.system.key("ControlSet001\\Services\\Tcpip\\Parameters\\PersistentRoutes")
    assert routes is not None and len(routes.values()) == 3, "persistent routes belong to no adapter and stay"


def _walk(key: Any) -> Iterator[Any]:
    yield key
    for below in key.subkeys():
        yield from _walk(below)


def test_the_address_is_cleared_before_the_adapter_goes(drivers: DriverSource) -> None:
    shown = [c.diff(windows_guest(MODERN + THREE)) for c in ask(windows_guest(MODERN + THREE), drivers).changes]
    cleared = next(i for i, line in enumerate(shown) if "IPAddress" in line)
    gone = next(i for i, line in enumerate(shown) if "Enum\\PCI\\VEN_15AD" in line)
    assert cleared < gone


def test_an_unknowable_mapping_falls_back_to_dhcp_and_says_so(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + UNKNOWN)
    found = ask(guest, drivers, domain=domain(NicFacts("52:54:00:00:00:01"), NicFacts("52:54:00:00:00:02")))
    assert settings_of(found).cards == ()
    told = [f for f in found.findings if f.id == "nic-static-stranded"]
    assert [f.state for f in told] == ["warning", "warning"]
    assert "192.0.2.20/24" in told[0].evidence and "netsh interface ipv4 set address" in told[0].repair
    assert "198.51.100.20/24" in told[1].repair
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert pending(ask(fixed, drivers).changes, fixed) == ()


def test_policies(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    nics = domain(*(NicFacts(m) for m in MACS))
    kept = ask(guest, drivers, domain=nics, policy=Policy(ghosts="keep", san="keep"))
    assert {"nic-ghost", "disks-offline-policy"} <= ids(kept, "warning")
    fixed = apply_changes(guest, pending(kept.changes, guest))
    key = "ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{11111111-0000-4000-8000-000000000001}"
    dhcp = fixed.system.value(key, "EnableDHCP")
    assert dhcp is not None and dhcp.dword() == 1 and fixed.system.value(key, "IPAddress") is None
    again = ask(fixed, drivers, domain=nics, policy=Policy(ghosts="keep", san="keep"))
    assert pending(again.changes, fixed) == () and again.broken == (), "the ghost's metric is no reason to forget its addresses"

    dhcp_only = settings_of(ask(guest, drivers, domain=nics, policy=Policy(addresses="dhcp")))
    assert [(c.static, c.name) for c in dhcp_only.cards] == [(False, "Ethernet0"), (False, "Backup LAN"), (False, "DMZ")]
    assert dhcp_only.routes == ()

    override = NicOverride(MACS[1], "LAN", False, ("203.0.113.5/24", "2001:db8::5/64"), ("203.0.113.1",), ("2001:db8::53",))
    (card,) = settings_of(ask(guest, drivers, domain=nics, policy=Policy(addresses="override", overrides=(override,)))).cards
    assert (card.mac, card.name, card.addresses, card.addresses6) == (MACS[1], "LAN", ("203.0.113.5/24",), ("2001:db8::5/64",))
    assert card.gateways == (Gateway("203.0.113.1"),) and card.dns6 == ("2001:db8::53",)


def test_private_profiles_by_policy(drivers: DriverSource) -> None:
    software = "[Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\{44444444-0000-4000-8000-000000000001}]\n"
    software += '"ProfileName"="Office"\n"Category"=dword:00000001\n'
    guest = windows_guest(MODERN + THREE, software)
    assert "network-profile-stale" in ids(ask(guest, drivers), "warning")
    found = ask(guest, drivers, policy=Policy(profiles="remove"))
    assert "network-profile-stale" in ids(found, "broken")
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert "network-profile-stale" not in {f.id for f in ask(fixed, drivers, policy=Policy(profiles="remove")).findings}


# Settings beside addresses

CARD = "{11111111-0000-4000-8000-000000000001}"
EXTRAS = f"""
[$cs\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{CARD}]
"NameServerList"=multi:["192.0.2.60", "192.0.2.61"]
"NetbiosOptions"=dword:00000002
[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{CARD}]
"Domain"="corp.example"
"RegistrationEnabled"=dword:00000000
"DisableDynamicUpdate"=dword:00000001
"MTU"=dword:00000578
"""
METRIC = '"InterfaceMetric"=dword:0000000f\n'
UNTICKED = f'[$cs\\Services\\Tcpip6\\Linkage\\Disabled]\n"Bind"=multi:["\\\\Device\\\\{CARD.upper()}"]\n'


def dropped(guest: Guest, drivers: DriverSource, **options: Any) -> list[Any]:
    options.setdefault("domain", domain(*(NicFacts(m) for m in MACS)))
    return [f for f in ask(guest, drivers, **options).findings if f.id == "network-setting-dropped"]


def test_every_setting_of_a_card_goes_to_the_new_one(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE + EXTRAS)
    nics = domain(*(NicFacts(m) for m in MACS))
    (told,) = dropped(guest, drivers)
    assert told.state == "broken" and told.subject == f"Ethernet0 {CARD}" and MACS[0] in told.repair
    for what in ("WINS server 192.0.2.60", "WINS server 192.0.2.61", "NetBIOS off", "DNS suffix corp.example", "no registration", "no dynamic", "MTU 1400",
                 "interface metric 15"):  # fmt: skip
        assert what in told.evidence
    first = ask(guest, drivers, domain=nics)
    card = {c.mac: c for c in settings_of(first).cards}[MACS[0]]
    assert (card.wins, card.netbios, card.suffix, card.register) == (("192.0.2.60", "192.0.2.61"), 2, "corp.example", "none")
    assert card.no_dynamic_update and card.mtu == 1400
    fixed = apply_changes(guest, pending(first.changes, guest))
    again = ask(fixed, drivers, domain=nics)
    assert again.broken == () and {c.mac: c for c in settings_of(again).cards}[MACS[0]] == card


def test_a_card_with_dhcp_and_nothing_but_such_a_setting_is_required(drivers: DriverSource) -> None:
    off = '[$cs\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{11111111-0000-4000-8000-000000000003}]\n"NetbiosOptions"=dword:00000002\n'
    found = ask(windows_guest(MODERN + THREE + off), drivers, domain=domain(*(NicFacts(m, slot=s) for m, s in zip(MACS, (160, 192, 224)))))
    card = {c.mac: c for c in settings_of(found).cards}[MACS[2]]
    assert card.required and not card.static and card.netbios == 2


@pytest.mark.parametrize(("policy", "state", "why"), [
    (Policy(addresses="dhcp"), "broken", "the policy has other addresses"),
    (Policy(ghosts="keep"), "warning", "carried to"),
])  # fmt: skip
def test_the_policy_decides_about_settings(policy: Policy, state: str, why: str, drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE + EXTRAS)
    (told,) = dropped(guest, drivers, policy=policy)
    assert told.state == state and why in told.repair
    nics = domain(*(NicFacts(m) for m in MACS))
    fixed = apply_changes(guest, pending(ask(guest, drivers, domain=nics, policy=policy).changes, guest))
    assert ask(fixed, drivers, domain=nics, policy=policy).broken == ()


def test_what_can_not_be_carried_is_named_one_by_one(drivers: DriverSource) -> None:
    name = '[$cs\\Control\\Network\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\' + CARD + '\\Connection]\n"Name"="R\u00e9seau 1"\n'
    suffix = f'[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{CARD}]\n"Domain"="x & calc"\n'
    old = {"version": "6.1", "build": "7601", "firmware": "bios"}
    told = dropped(windows_guest(THREE + UNTICKED + name + suffix, **old), drivers)
    assert [(f.state, f.evidence) for f in told[-3:]] == [
        ("warning", "connection name 'R\u00e9seau 1'"), ("warning", "DNS suffix 'x & calc'"), ("warning", "Tcpip6 is unticked"),
    ]  # fmt: skip
    assert "Disable-NetAdapterBinding -Name NAME -ComponentID ms_tcpip6" in told[-1].repair
    nics = domain(*(NicFacts(m) for m in MACS))
    guest = windows_guest(MODERN + THREE + UNTICKED + name + suffix)
    (carried, left) = dropped(guest, drivers, domain=nics)
    assert carried.state == "broken" and "Tcpip6 is unticked" in carried.evidence and left.evidence == "DNS suffix 'x & calc'"
    card = {c.mac: c for c in settings_of(ask(guest, drivers, domain=nics)).cards}[MACS[0]]
    assert (card.name, card.unbound) == ("R\u00e9seau 1", ("ms_tcpip6",))
    told = dropped(guest, drivers, domain=nics, policy=Policy(addresses="dhcp"))
    assert ("warning", "Tcpip6 is unticked") in [(f.state, f.evidence) for f in told], "the policy has other settings"
    unknown = EXTRAS.replace(CARD, "{22222222-0000-4000-8000-000000000001}")
    two = domain(NicFacts("52:54:00:00:00:01"), NicFacts("52:54:00:00:00:02"))
    (lost,) = dropped(windows_guest(MODERN + UNKNOWN + unknown), drivers, domain=two)
    assert lost.state == "warning" and "not carried" in lost.repair


FILTER = "[$cs\\Services\\{service}\\Linkage\\Disabled]\n\"Bind\"=multi:[\"\\\\Device\\\\" + CARD + "\"]\n"


@pytest.mark.parametrize(
    ("policy", "nics", "why"),
    [
        (Policy(addresses="dhcp"), MACS, "the policy has other addresses"),
        (Policy(), ("52:54:00:00:00:01", "52:54:00:00:00:02"), "not carried, for no card has its MAC"),
    ],
    ids=["other addresses", "no certain card"],
)
def test_a_metric_that_does_not_go_along_is_named(policy: Policy, nics: tuple[str, ...], why: str, drivers: DriverSource) -> None:
    (told,) = dropped(windows_guest(MODERN + THREE), drivers, domain=domain(*map(NicFacts, nics)), policy=policy)
    assert told.subject == f"Ethernet0 {CARD}" and told.evidence.startswith("interface metric 15 on a card of vmware") and why in told.repair


def test_a_card_with_dhcp_and_a_metric_waits_for_its_card(drivers: DriverSource) -> None:
    third = "[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{11111111-0000-4000-8000-000000000003}]\n" + METRIC
    found = ask(windows_guest(MODERN + THREE + third), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    card = {c.mac: c for c in settings_of(found).cards}[MACS[2]]
    assert card.required and not card.static and card.metric == 15


def test_lldp_is_unticked_again_and_what_is_not_windows_own_is_named(drivers: DriverSource) -> None:
    both = FILTER.replace("{service}", "MsLldp") + FILTER.replace("{service}", "AcmeLwf")
    carried, left = dropped(windows_guest(MODERN + THREE + both), drivers)
    assert carried.state == "broken" and "MsLldp is unticked" in carried.evidence and "AcmeLwf" not in carried.evidence
    assert (left.state, left.subject, left.evidence) == ("warning", f"Ethernet0 {CARD}", "AcmeLwf is unticked")
    assert left.repair == "untick it in the new card's properties"
    nics = domain(*(NicFacts(m) for m in MACS))
    found = ask(windows_guest(MODERN + THREE + both), drivers, domain=nics)
    assert {c.mac: c for c in settings_of(found).cards}[MACS[0]].unbound == ("ms_lldp",)
    (document,) = found.documents
    assert next(a for a in document.content["adapters"] if a["guid"] == CARD)["unbound"] == ("MsLldp", "AcmeLwf")


def test_defaults_are_no_settings(drivers: DriverSource) -> None:
    plain = EXTRAS.replace('multi:["192.0.2.60", "192.0.2.61"]', "multi:[]").replace("00000578", "ffffffff")
    plain = plain.replace("00000002", "00000000").replace('"RegistrationEnabled"=dword:00000000', '"RegistrationEnabled"=dword:00000001')
    plain = plain.replace('"DisableDynamicUpdate"=dword:00000001', '"DisableDynamicUpdate"=dword:00000000').replace("corp.example", "")
    assert dropped(windows_guest(MODERN + THREE.replace(METRIC, "") + plain), drivers) == []


def test_a_card_has_one_owner(drivers: DriverSource) -> None:
    """virt-v2v's --mac MAC:ip:… stages a script of its own: ours sets no address there, and keeps the rest."""
    files = {
        "Program Files/Guestfs/Firstboot/scripts/2500-0001-network-configure.bat": b"x",
        "Program Files/Guestfs/Firstboot/Temp/network-configure.ps1": f"$mac_address = '{MACS[0].replace(':', '-')}'".encode(),
    }
    service = '[$cs\\Services\\firstboot]\n"Start"=dword:00000002\n'
    found = ask(windows_guest(MODERN + THREE + EXTRAS + service, files=files), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    cards = {c.mac: c for c in settings_of(found).cards}
    assert not cards[MACS[0]].static and cards[MACS[0]].netbios == 2 and cards[MACS[0]].name == "Ethernet0"
    assert cards[MACS[1]].addresses == ("10.20.30.40/16",)
    told = {f.subject: f.repair for f in found.findings if f.id == "nic-static-stranded" and f.state == "broken"}
    assert "--mac" in told[f"Ethernet0 {CARD}"] and sum("--mac" in repair for repair in told.values()) == 1
    (document,) = found.documents
    assert document.content["virt_v2v"] == [MACS[0]]


@pytest.mark.parametrize("name", sorted(HIVES))
def test_real_machines_had_no_such_settings(name: str, drivers: DriverSource) -> None:
    """Two machines with DHCP and what Windows itself writes: their cards go, and nothing of theirs is lost."""
    found = ask(real_guest(name), drivers)
    assert "network-setting-dropped" not in {f.id for f in found.findings} and "first-boot-loop" not in {f.id for f in found.findings}


def test_a_ghost_is_named_by_what_windows_knows_of_it(drivers: DriverSource) -> None:
    found = ask(windows_guest(MODERN + THREE), drivers)
    ghosts = [f.evidence for f in found.findings if f.id == "nic-ghost"]
    assert len(ghosts) == 3 and all(" of vmware: PCI\\VEN_" in e for e in ghosts)
    assert not any(e.startswith("a card of") for e in ghosts)
    nameless = "\n".join(line for line in THREE.splitlines() if not line.startswith(('"DriverDesc"', '"DeviceDesc"', '"FriendlyName"')))
    found = ask(windows_guest(MODERN + nameless), drivers)
    assert all(f.evidence.startswith("a card of ") for f in found.findings if f.id == "nic-ghost")
    unnamed = "\n".join(line for line in nameless.splitlines() if not line.startswith('"Name"'))
    ghosts = [f.subject for f in ask(windows_guest(MODERN + unnamed), drivers).findings if f.id == "nic-ghost"]
    assert ghosts == [f"adapter {CARD[:-2]}{n}}}" for n in (1, 2, 3)]


def test_a_sibling_that_stays_keeps_its_device(drivers: DriverSource) -> None:
    device = "Enum\\PCI\\VEN_8086&DEV_10D3&SUBSYS_07D015AD&REV_00"
    guest = windows_guest(MODERN + THREE + f'[$cs\\{device}\\another]\n"Service"="other"\n')
    system = apply_changes(guest, pending(ask(guest, drivers).changes, guest)).system
    found = system.key(f"ControlSet001\\{device}")
    assert found is not None and [key.name for key in found.subkeys()] == ["another"]
    assert system.key("ControlSet001\\Enum\\PCI\\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01") is None, "all of these leave"


@pytest.mark.parametrize(("removed", "told"), [(2, False), (0, True)])
def test_the_address_of_a_card_that_was_gone_already_is_nobody_s_to_carry(removed: int, told: bool, drivers: DriverSource) -> None:
    device = "$cs\\Enum\\PCI\\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\\4&2f4c1a3&0&00B0\\Properties\\{83da6326-97a6-4088-9453-a1923f573b29}"
    times = "".join(f"[{device}\\{name}]\n@=hex:{at:02x},00,00,00,00,00,00,00\n" for name, at in (("0066", 1), ("0067", removed)))
    found = ask(windows_guest(MODERN + THREE + EXTRAS + times), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    assert any(f.id == "network-setting-dropped" and "WINS server" in f.evidence for f in found.findings) is told
    assert any(f.id == "nic-static-stranded" and f.subject.startswith("Ethernet0 ") and "192.0.2.10" in f.evidence for f in found.findings) is told
    assert len([f for f in found.findings if f.id == "nic-ghost"]) == 3, "a ghost it is all the same"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(addresses="dhcp"), ["DHCP, as the policy says"] * 2),
        (Policy(addresses="override"), ["the policy's own addresses at first boot"] * 2),
        (Policy(), [f"carried to the card {MACS[0]} at first boot: ", f"carried to the card {MACS[1]} at first boot: "]),
    ],
)
def test_each_static_address_is_told_with_what_becomes_of_it(policy: Policy, words: list[str], drivers: DriverSource) -> None:
    found = ask(windows_guest(MODERN + THREE), drivers, domain=domain(*(NicFacts(m) for m in MACS)), policy=policy)
    told = [f for f in found.findings if f.id == "nic-static-stranded" and f.state == "broken"]
    assert [f.subject for f in told] == [f"Ethernet0 {CARD}", f"Backup LAN {CARD[:-2]}2}}"]
    assert all(f.repair.startswith(word) for f, word in zip(told, words))


def test_the_only_card_needs_no_mac(drivers: DriverSource) -> None:
    second = ("\\0008]", "0988]", "{22222222-0000-4000-8000-000000000002}")
    single = "[".join(part for part in UNKNOWN.split("[") if not any(mark in part for mark in second))
    (told,) = [f for f in ask(windows_guest(MODERN + single), drivers).findings if f.id == "nic-static-stranded"]
    assert told.state == "broken" and told.repair.startswith("carried to the only card at first boot")


TEAM = """[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{11111111-0000-4000-8000-000000000004}]
"EnableDHCP"=dword:00000000
"IPAddress"=multi:["192.0.2.99"]
"SubnetMask"=multi:["255.255.255.0"]
"""


def test_a_team_is_named_when_its_cards_are_gone(drivers: DriverSource) -> None:
    found = ask(windows_guest(MODERN + THREE + TEAM), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    (told,) = [f for f in found.findings if "without hardware" in f.evidence]
    assert (told.id, told.state, told.subject) == ("nic-static-stranded", "warning", f"WAN Miniport (IP) {CARD[:-2]}4}}")
    assert told.evidence == "192.0.2.99/24 on an adapter without hardware (WAN Miniport (IP))"
    team = "[" + THREE.split("[")[4] + TEAM
    assert "nic-static-stranded" not in {f.id for f in ask(windows_guest(MODERN + VIRTIO + team, files=NATIVE), drivers).findings}


def test_no_more_than_four_things_that_were_not_decoded_are_named(drivers: DriverSource) -> None:
    unclear = "".join(line.replace("0020\"", f"002{n}\"") for line in THREE.splitlines(True) if "0020\"=" in line for n in range(1, 5))
    nsi = "[$cs\\Control\\Nsi\\{eb004a01-9b1a-11d4-9123-0050047759bc}\\10]\n"
    found = ask(windows_guest(MODERN + THREE + nsi + unclear), drivers)
    (told,) = [f.evidence for f in found.findings if "not decoded" in f.evidence]
    assert told.count("2001:db8:1::2") == 4


def test_what_is_kept_below_the_number_of_another_adapter_stays(drivers: DriverSource) -> None:
    """Nsi's interface settings, addresses and routes: the number stands at the front, in routes behind the gateway."""
    ours, other = "0000000180000600", "0000000180008300"
    tables = {"7": ("", ""), "10": ("", "20010db8"), "16": ("0" * 80, "20010db8")}
    place = "Control\\Nsi\\{eb004a00-9b1a-11d4-9123-0050047759bc}\\"
    text = "".join(
        f'[$cs\\{place}{table}]\n"{before}{ours}{after}"=hex:00\n"{before}{other}{after}"=hex:00\n' for table, (before, after) in tables.items()
    )
    guest = windows_guest(MODERN + THREE + text)
    system = apply_changes(guest, pending(ask(guest, drivers).changes, guest)).system
    for table, (before, after) in tables.items():
        key = system.key(f"ControlSet001\\{place}{table}")
        assert key is not None and [value.name for value in key.values()] == [f"{before}{other}{after}"]


def test_a_ghost_that_is_kept_gives_its_servers_up_too(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    fixed = apply_changes(guest, pending(ask(guest, drivers, policy=Policy(ghosts="keep")).changes, guest))
    assert fixed.system.value(f"ControlSet001\\Services\\Tcpip6\\Parameters\\Interfaces\\{CARD}", "NameServer") is None
    assert fixed.system.key(f"ControlSet001\\Services\\Tcpip6\\Parameters\\Interfaces\\{CARD}") is not None


def test_only_private_networks_that_nobody_manages_are_forgotten(drivers: DriverSource) -> None:
    def profile(number: int, category: int, managed: int = 0) -> str:
        key = f"Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\{{44444444-0000-4000-8000-00000000000{number}}}"
        return f'[{key}]\n"ProfileName"="Net{number}"\n"Category"=dword:{category:08x}\n"Managed"=dword:{managed:08x}\n'

    software = "".join(profile(n, 1) for n in range(1, 6)) + profile(6, 0) + profile(7, 1, 1)
    found = ask(windows_guest(MODERN + THREE, software), drivers, policy=Policy(profiles="remove"))
    (told,) = [f for f in found.findings if f.id == "network-profile-stale"]
    assert "'Net1', 'Net2', 'Net3', 'Net4':" in told.evidence
    gone = [c.key[-2] for c in found.changes if isinstance(c, DeleteKey) and c.hive == "SOFTWARE"]
    assert gone == ["1", "2", "3", "4", "5"]
    stays = ask(windows_guest(MODERN + VIRTIO, software, files=NATIVE), drivers)
    assert "network-profile-stale" not in {f.id for f in stays.findings}, "behind the same cards"
