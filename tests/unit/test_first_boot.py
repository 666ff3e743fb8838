"""The first boot: scripts that cmd.exe reads as meant, settings that no script can misread, and when it is staged."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.config.driver_plan import Plan, load_plan
from h2k.config.policy import NicOverride, Policy
from h2k.domain.facts import DomainFacts, NicFacts
from h2k.engine.hooks import Hook, Options, Proposal, find_hooks, propose
from h2k.guest.changes import WriteFile, pending
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource, open_source
from h2k.windows.first_boot import FirstBoot, Package, Runner, parse_settings, scripts, settings_text
from h2k.windows.network import Gateway, Route
from h2k.windows.network_carry import Settings
from tests.guests.pe import make_pe
from tests.guests.virtio_win import make_tree
from tests.unit.cmd_lint import lint
from tests.unit.helpers import few
from tests.unit.memory_reader import apply_changes, windows_guest

GUESTS = Path(__file__).resolve().parents[1] / "guests"
THREE = (GUESTS / "net-three.reg").read_text(encoding="utf-8")
UNKNOWN = (GUESTS / "net-unknown.reg").read_text(encoding="utf-8")
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")
MODERN = "[DriverDatabase\\DriverInfFiles]\n"
OURS = ("network-driver", "network-policy", "disks", "first-boot")
VIRTIO = """
[$cs\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\\3&13c0b0c5&0&18]
"Service"="viostor"
"Driver"="{4d36e97b-e325-11ce-bfc1-08002be10318}\\\\0001"
[$cs\\Control\\Class\\{4D36E97B-E325-11CE-BFC1-08002BE10318}\\0001]
"InfPath"="oem3.inf"
[$cs\\Enum\\PCI\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\3&11583659&0&18]
"Service"="netkvm"
"Driver"="{4d36e972-e325-11ce-bfc1-08002be10318}\\\\0001"
[$cs\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0001]
"NetCfgInstanceId"="{55555555-0000-4000-8000-000000000001}"
"DeviceInstanceID"="PCI\\\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\\\3&11583659&0&18"
"InfPath"="oem4.inf"
[$cs\\Services\\netkvm]
"Type"=dword:00000001
"Start"=dword:00000003
"ImagePath"=expand:"\\\\SystemRoot\\\\System32\\\\drivers\\\\netkvm.sys"
[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{55555555-0000-4000-8000-000000000001}]
"EnableDHCP"=dword:00000000
"IPAddress"=multi:["192.0.2.77"]
"SubnetMask"=multi:["255.255.255.0"]
"""
NATIVE = {"Windows/System32/drivers/netkvm.sys": make_pe("amd64", b"made netkvm.sys")}


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverSource]:
    with open_source(make_tree(tmp_path_factory.mktemp("virtio-win"))) as source:
        yield source


@functools.lru_cache(maxsize=1)
def hooks() -> tuple[Hook, ...]:
    return tuple(hook for hook in find_hooks() if hook.name in OURS)


@functools.lru_cache(maxsize=1)
def packaged_plan() -> Plan:
    return load_plan()


def ask(guest: Guest, drivers: Optional[DriverSource], **options: Any) -> Proposal:
    return propose(hooks(), guest, Options(plan=packaged_plan(), drivers=drivers, **options))


def domain(*nics: NicFacts) -> DomainFacts:
    return DomainFacts("made", 1 << 30, 1, (), nics)


def settings_of(proposal: Proposal) -> FirstBoot:
    """What the proposal stages in settings.txt."""
    (data,) = [c.data for c in proposal.changes if isinstance(c, WriteFile) and c.path.endswith("/settings.txt")]
    return parse_settings(data)


def ids(proposal: Proposal, state: str) -> set[str]:
    return {f.id for f in proposal.findings if f.state == state}


# Scripts


@pytest.mark.parametrize("name", sorted(scripts()))
def test_scripts_are_clean(name: str) -> None:
    assert lint(name, scripts()[name], scripts()) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("goto nowhere", "no label :nowhere"),
        ("call :nowhere", "no label :nowhere"),
        (":lonely", "nothing goes to :lonely"),
        ("reg delete HKLM", "neither built into"),
        ("netsh interface", "neither built into"),
        ('"%SYS%\\reg.exe" query %SYS%', "%SYS% without quotes"),
        ('echo "%UNKNOWN%"', "never set"),
        ("echo 100%", "a lone %"),
        ('echo "a', "quotes do not match"),
        ('for /f "tokens=1" %%a in (\'ver\') do echo %%a', "for /f over a command"),
        ('call "%H2K%none.cmd"', "calls none.cmd"),
        ("echo caf\u00e9", "not ASCII"),
        ("if defined SYS (", "block is not closed"),
        ("powershell -Command x", "neither built into"),
    ],
)
def test_the_linter_finds(line: str, problem: str) -> None:
    base = '@echo off\r\nrem x\r\nset "H2K=x"\r\nset "SYS=x"\r\n'
    data = (base + line + "\r\n").encode("utf-8")
    assert any(problem in p for p in lint("x.cmd", data, {"x.cmd": data}))


def test_the_linter_wants_crlf() -> None:
    data = b"@echo off\nrem x\n"
    assert any("CRLF" in p for p in lint("x.cmd", data, {"x.cmd": data}))


def test_no_script_reboots_and_none_needs_powershell() -> None:
    together = b"".join(scripts().values()).lower()
    code = b"\n".join(line for line in together.split(b"\r\n") if not line.startswith(b"rem "))
    assert b"shutdown" not in code and b"powershell" not in code and b"wmic" not in code
    assert code.count(b"msiexec.exe") == code.count(b"reallysuppress") == code.count(b"/norestart") == 2


# Settings

WHOLE = FirstBoot(
    bus="virtio",
    retries=3,
    drivers=(Package("viostor\\viostor.inf", True), Package("Balloon\\balloon.inf", False)),
    network_service="netkvm",
    cards=(
        Settings(
            "52:54:00:12:34:56", "Local Area Connection 2", False, ("192.0.2.10/24", "192.0.2.11/25"),
            (Gateway("192.0.2.1", 0), Gateway("192.0.2.2", 256)), ("192.0.2.53",), ("2001:db8::10/64",),
            (Gateway("2001:db8::1"),), ("2001:db8::53",), 15,
        ),
        Settings(None, "Ethernet0"),
    ),
    routes=(Route("10.0.0.0/8", "192.0.2.254", 1),),
    san=((1, 3), (2, None)),
    bound=("viostor", "netkvm"),
    leftovers=("guestor.inf",),
    tools=("{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}",),
    agent="qemu-ga-x86_64.msi",
    bootstrap_cards=("VEN_8086&DEV_10D3&SUBSYS_00008086&REV_00",),
)  # fmt: skip


def test_settings_say_everything_and_come_back() -> None:
    data = settings_text(WHOLE)
    assert parse_settings(data) == WHOLE
    lines = data.decode("ascii").split("\r\n")
    assert lines[0] == "h2k 1" and lines[-1] == ""
    at = lines.index("nic 52-54-00-12-34-56 required")
    assert lines[at + 1 : at + 11] == [
        "address 192.0.2.10 255.255.255.0", "address 192.0.2.11 255.255.255.128", "gateway 192.0.2.1 0",
        "gateway 192.0.2.2 256", "dns 192.0.2.53", "address6 2001:db8::10/64", "gateway6 2001:db8::1",
        "dns6 2001:db8::53", "metric 15", "name Local Area Connection 2",
    ]  # fmt: skip
    assert "nic single optional" in lines and "route 10.0.0.0 255.0.0.0 192.0.2.254 1" in lines
    assert "san ControlSet001 3" in lines and "san ControlSet002 none" in lines


def test_every_record_is_read_by_a_script() -> None:
    """A record that no script asks for would be lost in silence."""
    together = b"".join(scripts().values()).decode()
    kinds = {line.split(" ")[0] for line in settings_text(WHOLE).decode().split("\r\n") if line} - {"h2k"}
    assert {kind for kind in kinds if f'"%%a"=="{kind}"' not in together} == set()


@pytest.mark.parametrize("hostile", ['a" & calc', "%PATH%", "a|b", "x\ny", "a^b", "<a", "", " a", "!x!", "caf\u00e9", "a" * 300])
def test_nothing_hostile_gets_in(hostile: str) -> None:
    for wanted in (
        FirstBoot("virtio", cards=(Settings(None, hostile or "\n"),)),
        FirstBoot("virtio", network_service=hostile or "\n"),
        FirstBoot("virtio", leftovers=(hostile,)),
        FirstBoot("virtio", tools=(hostile,)),
        FirstBoot("virtio", drivers=(Package(hostile, True),)),
        FirstBoot("virtio", drivers=(Package(f"..\\{hostile or '..'}\\x.inf", True),)),
        FirstBoot("virtio", bootstrap_cards=(hostile,)),
    ):
        with pytest.raises(BadData):
            settings_text(wanted)


@few
@given(st.binary(max_size=400))
def test_any_settings_are_ours_or_refused(data: bytes) -> None:
    with pytest.raises(BadData):
        parse_settings(b"h2k 1\r\n" + data)


_mac = st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(f"{b:02x}" for b in raw))
_v4, _v6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
_cards = st.builds(
    Settings,
    mac=st.one_of(st.none(), _mac),
    name=st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 _.()#-]{0,20}", fullmatch=True)),
    addresses=st.lists(st.tuples(_v4, st.integers(0, 32)).map(lambda t: f"{t[0]}/{t[1]}"), max_size=3).map(tuple),
    gateways=st.lists(st.builds(Gateway, _v4, st.integers(0, 9999)), max_size=3).map(tuple),
    dns=st.lists(_v4, max_size=3).map(tuple),
    addresses6=st.lists(st.tuples(_v6, st.integers(1, 128)).map(lambda t: f"{t[0]}/{t[1]}"), max_size=2).map(tuple),
    gateways6=st.lists(st.builds(Gateway, _v6), max_size=2).map(tuple),
    dns6=st.lists(_v6, max_size=2).map(tuple),
    metric=st.one_of(st.none(), st.integers(1, 9999)),
)


@few
@given(st.lists(_cards, max_size=4))
def test_any_cards_come_back(cards: list[Settings]) -> None:
    wanted = FirstBoot("virtio", cards=tuple(cards))
    found = parse_settings(settings_text(wanted))
    assert found.cards == tuple(dataclasses.replace(c, dhcp=not c.addresses) for c in cards)


# When it is staged


def test_three_cards_each_to_its_own_mac(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    nics = domain(NicFacts(MACS[2], slot=224), NicFacts(MACS[1], slot=192), NicFacts(MACS[0], slot=160))
    found = ask(guest, drivers, domain=nics)
    cards = {card.mac: card for card in settings_of(found).cards}
    assert set(cards) == set(MACS)
    assert cards[MACS[0]].addresses == ("192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/25")
    assert [g.address for g in cards[MACS[0]].gateways] == ["192.0.2.1", "192.0.2.2"]
    assert cards[MACS[0]].dns == ("192.0.2.53", "192.0.2.54") and cards[MACS[0]].addresses6 == ("2001:db8::10/64",)
    assert cards[MACS[0]].gateways6 == (Gateway("2001:db8::1"),) and cards[MACS[0]].metric == 15
    assert cards[MACS[1]].addresses == ("10.20.30.40/16",) and cards[MACS[1]].name == "Backup LAN"
    assert cards[MACS[2]].dhcp and not cards[MACS[2]].static and cards[MACS[2]].name == "DMZ"
    assert [r.destination for r in settings_of(found).routes] == ["10.0.0.0/8", "172.16.0.0/12"]
    (document,) = found.documents
    assert document.name == "network.json"
    assert document.content["assignments"]["{11111111-0000-4000-8000-000000000003}"]["mac"] == MACS[2]
    assert ids(found, "broken") >= {"nic-ghost", "nic-static-stranded", "nic-driver-missing", "disks-offline-policy"}
    # An IPv6 address that does not decode beyond doubt is for the owner to set.
    assert any(f.id == "nic-static-stranded" and "2001:db8:1::20" in f.evidence for f in found.findings)


def test_after_the_repair_nothing_is_to_do_and_the_staged_state_holds(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1, sets=(1, 2))
    nics = domain(*(NicFacts(mac, slot=slot) for mac, slot in zip(MACS, (160, 192, 224))))
    first = ask(guest, drivers, domain=nics)
    todo = pending(first.changes, guest)
    fixed = apply_changes(guest, todo)
    assert [c.diff(fixed) for c in todo if not c.holds(fixed)] == []
    again = ask(fixed, drivers, domain=nics)
    assert pending(again.changes, fixed) == () and again.broken == ()
    assert settings_of(again) == settings_of(first), "what the first boot needs outlives the adapters that had it"
    # On a host without virtio-win, without the domain: still nothing to do.
    other = ask(fixed, None)
    assert [c.diff(fixed) for c in pending(other.changes, fixed)] == [] and other.broken == ()
    assert other.documents == (), "network.json of the first run is not overwritten by an emptier one"


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


def test_hostile_names_reach_no_script(drivers: DriverSource) -> None:
    name = '[$cs\\Control\\Network\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\{11111111-0000-4000-8000-000000000001}\\Connection]\n"Name"="x\\u0022 & calc %PATH%"\n'
    found = ask(windows_guest(MODERN + THREE + name), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    for change in found.changes:
        if getattr(change, "path", "").startswith("/ProgramData/h2k/settings"):
            assert b"calc" not in change.data  # type: ignore[union-attr]
    assert {c.mac: c.name for c in settings_of(found).cards}[MACS[0]] == ""


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
    assert pending(again.changes, fixed) == () and again.broken == ()

    dhcp_only = settings_of(ask(guest, drivers, domain=nics, policy=Policy(addresses="dhcp")))
    assert [(c.static, c.name) for c in dhcp_only.cards] == [(False, "Ethernet0"), (False, "Backup LAN"), (False, "DMZ")]
    assert dhcp_only.routes == ()

    override = NicOverride(MACS[1], "LAN", False, ("203.0.113.5/24", "2001:db8::5/64"), ("203.0.113.1",), ("2001:db8::53",))
    (card,) = settings_of(ask(guest, drivers, domain=nics, policy=Policy(addresses="override", overrides=(override,)))).cards
    assert (card.mac, card.name, card.addresses, card.addresses6) == (MACS[1], "LAN", ("203.0.113.5/24",), ("2001:db8::5/64",))
    assert card.gateways == (Gateway("203.0.113.1"),) and card.dns6 == ("2001:db8::53",)


def test_a_native_virtio_guest_gets_no_write(drivers: DriverSource) -> None:
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + VIRTIO + san, files=NATIVE, data_disks=2)
    found = ask(guest, drivers)
    assert found.changes == () and found.findings == ()
    assert found.setting("bootstrap-nic", "") == found.setting("final-nic", "") == "virtio"


def test_once_it_is_over_nothing_is_staged_again(drivers: DriverSource) -> None:
    done = '[h2k]\n"FirstBoot"="done"\n'
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + VIRTIO + san, done, files=NATIVE, data_disks=2)
    assert ask(guest, drivers).changes == ()


def test_a_disk_that_comes_back_from_another_hypervisor_starts_anew(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, '[h2k]\n"FirstBoot"="done"\n')
    found = ask(guest, drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    assert len(settings_of(found).cards) == 3
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert fixed.hive("SOFTWARE").value("h2k", "FirstBoot") is None
    assert pending(ask(fixed, drivers).changes, fixed) == ()


def test_between_the_two_boots_the_staged_state_holds(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    nics = domain(*(NicFacts(m) for m in MACS))
    fixed = apply_changes(guest, pending(ask(guest, drivers, domain=nics).changes, guest))
    reader = fixed.reader
    # Windows has met its VirtIO devices, and given the cards their addresses.
    from tests.guests.regfile import build_hive
    from tests.unit.memory_reader import MemoryReader

    assert isinstance(reader, MemoryReader)
    files = {ref: dict(tree) for ref, tree in reader.files.items()}
    where = fixed.hive_file("SYSTEM")
    assert where is not None
    met = VIRTIO.replace("$cs", "ControlSet001")
    files[where.volume][where.path] = build_hive(met, fixed.hive_bytes("SYSTEM"))
    booted = Guest(MemoryReader(reader.disks, files))
    again = ask(booted, drivers, domain=nics)
    assert [c.diff(booted) for c in pending(again.changes, booted)] == [] and again.broken == ()


def test_before_the_copy_it_only_reports(drivers: DriverSource) -> None:
    found = ask(windows_guest(MODERN + THREE), drivers, phase="source")
    assert not any("ProgramData" in getattr(c, "path", "") for c in found.changes)


def test_the_service_in_both_forms(drivers: DriverSource) -> None:
    key = "ControlSet001\\Services\\h2k-firstboot"
    guest = windows_guest(MODERN + THREE)
    plain = apply_changes(guest, pending(ask(guest, drivers).changes, guest))
    image = plain.system.value(key, "ImagePath")
    assert image is not None
    assert image.text() == (
        r'%SystemRoot%\System32\cmd.exe /d /c start "" %SystemRoot%\System32\cmd.exe /d /c %SystemDrive%\ProgramData\h2k\runner.cmd'
    )
    assert [plain.system.value(key, n).dword() for n in ("Type", "Start")] == [0x10, 2]  # type: ignore[union-attr]

    runner = Runner("rhsrvany.exe", b"made rhsrvany.exe", "x86")
    assert pending(ask(plain, drivers, runner=runner).changes, plain) == (), "a service that is staged stays as it is"
    for other in (Runner("pvvxsvc.exe", b"x", "x86"), Runner("rhsrvany.exe", b"x", "arm64")):
        assert not any("rhsrvany" in getattr(c, "path", "") for c in ask(guest, drivers, runner=other).changes)
    better = apply_changes(guest, pending(ask(guest, drivers, runner=runner).changes, guest))
    image, command = better.system.value(key, "ImagePath"), better.system.value(f"{key}\\Parameters", "CommandLine")
    assert image is not None and image.text() == r"%SystemDrive%\ProgramData\h2k\rhsrvany.exe -s h2k-firstboot"
    assert command is not None and command.text() == r'cmd.exe /d /c "%SystemDrive%\ProgramData\h2k\runner.cmd"'
    assert better.stat("/ProgramData/h2k/rhsrvany.exe") is not None
    assert pending(ask(better, drivers).changes, better) == ()


def test_the_packages_are_whole_and_only_those_that_are_needed(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    found = ask(guest, drivers)
    names = {c.path.split("/drivers/")[1] for c in found.changes if "/h2k/drivers/" in getattr(c, "path", "")}  # type: ignore[union-attr]
    wanted = settings_of(found)
    assert {p.inf for p in wanted.drivers if p.required} == {"viostor\\viostor.inf", "NetKVM\\netkvm.inf"} or {
        p.inf.lower() for p in wanted.drivers if p.required
    } == {"viostor\\viostor.inf", "netkvm\\netkvm.inf"}
    assert {"viostor/viostor.inf", "viostor/viostor.sys", "viostor/viostor.cat"} <= names
    assert not any(name.startswith("vioscsi/") or name.endswith(".pdb") for name in names)
    scsi = {p.inf.split("\\")[0] for p in settings_of(ask(guest, drivers, bus="virtio-scsi")).drivers}
    assert "vioscsi" in scsi and "viostor" not in scsi


def test_tools_and_agent_on_request(drivers: DriverSource) -> None:
    uninstall = "[Microsoft\\Windows\\CurrentVersion\\Uninstall\\"
    software = f'{uninstall}{{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}}]\n"DisplayName"="VMware Tools"\n'
    software += f'{uninstall}evil & calc]\n"DisplayName"="VMware Tools helper"\n'
    guest = windows_guest(MODERN + THREE, software)
    plain = settings_of(ask(guest, drivers))
    assert plain.tools == () and plain.agent == ""
    asked = ask(guest, drivers, policy=Policy(tools="remove", agent="install"))
    assert settings_of(asked).tools == ("{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}",)
    assert settings_of(asked).agent == "qemu-ga-x86_64.msi"
    assert any(getattr(c, "path", "") == "/ProgramData/h2k/qemu-ga-x86_64.msi" for c in asked.changes)


def test_leftovers_and_pending_reboots(drivers: DriverSource) -> None:
    system = MODERN + '[DriverDatabase\\DriverInfFiles\\guestor.inf]\n"Active"="guestor.inf_amd64_0000000000000000"\n'
    system += '[$cs\\Control\\Session Manager]\n"PendingFileRenameOperations"=multi:["\\\\??\\\\C:\\\\x"]\n'
    software = "[Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\RebootPending]\n"
    guest = windows_guest(system + THREE, software, {"Windows/WinSxS/pending.xml": b"<x/>"})
    found = ask(guest, drivers)
    assert ids(found, "warning") >= {"guestor-leftover", "reboot-pending"}
    assert len([f for f in found.findings if f.id == "reboot-pending"]) == 3
    wanted = settings_of(found)
    assert wanted.leftovers == ("guestor.inf", "h2kviostor.inf", "h2knetkvm.inf")
    assert wanted.bound == ("viostor", "netkvm")


def test_windows_7_has_no_placeholder_packages(drivers: DriverSource) -> None:
    guest = windows_guest(UNKNOWN, version="6.1", build="7601", arch="x86", server=False, firmware="bios")
    found = ask(guest, drivers)
    assert settings_of(found).leftovers == () == settings_of(found).bound
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert pending(ask(fixed, drivers).changes, fixed) == ()


# Network driver


def test_without_a_package_it_warns_and_never_stops() -> None:
    found = ask(windows_guest(MODERN + THREE), None)
    told = [f for f in found.findings if f.id == "nic-driver-missing"]
    assert told and all(f.state == "warning" for f in told)
    assert found.refused == () and found.setting("bootstrap-nic", "") == found.setting("final-nic", "") == "e1000e"


def test_a_plan_may_say_when_it_starts(drivers: DriverSource, tmp_path: Path) -> None:
    guest = windows_guest(MODERN)
    plan = load_plan()
    roles = tuple(dataclasses.replace(r, start=3) if r.kind == "network" else r for r in plan.roles)
    for wanted, options in ((1, plan), (3, dataclasses.replace(plan, roles=roles))):
        found = propose(hooks(), guest, Options(plan=options, drivers=drivers))
        (start,) = [c for c in found.changes if getattr(c, "key", "").endswith("Services\\netkvm") and getattr(c, "name", "") == "Start"]
        assert start.value.dword() == wanted  # type: ignore[union-attr]


def test_a_disabled_or_broken_installed_driver_is_repaired(drivers: DriverSource) -> None:
    off = VIRTIO.replace('"Start"=dword:00000003', '"Start"=dword:00000004')
    guest = windows_guest(MODERN + off, files={"Windows/System32/drivers/netkvm.sys": b""})
    found = ask(guest, drivers)
    assert ids(found, "broken") == {"nic-driver-missing"}
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert ask(fixed, drivers).findings == ()


# Profiles and addresses


def test_private_profiles_by_policy(drivers: DriverSource) -> None:
    software = "[Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles\\{44444444-0000-4000-8000-000000000001}]\n"
    software += '"ProfileName"="Office"\n"Category"=dword:00000001\n'
    guest = windows_guest(MODERN + THREE, software)
    assert "network-profile-stale" in ids(ask(guest, drivers), "warning")
    found = ask(guest, drivers, policy=Policy(profiles="remove"))
    assert "network-profile-stale" in ids(found, "broken")
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert "network-profile-stale" not in {f.id for f in ask(fixed, drivers, policy=Policy(profiles="remove")).findings}


def test_addresses_are_addresses() -> None:
    """The linter of this file's own data: what WHOLE holds is what a real guest would have."""
    for card in WHOLE.cards:
        for address in (*card.addresses, *card.addresses6):
            ipaddress.ip_interface(address)
