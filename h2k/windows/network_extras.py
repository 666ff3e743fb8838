"""What a network card is set to beside its addresses: WINS, NetBIOS, DNS suffix and registration, MTU, unticked bindings.

Values of Tcpip\\Parameters\\Interfaces\\{GUID} and NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}, as Microsoft's pages on the
TCP/IP and NBT parameters have them.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from h2k.windows.regf import Hive

MAX_SERVERS = 12  # WINS servers that Windows takes for one connection
MAX_SUFFIX = 255  # characters
MIN_MTU, MAX_MTU = 576, 65535  # bytes; Windows ignores what is less
NETBIOS_ON, NETBIOS_OFF = 1, 2
# Services that a connection's properties show with a box to tick, of all Windows, with the component ids that PowerShell's
# Get-NetAdapterBinding has for them; others are in the list by their own name.
PROTOCOLS = {
    "Tcpip": "ms_tcpip", "Tcpip6": "ms_tcpip6", "LanmanServer": "ms_server", "LanmanWorkstation": "ms_msclient",
    "PSched": "ms_pacer", "lltdio": "ms_lltdio", "rspndr": "ms_rspndr", "NdisImPlatform": "ms_implat",
}  # fmt: skip


def read_extras(system: Hive, base: str, guid: str, unread: list[str]) -> dict[str, Any]:
    """The fields of an Adapter that are no addresses; what is there and makes no sense is named in `unread`."""
    tcpip = f"{base}\\Services\\Tcpip\\Parameters\\Interfaces\\{guid}"
    netbt = f"{base}\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{guid}"
    netbios, mtu = system.dword(netbt, "NetbiosOptions"), system.dword(tcpip, "MTU")
    return {
        "wins": _servers(system.multi(netbt, "NameServerList", ()), unread),
        "netbios": netbios if netbios in (NETBIOS_ON, NETBIOS_OFF) else None,
        "suffix": system.text(tcpip, "Domain", "").strip()[:MAX_SUFFIX],
        "register": _register(system, tcpip),
        "no_dynamic_update": system.dword(tcpip, "DisableDynamicUpdate", 0) == 1,
        "mtu": mtu if mtu is not None and MIN_MTU <= mtu <= MAX_MTU else None,
        "unbound": tuple(name for name in PROTOCOLS if _is_unbound(system, base, name, guid)),
    }


def _servers(texts: tuple[str, ...], unread: list[str]) -> tuple[str, ...]:
    found = []
    for text in texts[:MAX_SERVERS]:
        try:
            found.append(str(ipaddress.IPv4Address(text)))
        except ValueError:
            unread.append(f"WINS server {text[:40]!r}")
    return tuple(dict.fromkeys(found))


def _register(system: Hive, key: str) -> str:
    if system.dword(key, "RegistrationEnabled", 1) == 0:
        return "none"
    return "both" if system.dword(key, "RegisterAdapterName", 0) == 1 else "primary"


def _is_unbound(system: Hive, base: str, service: str, guid: str) -> bool:
    """Whether the list of a service's disabled bindings names the card."""
    bindings: tuple[str, ...] = system.multi(f"{base}\\Services\\{service}\\Linkage\\Disabled", "Bind", ())
    return any(guid.lower() in binding.lower() for binding in bindings)
