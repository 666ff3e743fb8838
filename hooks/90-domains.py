"""What the guest says about its two domains: firmware, boot disk, clock, old guest tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.finding import Finding
from h2k.domain.facts import DomainFacts
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.guest import Guest
from h2k.windows.regf import Key

META = {
    "name": "domains",
    "summary": "Decides firmware, boot disk and clock of the two domains from what the guest is",
    "answers": ["firmware-mismatch", "boot-disk-ambiguous", "hypervisor-tools-present"],
}

UNINSTALL = ("Microsoft\\Windows\\CurrentVersion\\Uninstall", "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall")


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    yield from _firmware(guest, options.domain)
    yield from _boot_disk(guest, options.domain)
    yield from _clock(guest)
    yield from _tools(guest, options)


def _firmware(guest: Guest, domain: Optional[DomainFacts]) -> Iterator[Proposed]:
    if domain is not None and domain.firmware != guest.firmware:
        yield Finding(
            "firmware-mismatch",
            "broken",
            domain.name,
            f"the domain says {domain.firmware}, the disk is laid out for {guest.firmware}",
            f"both domains are written for {guest.firmware}",
        )
    yield Setting("firmware", guest.firmware, "the boot disk's partition table")


def _boot_disk(guest: Guest, domain: Optional[DomainFacts]) -> Iterator[Proposed]:
    """The disk with this Windows' boot manager is the one that the domain must start."""
    place = guest.boot_place
    named = _first_disk(domain)
    chosen = guest.boot_disk
    if place.ambiguous:
        disks = sorted({v.ref.disk for v in place.candidates})
        subject = ", ".join(f"disk {d}" for d in disks)
        evidence = "each has a boot manager and a BCD, and none, or more than one, names this Windows"
        if named not in disks:
            repair = "give the disks of one system, or put <boot order='1'/> on the one to start from"
            yield Finding("boot-disk-ambiguous", "refused", subject, evidence, repair)
            return
        yield Finding("boot-disk-ambiguous", "warning", subject, evidence, f"disk {named}, as the domain has it")
        chosen = named
    elif domain is not None and named is not None and named != chosen and place.candidates:
        evidence = f"the domain starts disk {named}; the boot manager of this Windows is on disk {chosen}"
        yield Finding("boot-disk-ambiguous", "broken", domain.name, evidence, f"both domains start disk {chosen}")
    yield Setting("boot-disk", str(chosen), "where the boot manager and the BCD of this Windows lie")


def _first_disk(domain: Optional[DomainFacts]) -> Optional[int]:
    """The disk that the domain starts, counted as the guest's images are: by boot order, else the first."""
    files = [d for d in domain.disks if d.path is not None] if domain is not None else []
    ordered = [(d.boot_order, index) for index, d in enumerate(files) if d.boot_order is not None]
    return min(ordered)[1] if ordered else (0 if files else None)


def _clock(guest: Guest) -> Iterator[Setting]:
    key = f"ControlSet{guest.control_sets.default:03d}\\Control\\TimeZoneInformation"
    universal = any(guest.system.raw(key, "RealTimeIsUniversal"))
    yield Setting("clock", "utc" if universal else "localtime", f"{key} RealTimeIsUniversal")


def _tools(guest: Guest, options: Options) -> Iterator[Finding]:
    software = guest.hive("SOFTWARE")
    for tools in options.plan.tools:
        found = {f"{t.name} guest tools": f"SOFTWARE\\{key}" for t in (tools,) for key in t.keys if _filled(software.key(key))}
        for place in UNINSTALL if tools.programs else ():
            key = software.key(place)
            for entry in key.subkeys() if key is not None else ():
                name = entry.text("DisplayName", "")
                if name.startswith(tools.programs):
                    found[name] = f"SOFTWARE\\{place}\\{entry.name}"
        for name, where in found.items():
            yield Finding("hypervisor-tools-present", "warning", name, where, "remove them once the guest runs on KVM")


def _filled(key: Optional[Key]) -> bool:
    return key is not None and bool(key.values())
