"""Staging a driver offline, the same for storage and network by the plan's data; and how far a guest has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional, Union

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.config.driver_plan import Plan, Role
from h2k.guest.changes import Change, DeleteKey, DeleteValue, SetValue, WriteFile
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage
from h2k.windows import first_boot, pnp
from h2k.windows.network import Adapter, read_network
from h2k.windows.network_carry import leaving
from h2k.windows.services import Service, control_set_name, group_order, image_path
from h2k.windows.values import dword, expand, text

BOOT_START, SYSTEM_START = 0, 1
GUESTOR = "guestor.inf"  # virt-v2v's placeholder package
Repair = Union[Finding, Change]


def placeholder(role: Role) -> str:
    """The name of the package that binds a role's ids until the real one is installed (pnp.driver_database_entries)."""
    return f"h2k{role.service.lower()}.inf"


def installed(guest: Guest, role: Role) -> bool:
    """Whether Windows itself has installed the driver: a device of the role has its service, from a real package."""
    return next(installed_infs(guest, role), None) is not None


def installed_infs(guest: Guest, role: Role) -> Iterator[str]:
    """The INF (oem4.inf) from which Windows has installed the driver, for each device of the role."""
    base = control_set_name(guest.control_sets.default)
    wanted = tuple(device.name for device in role.devices)
    bus = guest.system.key(f"{base}\\Enum\\PCI")
    for device in bus.subkeys() if bus is not None else ():
        for instance in device.subkeys() if device.name.upper().startswith(wanted) else ():
            if instance.text("Service", "").lower() == role.service.lower():
                place = f"{base}\\Control\\Class\\{instance.text('Driver', '')}"
                inf = guest.system.text(place, "InfPath", "").lower()
                if inf not in (GUESTOR, placeholder(role)):
                    yield inf


def moving(guest: Guest, plan: Plan, bus: str) -> bool:
    """Whether the guest has yet to meet its new disks: no driver of the bus was installed, or it has another
    hypervisor's network cards."""
    role = plan.storage(bus)
    return bool(left_behind(guest)) or (role is not None and not installed(guest, role))


def left_behind(guest: Guest) -> tuple[Adapter, ...]:
    """The network cards that the KVM domain does not have."""
    return leaving(read_network(guest.system, None, guest.control_sets.default))


def first_boot_mark(guest: Guest) -> bool:
    """Whether a first boot of h2k's has run to its end in this guest."""
    return guest.hive("SOFTWARE").text(first_boot.MARK_KEY, first_boot.MARK_VALUE) == first_boot.MARK_DONE


def staged_first_boot(guest: Guest) -> Optional[first_boot.FirstBoot]:
    """The first boot that is staged in the guest and has yet to end; None without one, or with settings that are not
    ours."""
    service = guest.service(guest.control_sets.default, first_boot.SERVICE)
    stat = guest.stat(first_boot.SETTINGS) or guest.stat(first_boot.OLD_SETTINGS)
    if service is None or stat is None or not stat.readable or stat.size > first_boot.MAX_SETTINGS:
        return None
    try:
        return first_boot.parse_settings(guest.reader.read(guest.volume, stat.path, first_boot.MAX_SETTINGS))
    except BadData:
        return None


def service_key(number: int, name: str) -> str:
    """The key of a service in a control set."""
    return f"{control_set_name(number)}\\Services\\{name}"


def service_repairs(
    guest: Guest, number: int, role: Role, package: Optional[DriverPackage], start: int = BOOT_START
) -> Iterator[Repair]:
    """The service of one control set: started when `start` says, not overridden, with the parameters of its INF."""
    key = service_key(number, role.service)
    service = guest.service(number, role.service)
    if service is None or service.type != 1 or service.start != start:
        evidence = "missing" if service is None else f"Type {service.type}, Start {service.start}"
        yield Finding("driver-not-boot-start", "broken", key, evidence, f"Type 1, Start {start}")
        yield SetValue("SYSTEM", key, "Type", dword(1))
        yield SetValue("SYSTEM", key, "Start", dword(start))
    if service is None or not (service.image_path or "").strip():
        yield SetValue("SYSTEM", key, "ImagePath", expand(rf"system32\drivers\{_file_name(role, package)}"))
    if service is not None:
        yield from override(service, "driver-start-override", key, start)
    if package is not None:
        yield from _parameters(guest, number, key, service, package)


def override(service: Service, found: str, key: str, start: int = BOOT_START) -> Iterator[Repair]:
    """StartOverride values that would start the service later than it should be, as the finding `found`."""
    demoting = [(name, value) for name, value in service.start_overrides if value > start]
    if demoting:
        shown = ", ".join(f"{name}={value}" for name, value in demoting)
        yield Finding(found, "broken", key, f"StartOverride {shown} keeps the loader from loading it", "deleted")
        yield DeleteKey("SYSTEM", key + "\\StartOverride")


