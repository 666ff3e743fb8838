"""What becomes of the source's network on the new machine: facts, domain and policy put together, for the hooks."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Optional

from h2k.config.policy import NicOverride, Policy
from h2k.domain.facts import DomainFacts
from h2k.guest.guest import Guest
from h2k.guest.virt_v2v_first_boot import virt_v2v_first_boot
from h2k.windows.network import Adapter, Gateway, Network, read_network
from h2k.windows.network_carry import Assignment, Card, Settings, assign, leaving, settings_of


@dataclasses.dataclass(frozen=True)
class Carry:
    """The network, the adapters that stay behind, where each one's settings go, and what the first boot is to set.

    `theirs` are the MAC addresses of cards to which a script of virt-v2v's gives an address (its --mac MAC:ip:…): two
    owners of one card would be one too many, so ours sets none there.
    """

    network: Network
    leaving: tuple[Adapter, ...]
    assignments: dict[str, Assignment]
    settings: tuple[Settings, ...]
    theirs: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """network.json: everything the source had, and what is carried to which card, by which evidence."""
        return {
            **self.network.as_json(),
            "leaving": [a.guid for a in self.leaving],
            "assignments": {guid: dataclasses.asdict(a) for guid, a in self.assignments.items()},
            "first_boot": [dataclasses.asdict(s) for s in self.settings],
            "virt_v2v": sorted(self.theirs),
        }


def carry(guest: Guest, domain: Optional[DomainFacts], policy: Policy) -> Carry:
    """Read the guest's network and decide. BadData as the hives raise it."""
    software = guest.hive("SOFTWARE") if guest.has_hive("SOFTWARE") else None
    network = read_network(guest.system, software, guest.control_sets.default)
    behind = leaving(network)
    cards = [Card(nic.mac, nic.slot) for nic in domain.nics] if domain is not None else None
    assignments = assign(behind, cards)
    if policy.addresses == "override":
        settings = tuple(_override(o) for o in policy.overrides)
    else:
        keep = policy.addresses == "preserve"
        certain = [(a, assignments[a.guid]) for a in behind if assignments[a.guid].certain]
        settings = tuple(settings_of(a, to.mac, keep, has_cmdlets(guest)) for a, to in certain)
    staged = virt_v2v_first_boot(guest)
    theirs = staged.addresses if staged is not None else frozenset()
    settings = tuple(_without_addresses(s) if s.mac in theirs else s for s in settings)
    return Carry(network, behind, assignments, tuple(s for s in settings if s.worth_setting), theirs)


def has_cmdlets(guest: Guest) -> bool:
    """Whether Windows has PowerShell's cmdlets for network cards: from 8 and 2012 on (module NetAdapter)."""
    return guest.windows.version >= (6, 2)


def _without_addresses(card: Settings) -> Settings:
    return dataclasses.replace(card, dhcp=True, addresses=(), gateways=(), dns=(), addresses6=(), gateways6=(), dns6=())


def _override(override: NicOverride) -> Settings:
    addresses = [ipaddress.ip_interface(a) for a in override.addresses]
    gateways = [ipaddress.ip_address(g) for g in override.gateways]
    servers = [ipaddress.ip_address(d) for d in override.dns]
    return Settings(
        override.mac,
        override.name,
        override.dhcp,
        addresses=tuple(str(a) for a in addresses if a.version == 4),
        gateways=tuple(Gateway(str(g)) for g in gateways if g.version == 4),
        dns=tuple(str(d) for d in servers if d.version == 4),
        addresses6=tuple(str(a) for a in addresses if a.version == 6),
        gateways6=tuple(Gateway(str(g)) for g in gateways if g.version == 6),
        dns6=tuple(str(d) for d in servers if d.version == 6),
    )
