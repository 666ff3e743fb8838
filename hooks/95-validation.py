"""Validation: writes down what the running machine must show before it counts as moved, from policy and facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from h2k.engine.hooks import Document, Options, Proposed
from h2k.guest.guest import Guest
from h2k.guest.nics import carry, has_cmdlets
from h2k.windows.network_carry import OURS, Settings, settings_of

META = {
    "name": "validation",
    "summary": "Writes validate.json: what the machine must show in production, from the policy and what it was",
    "answers": [],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if options.phase == "source" or not guest.windows.supported:
        return
    wanted = options.policy.validation
    steps: list[dict[str, Any]] = [
        {"step": "running"},
        {"step": "agent"},
        {"step": "os", "version": ".".join(map(str, guest.windows.version)), "build": guest.windows.build},
        {"step": "disks", "count": len(guest.disks)},
        *_network(guest, options),
        *({"step": "port", "port": port} for port in wanted.ports),
        *({"step": "service", "name": name} for name in wanted.services),
        {"step": "logs"},
        {"step": "quiet", "minutes": wanted.minutes},
    ]
    yield Document("validate.json", {"schema": 1, "steps": steps})


def _network(guest: Guest, options: Options) -> Iterator[dict[str, Any]]:
    """Each card with the addresses that it must have (none named: any), and each gateway once."""
    settings = _expected(guest, options)
    cards = [nic.mac for nic in options.domain.nics] if options.domain is not None else []
    only = settings.get(None) if len(cards) == 1 else None
    gateways: dict[str, None] = {}
    for mac in cards:
        card = settings.get(mac) or only
        addresses = (*card.addresses, *card.addresses6) if card is not None else ()
        # A card without a MAC gets one when the domains are written; "" is any card.
        yield {"step": "address", "mac": mac or "", "addresses": list(addresses)}
        if card is not None:
            gateways.update(dict.fromkeys(g.address for g in (*card.gateways, *card.gateways6)))
    yield from ({"step": "gateway", "address": address} for address in gateways)


def _expected(guest: Guest, options: Options) -> dict[Optional[str], Settings]:
    """By MAC (None: the only card): what the first boot sets, and what a card of ours that was met earlier has."""
    found = carry(guest, options.domain, options.policy)
    kept: dict[Optional[str], Settings] = {
        a.mac: settings_of(a, a.mac, True, has_cmdlets(guest)) for a in found.network.cards if a.hardware in OURS and a.mac is not None
    }
    return {**kept, **{s.mac: s for s in found.settings}}
