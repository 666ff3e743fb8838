"""What a network card is set to beside its addresses: WINS, NetBIOS, DNS suffix and registration, MTU, unticked services.

Values of Tcpip\\Parameters\\Interfaces\\{GUID} and NetBT\\Parameters\\Interfaces\\Tcpip_{GUID}, as Microsoft's pages on the
TCP/IP and NBT parameters have them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from h2k.windows.pnp import MAX_NAME
from h2k.windows.regf import Hive

MAX_SERVERS = 12  # WINS servers that Windows takes for one connection
MAX_SUFFIX = 255  # characters
MIN_MTU, MAX_MTU = 576, 65535  # bytes; Windows ignores what is less
NETBIOS_ON, NETBIOS_OFF = 1, 2
MAX_SERVICES = 8192  # that are asked for the bindings they have disabled; a real Windows has about 700
MAX_UNBOUND = 64  # services that were unticked for one card
# Services that a connection's properties show with a box to tick, of all Windows, with the component ids that PowerShell's
# Get-NetAdapterBinding has for them: ComponentId and Ndi\Service below Control\Network, as hives of 8.1 and 10 have them.
PROTOCOLS = {
    "Tcpip": "ms_tcpip", "Tcpip6": "ms_tcpip6", "LanmanServer": "ms_server", "LanmanWorkstation": "ms_msclient",
    "PSched": "ms_pacer", "lltdio": "ms_lltdio", "rspndr": "ms_rspndr", "NdisImPlatform": "ms_implat", "MsLldp": "ms_lldp",
}  # fmt: skip
_WORK_BYTES = 64  # bytes of a list of bindings that count as one more read of the hive
_GUID = re.compile(r"\{[0-9A-Fa-f-]{36}\}")


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


def read_unbound(system: Hive, base: str) -> Mapping[str, tuple[str, ...]]:
    """Card's GUID in lower case → the services whose list of disabled bindings names it: those of PROTOCOLS in their
    order, then the others (a filter driver of a third party) by the names of their keys."""
    services = system.key(f"{base}\\Services")
    if services is None:
        return {}
    known = {name.lower() for name in PROTOCOLS}
    others = [key for key in services.subkeys()[:MAX_SERVICES] if key.name.lower() not in known]
    found: dict[str, list[str]] = {}
    for name, key in [*((name, services.subkey(name)) for name in PROTOCOLS), *((key.name[:MAX_NAME], key) for key in others)]:
        disabled = key.subkey("Linkage\\Disabled") if key is not None else None
        bind = disabled.value("Bind") if disabled is not None else None
        if disabled is None or bind is None:
            continue
        # Many services can share one long list in a made hive: that is work as well.
        system.spend(len(bind.raw) // _WORK_BYTES, disabled.offset)
        for guid in {guid.lower() for binding in bind.multi() or () for guid in _GUID.findall(binding)}:
            found.setdefault(guid, []).append(name)
    return {guid: tuple(names[:MAX_UNBOUND]) for guid, names in found.items()}
