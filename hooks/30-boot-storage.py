"""Storage cannot wait: the boot driver of the chosen bus, the bootstrap's controller and the boot stack can all start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.finding import Finding
from h2k.config.driver_plan import Controller, Role
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.changes import SetValue
from h2k.guest.driver_repairs import BOOT_START, binding_repairs, file_repairs, override, service_key, service_repairs
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, PackageBad, PackageMissing
from h2k.windows import pnp
from h2k.windows.services import ImagePath, control_set_name, driver_path, image_path
from h2k.windows.values import dword

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
        "file-unreadable",
    ],
}

KERNEL_DRIVERS = (1, 2)  # SERVICE_KERNEL_DRIVER, SERVICE_FILE_SYSTEM_DRIVER


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
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
        number: list(service_repairs(guest, number, role, package)) for number in guest.control_sets.boot
    }
    bindings = {number: list(binding_repairs(guest, number, role)) for number in guest.control_sets.boot}
    sets = {n: [p for p in (*wrong[n], *bindings[n]) if isinstance(p, Finding)] for n in wrong}
    file = list(file_repairs(guest, role, package))
    if refusal is not None and (refusal.id != "driver-package-missing" or file or any(sets.values())):
        yield refusal
        if options.drivers is None and options.phase == "result":  # what the disk lacks is told all the same
            yield from (p for p in (*file, *(f for n in sets for f in sets[n])) if isinstance(p, Finding))
        return
    yield from file
    for number in guest.control_sets.boot:
        yield from wrong[number]
        yield from bindings[number]
    broken = [n for n, findings in sets.items() if findings]
    if broken and len(broken) < len(sets):
        names = ", ".join(control_set_name(n) for n in broken)
        good = ", ".join(control_set_name(n) for n in sets if n not in broken)
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
            service = guest.service(number, name)
            if service is None or guest.pe(driver_path(service, guest.system_root))[0] is None:
                return None
            key = service_key(number, name)
            if service.start != BOOT_START:
                found = "bootstrap-controller-not-boot-start"
                todo.append(Finding(found, "broken", key, f"Start {service.start}", "Start 0"))
                todo.append(SetValue("SYSTEM", key, "Start", dword(BOOT_START)))
            todo += override(service, "bootstrap-controller-not-boot-start", key)
    return todo


def _controller_services(guest: Guest, number: int, controller: Controller) -> Optional[list[str]]:
    """The service bound to the controller's id, and the companions that the plan names for its bus."""
    binding = next((b for b in pnp.find_binding(guest.system, number, controller.device.ids()) if b.service), None)
    if binding is None:
        return None
    old = controller.old_companions if guest.windows.version <= (6, 1) else ()
    present = [n for n in (*controller.companions, *old) if guest.service(number, n) is not None]
    return [binding.service, *present]


# The boot stack


def _boot_stack(guest: Guest, options: Options) -> Iterator[Proposed]:
    """Drivers that every boot needs: enabled, not overridden, their files there."""
    for number in guest.control_sets.boot:
        for entry in options.plan.boot_stack_for(guest.windows):
            key = service_key(number, entry.name)
            service = guest.service(number, entry.name)
            if service is None:
                if not entry.optional:
                    yield _stack(key, "refused", "the service is missing", "restore the registry from a backup")
                continue
            problem = _stack_file(guest, key, image_path(service, guest.system_root)) if entry.has_file else None
            if problem is not None:
                yield problem
                if problem.state == "refused":
                    continue
            if service.start not in entry.starts:
                yield _stack(key, "broken", f"Start {service.start}", f"Start {entry.starts[0]}")
                yield SetValue("SYSTEM", key, "Start", dword(entry.starts[0]))
            if service.type not in KERNEL_DRIVERS:
                yield _stack(key, "refused", f"Type {service.type}", "restore the registry from a backup")
            yield from override(service, "boot-stack-driver-disabled", key)


def _stack_file(guest: Guest, key: str, image: ImagePath) -> Optional[Finding]:
    path = image.path
    facts, why = guest.pe(path) if path else (None, "missing")
    if facts is not None and facts.machine == guest.windows.arch:
        return None
    if why.startswith("unreadable"):
        return Finding("file-unreadable", "refused", path, why, "uncompress it on the source: compact /u /exe")
    if why == "missing" and not image.certain:
        return _stack(key, "warning", "its ImagePath names no place on these disks that h2k knows", "kept as it is")
    evidence = f"is for {facts.machine}, Windows is {guest.windows.arch}" if facts is not None else why
    return _stack(key, "refused", f"{path}: {evidence}", "run sfc /scannow on the source")


def _stack(key: str, state: str, evidence: str, repair: str) -> Finding:
    return Finding("boot-stack-driver-disabled", state, key, evidence, repair)
