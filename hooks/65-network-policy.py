"""One network, met once: the source's adapters leave no ghost, and their addresses go to the new cards by MAC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from h2k.base.finding import Finding
from h2k.engine.hooks import Document, Options, Proposed
from h2k.guest.changes import DeleteKey, DeleteValue, SetValue
from h2k.guest.guest import Guest
from h2k.guest.nics import Carry, carry, has_cmdlets
from h2k.windows.network import INTERFACE_CLASSES, IPV4_NSI, IPV6_NSI, NET_CLASS, PROFILES, Adapter, Profile
from h2k.windows.network_carry import Assignment, by_hand, extras_of, not_carried, unticked
from h2k.windows.services import control_set_name
from h2k.windows.values import dword

META = {
    "name": "network-policy",
    "summary": "Removes the adapters of hardware that is gone, frees their addresses, and says where they are carried",
    "answers": ["nic-ghost", "nic-static-stranded", "network-setting-dropped", "network-profile-stale"],
}

MAX_VALUES = 4096
# The values of Tcpip\Parameters\Interfaces\{GUID} that tie an address to its adapter.
STATIC = ("IPAddress", "SubnetMask", "DefaultGateway", "DefaultGatewayMetric", "NameServer")
# Tables of Nsi, and where a value's name holds the adapter's LUID: interface settings, addresses, routes.
NSI_TABLES = (("7", 0), ("10", 0), ("16", 80))


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    found = carry(guest, options.domain, options.policy)
    for adapter in found.leaving:
        yield from _static(guest, options, adapter, found)
        yield from _settings(guest, options, adapter, found)
    yield from _virtual(found)
    for adapter in found.leaving:
        yield from _ghost(guest, options, adapter, found)
    yield from _profiles(options, found)
    if found.leaving:
        yield Document("network.json", found.as_json())


# Addresses


def _static(guest: Guest, options: Options, adapter: Adapter, found: Carry) -> Iterator[Proposed]:
    """A static address that its adapter takes along; Windows would refuse it on the new card until it is cleared."""
    to = found.assignments[adapter.guid]
    if not adapter.static:
        yield from _unread(adapter)
        return
    subject = _named(adapter)
    evidence = f"{adapter.summary()} on a card of {adapter.hardware}, which the KVM domain does not have"
    mode = options.policy.addresses
    if mode == "dhcp":
        yield Finding("nic-static-stranded", "broken", subject, evidence, "DHCP, as the policy says")
    elif mode == "override":
        yield Finding("nic-static-stranded", "broken", subject, evidence, "the policy's own addresses at first boot")
    elif to.certain and to.mac in found.theirs:
        repair = f"the card {to.mac} gets the address of --mac, from virt-v2v's own script; h2k's steps set none there"
        yield Finding("nic-static-stranded", "broken", subject, evidence, repair)
    elif to.certain:
        yield Finding("nic-static-stranded", "broken", subject, evidence, f"carried to {_card(to)} at first boot: {to.why}")
    elif adapter.present is not False:
        why = f"not carried, for {to.why}: the new card starts with DHCP; to set it by hand: {by_hand(adapter)}"
        yield Finding("nic-static-stranded", "warning", subject, evidence, why)
    yield from _unread(adapter)
    yield from _cleared(guest, options, adapter)


def _card(to: Assignment) -> str:
    return f"the card {to.mac}" if to.mac is not None else "the only card"


def _settings(guest: Guest, options: Options, adapter: Adapter, found: Carry) -> Iterator[Finding]:
    """What the card is set to beside its addresses: carried as they are, and what can't be is named one by one."""
    to = found.assignments[adapter.guid]
    if adapter.present is False:
        return
    # A ghost that the policy keeps has its settings still: they are carried all the same, and nothing of it is broken.
    state = "broken" if options.policy.ghosts == "remove" else "warning"
    cmdlets = has_cmdlets(guest) and to.certain and options.policy.addresses == "preserve"
    set_to = (*extras_of(adapter), *(unticked(adapter) if cmdlets else ()))
    evidence = f"{', '.join(set_to)} on a card of {adapter.hardware}, which the KVM domain does not have"
    if set_to and options.policy.addresses != "preserve":
        yield Finding("network-setting-dropped", state, _named(adapter), evidence, "dropped: the policy has other addresses")
    elif set_to and to.certain:
        repair = f"carried to {_card(to)} at first boot: {to.why}"
        yield Finding("network-setting-dropped", state, _named(adapter), evidence, repair)
    elif set_to:
        yield Finding("network-setting-dropped", "warning", _named(adapter), evidence, f"not carried, for {to.why}: set it by hand")
    for what, way in not_carried(adapter, cmdlets):
        yield Finding("network-setting-dropped", "warning", _named(adapter), what, way)


def _named(adapter: Adapter) -> str:
    return f"{adapter.name or adapter.description or 'adapter'} {adapter.guid}"


def _unread(adapter: Adapter) -> Iterator[Finding]:
    if adapter.unread:
        what = ", ".join(adapter.unread[:4])
        repair = "set it by hand on the new card"
        yield Finding("nic-static-stranded", "warning", _named(adapter), f"not decoded beyond doubt: {what}", repair)


