"""The first-boot scripts under an interpreter that is not ours: Wine's cmd.exe, with stand-ins for Windows' programs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.guest.virt_v2v_first_boot import Loop, bounded
from tests.integration.wine import COMPILER, Wine

pytestmark = [
    pytest.mark.xdist_group("wine"),
    pytest.mark.skipif(not (shutil.which("wine") and shutil.which(COMPILER)), reason="no wine here; make deps installs it"),
]
ROOT = Path(__file__).resolve().parents[2]
# As route.exe prints its list: our card, the loopback, and Npcap's adapter, which has a MAC as a card has.
CARDS = """===========================================================================
Interface List
 12...52 54 00 12 34 56 ......Red Hat VirtIO Ethernet Adapter
  1...........................Software Loopback Interface 1
===========================================================================
"""
BESIDE = CARDS.replace("  1...", "  7...02 00 4c 4f 4f 50 ......Npcap Loopback Adapter\n  1...")
NET = "SYSTEM\\CurrentControlSet\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}"
GUID = "{55555555-0000-4000-8000-000000000001}"
DEVICE = "PCI\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\3&11583659&0&18"
BOUND = f"""
[SYSTEM\\CurrentControlSet\\Services\\netkvm\\Enum]
"0"="{DEVICE.replace(chr(92), chr(92) * 2)}"
"Count"=dword:00000001
[SYSTEM\\CurrentControlSet\\Enum\\{DEVICE}]
"Driver"="{{4d36e972-e325-11ce-bfc1-08002be10318}}\\\\0003"
[{NET}\\0002]
"NetLuidIndex"=dword:00008001
"NetCfgInstanceId"="{{99999999-0000-4000-8000-000000000001}}"
[{NET}\\0003]
"NetLuidIndex"=dword:00008003
"NetCfgInstanceId"="{GUID}"
"""
LUIDS = [
    ("netsh", "show interface 12", 0, "Interface LAN_1 Parameters\n----\nIfLuid                             : ethernet_32771\n"),
    ("netsh", "show interface 7", 0, "IfLuid                             : ethernet_32769\n"),
]
NAMES = ("netsh", "show interfaces", 0, " 12          25        1500  no conectado  Ethernet 3\n")
ROUTE = ("route", "print", 0, CARDS)
# As netsh shows the routes of all cards, in a language whose words for "no" and "by hand" are others.
ROUTES = """Publ.    Typ       Met  Praefix                   Idx  Gateway/Schnittstelle
-------  --------  ---  ------------------------  ---  ------------------------
Nein     Manuell   256  ::/0                       12  2001:db8::1
Nein     System    256  ::1/128                     1  Loopback Pseudo-Interface 1
"""
CARD = """network-service netkvm
nic 52-54-00-12-34-56 required
address 192.0.2.10 255.255.255.0
address 192.0.2.11 255.255.255.0
gateway 192.0.2.1 0
register none
dns 192.0.2.53
wins 192.0.2.60
address6 2001:db8::10/64
gateway6 2001:db8::1
metric 15
mtu 1400
netbios 2
suffix corp.example
name Backup LAN 1
route 10.0.0.0 255.0.0.0 192.0.2.254 1
"""
SATA = '[SYSTEM\\CurrentControlSet\\Services\\disk\\Enum]\n"0"="SCSI\\\\Disk&Ven_QEMU&Prod_HARDDISK\\\\4&1"\n'
FINAL = '[SYSTEM\\CurrentControlSet\\Services\\disk\\Enum]\n"0"="SCSI\\\\Disk&Ven_Red_Hat&Prod_VirtIO\\\\4&1"\n'


@pytest.fixture(scope="module")
def wine() -> Iterator[Wine]:
    """One prefix for all, kept between runs of the tests."""
    made = Wine(Path(os.environ.get("H2K_WINE", ROOT / ".cache" / "wine")).resolve())
    made.make()
    yield made
    made.close()


# Addresses


def test_every_setting_of_a_card(wine: Wine) -> None:
    wine.fresh(CARD, BOUND, [ROUTE, *LUIDS, NAMES])
    assert wine.step("addresses") == ("0", "1 of 1 cards set"), wine.output
    calls = [call for call in wine.calls if call.startswith("netsh") and " show " not in call and "dump" not in call]
    ipv4 = "netsh interface ipv4"
    assert calls == [
        f"{ipv4} set address name=12 source=static address=192.0.2.10 mask=255.255.255.0 gateway=none",
        f"{ipv4} add address name=12 address=192.0.2.11 mask=255.255.255.0",
        f"{ipv4} add address name=12 gateway=192.0.2.1",
        f"{ipv4} set dnsservers name=12 source=static address=192.0.2.53 register=none validate=no",
        f"{ipv4} set winsservers name=12 source=static address=192.0.2.60",
        "netsh interface ipv6 add address interface=12 address=2001:db8::10/64 store=persistent",
        "netsh interface ipv6 add route prefix=::/0 interface=12 nexthop=2001:db8::1 store=persistent",
        f"{ipv4} set interface interface=12 metric=15",
        f"{ipv4} set subinterface interface=12 mtu=1400 store=persistent",
        'netsh interface set interface name="Ethernet 3" newname="Backup LAN 1"',
    ]
    assert "route -p add 10.0.0.0 mask 255.0.0.0 192.0.2.254 metric 1" in wine.calls
    tcpip = wine.registry(f"SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters\\Interfaces\\{GUID}")
    assert tcpip["Domain"] == '"corp.example"' and tcpip["RegistrationEnabled"] == "dword:00000000"
    netbt = wine.registry(f"SYSTEM\\CurrentControlSet\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}")
    assert netbt["NetbiosOptions"] == "dword:00000002"


POWERSHELL = """network-service netkvm
nic 52-54-00-12-34-56 required
address 192.0.2.10 255.255.255.0
unbind ms_tcpip6
unbind ms_server
name-units 82.233.115
"""


def test_what_powershell_alone_can_set(wine: Wine) -> None:
    wine.fresh(POWERSHELL, BOUND, [ROUTE, *LUIDS, NAMES])
    assert wine.step("addresses") == ("0", "1 of 1 cards set"), wine.output
    card = "-Name (Get-NetAdapter -InterfaceIndex 12).Name"
    assert [call for call in wine.calls if call.startswith("powershell")] == [
        f"powershell -NoProfile -NonInteractive -Command Disable-NetAdapterBinding {card} -ComponentID ms_tcpip6 -ErrorAction Stop",
        f"powershell -NoProfile -NonInteractive -Command Disable-NetAdapterBinding {card} -ComponentID ms_server -ErrorAction Stop",
        f"powershell -NoProfile -NonInteractive -Command Rename-NetAdapter {card} "
        "-NewName (-join [char[]][int[]]'82.233.115'.Split('.')) -ErrorAction Stop",
    ]
    wine.answer([ROUTE, *LUIDS, NAMES, ("powershell", "ms_server", 1, ""), ("powershell", "Rename", 1, "")])
    assert wine.step("addresses") == ("0", "1 of 1 cards set, to be set by hand: ms_server the-name"), "no failure"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([("netsh", " set address", 1, "")], "refused: address"),
        ([("netsh", " set dnsservers", 1, "The DNS server is wrong")], "refused: dnsservers"),
        ([("netsh", "show addresses", 0, ""), ("netsh", "show dns", 0, ""), ("netsh", "show wins", 0, "")], "not there when read back: 192.0.2.10 192.0.2.11"),
        ([("netsh", "show interface 12", 0, "nothing")], "refused: RegistrationEnabled NetbiosOptions Domain"),
    ],
    ids=["netsh refuses", "a server is refused", "not there afterwards", "no key for the card"],
)  # fmt: skip
def test_a_failure_is_never_done(rules: list[Any], told: str, wine: Wine) -> None:
    wine.fresh(CARD, BOUND, [ROUTE, *rules, *LUIDS, NAMES])
    result, detail = wine.step("addresses", last=True)
    assert result == "1" and told in detail


def test_what_an_earlier_try_added_is_no_failure(wine: Wine) -> None:
    """`add` says that the object exists; it does, and that is what counts."""
    listed = "  IP Address:      192.0.2.11\n  IP Address:   192.0.2.10\n Gateway: 192.0.2.1\n 192.0.2.53\n 192.0.2.60\n 2001:db8::10\n"
    routes = ("netsh", "show route", 0, ROUTES)
    wine.fresh(CARD, BOUND, [ROUTE, ("netsh", " add ", 1, "The object already exists."), ("netsh", "show addresses", 0, listed),
                             ("netsh", "show dns", 0, listed), ("netsh", "show wins", 0, listed), routes, *LUIDS, NAMES])  # fmt: skip
    assert wine.step("addresses")[0] == "0"


def test_an_address_that_begins_alike_is_another(wine: Wine) -> None:
    short = "network-service netkvm\nnic 52-54-00-12-34-56 required\naddress 192.0.2.1 255.255.255.0\n"
    wine.fresh(short, BOUND, [ROUTE, ("netsh", "show addresses", 0, "  IP Address:  192.0.2.10\n IP: 1192.0.2.1\n"), ("netsh", "show", 0, "")])
    assert wine.step("addresses") == ("1", "1 of 1 cards set, not there when read back: 192.0.2.1")


# Two cards with a server each of which the other has, and whose second server is the gateway of the first.
PAIR = """nic 52-54-00-12-34-56 required
address 192.0.2.10 255.255.255.0
gateway 192.0.2.1 0
dns 192.0.2.53
dns 192.0.2.54
dns 192.0.2.1
nic 52-54-00-12-34-57 required
address 198.51.100.10 255.255.255.0
dns 192.0.2.54
address6 2001:db8::20/64
gateway6 2001:db8::1
"""
SECOND = CARDS.replace("  1...", " 13...52 54 00 12 34 57 ......Red Hat VirtIO Ethernet Adapter #2\n  1...")


def test_what_another_card_has_or_another_setting_of_the_same_is_not_there(wine: Wine) -> None:
    """A server that netsh refuses counts as set neither when the other card has it nor when it is the gateway."""
    dumps = [
        ("netsh", "ipv4 dump", 0, 'set dnsservers name="Ethernet 4" source=static address=192.0.2.54 register=primary\n'),
        ("netsh", "ipv6 dump", 0, 'add route prefix=::/0 interface="Ethernet 3" nexthop=2001:db8::1 publish=Yes\n'),
    ]
    second = ("route", "print", 0, SECOND)
    wine.fresh(PAIR, BOUND, [second, *LUIDS, *dumps])
    assert wine.step("addresses") == ("0", "2 of 2 cards set"), wine.output
    refused = [("netsh", "add dnsservers name=12", 1, "refused"), ("netsh", "add route", 1, "refused"), ("netsh", "show route", 0, ROUTES)]
    wine.fresh(PAIR, BOUND, [second, *refused, *LUIDS, *dumps])
    assert wine.step("addresses") == ("1", "2 of 2 cards set, not there when read back: 192.0.2.54 192.0.2.1 2001:db8::1")


def test_what_is_stored_for_a_card_without_its_cable_is_there(wine: Wine) -> None:
    """Its addresses may not be listed; the registry has them as netsh stores them."""

    def multi(*texts: str) -> str:
        """A list, in the encoding of the file as Wine's regedit takes it."""
        return "hex(7):" + ",".join(f"{byte:02x}" for byte in ("\0".join(texts) + "\0\0").encode("ascii"))

    services = "SYSTEM\\CurrentControlSet\\Services"
    stored = f"""[{services}\\Tcpip\\Parameters\\Interfaces\\{GUID}]
"IPAddress"={multi("192.0.2.10", "192.0.2.11")}
"DefaultGateway"={multi("192.0.2.1")}
"NameServer"="192.0.2.52,192.0.2.53"
"DhcpNameServer"="192.0.2.99"
[{services}\\NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}]
"NameServerList"={multi("192.0.2.60")}
"""
    unlisted = [("netsh", f"show {kind}", 0, "") for kind in ("addresses", "dnsservers", "winsservers")]
    settings = "\n".join(line for line in CARD.splitlines() if "6 2001" not in line) + "\n"
    wine.fresh(settings, BOUND + stored, [ROUTE, *unlisted, *LUIDS, NAMES])
    assert wine.step("addresses") == ("0", "1 of 1 cards set"), wine.output
    wine.fresh(settings + "nic 52-54-00-12-34-56 optional\ndns 192.0.2.99\n", BOUND + stored, [ROUTE, *unlisted, *LUIDS, NAMES])
    assert wine.step("addresses") == ("1", "2 of 2 cards set, not there when read back: 192.0.2.99"), "that one is DHCP's"


