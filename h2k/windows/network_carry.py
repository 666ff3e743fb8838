"""Which adapters stay behind, and what each card of the new machine is to be given: by MAC, and never by a guess."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Sequence
from typing import Optional, Union

from h2k.windows.network import Adapter, Gateway, Network
from h2k.windows.network_extras import NETBIOS_ON, PROTOCOLS

OURS = ("virtio", "qemu")
# VMware counts the slots behind its PCI bridges from 32; a smaller number is a slot of another machine.
FIRST_VMWARE_SLOT = 32
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.()#-]{0,79}")
# What Windows takes as a connection's name, and a script only as numbers.
_NAME = re.compile(r'[^\x00-\x1f\x7f\\/:*?"<>|]{1,80}')
SAFE_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,198}")


@dataclasses.dataclass(frozen=True)
class Card:
    """A network card of the machine: its MAC if it has one yet, and VMware's slot number where that is known."""

    mac: Optional[str]
    slot: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the first boot gives to the card with this MAC, or to the only card (None). `unbound` are the component ids
    of what was unticked for it ("ms_tcpip6")."""

    mac: Optional[str]
    name: str = ""
    dhcp: bool = True
    addresses: tuple[str, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    dns: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()
    gateways6: tuple[Gateway, ...] = ()
    dns6: tuple[str, ...] = ()
    metric: Optional[int] = None
    wins: tuple[str, ...] = ()
    netbios: Optional[int] = None
    suffix: str = ""
    register: str = "primary"
    no_dynamic_update: bool = False
    mtu: Optional[int] = None
    unbound: tuple[str, ...] = ()

    @property
    def static(self) -> bool:
        """Whether there are addresses: what DHCP would not give again."""
        return bool(self.addresses or self.dns or self.addresses6 or self.dns6 or self.gateways6)

    @property
    def required(self) -> bool:
        """Whether the machine is not right without them: more than a name or what was unticked."""
        return self.static or bool(extras_of(self))

    @property
    def worth_setting(self) -> bool:
        """Whether there is anything to set at all."""
        return self.required or bool(self.name or self.unbound)


def extras_of(card: Union[Adapter, Settings]) -> tuple[str, ...]:
    """In words what a card is set to beside its addresses, each setting by itself."""
    found = [f"WINS server {server}" for server in card.wins]
    if card.netbios is not None:
        found.append(f"NetBIOS {'on' if card.netbios == NETBIOS_ON else 'off'}")
    if card.suffix:
        found.append(f"DNS suffix {card.suffix}")
    if card.register != "primary":
        found.append("no registration in DNS" if card.register == "none" else "registration in DNS with the suffix")
    if card.no_dynamic_update:
        found.append("no dynamic DNS update")
    if card.mtu is not None:
        found.append(f"MTU {card.mtu}")
    if card.metric is not None:
        found.append(f"interface metric {card.metric}")
    return tuple(found)


def unticked(adapter: Adapter) -> tuple[str, ...]:
    """The services that were unticked for a card and that a first boot can untick again, in words."""
    return tuple(_is_unticked(service) for service in adapter.unbound if service in PROTOCOLS)


def _is_unticked(service: str) -> str:
    return f"{service} is unticked"


def not_carried(adapter: Adapter, cmdlets: bool) -> tuple[tuple[str, str], ...]:
    """What no first boot sets, and how the owner sets each: a suffix that a script could misread, an unticked service that
    is not Windows' own, and without PowerShell's cmdlets for network cards (they came with Windows 8) a name in other
    letters than ASCII's and every unticked service."""
    found = []
    if adapter.name and not settable_name(adapter.name, cmdlets):
        found.append((f"connection name {adapter.name!r}", "rename the new connection"))
    if adapter.suffix and not SAFE_SUFFIX.fullmatch(adapter.suffix):
        found.append((f"DNS suffix {adapter.suffix[:60]!r}", "set it in the new card's DNS settings"))
    for service in adapter.unbound:
        way = "untick it in the new card's properties"
        if service not in PROTOCOLS:
            found.append((_is_unticked(service), way))
        elif not cmdlets:
            command = f"Disable-NetAdapterBinding -Name NAME -ComponentID {PROTOCOLS[service]}"
            found.append((_is_unticked(service), f"{way}, or in PowerShell: {command}"))
    return tuple(found)


def settable_name(name: str, cmdlets: bool) -> bool:
    """Whether a first boot can give a connection this name."""
    return SAFE_NAME.fullmatch(name) is not None or (cmdlets and _NAME.fullmatch(name) is not None and name == name.strip(" ."))


def code_units(name: str) -> str:
    """A name as a script gets it that could misread it: UTF-16 code units in decimal, with dots between."""
    return ".".join(str(unit) for (unit,) in struct.iter_unpack("<H", name.encode("utf-16-le", "surrogatepass")))


def from_code_units(text: str) -> str:
    """The reverse; ValueError for what code_units does not write."""
    return b"".join(int(unit).to_bytes(2, "little") for unit in text.split(".")).decode("utf-16-le", "surrogatepass")


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Where an adapter's settings go: `certain`, then `mac` (None: the only card) and the evidence; else the reason."""

    certain: bool
    mac: Optional[str]
    why: str


