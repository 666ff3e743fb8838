"""What the guest says about its two domains: name, firmware, boot disk, clock, drivers of small devices, old guest tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.errors import H2kError
from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.domain.facts import DomainFacts
from h2k.domain.names import name_finding
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.driver_repairs import first_boot_mark, moving, staged_first_boot
from h2k.guest.guest import Guest
from h2k.windows.regf import Key
from h2k.windows.services import control_set_name, read_service

META = {
    "name": "domains",
    "summary": "Decides firmware, boot disk, clock and small devices of the two domains from what the guest is",
    "answers": [
        "domain-name-invalid",
        "firmware-mismatch",
        "boot-disk-ambiguous",
        "hypervisor-tools-present",
        "sector-size-mismatch",
        "new-tpm",
    ],
}

# Devices that Windows is shown once their drivers are there, by the drivers' names in virtio-win.
DEVICES = {"rng": "viorng", "pvpanic": "pvpanic"}
MAX_OFFSET = 14 * 60  # minutes that a local time is ahead of UTC, or behind
NATIVE = 4096  # bytes of a sector of a 4Kn disk
ENCRYPTS_ITSELF = (10, 0)  # NT version from which clients begin device encryption by themselves where there is a TPM
UNINSTALL = ("Microsoft\\Windows\\CurrentVersion\\Uninstall", "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall")


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    wrong = name_finding(options.domain) if options.domain is not None else None
    if wrong is not None:
        yield wrong
    yield from _firmware(guest, options.domain)
    yield from _boot_disk(guest, options.domain)
    yield from _sectors(guest, options.domain)
    yield from _tpm(guest, options.domain)
    yield from _clock(guest)
    yield from _devices(guest, options)
    yield from _tools(guest, options)


def _firmware(guest: Guest, domain: Optional[DomainFacts]) -> Iterator[Proposed]:
    if domain is not None and domain.firmware not in ("", guest.firmware):
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


def _sectors(guest: Guest, domain: Optional[DomainFacts]) -> Iterator[Proposed]:
    """A GPT counts in the sectors of the disk that it was made on: on a disk with others nobody finds it."""
    native = [disk.index for disk in guest.disks if disk.table.sector == NATIVE]
    if not native:
        return
    files = [d for d in domain.disks if d.path is not None] if domain is not None else []
    wrong = [index for index in native if index >= len(files) or files[index].sector != NATIVE]
    if wrong:
        subject = ", ".join(f"disk {index}" for index in wrong)
        evidence = f"its partition table is that of a disk with sectors of {NATIVE} bytes; QEMU's have 512 unless told otherwise"
        state = "broken" if domain is not None else "warning"
        yield Finding("sector-size-mismatch", state, subject, evidence, f"<blockio logical_block_size='{NATIVE}'/> in the domain")
    shown = ",".join(f"{index}:{NATIVE}" for index in native)
    yield Setting("sector-size", shown, "the partition tables of these disks count in such sectors")


def _tpm(guest: Guest, domain: Optional[DomainFacts]) -> Iterator[Finding]:
    """Both domains get a TPM where the guest had one, and no description and no disk has what is in it.

    Microsoft: device encryption begins by itself on clients, and not where PreventDeviceEncryption is 1.
    """
    if domain is None or domain.tpm is None or guest.windows.server or guest.windows.version < ENCRYPTS_ITSELF:
        return
    key = f"{control_set_name(guest.control_sets.default)}\\Control\\BitLocker"
    if guest.system.dword(key, "PreventDeviceEncryption") == 1:
        return
    evidence = (
        "what is in its TPM is not on its disks: a new machine's is empty, without what was sealed to the old one (keys, Hello "
        f"PINs), and Windows may encrypt its disk to it by itself (SYSTEM\\{key} PreventDeviceEncryption is not 1)"
    )
    repair = "take the state of a libvirt source along (/var/lib/libvirt/swtpm/UUID), or set PreventDeviceEncryption to 1 on the source"
    yield Finding("new-tpm", "warning", domain.name, evidence, repair)


def _clock(guest: Guest) -> Iterator[Setting]:
    key = f"ControlSet{guest.control_sets.default:03d}\\Control\\TimeZoneInformation"
    universal = any(guest.system.raw(key, "RealTimeIsUniversal"))
    yield Setting("clock", "utc" if universal else "localtime", f"{key} RealTimeIsUniversal")
    bias = guest.system.dword(key, "ActiveTimeBias")  # minutes, signed: UTC is local time and the bias
    if bias is None:
        return
    ahead = -(bias - (1 << 32) if bias >= 1 << 31 else bias)
    if abs(ahead) <= MAX_OFFSET:
        yield Setting("utc-offset", str(ahead * 60), f"{key} ActiveTimeBias")


def _devices(guest: Guest, options: Options) -> Iterator[Setting]:
    """A device without its driver is only a question mark in the device manager."""
    staged = staged_first_boot(guest)
    coming = options.drivers is not None and (not first_boot_mark(guest) or moving(guest, options.plan, options.bus))
    for device, driver in DEVICES.items():
        role = next((r for r in options.plan.roles if r.driver.lower() == driver), None)
        why = ""
        if role is None:
            continue
        if read_service(guest.system, guest.control_sets.default, role.service) is not None:
            why = f"{role.service} is installed"
        elif staged is not None and any(p.inf.lower().startswith(f"{role.driver.lower()}\\") for p in staged.drivers):
            why = f"{role.driver} is staged for the first boot"
        elif coming and staged is None and _offered(guest, options, role):
            why = f"{role.driver} is in the virtio-win, and goes along"
        yield Setting(device, "yes" if why else "no", why or f"no {role.driver} in the guest")


def _offered(guest: Guest, options: Options, role: Role) -> bool:
    try:
        return options.drivers is not None and not options.drivers.find(options.plan, role, guest.windows).missing
    except H2kError:
        return False


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