def test_a_card_whose_servers_come_by_dhcp_is_registered_with_its_suffix(wine: Wine) -> None:
    both = "network-service netkvm\nnic 52-54-00-12-34-56 required\nregister both\n"
    wine.fresh(both, BOUND, [ROUTE, *LUIDS])
    assert wine.step("addresses") == ("0", "1 of 1 cards set"), wine.output
    tcpip = wine.registry(f"SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters\\Interfaces\\{GUID}")
    assert tcpip["RegisterAdapterName"] == "dword:00000001" == tcpip["RegistrationEnabled"]
    wine.fresh(both, BOUND, [ROUTE, ("netsh", "show interface 12", 0, "nothing")])
    assert wine.step("addresses") == ("1", "1 of 1 cards set, refused: RegistrationEnabled RegisterAdapterName")


def test_what_waits_draws_on_the_budget_of_the_step(wine: Wine) -> None:
    """A card that does not come, and an address that Windows never lists."""
    wine.fresh(CARD.replace("52-54-00-12-34-56", "52-54-00-12-34-57"), BOUND, [ROUTE, *LUIDS], waits=True)
    assert wine.step("addresses", budget=20) == ("2", "no card yet for: 52-54-00-12-34-57")
    assert wine.left == 10, "ten seconds are for reading back"
    assert wine.calls.count("route print") == 6
    short = "network-service netkvm\nnic 52-54-00-12-34-56 required\naddress 192.0.2.1 255.255.255.0\n"
    wine.fresh(short, BOUND, [ROUTE, ("netsh", "show addresses", 0, ""), *LUIDS], waits=True)
    assert wine.step("addresses", budget=4)[0] == "1" and wine.left == 0
    assert wine.calls.count("netsh interface ipv4 show addresses 12") == 3