def leaving(network: Network) -> tuple[Adapter, ...]:
    """The adapters whose hardware the KVM domain does not have: those of another hypervisor always, those of a
    physical machine as long as the guest has never met a card of ours (one that is passed through stays)."""
    met = any(a.hardware in OURS for a in network.cards)
    return tuple(a for a in network.cards if a.hardware not in OURS and not (met and a.hardware == "physical"))


def assign(adapters: Sequence[Adapter], cards: Optional[Sequence[Card]]) -> dict[str, Assignment]:
    """Adapter GUID → assignment. `cards` are the new machine's, None when no domain is known.

    Evidence, in this order: the MAC; VMware's slot number; that one adapter and one card are left, of as many each.
    """
    moving = [a for a in adapters if a.present is not False]
    gone = {a.guid: Assignment(False, None, "it was not in the machine any more") for a in adapters if a not in moving}
    if cards is None:
        return {**gone, **_without_domain(moving)}
    found: dict[str, tuple[Card, str]] = {}
    for adapter in moving:
        fitting = [c for c in cards if c.mac is not None and c.mac == adapter.mac]
        why = f"MAC {adapter.mac} ({adapter.mac_source})"
        if not fitting and adapter.slot is not None and adapter.slot >= FIRST_VMWARE_SLOT and adapter.hardware == "vmware":
            fitting, why = [c for c in cards if c.slot == adapter.slot], f"slot {adapter.slot}"
        if len(fitting) == 1:
            found[adapter.guid] = (fitting[0], why)
    claimed = [card for card, _ in found.values()]
    twice = {guid for guid, (card, _) in found.items() if claimed.count(card) > 1}
    left = [a for a in moving if a.guid not in found]
    free = [c for c in cards if c not in claimed]
    if len(left) == len(free) == 1 and len(moving) == len(cards):
        found[left[0].guid] = (free[0], "the only card" if len(cards) == 1 else "the one card that is left")
    return {**gone, **{a.guid: _assignment(a, found.get(a.guid), twice, len(cards)) for a in moving}}


def _without_domain(moving: Sequence[Adapter]) -> dict[str, Assignment]:
    macs = [a.mac for a in moving]
    found = {}
    for adapter in moving:
        if adapter.mac is not None and macs.count(adapter.mac) == 1:
            found[adapter.guid] = Assignment(True, adapter.mac, f"MAC {adapter.mac} ({adapter.mac_source})")
        elif len(moving) == 1:
            found[adapter.guid] = Assignment(True, None, "the only card")
        else:
            found[adapter.guid] = Assignment(False, None, "its MAC address is not in the registry")
    return found


def _assignment(adapter: Adapter, found: Optional[tuple[Card, str]], twice: set[str], count: int) -> Assignment:
    if found is None:
        known = f"no card has its MAC {adapter.mac}" if adapter.mac else "its MAC address is not in the registry"
        return Assignment(False, None, known)
    card, why = found
    if adapter.guid in twice:
        return Assignment(False, None, f"two adapters claim the card with {why}")
    if card.mac is None and count > 1:
        return Assignment(False, None, f"the card ({why}) has no MAC address yet")
    return Assignment(True, card.mac, why)


def settings_of(adapter: Adapter, mac: Optional[str], addresses: bool, cmdlets: bool) -> Settings:
    """An adapter's settings for a card; `addresses` False leaves all but the name to DHCP. `cmdlets`: this Windows has
    PowerShell's for network cards."""
    name = adapter.name if settable_name(adapter.name, cmdlets) else ""
    if not addresses:
        return Settings(mac, name)
    return Settings(
        mac,
        name,
        adapter.dhcp,
        adapter.addresses,
        adapter.gateways,
        adapter.dns,
        adapter.addresses6,
        adapter.gateways6,
        adapter.dns6,
        adapter.metric,
        adapter.wins,
        adapter.netbios,
        adapter.suffix if SAFE_SUFFIX.fullmatch(adapter.suffix) else "",
        adapter.register,
        adapter.no_dynamic_update,
        adapter.mtu,
        tuple(PROTOCOLS[service] for service in adapter.unbound if service in PROTOCOLS) if cmdlets else (),
    )


def by_hand(adapter: Adapter) -> str:
    """The commands that set what was not carried, for the owner to type once he knows the card."""
    name = 'name="NAME"'
    commands = []
    for number, address in enumerate(adapter.addresses):
        verb = "set address" if number == 0 else "add address"
        static = " source=static" if number == 0 else ""
        commands.append(f"netsh interface ipv4 {verb} {name}{static} address={address}")
    for gateway in adapter.gateways:
        metric = f" gwmetric={gateway.metric}" if gateway.metric else ""
        commands.append(f"netsh interface ipv4 add address {name} gateway={gateway.address}{metric}")
    if adapter.metric is not None:
        commands.append(f'netsh interface ipv4 set interface interface="NAME" metric={adapter.metric}')
    commands += [f"netsh interface ipv4 add dnsservers {name} address={d}" for d in adapter.dns]
    commands += [f"netsh interface ipv6 add address NAME address={a}" for a in adapter.addresses6]
    commands += [f"netsh interface ipv6 add route ::/0 NAME {g.address}" for g in adapter.gateways6]
    commands += [f"netsh interface ipv6 add dnsservers {name} address={d}" for d in adapter.dns6]
    commands += [f"netsh interface ipv4 add winsservers {name} address={w}" for w in adapter.wins]
    return "; ".join(commands)
