"""Secure Boot: the firmware loads no boot driver that is not signed, so one without a signature must not be relied on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import PackageBad, PackageMissing
from h2k.windows.pe import PeFacts, read_pe
from h2k.windows.services import driver_path, read_service

META = {
    "name": "signatures",
    "summary": "Refuses an unsigned boot driver under Secure Boot, unless told to turn Secure Boot off",
    "answers": ["driver-unsigned"],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    """A missing certificate table is what can be told offline; whether the signature is Microsoft's is Windows' to judge."""
    if options.domain is None or not options.domain.secure_boot or not guest.windows.supported:
        return
    role = options.plan.storage(options.bus)
    if role is None:
        return
    name, facts = _driver(guest, options, role)
    if facts is None or facts.signed:
        return
    yield Finding(
        "driver-unsigned",
        "refused",
        name,
        "the domain has Secure Boot, and this boot driver carries no signature",
        "get a signed virtio-win, or turn Secure Boot off: --h2k-accept driver-unsigned",
    )
    if "driver-unsigned" in options.accept:
        yield Setting("secure-boot", "off", "asked for by --h2k-accept driver-unsigned")


def _driver(guest: Guest, options: Options, role: Role) -> tuple[str, Optional[PeFacts]]:
    """The driver that will start: the package's, or with none at hand the guest's own; (its name, its facts)."""
    try:
        if options.drivers is not None:
            package = options.drivers.find(options.plan, role, guest.windows)
            binary = package.driver.service.binary
            return f"{package.directory}/{binary}", read_pe(package.files[binary.lower()], binary)
    except (PackageMissing, PackageBad, BadData):
        pass  # the boot storage hook answers for the package; what the guest has may still boot
    service = read_service(guest.system, guest.control_sets.default, role.service)
    if service is None:
        return role.service, None
    path = driver_path(service, guest.system_root)
    return path, guest.pe(path)[0]