def test_the_only_card_is_the_one_that_the_driver_drives(wine: Wine) -> None:
    single = "network-service netkvm\nnic single required\naddress 192.0.2.10 255.255.255.0\n"
    wine.fresh(single, BOUND, [("route", "print", 0, BESIDE), *LUIDS])
    assert wine.step("addresses")[0] == "0"
    assert any("set address name=12 " in call for call in wine.calls) and not any("name=7 " in call for call in wine.calls)


def test_two_cards_that_nobody_can_tell_apart(wine: Wine) -> None:
    wine.fresh("nic single required\naddress 192.0.2.10 255.255.255.0\n", "", [("route", "print", 0, BESIDE), *LUIDS])
    assert wine.step("addresses") == ("2", "no card yet for: single")
    assert not any(" set " in call for call in wine.calls)


def test_a_card_that_is_not_there_yet(wine: Wine) -> None:
    wine.fresh(CARD.replace("52-54-00-12-34-56", "52-54-00-12-34-57"), BOUND, [ROUTE, *LUIDS])
    assert wine.step("addresses") == ("2", "no card yet for: 52-54-00-12-34-57")
    assert wine.step("addresses", last=True) == ("1", "0 of 1 cards set, not found: 52-54-00-12-34-57")
    wine.fresh("retries 5\n")
    assert wine.step("addresses")[0] == "3"


