"""The first boot: scripts that cmd.exe reads as meant, settings that no script can misread, and when it is staged."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows.first_boot import FirstBoot, Package, Publisher, parse_settings, scripts, settings_text
from h2k.windows.network import Gateway, Route
from h2k.windows.network_carry import Settings
from tests.unit.cmd_lint import lint
from tests.unit.helpers import few

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


def test_no_script_reboots_and_none_fails_without_powershell() -> None:
    together = b"".join(scripts().values()).lower()
    code = b"\n".join(line for line in together.split(b"\r\n") if not line.startswith(b"rem "))
    assert b"shutdown" not in code and b"wmic" not in code
    # What nothing else can set: it has a time limit, and that it does not work is no failure.
    assert code.count(b"powershell.exe") == 1 and b"\ncall \"%h2k%bounded.cmd\"\nif not \"%status%\"==\"0\" set \"unset=" in code
    assert code.count(b"msiexec.exe") == code.count(b"reallysuppress") == code.count(b"/norestart") == 2


def test_what_waits_in_a_script_draws_on_the_budget_of_its_step() -> None:
    """The host waits for a step only so long: each loop with a pause takes its seconds off, and ends when none are left."""
    pauses = 0
    for name, data in scripts().items():
        lines = data.decode().split("\r\n")
        for at, line in enumerate(lines):
            pause = re.fullmatch(r'"%SYS%\\ping\.exe" -n (\d+|%COUNT%) 127\.0\.0\.1 >nul', line)
            if pause is None:
                continue
            pauses += 1
            back = next(n for n in range(at, len(lines)) if lines[n].startswith("goto "))
            loop = lines[lines.index(f":{lines[back][len('goto ') :]}") : back]
            seconds = "PAUSE" if pause[1] == "%COUNT%" else str(int(pause[1]) - 1)
            assert f"set /a BUDGET-={seconds}" in loop, f"{name}:{at + 1}"
            assert any(re.match(r"if %BUDGET% LEQ \d+ (goto|exit) ", line) for line in loop), f"{name}:{at + 1}"
    assert pauses == b"".join(scripts().values()).count(b"ping.exe") == 4


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
            ("192.0.2.60",), 2, "corp.example", "none", True, 1400,
        ),
        Settings(None, "Ethernet0"),
        Settings("52:54:00:12:34:57", "R\u00e9seau 1", unbound=("ms_tcpip6", "ms_server")),
    ),
    routes=(Route("10.0.0.0/8", "192.0.2.254", 1),),
    san=((1, 3), (2, None)),
    bound=("viostor", "netkvm"),
    leftovers=("guestor.inf",),
    tools=("{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}",),
    agent="qemu-ga-x86_64.msi",
    bootstrap_cards=("VEN_8086&DEV_10D3&SUBSYS_00008086&REV_00",),
    limits=(("drivers", 720),),
    publishers=(Publisher("0123456789ABCDEF0123456789ABCDEF01234567", "viostor\\publisher.cer"),),
    disks=("1234abcd", "{6c1f5c5e-8a43-4d18-9e0b-1d3a5c7e9f10}"),
    auto_reboot=((1, 1), (2, 1)),
)  # fmt: skip


def test_settings_say_everything_and_come_back() -> None:
    data = settings_text(WHOLE)
    assert parse_settings(data) == WHOLE
    lines = data.decode("ascii").split("\r\n")
    assert lines[0] == "h2k 1" and lines[-1] == ""
    at = lines.index("nic 52-54-00-12-34-56 required")
    assert lines[at + 1 : at + 17] == [
        "address 192.0.2.10 255.255.255.0", "address 192.0.2.11 255.255.255.128", "gateway 192.0.2.1 0",
        "gateway 192.0.2.2 256", "register none", "dns 192.0.2.53", "wins 192.0.2.60", "address6 2001:db8::10/64",
        "gateway6 2001:db8::1", "dns6 2001:db8::53", "metric 15", "mtu 1400", "netbios 2", "suffix corp.example",
        "no-dynamic-update 1", "name Local Area Connection 2",
    ]  # fmt: skip
    at = lines.index("nic 52-54-00-12-34-57 optional")
    assert lines[at + 1 : at + 4] == ["unbind ms_tcpip6", "unbind ms_server", "name-units 82.233.115.101.97.117.32.49"]
    assert "nic single optional" in lines and "route 10.0.0.0 255.0.0.0 192.0.2.254 1" in lines
    assert "san ControlSet001 3" in lines and "san ControlSet002 none" in lines


def test_every_record_is_read_by_a_script() -> None:
    """A record that no script asks for would be lost in silence."""
    together = b"".join(scripts().values()).decode()
    kinds = {line.split(" ")[0] for line in settings_text(WHOLE).decode().split("\r\n") if line} - {"h2k"}
    assert {kind for kind in kinds if f'"%%a"=="{kind}"' not in together} == set()


def test_every_record_is_on_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "first-boot.md").read_text(encoding="utf-8").split("## Settings")[1]
    kinds = {line.split(" ")[0] for line in settings_text(WHOLE).decode().split("\r\n") if line} - {"h2k"}
    assert {kind for kind in kinds if f"`{kind} " not in page} == set()


@pytest.mark.parametrize("hostile", ['a" & calc', "%PATH%", "a|b", "x\ny", "a^b", "<a", "", " a", "!x!", "caf\u00e9", "a" * 300])
def test_nothing_hostile_gets_in(hostile: str) -> None:
    for wanted in (
        FirstBoot("virtio", cards=(Settings(None, unbound=(hostile,)),)),
        FirstBoot("virtio", network_service=hostile or "\n"),
        FirstBoot("virtio", leftovers=(hostile,)),
        FirstBoot("virtio", tools=(hostile,)),
        FirstBoot("virtio", drivers=(Package(hostile, True),)),
        FirstBoot("virtio", drivers=(Package(f"..\\{hostile or '..'}\\x.inf", True),)),
        FirstBoot("virtio", bootstrap_cards=(hostile,)),
        FirstBoot("virtio", cards=(Settings(None, suffix=hostile or "\n"),)),
        FirstBoot("virtio", disks=(hostile,)),
        FirstBoot("virtio", publishers=(Publisher(hostile, "x\\publisher.cer"),)),
        FirstBoot("virtio", publishers=(Publisher("0" * 40, hostile),)),
    ):
        with pytest.raises(BadData):
            settings_text(wanted)


@pytest.mark.parametrize("name", ['a" & calc', "a|b", "x\ny", "<a", " a", "a/b", "a" * 300])
def test_what_windows_takes_for_no_name_gets_in_neither(name: str) -> None:
    with pytest.raises(BadData):
        settings_text(FirstBoot("virtio", cards=(Settings(None, name),)))


@pytest.mark.parametrize("name", ["%PATH%", "a^b", "!x!", "a & calc", "caf\u00e9", "\u4e2d\u6587", "\U0001f600", "it's"])
def test_a_name_that_a_script_could_misread_is_numbers(name: str) -> None:
    data = settings_text(FirstBoot("virtio", cards=(Settings(None, name),)))
    (line,) = [line for line in data.decode("ascii").split("\r\n") if line.startswith("name")]
    assert re.fullmatch(r"name-units [0-9]+(\.[0-9]+)*", line) and parse_settings(data).cards[0].name == name


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
    wins=st.lists(_v4, max_size=2).map(tuple),
    netbios=st.one_of(st.none(), st.integers(1, 2)),
    suffix=st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True)),
    register=st.sampled_from(["primary", "none", "both"]),
    no_dynamic_update=st.booleans(),
    mtu=st.one_of(st.none(), st.integers(576, 65535)),
)


@few
@given(st.lists(_cards, max_size=4))
def test_any_cards_come_back(cards: list[Settings]) -> None:
    wanted = FirstBoot("virtio", cards=tuple(cards))
    found = parse_settings(settings_text(wanted))
    assert found.cards == tuple(dataclasses.replace(c, dhcp=not c.addresses) for c in cards)


def test_addresses_are_addresses() -> None:
    """The linter of this file's own data: what WHOLE holds is what a real guest would have."""
    for card in WHOLE.cards:
        for address in (*card.addresses, *card.addresses6):
            ipaddress.ip_interface(address)
