"""What stops a driver before it starts: class filters of the boot devices, other hypervisors' drivers, install policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.finding import Finding
from h2k.config.driver_plan import Foreign
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import Change, DeleteValue, SetValue
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name, image_path
from h2k.windows.values import dword, multi

META = {
    "name": "boot-filters",
    "summary": "Takes dangling filters and other hypervisors' drivers off the boot devices, and lifts install policies",
    "answers": [
        "class-filter-dangling",
        "class-filter-hypervisor",
        "device-install-policy",
        "device-install-restrictions",
    ],
}

# The setup classes between the boot disk and the file system, and the bus that they hang on.
CLASSES = {
    "{4D36E967-E325-11CE-BFC1-08002BE10318}": "DiskDrive",
    "{4D36E96A-E325-11CE-BFC1-08002BE10318}": "hdc",
    "{4D36E97B-E325-11CE-BFC1-08002BE10318}": "SCSIAdapter",
    "{4D36E97D-E325-11CE-BFC1-08002BE10318}": "System",
    "{71A27CDD-812A-11D0-BEC7-08002BE2092F}": "Volume",
}
LISTS = ("UpperFilters", "LowerFilters")
DISABLED = 4
# Windows 7 and 2008 R2: with either set, boot devices are not matched by CriticalDeviceDatabase, or not started
# (Microsoft KB2773300).
BOOT_POLICIES = ("DisableCDDB", "DontStartRawDevices")
RESTRICTIONS = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions"
RESTRICTING = ("DenyUnspecified", "DenyDeviceIDs", "DenyDeviceClasses", "DenyInstanceIDs")


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return  # the hives hook has said that virt-v2v's result is left as it is
    for number in guest.control_sets.boot:
        for guid, name in CLASSES.items():
            for which in LISTS:
                yield from _list(guest, options, number, f"Control\\Class\\{guid}", name, which)
        for foreign in options.plan.services:
            yield from _service(guest, number, foreign)
    if guest.windows.version <= (6, 1):
        yield from _boot_policy(guest)
    else:
        yield from _restrictions(guest)


# Class filters


def _list(guest: Guest, options: Options, number: int, key: str, class_name: str, which: str) -> Iterator[Proposed]:
    """One list of one class: the filters that would keep its devices from starting go, the others stay in order."""
    place = f"{control_set_name(number)}\\{key}"
    value = guest.system.value(place, which)
    if value is None:
        return
    single = value.text()
    filters = value.multi() or ((single,) if single else ())
    known = {f.name.lower(): f for f in (*options.plan.filters, *options.plan.services)}
    stack = {entry.name.lower() for entry in options.plan.boot_stack_for(guest.windows)}  # the boot storage hook's
    kept: list[str] = []
    disabled: list[Change] = []
    for name in filters:
        foreign = known.get(name.lower())
        why, certain = _dangling(guest, number, name) if foreign is None and name.lower() not in stack else (None, True)
        if foreign is None and (why is None or not certain):
            kept.append(name)
            if why is not None:
                yield _unknown(place, class_name, which, name, why)
            continue
        yield _finding(place, class_name, which, name, foreign, why)
        if foreign is not None:
            disabled += _disable(guest, number, name)
    if len(kept) < len(filters):
        yield _without(place, which, kept)
        yield from disabled  # only now: a filter that is listed and disabled stops Windows at 0x7B


def _finding(place: str, class_name: str, which: str, name: str, foreign: Optional[Foreign], why: Optional[str]) -> Finding:
    subject = f"{place} {which}: {name}"
    if foreign is not None:
        evidence = f"{class_name} devices wait for {name}, which belongs to {foreign.of}"
        return Finding("class-filter-hypervisor", "broken", subject, evidence, "out of the list, then disabled")
    evidence = f"{class_name} devices wait for {name}: {why}"
    return Finding("class-filter-dangling", "broken", subject, evidence, "out of the list")


def _unknown(place: str, class_name: str, which: str, name: str, why: str) -> Finding:
    evidence = f"{class_name} devices wait for {name}: {why}"
    repair = "kept; see on the source whether the file is there"
    return Finding("class-filter-dangling", "warning", f"{place} {which}: {name}", evidence, repair)


def _dangling(guest: Guest, number: int, name: str) -> tuple[Optional[str], bool]:
    """(why Windows can't start this filter, or None; whether that is certain). A file that we can't read is there all the
    same, and one whose ImagePath says nothing about its place on these disks may be."""
    service = guest.service(number, name)
    if service is None:
        return "there is no such service", True
    demoted = [value for _, value in service.start_overrides if value == DISABLED]
    if service.start == DISABLED or demoted:
        return "its service is disabled", True
    image = image_path(service, guest.system_root)
    stat = guest.stat(image.path) if image.path else None
    if stat is None or stat.directory:
        if image.certain:
            return f"{image.path} is missing", True
        return f"its file, {service.image_path}, was not found on the system volume", False
    if not stat.readable:
        return None, True
    facts, wrong = guest.pe(image.path)
    if facts is None:
        return wrong, True
    return (None if facts.machine == guest.windows.arch else f"{image.path} is for {facts.machine}"), True


def _disable(guest: Guest, number: int, name: str) -> list[Change]:
    service = guest.service(number, name)
    if service is None:
        return []
    return [SetValue("SYSTEM", service.key, "Start", dword(DISABLED))]


def _service(guest: Guest, number: int, foreign: Foreign) -> Iterator[Proposed]:
    """Another hypervisor's own driver, which the loader starts whether or not a list names it. It is disabled here only
    after every list of its control set is without it."""
    service = guest.service(number, foreign.name)
    if service is None or service.start in (None, DISABLED):
        return
    evidence = f"Start {service.start}; it belongs to {foreign.of}, whose disks are gone"
    yield Finding("class-filter-hypervisor", "broken", service.key, evidence, f"Start {DISABLED}")
    yield SetValue("SYSTEM", service.key, "Start", dword(DISABLED))


def _without(place: str, which: str, kept: list[str]) -> Change:
    if not kept:
        return DeleteValue("SYSTEM", place, which)
    return SetValue("SYSTEM", place, which, multi(kept))


# Device-install policies


def _boot_policy(guest: Guest) -> Iterator[Proposed]:
    for number in guest.control_sets.boot:
        key = f"{control_set_name(number)}\\Control\\PnP"
        for name in BOOT_POLICIES:
            value = guest.system.value(key, name)
            if value is not None and any(value.raw):
                evidence = f"{name} is {value.dword()}: Windows will not start a boot disk on new hardware"
                yield Finding("device-install-policy", "broken", key, evidence, f"{name} 0")
                yield SetValue("SYSTEM", key, name, dword(0))


def _restrictions(guest: Guest) -> Iterator[Finding]:
    key = guest.hive("SOFTWARE").key(RESTRICTIONS)
    values = {v.name.lower(): v for v in key.values()} if key is not None else {}
    found = [name for name in RESTRICTING if name.lower() in values and any(values[name.lower()].raw)]
    if found:
        yield Finding(
            "device-install-restrictions",
            "warning",
            f"SOFTWARE\\{RESTRICTIONS}",
            f"{', '.join(found)}: Windows may refuse to install the VirtIO devices",
            "allow Red Hat's driver packages in that group policy, or lift it for the first boot",
        )