# Drivers, tools, agent

DRIVERS = "driver required viostor\\viostor.inf\ndriver required NetKVM\\netkvm.inf\ndriver optional Balloon\\balloon.inf\n"


@pytest.mark.parametrize(
    ("rules", "result", "detail"),
    [
        ([("pnputil", "netkvm", 3010, "")], "0", "3 packages"),
        ([("pnputil", "balloon", 2, "")], "0", "3 packages, optional ones failed: balloon"),
        ([("pnputil", "viostor", 5, "")], "1", "3 packages, required ones failed: viostor"),
    ],
)  # fmt: skip
def test_drivers(rules: list[Any], result: str, detail: str, wine: Wine) -> None:
    wine.fresh(DRIVERS, "", rules)
    assert wine.step("drivers") == (result, detail)
    assert wine.calls[0] == 'pnputil -i -a "C:\\Program Files\\h2k\\drivers\\viostor\\viostor.inf"'


def test_a_driver_that_hangs_answers_for_nobody_else(wine: Wine) -> None:
    """It is left behind, at the end of its time or of the step's, and each of the others has a result file of its own."""
    wine.fresh(DRIVERS, "", [("pnputil", "viostor", "hang", ""), ("pnputil", "netkvm", 5, "")])
    result, detail = wine.step("drivers", budget=4)
    assert result == "1" and detail == "3 packages, optional ones failed: balloon, required ones failed: viostor netkvm"
    wine.fresh(DRIVERS, "", [("pnputil", "netkvm", 5, "")])
    assert wine.step("drivers") == ("1", "3 packages, required ones failed: netkvm")
    assert [(wine.h2k / f"run{n}.rc").read_text().strip() for n in (1, 2, 3)] == ["0", "5", "0"]


