"""What the guest says about its two domains: firmware, clock, the NIC that its first boot can drive, old tools."""

from __future__ import annotations

from collections.abc import Iterator

from h2k.finding import Finding
from h2k.guest import Guest
from h2k.hook import Options, Proposed, Setting

META = {
    "name": "domains",
    "summary": "Decides firmware, clock and bootstrap NIC of the two domains from what the guest is",
    "answers": ["firmware-mismatch", "hypervisor-tools-present"],
}

# Uninstall entries by which other hypervisors' tools are known in Add/Remove Programs (DisplayName begins with).
TOOLS = (
    "VMware Tools",
    "Oracle VM VirtualBox Guest Additions",
    "Parallels Tools",
    "Citrix Hypervisor",
    "XenServer Tools",
)
UNINSTALL = ("Microsoft\\Windows\\CurrentVersion\\Uninstall", "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall")


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if options.domain is not None and options.domain.firmware != guest.firmware:
        yield Finding(
            "firmware-mismatch",
            "warning",
            options.domain.name,
            f"the domain says {options.domain.firmware}, the disk is laid out for {guest.firmware}",
            f"both domains are written for {guest.firmware}",
        )
    yield Setting("firmware", guest.firmware, "the boot disk's partition table")
    yield from _clock(guest)
    yield from _network(guest, options)
    yield from _tools(guest)


def _clock(guest: Guest) -> Iterator[Setting]:
    key = f"ControlSet{guest.control_sets.default:03d}\\Control\\TimeZoneInformation"
    value = guest.system.value(key, "RealTimeIsUniversal")
    universal = value is not None and any(value.raw)
    yield Setting("clock", "utc" if universal else "localtime", f"{key} RealTimeIsUniversal")


def _network(guest: Guest, options: Options) -> Iterator[Setting]:
    """virtio-net already in the bootstrap when its driver can start; else the e1000e that Windows has inbox."""
    services = {role.service for role in options.plan.roles if role.kind == "network"}
    staged = any(
        guest.system.key(f"ControlSet{number:03d}\\Services\\{service}") is not None
        and guest.stat(f"{guest.system_root}/System32/drivers/{service}.sys") is not None
        for service in services
        for number in guest.control_sets.boot
    )
    yield Setting("bootstrap-nic", "virtio" if staged else "e1000e", "whether the network driver is staged")


def _tools(guest: Guest) -> Iterator[Finding]:
    software = guest.hive("SOFTWARE")
    for place in UNINSTALL:
        key = software.key(place)
        for entry in key.subkeys() if key is not None else ():
            value = entry.value("DisplayName")
            name = value.text() if value is not None else None
            if name is not None and name.startswith(TOOLS):
                yield Finding(
                    "hypervisor-tools-present",
                    "warning",
                    name,
                    f"SOFTWARE\\{place}\\{entry.name}",
                    "remove them once the guest runs on KVM",
                )
