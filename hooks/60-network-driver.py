"""Network can wait, but not for long: NetKVM is staged offline, so that the first boot already meets its final card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Optional

from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.changes import SetValue
from h2k.guest.driver_repairs import (
    SYSTEM_START,
    Repair,
    file_repairs,
    installed,
    service_key,
    service_repairs,
)
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, PackageBad, PackageMissing
from h2k.windows import pnp
from h2k.windows.services import read_service
from h2k.windows.values import dword

META = {
    "name": "network-driver",
    "summary": "Stages the network driver, and decides which card the bootstrap domain has; never stops a conversion",
    "answers": ["nic-driver-missing"],
}

DISABLED = 4


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        yield Setting("bootstrap-nic", "e1000e", "no driver of h2k's for this Windows")
        return
    ready = True
    for role in options.plan.roles:
        if role.kind == "network":
            repairs = list(_driver(guest, options, role))
            ready = ready and not any(isinstance(r, Finding) and r.state == "warning" for r in repairs)
            yield from repairs
    yield from _cards(options, ready)


def _driver(guest: Guest, options: Options, role: Role) -> Iterator[Proposed]:
    package, why = _package(guest, options, role)
    todo = list(_installed(guest, role, package) if installed(guest, role) else _staged(guest, role, package))
    for item in todo:
        if isinstance(item, Finding):
            state = "broken" if package is not None else "warning"
            repair = item.repair if package is not None else f"{why}; until then the card has no driver"
            yield dataclasses.replace(item, id="nic-driver-missing", state=state, repair=repair)
        elif package is not None:
            yield item


def _package(guest: Guest, options: Options, role: Role) -> tuple[Optional[DriverPackage], str]:
    """The package, or what the owner can do to get one."""
    if options.drivers is None:
        return None, "no virtio-win was found: give --h2k-drivers PATH"
    try:
        return options.drivers.find(options.plan, role, guest.windows), ""
    except (PackageMissing, PackageBad) as e:
        return None, f"{e.message}: get a virtio-win that has it"


def _installed(guest: Guest, role: Role, package: Optional[DriverPackage]) -> Iterator[Repair]:
    """A driver that Windows installed itself: it only has to be able to start."""
    for number in guest.control_sets.boot:
        service = read_service(guest.system, number, role.service)
        if service is not None and service.start == DISABLED:
            start = package.driver.service.start if package is not None else service.start  # nothing is written then
            key = service_key(number, role.service)
            yield Finding("nic-driver-missing", "broken", key, "the driver is disabled", f"Start {start}")
            yield SetValue("SYSTEM", key, "Start", dword(start))
    yield from file_repairs(guest, role, package)


def _staged(guest: Guest, role: Role, package: Optional[DriverPackage]) -> Iterator[Repair]:
    """A driver that Windows has yet to meet: service, file and start type, in every control set that may boot. The ids
    are left to its package, which the first boot installs: a card that starts without one gets no connection."""
    if _in_driver_store(guest, role):
        return
    start = SYSTEM_START if role.start is None else role.start
    yield from file_repairs(guest, role, package)
    for number in guest.control_sets.boot:
        yield from service_repairs(guest, number, role, package, start)


def _in_driver_store(guest: Guest, role: Role) -> bool:
    """Whether the real package is in Windows' driver store: newer builds list it in the DRIVERS hive, and install it
    when the card appears."""
    if not guest.has_hive("DRIVERS"):
        return False
    number, drivers = guest.control_sets.default, guest.hive("DRIVERS")
    if not pnp.uses_driver_database(drivers):
        return False
    bound = [pnp.find_binding(drivers, number, device.ids()) for device in role.devices]
    return all(any(b.service.lower() == role.service.lower() for b in found) for found in bound)


def _cards(options: Options, ready: bool) -> Iterator[Setting]:
    """The same card in both phases wherever that can be, so that the bootstrap leaves no ghost behind."""
    wanted = options.policy.bootstrap_nic
    why = "the network driver can start" if ready else "the network driver is missing; Windows drives this card itself"
    if wanted != "auto":
        yield Setting("bootstrap-nic", wanted, "the policy says so")
    else:
        yield Setting("bootstrap-nic", "virtio" if ready else "e1000e", why)
    yield Setting("final-nic", "virtio" if ready else "e1000e", why)
