"""The owner's policy: what may be decided without asking, from policy.yaml over documented, safe defaults."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from h2k.config.documents import Document, Step, check, read_document
from h2k.windows import first_boot_steps

LOCAL = Path("/etc/h2k/policy.yaml")
SCHEMA = Path(__file__).with_name("policy.schema.json")
HINT = "see docs/policy.md"

# Seconds: `start` from power-on to the guest's first line on COM1, each other step from the line before it; `settle`
# is how long the final domain is watched before it is believed. Generous: a first boot without KVM takes minutes.
TIMEOUTS = {**first_boot_steps.LIMITS, "shutdown": 600, "settle": 120}


@dataclasses.dataclass(frozen=True)
class Validation:
    """What has to answer before the machine counts as moved: TCP ports, services that run, minutes without a crash."""

    ports: tuple[int, ...] = ()
    services: tuple[str, ...] = ()
    minutes: int = 5


@dataclasses.dataclass(frozen=True)
class NicOverride:
    """The network that the owner wants on one card: `mac` "52:54:00:…", or None for the only card.

    Addresses as "192.0.2.10/24" or "2001:db8::10/64", gateways and DNS servers as plain addresses of either family.
    """

    mac: Optional[str] = None
    name: str = ""
    dhcp: bool = True
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Policy:
    """Every decision that is the owner's to make; the defaults are the safe ones (docs/policy.md)."""

    ghosts: str = "remove"
    addresses: str = "preserve"
    profiles: str = "keep"
    bootstrap: str = "recommended"
    bootstrap_nic: str = "auto"
    san: str = "online"
    tools: str = "keep"
    agent: str = "keep"
    retries: int = 5
    log_unclean: str = "warn"
    writer: str = "auto"
    page: bool = False
    validation: Validation = Validation()
    timeouts: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(TIMEOUTS))
    overrides: tuple[NicOverride, ...] = ()