def test_a_publisher_is_trusted_for_the_time_of_the_installation(wine: Wine) -> None:
    sha1 = "0123456789ABCDEF0123456789ABCDEF01234567"
    wine.fresh(DRIVERS + f"publisher {sha1} viostor\\publisher.cer\n")
    assert wine.step("drivers")[0] == "0"
    calls = [call.split(" ", 1)[0] + (" " + call.split()[1] if call.startswith("certutil") else "") for call in wine.calls]
    assert calls == ["certutil -addstore", "pnputil", "pnputil", "pnputil", "certutil -delstore"]


def test_tools_and_agent(wine: Wine) -> None:
    tool = "tool {5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}\nagent qemu-ga-x86_64.msi\n"
    wine.fresh(tool, "", [("msiexec", "/x", 3010, "")])
    assert wine.step("tools") == ("0", "1 removed") and wine.step("agent") == ("0", "msiexec 0")
    wine.answer([("msiexec", "*", 1603, "")])
    assert wine.step("tools") == ("1", "0 removed, kept: 1603") and wine.step("agent") == ("1", "msiexec 1603")
    wine.fresh("retries 5\n")
    assert wine.step("tools")[0] == "3" == wine.step("agent")[0]


# Disks and cleanup

SAN = "bus virtio\nsan ControlSet009 3\ndisk 1234abcd\ndisk {6c1f5c5e-8a43-4d18-9e0b-1d3a5c7e9f10}\n"
PARTMGR = "SYSTEM\\ControlSet009\\Services\\partmgr\\Parameters"
ONE = f'[{PARTMGR}]\n"SanPolicy"=dword:00000001\n'
LIST = "  Disk ###  Status         Size\n  --------  -------------\n  Disk 0    Online          60 GB\n  Disk 1    Offline\n"


def test_only_the_guests_own_disks_come_online_and_the_policy_waits_for_the_final_bus(wine: Wine) -> None:
    wine.fresh(SAN, ONE + SATA, [("diskpart", "*", 0, LIST + "Disk ID: 1234ABCD\n")])
    assert wine.step("disks", last=True) == ("4", "2 disks online, again on the final bus, where the SAN policy comes back")
    assert wine.registry(PARTMGR)["SanPolicy"] == "dword:00000001", "however many tries there were"
    assert "online disk noerr" in (wine.h2k / "disk.tmp").read_text()
    wine.fresh(SAN, ONE + FINAL, [("diskpart", "*", 0, LIST + "Disk ID: {00000000-0000-4000-8000-000000000001}\n")])
    assert wine.step("disks") == ("0", "0 disks online")
    assert wine.registry(PARTMGR)["SanPolicy"] == "dword:00000003"
    assert "online disk" not in (wine.h2k / "disk.tmp").read_text(), "a disk of another's"
    wine.fresh("retries 5\n")
    assert wine.step("disks")[0] == "3"