def _virtual(found: Carry) -> Iterator[Finding]:
    """A team, bridge or VPN keeps its address, but a team of cards that are gone has nothing to send through."""
    for adapter in found.network.adapters if found.leaving else ():
        if not adapter.hardware and adapter.addresses:
            evidence = f"{adapter.summary()} on an adapter without hardware ({adapter.description})"
            repair = "if it is a team or bridge of the old cards, build it again from the new ones"
            yield Finding("nic-static-stranded", "warning", _named(adapter), evidence, repair)


def _cleared(guest: Guest, options: Options, adapter: Adapter) -> Iterator[Proposed]:
    for number in guest.control_sets.boot:
        base = control_set_name(number)
        key = f"{base}\\Services\\Tcpip\\Parameters\\Interfaces\\{adapter.guid}"
        if guest.system.key(key) is not None:
            yield from (DeleteValue("SYSTEM", key, name) for name in STATIC)
            if options.policy.ghosts == "keep":
                yield SetValue("SYSTEM", key, "EnableDHCP", dword(1))
        key6 = f"{base}\\Services\\Tcpip6\\Parameters\\Interfaces\\{adapter.guid}"
        if adapter.dns6:
            yield DeleteValue("SYSTEM", key6, "NameServer")
        yield from _nsi(guest, base, adapter)


def _nsi(guest: Guest, base: str, adapter: Adapter) -> Iterator[Proposed]:
    """What Nsi keeps below the adapter's LUID; a new card would get the number again, and these with it."""
    for module in (IPV4_NSI, IPV6_NSI):
        for table, at in NSI_TABLES:
            place = f"{base}\\Control\\Nsi\\{module}\\{table}"
            key = guest.system.key(place)
            for value in (key.values() if key is not None and adapter.luid is not None else ())[:MAX_VALUES]:
                if value.name.lower()[at : at + 16] == adapter.luid:
                    yield DeleteValue("SYSTEM", place, value.name)


# Ghosts


def _ghost(guest: Guest, options: Options, adapter: Adapter, found: Carry) -> Iterator[Proposed]:
    """The device, its driver key, its connection and its bindings: what removing it in Device Manager removes."""
    evidence = f"{adapter.description or 'a card'} of {adapter.hardware}: {adapter.instance}"
    if options.policy.ghosts == "keep":
        yield Finding("nic-ghost", "warning", _named(adapter), evidence, "kept, as the policy says")
        return
    yield Finding("nic-ghost", "broken", _named(adapter), evidence, "removed; its driver and service stay")
    for number in guest.control_sets.boot:
        base = control_set_name(number)
        yield from _nsi(guest, base, adapter)
        for place in _places(guest, base, adapter, {a.instance.lower() for a in found.leaving}):
            yield DeleteKey("SYSTEM", f"{base}\\{place}")


def _places(guest: Guest, base: str, adapter: Adapter, leaving: set[str]) -> list[str]:
    guid = adapter.guid
    places = [
        f"Services\\Tcpip\\Parameters\\Interfaces\\{guid}",
        f"Services\\Tcpip\\Parameters\\Adapters\\{guid}",
        f"Services\\Tcpip6\\Parameters\\Interfaces\\{guid}",
        f"Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{guid}",
        f"Control\\NetworkSetup2\\Interfaces\\{guid}",
        f"Control\\Network\\{NET_CLASS}\\{guid}",
        f"Control\\Class\\{NET_CLASS}\\{adapter.driver_key}",
    ]
    link = f"##?#{adapter.instance}".replace("\\", "#").lower()
    for interface in INTERFACE_CLASSES:
        key = guest.system.key(f"{base}\\Control\\DeviceClasses\\{interface}")
        for entry in key.subkeys() if key is not None else ():
            if entry.name.lower().startswith(link + "#"):
                places.append(f"Control\\DeviceClasses\\{interface}\\{entry.name}")
    device = adapter.instance.rpartition("\\")[0]
    key = guest.system.key(f"{base}\\Enum\\{device}")
    all_leave = key is not None and all(f"{device}\\{k.name}".lower() in leaving for k in key.subkeys())
    places.append(f"Enum\\{device if all_leave else adapter.instance}")
    return places


# Profiles


def _profiles(options: Options, found: Carry) -> Iterator[Proposed]:
    """Windows knows a network by its gateway's MAC: behind another gateway it is a new one, and public."""
    known = [p for p in found.network.profiles if not p.managed and p.category == "private"]
    if not found.leaving or not known:
        return
    names = ", ".join(repr(p.name) for p in known[:4])
    evidence = f"private network {names}: behind another gateway Windows meets a new, public one"
    if options.policy.profiles == "keep":
        repair = "behind the same gateway it stays what it is; else set the new one to private"
        yield Finding("network-profile-stale", "warning", "NetworkList", evidence, repair)
        return
    yield Finding("network-profile-stale", "broken", "NetworkList", evidence, "removed, as the policy says")
    yield from _forget(known)


def _forget(profiles: Sequence[Profile]) -> Iterator[Proposed]:
    for profile in profiles:
        yield DeleteKey("SOFTWARE", f"{PROFILES}\\Profiles\\{profile.guid}")
