"""Storage cannot wait: the boot driver of the chosen bus, the bootstrap's controller and the boot stack can all start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from h2k.change import DeleteKey, SetValue, WriteFile
from h2k.drivers import DriverPackage, PackageBad, PackageMissing
from h2k.finding import Finding
from h2k.guest import Guest
from h2k.hook import Options, Proposed, Setting
from h2k.plan import Controller, Role
from h2k.windows import pnp, regf
from h2k.windows.services import Service, driver_path, group_order, read_service

META = {
    "name": "boot-storage",
    "summary": "Makes the storage driver of the chosen bus, the bootstrap's controller and the boot stack start at boot",
    "answers": [
        "driver-file-missing",
        "driver-file-invalid",
        "driver-not-boot-start",
        "driver-start-override",
        "driver-parameters-missing",
        "driver-package-missing",
        "device-id-unbound",
        "device-class-wrong",
        "control-set-differs",
        "bootstrap-controller-not-boot-start",
        "boot-stack-driver-disabled",
    ],
}

OLDEST = (6, 1)
BOOT_START, DISABLED = 0, 4
KERNEL_DRIVERS = (1, 2)  # SERVICE_KERNEL_DRIVER, SERVICE_FILE_SYSTEM_DRIVER


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if guest.windows.version < OLDEST:
        return  # the hives hook has said that virt-v2v's result is left as it is
    role = options.plan.storage(options.bus)
    if role is not None:
        yield from _bus_driver(guest, options, role)
    yield from _bootstrap(guest, options)
    yield from _boot_stack(guest, options)


# The driver of the chosen bus


def _bus_driver(guest: Guest, options: Options, role: Role) -> Iterator[Proposed]:
    package, refusal = _package(guest, options, role)
    wrong: dict[int, list[Proposed]] = {
        number: list(_service(guest, number, role, package)) for number in guest.control_sets.boot
    }
    bindings = {number: list(_bindings(guest, number, role, package)) for number in guest.control_sets.boot}
    sets = {n: [p for p in (*wrong[n], *bindings[n]) if isinstance(p, Finding)] for n in wrong}
    file = list(_driver_file(guest, role, package))
    if refusal is not None and (refusal.id != "driver-package-missing" or file or any(sets.values())):
        yield refusal
        return
    yield from file
    for number in guest.control_sets.boot:
        yield from wrong[number]
        yield from bindings[number]
    broken = [n for n, findings in sets.items() if findings]
    if broken and len(broken) < len(sets):
        names = ", ".join(_cs(n) for n in broken)
        good = ", ".join(_cs(n) for n in sets if n not in broken)
        yield Finding("control-set-differs", "broken", role.service, f"{names} would not boot like {good}", "repair all")


def _package(guest: Guest, options: Options, role: Role) -> tuple[Optional[DriverPackage], Optional[Finding]]:
    way_out = "give --h2k-drivers PATH (a virtio-win ISO or directory), or convert with --h2k-bus sata"
    if options.drivers is None:
        evidence = "no virtio-win ISO or directory was found on this host"
        return None, Finding("driver-package-missing", "refused", role.service, evidence, way_out)
    try:
        return options.drivers.find(options.plan, role, guest.windows), None
    except PackageMissing as e:
        return None, Finding("driver-package-missing", "refused", role.service, e.message, e.hint or way_out)
    except PackageBad as e:
        hint = e.hint or "get an intact virtio-win, or convert with --h2k-bus sata"
        return None, Finding("driver-file-invalid", "refused", role.service, e.message, hint)


def _service_key(number: int, name: str) -> str:
    return f"{_cs(number)}\\Services\\{name}"


def _cs(number: int) -> str:
    return f"ControlSet{number:03d}"


def _dword(key: str, name: str, value: int) -> SetValue:
    return SetValue("SYSTEM", key, name, regf.REG_DWORD, value.to_bytes(4, "little"))


def _text(key: str, name: str, value: str, kind: int = regf.REG_SZ) -> SetValue:
    return SetValue("SYSTEM", key, name, kind, (value + "\0").encode("utf-16-le"))


def _service(guest: Guest, number: int, role: Role, package: Optional[DriverPackage]) -> Iterator[Proposed]:
    """The service of one control set: boot-start, not overridden, with the parameters of its INF."""
    key = _service_key(number, role.service)
    service = read_service(guest.system, number, role.service)
    if service is None or service.type != 1 or service.start != BOOT_START:
        evidence = "missing" if service is None else f"Type {service.type}, Start {service.start}"
        yield Finding("driver-not-boot-start", "broken", key, evidence, "Type 1, Start 0")
        yield _dword(key, "Type", 1)
        yield _dword(key, "Start", BOOT_START)
    if service is None or not (service.image_path or "").strip():
        yield _text(key, "ImagePath", rf"system32\drivers\{_file_name(role, package)}", regf.REG_EXPAND_SZ)
    if service is not None:
        yield from _override(service, "driver-start-override", key)
    if package is not None:
        yield from _parameters(guest, number, key, service, package)


def _override(service: Service, found: str, key: str) -> Iterator[Proposed]:
    demoting = [(name, value) for name, value in service.start_overrides if value != BOOT_START]
    if demoting:
        shown = ", ".join(f"{name}={value}" for name, value in demoting)
        yield Finding(found, "broken", key, f"StartOverride {shown} keeps the loader from loading it", "deleted")
        yield DeleteKey("SYSTEM", key + "\\StartOverride")


def _parameters(
    guest: Guest, number: int, key: str, service: Optional[Service], package: DriverPackage
) -> Iterator[Proposed]:
    inf = package.driver.service
    wanted = [_dword(key, "ErrorControl", inf.error_control)]
    if inf.group:
        wanted.append(_text(key, "Group", inf.group))
    for value in inf.values:
        place = f"{key}\\{value.subkey}" if value.subkey else key
        if value.keep and guest.system.value(place, value.name) is not None:
            continue
        wanted.append(SetValue("SYSTEM", place, value.name, value.type, value.data))
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
            from h2k.change import DeleteValue

            yield DeleteValue("SYSTEM", key, "Tag")


def _file_name(role: Role, package: Optional[DriverPackage]) -> str:
    return package.driver.service.binary if package is not None else f"{role.service}.sys"


def _driver_file(guest: Guest, role: Role, package: Optional[DriverPackage]) -> Iterator[Proposed]:
    """The file at each control set's ImagePath: there, a PE, of the guest's machine type."""
    paths = {f"{guest.system_root}/System32/drivers/{_file_name(role, package)}"}
    for number in guest.control_sets.boot:
        service = read_service(guest.system, number, role.service)
        if service is not None and (service.image_path or "").strip():
            paths.add(driver_path(service, guest.system_root))
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


def _bindings(guest: Guest, number: int, role: Role, package: Optional[DriverPackage]) -> Iterator[Proposed]:
    """Every id that the target hardware may show leads to the service, with the storage class."""
    database = pnp.uses_driver_database(guest.system)
    for device in role.devices:
        ids = pnp.device_ids(*device)
        found = pnp.find_binding(guest.system, number, ids)
        subject = f"PCI\\{ids[0]}"
        best = next((b for b in found if b.service), None)
        if best is not None and best.service.lower() == role.service.lower():
            if best.class_guid.lower() == role.class_guid.lower():
                continue
            evidence = f"{best.where} says class {best.class_guid or 'none'}"
            yield Finding("device-class-wrong", "broken", subject, evidence, f"class {role.class_guid}")
        else:
            where = "DriverDatabase" if database else f"{_cs(number)}\\Control\\CriticalDeviceDatabase"
            evidence = f"{where} leads to {best.service}" if best is not None else f"no entry in {where}"
            yield Finding("device-id-unbound", "broken", subject, evidence, f"bound to {role.service}")
        yield from _bind(guest, number, role, ids, best, database)


def _bind(
    guest: Guest, number: int, role: Role, ids: Sequence[str], best: Optional[pnp.Binding], database: bool
) -> Iterator[Proposed]:
    # The most specific id without a subsystem that real INFs list: VEN&DEV&REV, then VEN&DEV, so that
    # a subsystem that a vendor chose does not matter. An id of ours ranks above a wrong binding's.
    names = [i for i in ids if "&SUBSYS_" not in i and "&CC_" not in i and "&DEV_" in i]
    if best is not None and "&SUBSYS_" in best.id:
        names.append(best.id)
    if database:
        entries = pnp.driver_database_entries(role.service, names, role.class_guid, guest.windows.arch)
    else:
        entries = pnp.cdd_entries(number, names, role.service, role.class_guid)
    for entry in entries:
        yield SetValue("SYSTEM", entry.key, entry.name, entry.type, entry.data)


# The bootstrap's controller


def _bootstrap(guest: Guest, options: Options) -> Iterator[Proposed]:
    """The first bus of the plan's bootstrap controllers whose inbox driver can be made to start."""
    tried = []
    for controller in options.plan.controllers:
        repairs = _controller(guest, controller)
        if repairs is None:
            tried.append(controller.bus)
            continue
        yield Setting("bootstrap-bus", controller.bus, f"Windows has a boot driver for {controller.bus}")
        yield from repairs
        return
    yield Finding(
        "bootstrap-controller-not-boot-start",
        "refused",
        ", ".join(tried),
        "Windows has no driver file or binding for any bus of the bootstrap",
        "restore the inbox storage drivers on the source (sfc /scannow)",
    )