@pytest.mark.parametrize("package", ["guestor.inf_tmp", "guestor.inf_amd64_0000000000000000"], ids=["2.2", "2.10"])
def test_cleanup_waits_for_the_final_bus_and_the_real_driver(wine: Wine, package: str) -> None:
    crash = "SYSTEM\\ControlSet009\\Control\\CrashControl"
    place, packages = "SYSTEM\\DriverDatabase\\DriverInfFiles\\guestor.inf", "SYSTEM\\DriverDatabase\\DriverPackages"
    settings = "bus virtio\nauto-reboot ControlSet009 1\nmust-be-bound viostor\nleftover guestor.inf\n"
    made = f'[{crash}]\n"AutoReboot"=dword:00000000\n[{place}]\n"Active"="{package}"\n'
    made += f'[{packages}\\{package}]\n"Version"="x"\n[{packages}\\other.inf_amd64_1]\n"Version"="x"\n'
    wine.fresh(settings, made + SATA)
    assert wine.step("cleanup", last=True) == ("4", "the final bus")
    assert wine.registry(crash)["AutoReboot"] == "dword:00000000"
    wine.fresh(settings, made + FINAL)
    assert wine.step("cleanup") == ("2", "the real driver of viostor")
    assert wine.registry(crash)["AutoReboot"] == "dword:00000001"
    block = '[SYSTEM\\CurrentControlSet\\Control\\Class\\{4d36e97b-e325-11ce-bfc1-08002be10318}\\0001]\n"InfPath"="oem3.inf"\n'
    block += '[SYSTEM\\CurrentControlSet\\Enum\\PCI\\DISK\\1]\n"Driver"="{4d36e97b-e325-11ce-bfc1-08002be10318}\\\\0001"\n'
    block += '[SYSTEM\\CurrentControlSet\\Services\\viostor\\Enum]\n"0"="PCI\\\\DISK\\\\1"\n"Count"=dword:00000001\n'
    wine.fresh(settings, made + FINAL + block)
    assert wine.step("cleanup") == ("0", "2 keys removed, 0 kept"), wine.output
    assert wine.registry(place) == {} == wine.registry(f"{packages}\\{package}")
    assert wine.registry(f"{packages}\\other.inf_amd64_1")


# The runner


def said(signals: list[str]) -> list[tuple[str, str, str]]:
    """(step, state, detail) of each signal; the lines are JSON, as the host reads them."""
    return [(s["step"], s["state"], s["detail"]) for s in (json.loads(line.split(" ", 1)[1]) for line in signals)]


def test_two_boots_from_the_bootstrap_to_the_end(wine: Wine) -> None:
    wine.fresh("retries 2\n" + DRIVERS + CARD + SAN, BOUND + ONE + SATA, [ROUTE, *LUIDS, NAMES, ("pnputil", "viostor", 5, ""), ("diskpart", "*", 0, LIST)])
    first = said(wine.boot())
    assert [(step, state) for step, state, _ in first] == [
        ("start", "ok"), ("drivers", "failed"), ("addresses", "ok"), ("disks", "skipped"), ("tools", "skipped"),
        ("agent", "skipped"), ("cleanup", "skipped"), ("done", "failed"),
    ]  # fmt: skip
    assert first[-1][2] == "the next boot goes on with: drivers disks" and first[3][2].startswith("waits for the next boot: ")
    assert not (wine.h2k / "done" / "drivers").exists() and not (wine.h2k / "tries" / "disks.1").exists()
    wine.answer([ROUTE, *LUIDS, NAMES, ("diskpart", "*", 0, LIST)])
    second = said(wine.boot())
    assert ("addresses", "skipped", "done at an earlier boot") in second and second[-1][1:] == ("ok", "the next boot goes on with: disks")
    third = said(wine.boot())
    assert third[-1][1:] == ("ok", "the next boot goes on with: disks"), "the final bus was not there yet: no try is spent"
    wine._write_reg("before.reg", FINAL.replace("[", "[HKEY_LOCAL_MACHINE\\"))
    last = said(wine.boot())
    assert last[-1] == ("done", "ok", "complete") and ("disks", "ok", "0 disks online") in last
    assert wine.registry("SOFTWARE\\h2k")["FirstBoot"] == '"done"' and "sc delete h2k-firstboot" in wine.calls
    assert (wine.h2k / "settings.txt").exists(), "what the source's cards had stays"
    assert "icacls" in wine.calls[0] and "*S-1-5-18:(OI)(CI)F" in wine.calls[0]


