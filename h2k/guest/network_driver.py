"""The network driver that Windows would load: its own, one that is staged, or the package's; judged by its signatures.

It does not start at boot, so a catalogue of its package counts as a signature in the file does. Where neither counts it is
not relied on: as a SYSTEM_START service it would be skipped without a word, its package would fail at every first boot, and
both phases would show a card without a driver.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Optional

from h2k.config.driver_plan import Plan, Role
from h2k.guest.driver_repairs import installed_infs, staged_first_boot
from h2k.guest.driver_signatures import (
    SHA2,
    Fault,
    Loader,
    catalogues_of,
    driver_files,
    judge_late,
    judge_package,
    other_drivers,
    read_loader,
)
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.guest.virtio_win import DriverPackage, DriverSource, PackageBad, PackageMissing
from h2k.windows import pnp
from h2k.windows.first_boot import DIRECTORY
from h2k.windows.signature import MAX_MESSAGE

# Where Windows keeps the catalogues of installed drivers, as oem4.cat for oem4.inf; the name is DRIVER_ACTION_VERIFY.
CATALOGUES = "System32/CatRoot/{F750E6C3-38EE-11D1-85E5-00C04FC295EE}"
MAX_FILES = 8  # that are looked at of a staged package, and catalogues of an installed driver; real ones have one of each
_INF = re.compile(r"([A-Za-z0-9_-]{1,60})\.inf", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class NetworkDriver:
    """What there is of a network driver.

    `offered`: the package for this Windows, None without one. `package`: the same, where its file may be put into the
    guest; else `why` says how to get one. `refused`: what Windows would not load, by its path in the guest or in the
    virtio-win. `installed`: Windows has installed it; `stored`: its driver store has it. `stale`: the package that is
    staged for the first boot is one that Windows would not load.
    """

    offered: Optional[DriverPackage]
    package: Optional[DriverPackage]
    why: str
    refused: Mapping[str, Fault]
    installed: bool
    stored: bool
    stale: bool

    @property
    def serves(self) -> bool:
        """Whether Windows will load it, once what is refused has been replaced."""
        return not self.refused or self.package is not None


def network_drivers(
    guest: Guest, plan: Plan, drivers: Optional[DriverSource], secure_boot: bool, accept: Collection[str]
) -> dict[Role, NetworkDriver]:
    """The network driver of each of the plan's network roles. Who accepts SHA2 says that this Windows knows SHA-2."""
    loader = read_loader(guest, secure_boot)
    loader = dataclasses.replace(loader, sha2=loader.sha2 or SHA2 in accept)
    return {role: _network_driver(guest, plan, role, drivers, loader) for role in plan.roles if role.kind == "network"}


def _network_driver(guest: Guest, plan: Plan, role: Role, drivers: Optional[DriverSource], loader: Loader) -> NetworkDriver:
    offered, why = _offered(guest, plan, role, drivers)
    infs = tuple(installed_infs(guest, role))
    stored = not infs and in_driver_store(guest, role)
    staged = {} if infs or stored else _staged(guest, role)

    def late(data: bytes, name: str, catalogues: Mapping[str, bytes]) -> Optional[Fault]:
        fault = judge_late(data, name, catalogues, plan, loader)
        return fault if fault is not None and loader.refuses(fault) else None

    fault = None
    if offered is not None:
        binary = offered.driver.service.binary
        # Nobody installs the package again where Windows has installed one: its file alone comes, without its catalogue.
        fault = late(offered.files[binary], binary, {}) if infs else judge_package(offered, plan, loader)
        fault = fault if fault is not None and loader.refuses(fault) else None
    package = offered if fault is None else None
    judged = {path: late(data, path, catalogues_of(staged)) for path, data in staged.items() if path.lower().endswith(".sys")}
    stale = {path: wrong for path, wrong in judged.items() if wrong is not None}
    catalogues = _installed_catalogues(guest, infs) if infs else {**catalogues_of(staged), **_own_catalogues(package)}
    refused: dict[str, Fault] = dict(stale) if package is None else {}
    for path, data in driver_files(guest, role, _place(guest, role, offered)).items() if not stored else ():
        wrong = late(data, path, catalogues)
        if wrong is not None:
            refused[path] = wrong
    if offered is not None and fault is not None:
        why = other_drivers(fault)
        if not infs and not stored and not (judged and not stale):
            refused[f"{offered.directory}/{offered.driver.service.binary}"] = fault
    return NetworkDriver(offered, package, why, refused, bool(infs), stored, bool(stale))


def _offered(
    guest: Guest, plan: Plan, role: Role, drivers: Optional[DriverSource]
) -> tuple[Optional[DriverPackage], str]:
    """The package, or what the owner can do to get one."""
    if drivers is None:
        return None, "no virtio-win was found: give --h2k-drivers PATH"
    try:
        return drivers.find(plan, role, guest.windows), ""
    except (PackageMissing, PackageBad) as e:
        return None, f"{e.message}: get a virtio-win that has it"


def _place(guest: Guest, role: Role, offered: Optional[DriverPackage]) -> str:
    binary = offered.driver.service.binary if offered is not None else f"{role.service}.sys"
    return f"{guest.system_root}/System32/drivers/{binary}"


def _own_catalogues(package: Optional[DriverPackage]) -> dict[str, bytes]:
    return catalogues_of(package.files) if package is not None and not package.missing else {}


def _staged(guest: Guest, role: Role) -> dict[str, bytes]:
    """The driver and the catalogues of the package that the first boot will install, by their paths."""
    first_boot = staged_first_boot(guest)
    place = f"{DIRECTORY}/drivers/{role.driver}"
    if first_boot is None or not any(p.inf.lower() == f"{role.driver}\\{role.inf}".lower() for p in first_boot.drivers):
        return {}
    directory = guest.stat(place)
    there = guest.reader.listdir(guest.volume, place) if directory is not None and directory.directory else ()
    files = [entry.path for entry in there if entry.path.lower().endswith((".sys", ".cat"))][:MAX_FILES]
    limits = {path: MAX_MESSAGE if path.lower().endswith(".cat") else FILE_LIMIT for path in files}
    return {path: data for path in files for data in [_read(guest, path, limits[path])] if data is not None}


def _installed_catalogues(guest: Guest, infs: Collection[str]) -> dict[str, bytes]:
    """The catalogues of the packages from which Windows installed the driver."""
    found = {}
    for inf in tuple(dict.fromkeys(infs))[:MAX_FILES]:
        match = _INF.fullmatch(inf)
        path = f"{guest.system_root}/{CATALOGUES}/{match[1]}.cat" if match is not None else ""
        data = _read(guest, path, MAX_MESSAGE) if path else None
        if data is not None:
            found[path] = data
    return found


def _read(guest: Guest, path: str, limit: int) -> Optional[bytes]:
    stat = guest.stat(path)
    if stat is None or stat.directory or not stat.readable or stat.size > limit:
        return None
    return guest.reader.read(guest.volume, path, limit)


def in_driver_store(guest: Guest, role: Role) -> bool:
    """Whether the real package is in Windows' driver store: newer builds list it in the DRIVERS hive, and install it
    when the card appears."""
    if not guest.has_hive("DRIVERS"):
        return False
    number, drivers = guest.control_sets.default, guest.hive("DRIVERS")
    if not pnp.uses_driver_database(drivers):
        return False
    bound = [pnp.find_binding(drivers, number, device.ids()) for device in role.devices]
    return all(any(b.service.lower() == role.service.lower() for b in found) for found in bound)
