"""Settings of a card beside its addresses, from the registry; nothing of what real hives hold by default counts."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.windows import network_extras
from h2k.windows.network_extras import PROTOCOLS, read_extras, read_unbound
from tests.unit.helpers import hive

GUID = "{11111111-0000-4000-8000-000000000001}"
TCPIP = f"[ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{GUID}]\n"
NETBT = f"[ControlSet001\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}]\n"
DEFAULTS = {
    "wins": (), "netbios": None, "suffix": "", "register": "primary", "no_dynamic_update": False, "mtu": None,
}  # fmt: skip


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    unread: list[str] = []
    return read_extras(hive(text), "ControlSet001", GUID, unread), unread


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (NETBT + '"NameServerList"=multi:["192.0.2.60", "192.0.2.61", "192.0.2.60"]\n', "wins", ("192.0.2.60", "192.0.2.61")),
        (NETBT + '"NetbiosOptions"=dword:00000001\n', "netbios", 1),
        (NETBT + '"NetbiosOptions"=dword:00000002\n', "netbios", 2),
        (TCPIP + '"Domain"=" corp.example "\n', "suffix", "corp.example"),
        (TCPIP + '"RegistrationEnabled"=dword:00000000\n', "register", "none"),
        (TCPIP + '"RegisterAdapterName"=dword:00000001\n', "register", "both"),
        (TCPIP + '"DisableDynamicUpdate"=dword:00000001\n', "no_dynamic_update", True),
        (TCPIP + '"MTU"=dword:00000240\n', "mtu", 576),
    ],
)  # fmt: skip
def test_each_setting(text: str, field: str, value: Any) -> None:
    assert read(text) == ({**DEFAULTS, field: value}, [])


@pytest.mark.parametrize(
    "text",
    [
        "[ControlSet001]\n",
        NETBT + '"NameServerList"=multi:[]\n"NetbiosOptions"=dword:00000000\n',
        NETBT + '"NetbiosOptions"=dword:00000007\n"NameServerList"="192.0.2.1"\n',
        TCPIP + '"Domain"=""\n"RegistrationEnabled"=dword:00000001\n"RegisterAdapterName"=dword:00000000\n"MTU"=dword:ffffffff\n',
        TCPIP + '"MTU"=dword:00000023\n"DisableDynamicUpdate"=dword:00000000\n"Domain"=dword:00000001\n',
    ],
)
def test_defaults_and_nonsense_are_no_settings(text: str) -> None:
    assert read(text) == (DEFAULTS, [])


def test_a_server_that_is_no_address_is_named() -> None:
    found, unread = read(NETBT + '"NameServerList"=multi:["x & calc", "192.0.2.60"]\n')
    assert found["wins"] == ("192.0.2.60",) and unread == ["WINS server 'x & calc'"]


# What was unticked


def disabled(service: str, *bindings: str) -> str:
    listed = ", ".join('"' + binding.replace("\\", "\\\\") + '"' for binding in bindings)
    return f'[ControlSet001\\Services\\{service}\\Linkage\\Disabled]\n"Bind"=multi:[{listed}]\n'


def test_every_service_that_has_disabled_its_binding_is_found() -> None:
    """Windows' own come first, in the order of the table; a binding may name other services on the way to the card."""
    text = disabled("AcmeLwf", f"x_{GUID}") + disabled("PSCHED", f"x_{GUID.upper()}") + disabled("MsLldp", f"x_{GUID}", f"y_{GUID}")
    text += disabled("LanmanServer", f"\\Device\\NetBT_Tcpip_{GUID}", "\\Device\\{22222222-0000-4000-8000-000000000002}")
    assert read_unbound(hive(text), "ControlSet001") == {
        GUID: ("LanmanServer", "PSched", "MsLldp", "AcmeLwf"), "{22222222-0000-4000-8000-000000000002}": ("LanmanServer",),
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "[ControlSet001]\n",
        disabled("Tcpip6", "\\Device\\{other}"),
        '[ControlSet001\\Services\\Tcpip6\\Linkage]\n"Bind"=multi:["x_' + GUID + '"]\n',
        '[ControlSet001\\Services\\Tcpip6\\Linkage\\Disabled]\n"Bind"="x_' + GUID + '"\n',
    ],
)
def test_what_names_no_card_or_is_not_disabled_is_not_unticked(text: str) -> None:
    assert read_unbound(hive(text), "ControlSet001") == {}


def test_the_services_that_are_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_extras, "MAX_SERVICES", 3)
    text = "".join(disabled(f"Acme{n}", f"x_{GUID}") for n in range(5)) + "".join(disabled(name, f"x_{GUID}") for name in PROTOCOLS)
    found = read_unbound(hive(text), "ControlSet001")[GUID]
    assert found == (*PROTOCOLS, "Acme0", "Acme1", "Acme2"), "Windows' own are asked by their names"
    monkeypatch.setattr(network_extras, "MAX_UNBOUND", 2)
    assert read_unbound(hive(text), "ControlSet001")[GUID] == tuple(PROTOCOLS)[:2]


def test_long_lists_of_bindings_are_work() -> None:
    """A made hive may have one list shared by thousands of services: its length is counted as reads of the hive are."""

    def work(characters: int) -> int:
        made = hive(disabled("AcmeLwf", "x" * characters))
        before = made.work
        read_unbound(made, "ControlSet001")
        return made.work - before

    assert work(6400) == work(1) + 200
