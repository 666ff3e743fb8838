"""Settings of a card beside its addresses, from the registry; nothing of what real hives hold by default counts."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.windows.network_extras import read_extras
from tests.unit.helpers import hive

GUID = "{11111111-0000-4000-8000-000000000001}"
TCPIP = f"[ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{GUID}]\n"
NETBT = f"[ControlSet001\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}]\n"
DEFAULTS = {
    "wins": (), "netbios": None, "suffix": "", "register": "primary", "no_dynamic_update": False, "mtu": None, "unbound": (),
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
        (f'[ControlSet001\\Services\\LanmanServer\\Linkage\\Disabled]\n"Bind"=multi:["x_{GUID.lower()}"]\n', "unbound", ("LanmanServer",)),
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
        '[ControlSet001\\Services\\Tcpip6\\Linkage\\Disabled]\n"Bind"=multi:["\\\\Device\\\\{other}"]\n',
    ],
)
def test_defaults_and_nonsense_are_no_settings(text: str) -> None:
    assert read(text) == (DEFAULTS, [])


def test_a_server_that_is_no_address_is_named() -> None:
    found, unread = read(NETBT + '"NameServerList"=multi:["x & calc", "192.0.2.60"]\n')
    assert found["wins"] == ("192.0.2.60",) and unread == ["WINS server 'x & calc'"]