def _controller(guest: Guest, controller: Controller) -> Optional[list[Proposed]]:
    """What makes this controller start in every control set; None when Windows can't drive it at all."""
    todo: list[Proposed] = []
    for number in guest.control_sets.boot:
        services = _controller_services(guest, number, controller)
        if services is None:
            return None
        for name in services:
            service = read_service(guest.system, number, name)
            if service is None or guest.pe(driver_path(service, guest.system_root))[0] is None:
                return None
            key = _service_key(number, name)
            if service.start != BOOT_START:
                found = "bootstrap-controller-not-boot-start"
                todo.append(Finding(found, "broken", key, f"Start {service.start}", "Start 0"))
                todo.append(_dword(key, "Start", BOOT_START))
            todo += _override(service, "bootstrap-controller-not-boot-start", key)
    return todo


def _controller_services(guest: Guest, number: int, controller: Controller) -> Optional[list[str]]:
    """The service bound to the controller's id, and the companions that the plan names for its bus."""
    binding = next((b for b in pnp.find_binding(guest.system, number, pnp.device_ids(*controller.device)) if b.service), None)
    if binding is None:
        return None
    present = [n for n in controller.companions if read_service(guest.system, number, n) is not None]
    return [binding.service, *present]


# The boot stack


def _boot_stack(guest: Guest, options: Options) -> Iterator[Proposed]:
    """Drivers that every boot needs: enabled, not overridden, their files there."""
    for number in guest.control_sets.boot:
        for entry in options.plan.boot_stack_for(guest.windows):
            key = _service_key(number, entry.name)
            service = read_service(guest.system, number, entry.name)
            if service is None:
                if not entry.optional:
                    yield _stack(key, "refused", "the service is missing", "restore the registry from a backup")
                continue
            path = driver_path(service, guest.system_root)
            there = not entry.has_file or guest.pe(path)[0] is not None
            if not there:
                yield _stack(key, "refused", f"{path}: {guest.pe(path)[1]}", "run sfc /scannow on the source")
                continue
            if service.start not in entry.starts:
                yield _stack(key, "broken", f"Start {service.start}", f"Start {entry.starts[0]}")
                yield _dword(key, "Start", entry.starts[0])
            if service.type not in KERNEL_DRIVERS:
                yield _stack(key, "refused", f"Type {service.type}", "restore the registry from a backup")
            yield from _override(service, "boot-stack-driver-disabled", key)


def _stack(key: str, state: str, evidence: str, repair: str) -> Finding:
    return Finding("boot-stack-driver-disabled", state, key, evidence, repair)