def test_it_waits_for_the_scripts_of_virt_v2v_without_a_try(wine: Wine) -> None:
    service = '[SYSTEM\\CurrentControlSet\\Services\\firstboot]\n"Start"=dword:00000002\n'
    wine.fresh("retries 3\nlimit start 20\n" + DRIVERS, service)
    scripts = wine.drive / "Program Files" / "Guestfs" / "Firstboot" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "0001-one.bat").write_text("@echo off\n")
    for _ in range(2):
        signals = said(wine.boot())
        assert signals[0] == ("start", "skipped", "waits for the first-boot scripts of virt-v2v")
        assert signals[-1] == ("done", "failed", "the scripts of virt-v2v do not come to their end")
        wine._write_reg("before.reg", service.replace("[", "[HKEY_LOCAL_MACHINE\\"))
    assert not list((wine.h2k / "tries").glob("drivers.*")) and not any("pnputil" in call for call in wine.calls)
    shutil.rmtree(wine.h2k / "tries")
    (scripts.parent / "complete").touch()
    assert said(wine.boot())[-1] == ("done", "ok", "complete")


def test_it_waits_while_the_last_script_of_virt_v2v_runs(wine: Wine) -> None:
    """virt-v2v 2.6 moves a script away before it runs it: only its service tells that one is at work."""
    service = '[SYSTEM\\CurrentControlSet\\Services\\firstboot]\n"Start"=dword:00000002\n'
    running = [("sc", "query firstboot", 0, "        STATUS             : 4  RUNNING\n")]
    wine.fresh("retries 3\nlimit start 20\n" + DRIVERS, service, running)
    (wine.drive / "Program Files" / "Guestfs" / "Firstboot" / "scripts").mkdir(parents=True)
    assert said(wine.boot())[-1] == ("done", "failed", "the scripts of virt-v2v do not come to their end")
    assert not list((wine.h2k / "tries").glob("drivers.*")) and not any("pnputil" in call for call in wine.calls)
    # It has ended and is still there: a minute for the restart that it asked for, and no longer.
    wine.fresh("retries 3\nlimit start 600\n", service, [("sc", "query firstboot", 0, "        STATUS             : 1  STOPPED\n")])
    signals = said(wine.boot())
    assert signals[0] == ("start", "skipped", "waits for the first-boot scripts of virt-v2v") and signals[-1] == ("done", "ok", "complete")
    assert sum("sc query firstboot" in call for call in wine.calls) == 12


def test_scripts_of_virt_v2v_that_never_move_hold_nothing_up_for_ever(wine: Wine) -> None:
    wine.fresh("retries 1\nlimit start 10\n", '[SYSTEM\\CurrentControlSet\\Services\\firstboot]\n"Start"=dword:00000002\n')
    scripts = wine.drive / "Program Files" / "Guestfs" / "Firstboot" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "0001-one.bat").write_text("@echo off\n")
    assert said(wine.boot())[-1] == ("done", "ok", "complete")


# In place of virt-v2v's own scripts


def test_the_bounded_scripts(wine: Wine) -> None:
    directory = wine.drive / "Program Files" / "Guestfs" / "Firstboot"

    def stage(loop: Loop) -> str:
        for path, data in bounded(loop).items():
            place = wine.drive / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return "C:" + loop.script.replace("/", "\\")

    wine.fresh("retries 5\n", "", [("pnputil", "bad.inf", 5, ""), ("pnputil", "good.inf", 3010, "")])
    drivers = stage(Loop("/Program Files/Guestfs/Firstboot/scripts/2000-0001-x.bat", b"", True, ("bad.inf", "good.inf")))
    assert [wine.script(drivers) for _ in range(3)] == ["1", "1", "0"], "249 twice, and then it holds nothing up"
    assert wine.calls[:2] == [f'pnputil -i -a "C:\\windows\\Drivers\\VirtIO\\{inf}.inf"' for inf in ("bad", "good")]
    other = stage(Loop("/Program Files/Guestfs/Firstboot/scripts/5000-0002-y.bat", b"@echo off\r\nexit /b 0\r\n"))
    assert wine.script(other) == "0" and (directory / "h2k" / "5000-0002-y.cmd").exists()
