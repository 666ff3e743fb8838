"""Signatures: 64-bit Windows loads no boot driver that nobody it trusts has signed, so one must not be relied on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.domain.uefi_variables import TrustedKeys
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.boot_files import FALLBACK, MANAGER
from h2k.guest.changes import SetValue, WriteFile
from h2k.guest.driver_repairs import BOOT_START
from h2k.guest.driver_signatures import (
    SHA2,
    TEST_SIGNED,
    UNSIGNED,
    Fault,
    Loader,
    driver_files,
    judge,
    judge_package,
    other_drivers,
    read_loader,
    signer,
)
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.guest.virtio_win import DriverPackage, PackageBad, PackageMissing
from h2k.windows.services import driver_path
from h2k.windows.signature import program_digest, read_signatures
from h2k.windows.values import dword

DB_MISMATCH = "secure-boot-db-mismatch"
META = {
    "name": "signatures",
    "summary": "Refuses a boot driver whose signature Windows would not accept, puts a good one in its place, or lets it not start",
    "answers": [UNSIGNED, TEST_SIGNED, SHA2, DB_MISMATCH],
}

DEMAND_START = 3
OTHER_BUS = "or convert with --h2k-bus sata"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    role = options.plan.storage(options.bus)
    if role is not None:
        yield from _driver(guest, options, role)
    if options.phase == "result":
        yield from _of_other_buses(guest, options)
    if options.trusted is not None and guest.firmware == "uefi":
        yield from _boot_loader(guest, options, options.trusted)


# The driver of the chosen bus


def _driver(guest: Guest, options: Options, role: Role) -> Iterator[Proposed]:
    secure_boot = options.domain is not None and options.domain.secure_boot
    loader = read_loader(guest, secure_boot)
    package = _package(guest, options, role)
    spare = judge_package(package, options.plan, loader) if package is not None else None
    files = driver_files(guest, role) if package is None or options.phase == "result" else {}
    if package is not None and not files:
        yield from _told(spare, f"{package.directory}/{package.driver.service.binary}", options, loader)
    for path, data in files.items():
        fault = judge(data, path, options.plan, loader)
        if fault is not None and package is not None and spare is None:
            yield Finding(fault.found, "broken", path, fault.evidence, "the package's file")
            binary = package.driver.service.binary
            yield WriteFile(guest.volume, path, package.files[binary], f"{package.directory}/{binary}")
        else:
            yield from _told(fault, path, options, loader)


def _package(guest: Guest, options: Options, role: Role) -> Optional[DriverPackage]:
    """The package for this Windows; whatever is wrong with it is the boot storage hook's to tell."""
    try:
        return options.drivers.find(options.plan, role, guest.windows) if options.drivers is not None else None
    except (PackageMissing, PackageBad):
        return None


def _told(fault: Optional[Fault], subject: str, options: Options, loader: Loader) -> Iterator[Proposed]:
    if fault is None:
        return
    if not loader.refuses(fault):
        yield Finding(fault.found, "warning", subject, fault.evidence, "32-bit Windows loads it all the same")
        return
    yield Finding(fault.found, "refused", subject, f"{fault.evidence}: Windows will not load it", _way_out(fault, loader))
    if loader.secure_boot and fault.found in options.accept:
        yield Setting("secure-boot", "off", f"asked for by --h2k-accept {fault.found}")


def _way_out(fault: Fault, loader: Loader) -> str:
    """What the owner can do; to go on in spite of it is named only where the driver can then load."""
    ways = f"{other_drivers(fault)}, {OTHER_BUS}"
    if fault.found == SHA2:
        return f"{ways}; --h2k-accept {SHA2} goes on"
    if loader.secure_boot and (loader.windows.arch == "x86" or (fault.found == TEST_SIGNED and loader.test_signing)):
        return f"{ways}, or turn Secure Boot off: --h2k-accept {fault.found}"
    return ways


def _of_other_buses(guest: Guest, options: Options) -> Iterator[Proposed]:
    """Drivers of disks that the machine will not have: the loader loads whatever is to start at boot, and virt-v2v makes
    viostor so whatever bus it is told. One that it would not take must not start then."""
    loader = read_loader(guest, options.domain is not None and options.domain.secure_boot)
    others = [r for r in options.plan.roles if r.kind == "storage" and r.bus != options.bus]
    for role in others if loader.strict else ():
        bad = {path.lower(): judge(data, path, options.plan, loader) for path, data in driver_files(guest, role).items()}
        for number in guest.control_sets.boot:
            service = guest.service(number, role.service)
            path = driver_path(service, guest.system_root) if service is not None else ""
            fault = bad.get(path.lower())
            if service is None or service.start != BOOT_START or fault is None:
                continue
            evidence = f"{service.key}: {fault.evidence}; Windows would stop at it, though no disk needs it"
            yield Finding(fault.found, "broken", path, evidence, f"Start {DEMAND_START}")
            yield SetValue("SYSTEM", service.key, "Start", dword(DEMAND_START))


# The loader that the firmware will start


def _boot_loader(guest: Guest, options: Options, keys: TrustedKeys) -> Iterator[Proposed]:
    """Whether the firmware's variables trust the loader: without variables of its own it starts the fallback path, and
    where that holds no loader, the boot manager that is copied there."""
    place = guest.boot_volume
    if place is None:
        return
    for path in (FALLBACK.get(guest.windows.arch, ""), MANAGER["uefi"]):
        facts, _ = guest.pe(path, place.ref) if path else (None, "")
        if facts is None or facts.machine != guest.windows.arch:
            continue
        why = _distrusted(guest.reader.read(place.ref, path, FILE_LIMIT), path, keys)
        if why:
            known = ", ".join(keys.names) or "none"
            evidence = f"{why}; the firmware's variables trust: {known}"
            repair = "use an OVMF (edk2) whose variables hold it, or go on without Secure Boot: --h2k-accept secure-boot-db-mismatch"
            yield Finding(DB_MISMATCH, "refused", path, evidence, repair)
            if DB_MISMATCH in options.accept:
                yield Setting("secure-boot", "off", f"asked for by --h2k-accept {DB_MISMATCH}")
        return


def _distrusted(data: bytes, path: str, keys: TrustedKeys) -> str:
    """Why a firmware with these keys would not start a loader; '' if it would."""
    try:
        signatures = read_signatures(data, path)
    except BadData as bad:
        return bad.message.partition(": ")[2]
    holding = [s for s in signatures if s.holds]
    if any(keys.trusts(s.issuers, s.thumbprints) for s in holding) or program_digest(data, path) in keys.programs:
        return ""
    if not holding:
        return "it carries no signature of its content"
    return f"signed by {', '.join(signer([s]) for s in holding)}"