def policy_schema() -> dict[str, Any]:
    """The schema of policy.yaml; the time limits that there are come from the table of first-boot steps."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["timeouts"]["propertyNames"] = {"enum": list(TIMEOUTS)}
    return schema


def load_policy(paths: Sequence[Union[Path, Document]] = (), local: Path = LOCAL) -> Policy:
    """The defaults, then the host's own policy.yaml where there is one, then `paths`, each over the earlier.

    Mappings are merged, everything else is replaced. UsageError names the file and the line of a fault.
    """
    schema = policy_schema()
    merged: dict[str, Any] = {}
    for given in (*((local,) if local.exists() else ()), *paths):
        document = given if isinstance(given, Document) else read_document(given, "a policy")
        if document.content is None:
            continue  # a file of comments changes nothing
        check(document, schema, HINT)
        _check_network(document)
        merged = _merge(merged, document.content)
    return _policy(merged)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, given in over.items():
        value = {"boot": given} if key == "bootstrap" and isinstance(given, str) else given
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and key != "win_net":
            merged[key] = {**old, **value}
        else:
            merged[key] = value
    if "win_net" in over and "addresses" not in over:
        merged["addresses"] = "override"
    return merged


def _policy(content: dict[str, Any]) -> Policy:
    first_boot, validation = content.get("first-boot", {}), content.get("validation", {})
    bootstrap = content.get("bootstrap", {})
    default = Policy()
    return Policy(
        ghosts=content.get("ghosts", default.ghosts),
        addresses=content.get("addresses", default.addresses),
        profiles=content.get("profiles", default.profiles),
        bootstrap=bootstrap.get("boot", default.bootstrap),
        bootstrap_nic=bootstrap.get("nic", default.bootstrap_nic),
        san=content.get("disks", {}).get("san", default.san),
        tools=first_boot.get("tools", default.tools),
        agent=first_boot.get("agent", default.agent),
        retries=first_boot.get("retries", default.retries),
        log_unclean=content.get("log-unclean", default.log_unclean),
        writer=content.get("writer", default.writer),
        page=content.get("report", {}).get("html", default.page),
        validation=Validation(
            tuple(validation.get("ports", ())),
            tuple(validation.get("services", ())),
            validation.get("minutes", default.validation.minutes),
        ),
        timeouts={**TIMEOUTS, **content.get("timeouts", {})},
        overrides=tuple(_override(entry) for _, entry in _entries(content)),
    )


# The override: hyper2kvm's win_net, one mapping or a list of them


def _entries(content: dict[str, Any]) -> Iterator[tuple[list[Step], dict[str, Any]]]:
    """Each win_net entry with its path in the file."""
    value = content.get("win_net")
    if isinstance(value, dict):
        yield ["win_net"], value
    for number, entry in enumerate(value if isinstance(value, list) else ()):
        yield ["win_net", number], entry


def _texts(value: Any) -> tuple[str, ...]:
    """One text, a list of them, or texts separated by commas, as a tuple."""
    values = value if isinstance(value, list) else str(value or "").split(",")
    return tuple(text.strip() for text in values if text.strip())


def _adapter(entry: dict[str, Any]) -> dict[str, Any]:
    adapter: dict[str, Any] = entry.get("interface") or entry.get("adapter") or {}
    return adapter


def _mac(entry: dict[str, Any]) -> Optional[str]:
    mac = _adapter(entry).get("match", {}).get("mac")
    return mac.lower().replace("-", ":") if mac is not None else None


def _override(entry: dict[str, Any]) -> NicOverride:
    static = entry.get("static", {}) if entry["mode"] == "static" else {}
    dns = static.get("dns_servers") if static else entry.get("dhcp", {}).get("dns_servers")
    return NicOverride(
        mac=_mac(entry),
        name=_adapter(entry).get("name", ""),
        dhcp=entry["mode"] == "dhcp",
        addresses=tuple(str(ipaddress.ip_interface(a)) for a in _texts(static.get("address"))),
        gateways=tuple(str(ipaddress.ip_address(g)) for g in _texts(static.get("gateway"))),
        dns=tuple(str(ipaddress.ip_address(d)) for d in _texts(dns)),
    )


def _check_network(document: Document) -> None:
    """What the schema can't say of win_net: addresses that are addresses, and cards that can be told apart."""
    content = document.content
    if content.get("addresses") in ("preserve", "dhcp") and "win_net" in content:
        raise document.error(["addresses"], "win_net needs addresses: override", HINT)
    if content.get("addresses") == "override" and "win_net" not in content:
        raise document.error(["addresses"], "override needs win_net, which says what to set", HINT)
    entries = list(_entries(content))
    seen: set[Optional[str]] = set()
    for path, entry in entries:
        if "interface" in entry and "adapter" in entry:
            raise document.error(path, "interface and adapter mean the same: give one", HINT)
        if entry["mode"] == "static" and "static" not in entry:
            raise document.error(path, "mode: static needs static: {address: …}", HINT)
        mac = _mac(entry)
        if mac in seen or (mac is None and len(entries) > 1):
            raise document.error(path, "several cards need interface: {match: {mac: …}}, each its own", HINT)
        if mac is not None and (int(mac[:2], 16) & 1 or not mac.strip("0:")):
            raise document.error([*path, "interface"], f"{mac} is no MAC address of one card", HINT)
        seen.add(mac)
        for place, value in _addresses(path, entry):
            try:
                _parsed(place, value)
            except ValueError as e:
                raise document.error(place, str(e), HINT) from e


def _addresses(path: list[Step], entry: dict[str, Any]) -> Iterator[tuple[list[Step], str]]:
    for mode in ("static", "dhcp"):
        for key, value in entry.get(mode, {}).items():
            for text in _texts(value):
                yield [*path, mode, key], text


def _parsed(place: list[Step], text: str) -> None:
    """ValueError for a text that is no address, of an interface (with its prefix) or of a host."""
    if place[-1] != "address":
        address = ipaddress.ip_address(text)
    else:
        if "/" not in text:
            raise ValueError(f"{text!r} has no prefix length; write 192.0.2.10/24")
        address = ipaddress.ip_interface(text).ip
    if "%" in text or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError(f"{text!r} is no address of a host on a network")