def _parameters(
    guest: Guest, number: int, key: str, service: Optional[Service], package: DriverPackage
) -> Iterator[Repair]:
    inf = package.driver.service
    wanted = [SetValue("SYSTEM", key, "ErrorControl", dword(inf.error_control))]
    if inf.group:
        wanted.append(SetValue("SYSTEM", key, "Group", text(inf.group)))
    for entry in inf.values:
        place = f"{key}\\{entry.subkey}" if entry.subkey else key
        if entry.keep and guest.system.value(place, entry.name) is not None:
            continue
        wanted.append(SetValue("SYSTEM", place, entry.name, entry.value))
    missing = [change for change in wanted if not change.holds(guest)]
    if missing:
        names = ", ".join(c.key[len(key) + 1 :] + ("\\" if c.key != key else "") + c.name for c in missing)
        yield Finding("driver-parameters-missing", "broken", key, f"not as the INF says: {names}", f"as {inf.inf} says")
        yield from missing
    if service is not None and service.tag is not None and service.group:
        order = group_order(guest.system, number, service.group)
        if order is not None and service.tag not in order:
            evidence = f"Tag {service.tag} is not in GroupOrderList\\{service.group}"
            yield Finding("driver-parameters-missing", "broken", key, evidence, "the Tag is removed")
            yield DeleteValue("SYSTEM", key, "Tag")


def _file_name(role: Role, package: Optional[DriverPackage]) -> str:
    return package.driver.service.binary if package is not None else f"{role.service}.sys"


def file_repairs(guest: Guest, role: Role, package: Optional[DriverPackage]) -> Iterator[Repair]:
    """The file at each control set's ImagePath: there, a PE, of the guest's machine type."""
    paths = {f"{guest.system_root}/System32/drivers/{_file_name(role, package)}"}
    for number in guest.control_sets.boot:
        service = guest.service(number, role.service)
        image = image_path(service, guest.system_root) if service is not None else None
        if service is None or image is None or not (service.image_path or "").strip():
            continue
        if image.certain or (image.path and guest.stat(image.path) is not None):
            paths.add(image.path)
        else:
            evidence = f"its ImagePath, {service.image_path}, names no file on the system volume"
            place = rf"system32\drivers\{_file_name(role, package)}"
            yield Finding("driver-file-missing", "broken", service.key, evidence, f"ImagePath {place}")
            yield SetValue("SYSTEM", service.key, "ImagePath", expand(place))
    for path in sorted({p.lower(): p for p in paths}.values()):
        facts, why = guest.pe(path)
        if facts is not None and facts.machine == guest.windows.arch:
            continue
        if why == "missing":
            found, evidence = "driver-file-missing", "missing"
        else:
            machine = f"is for {facts.machine}, Windows is {guest.windows.arch}" if facts is not None else why
            found, evidence = "driver-file-invalid", machine
        yield Finding(found, "broken", path, evidence, "the package's file")
        if package is not None:
            name = package.driver.service.binary
            yield WriteFile(guest.volume, path, package.files[name], f"{package.directory}/{name}")


def binding_repairs(guest: Guest, number: int, role: Role) -> Iterator[Repair]:
    """Every id that the target hardware may show leads to the service, with the role's class."""
    database = pnp.uses_driver_database(guest.system)
    for device in role.devices:
        ids = device.ids()
        found = pnp.find_binding(guest.system, number, ids)
        subject = f"PCI\\{ids[0]}"
        best = next((b for b in found if b.service), None)
        if best is not None and best.service.lower() == role.service.lower():
            if best.class_guid.lower() == role.class_guid.lower():
                continue
            evidence = f"{best.where} says class {best.class_guid or 'none'}"
            yield Finding("device-class-wrong", "broken", subject, evidence, f"class {role.class_guid}")
        else:
            where = "DriverDatabase" if database else f"{control_set_name(number)}\\Control\\CriticalDeviceDatabase"
            evidence = f"{where} leads to {best.service}" if best is not None else f"no entry in {where}"
            yield Finding("device-id-unbound", "broken", subject, evidence, f"bound to {role.service}")
        yield from _bind(guest, number, role, ids, found, database)


def _bind(
    guest: Guest, number: int, role: Role, ids: Sequence[str], found: Sequence[pnp.Binding], database: bool
) -> Iterator[Repair]:
    # The most specific id without a subsystem that real INFs list: VEN&DEV&REV, then VEN&DEV, so that
    # a subsystem that a vendor chose does not matter. A wrong binding of this very device is ended, for it may rank
    # above ours; one of a whole class of devices (CC_0100) ranks below.
    names = [i for i in ids if "&SUBSYS_" not in i and "&CC_" not in i and "&DEV_" in i]
    right = (role.service.lower(), role.class_guid.lower())
    wrong = [b for b in found if "&DEV_" in b.id and b.service and (b.service.lower(), b.class_guid.lower()) != right]
    if database:
        entries = pnp.driver_database_entries(role.service, names, role.class_guid, guest.windows.arch)
        ours = {(e.key.lower(), e.name.lower()) for e in entries}  # these may be wrong as well, and are written right
        yield from (DeleteValue("SYSTEM", b.entry, b.inf) for b in wrong if (b.entry.lower(), b.inf.lower()) not in ours)
    else:
        names += [b.id for b in wrong if b.id not in names]
        entries = pnp.cdd_entries(number, names, role.service, role.class_guid)
    for entry in entries:
        yield SetValue("SYSTEM", entry.key, entry.name, entry.value)
