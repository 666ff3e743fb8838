"""Network can wait, but not for long: NetKVM is staged offline, so that the first boot already meets its final card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.changes import SetValue, WriteFile
from h2k.guest.driver_repairs import SYSTEM_START, Repair, file_repairs, left_behind, service_key, service_repairs
from h2k.guest.guest import Guest
from h2k.guest.network_driver import NetworkDriver, network_drivers
from h2k.windows.services import read_service
from h2k.windows.values import dword

META = {
    "name": "network-driver",
    "summary": "Stages the network driver, and decides which card the bootstrap domain has; never stops a conversion",
    "answers": ["nic-driver-missing"],
}

DISABLED = 4
STARTS = "the network driver can start"
MISSING = "the network driver is missing; Windows drives this card itself"
STAYS = "the card stays VirtIO, as Windows has it installed"
REFUSED = "Windows would not load the network driver; it drives this card itself"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        yield Setting("bootstrap-nic", "e1000e", "no driver of h2k's for this Windows")
        return
    secure_boot = options.domain is not None and options.domain.secure_boot
    why = STARTS
    stays = not left_behind(guest)
    for role, found in network_drivers(guest, options.plan, options.drivers, secure_boot, options.accept).items():
        if not found.serves:
            own = found.installed and stays
            yield from _refused(found, own)
            why = STAYS if own else REFUSED
            continue
        repairs = list(_driver(guest, role, found))
        if any(isinstance(r, Finding) and r.state == "warning" for r in repairs):
            why = MISSING
        yield from repairs
    yield from _cards(options, why)


def _refused(found: NetworkDriver, own: bool) -> Iterator[Finding]:
    """Nothing that Windows would load. A machine whose own card is VirtIO keeps it: another card would start without its
    addresses, and Windows took this driver when it installed it."""
    for path, fault in found.refused.items():
        evidence = f"{fault.evidence}: Windows will not load it"
        goes_on = STAYS if own else "the card is then one that Windows drives itself (e1000e)"
        yield Finding("nic-driver-missing", "warning", path, evidence, f"{found.why}, or go on: {goes_on}")


def _driver(guest: Guest, role: Role, found: NetworkDriver) -> Iterator[Proposed]:
    if found.installed:
        yield from _enabled(guest, role, found)
    for item in _installed(guest, role, found) if found.installed else _staged(guest, role, found):
        if isinstance(item, Finding):
            state = "broken" if found.package is not None else "warning"
            repair = item.repair if found.package is not None else f"{found.why}; until then the card has no driver"
            yield dataclasses.replace(item, id="nic-driver-missing", state=state, repair=repair)
        elif found.package is not None:
            yield item


def _enabled(guest: Guest, role: Role, found: NetworkDriver) -> Iterator[Proposed]:
    """A driver that Windows installed itself may start, as the INF of a package says, whoever signed that."""
    for number in guest.control_sets.boot:
        service = read_service(guest.system, number, role.service)
        if service is None or service.start != DISABLED:
            continue
        key, evidence = service_key(number, role.service), "the driver is disabled"
        if found.offered is None:
            yield Finding("nic-driver-missing", "warning", key, evidence, f"{found.why}; until then the card has no driver")
            continue
        start = found.offered.driver.service.start
        yield Finding("nic-driver-missing", "broken", key, evidence, f"Start {start}")
        yield SetValue("SYSTEM", key, "Start", dword(start))


def _installed(guest: Guest, role: Role, found: NetworkDriver) -> Iterator[Repair]:
    """A driver that Windows installed itself: its file has to be there, and one that Windows loads."""
    yield from file_repairs(guest, role, found.package)
    yield from _replaced(guest, found)


def _staged(guest: Guest, role: Role, found: NetworkDriver) -> Iterator[Repair]:
    """A driver that Windows has yet to meet: service, file and start type, in every control set that may boot. The ids
    are left to its package, which the first boot installs: a card that starts without one gets no connection."""
    if found.stored:
        return
    start = SYSTEM_START if role.start is None else role.start
    yield from file_repairs(guest, role, found.package)
    yield from _replaced(guest, found)
    for number in guest.control_sets.boot:
        yield from service_repairs(guest, number, role, found.package, start)


def _replaced(guest: Guest, found: NetworkDriver) -> Iterator[Repair]:
    """A file that Windows would not load gives way to the package's."""
    package = found.package
    for path, fault in found.refused.items() if package is not None else ():
        assert package is not None
        binary = package.driver.service.binary
        yield Finding("nic-driver-missing", "broken", path, fault.evidence, "the package's file")
        yield WriteFile(guest.volume, path, package.files[binary], f"{package.directory}/{binary}")


def _cards(options: Options, why: str) -> Iterator[Setting]:
    """The same card in both phases wherever that can be, so that the bootstrap leaves no ghost behind."""
    wanted = options.policy.bootstrap_nic
    card = "virtio" if why in (STARTS, STAYS) else "e1000e"
    if wanted != "auto":
        yield Setting("bootstrap-nic", wanted, "the policy says so")
    else:
        yield Setting("bootstrap-nic", card, why)
    yield Setting("final-nic", card, why)
