"""What the disks say of the boot that ended, read offline through h2k's own reader: it decides whether the next begins."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, H2kError
from h2k.base.files import write_bytes
from h2k.base.text import shown
from h2k.boot.com1 import Signal
from h2k.boot.hardware import PciDevice, compare
from h2k.config.driver_plan import load_plan
from h2k.disk.open_reader import open_reader
from h2k.engine.hooks import Options, find_hooks, propose
from h2k.guest.guest import Guest
from h2k.windows import first_boot, first_boot_steps
from h2k.windows.pnp import find_binding
from h2k.windows.regf import Key
from h2k.windows.services import control_set_name, read_service

MARKERS = f"{first_boot.DIRECTORY}/done"
VIRTIO = 0x1AF4
DISABLED = 4  # a service's Start
# Enum …\ConfigFlags (cfg.h of the Windows driver kit): disabled 0x1, removed 0x2, reinstall 0x20, failed install 0x40.
BAD_CONFIG_FLAGS = 0x63
LOG_LIMIT = 16 * 1024 * 1024  # bytes of one log that is taken out of the guest
LOGS = ("/INF/setupapi.dev.log", "/Panther/setupact.log")
MAX_LOGS = 32


@dataclasses.dataclass(frozen=True)
class Check:
    """One step: "passed", "failed", "skipped" when it was left out, or "unknown" when it could not be observed. Its texts
    are fit to be shown, whatever the guest put into them."""

    name: str
    state: str
    subject: str
    evidence: str

    def __post_init__(self) -> None:
        for name in ("subject", "evidence"):
            object.__setattr__(self, name, shown(getattr(self, name)))

    def as_json(self) -> dict[str, Any]:
        """The check as boot.json and validation.json have it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the disks say after a boot; `expects_signals`: whether the next boot goes on with first-boot steps."""

    checks: tuple[Check, ...]
    expects_signals: bool = False

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.state == "failed")


def expects_signals(guest: Guest) -> bool:
    """Whether the guest's next boot runs our first-boot steps, whose signals then must come."""
    number = guest.control_sets.default
    service = read_service(guest.system, number, first_boot.SERVICE)
    deleted = guest.system.value(f"{control_set_name(number)}\\Services\\{first_boot.SERVICE}", "DeleteFlag")
    return service is not None and service.start is not None and service.start < DISABLED and deleted is None


def finding_ids(report: Mapping[str, Any]) -> frozenset[str]:
    """The ids of what a report.json says is not as it should be."""
    findings = report.get("findings")
    listed = [f for f in findings if isinstance(f, dict)] if isinstance(findings, list) else []
    return frozenset(str(f.get("id")) for f in listed if f.get("state") != "ok")


def recorded_disks(report: Mapping[str, Any]) -> list[Path]:
    """The disks that a report.json names by absolute paths."""
    guest = report.get("guest")
    disks = guest.get("disks") if isinstance(guest, dict) else None
    paths = [Path(str(disk.get("path"))) for disk in disks if isinstance(disk, dict)] if isinstance(disks, list) else []
    return paths if all(path.is_absolute() for path in paths) else []


def collect(
    images: Sequence[tuple[Path, str]],
    controllers: Sequence[PciDevice],
    signals: Sequence[Signal],
    stepped: bool,
    last: bool,
    logs: Path,
) -> Evidence:
    """What the disks show after a boot: each VirtIO storage controller of the final domain bound and its driver
    starting at boot, the first-boot steps done (if `stepped`: they were to run), and the volumes left in order.

    `signals` are those of all boots so far. A step may be left to the next boot unless this was the `last`. The
    guest's own logs are copied to the directory `logs`. What can't be read is a failed check.
    """
    try:
        with open_reader(images) as reader:
            guest = Guest(reader)
            checks = list(_left_in_order(guest))
            if any(check.state == "failed" for check in checks):
                return Evidence(tuple(checks))
            for device in controllers:
                checks += _driver(guest, device)
            if stepped:
                checks += _steps(guest, signals, last)
            keep_logs(guest, logs)
            return Evidence(tuple(checks), expects_signals(guest))
    except H2kError as e:
        return Evidence((Check("disks-readable", "failed", str(images[0][0]), str(e)),))


def _left_in_order(guest: Guest) -> Iterator[Check]:
    """A machine that was shut down cleanly leaves no hibernation, no dirty volume and no broken hive."""
    asked = [hook for hook in find_hooks() if hook.gate]
    refused = propose(asked, guest, Options(plan=load_plan([]))).refused
    for finding in refused:
        yield Check("shut-down-cleanly", "failed", f"{finding.id}, {finding.subject}", finding.evidence)
    if not refused:
        yield Check("shut-down-cleanly", "passed", "volumes and hives", "neither hibernated, nor dirty, nor damaged")


def _driver(guest: Guest, device: PciDevice) -> Iterator[Check]:
    for finding in compare(guest, "final", [device]):
        state = "passed" if finding.state == "ok" else "failed"
        yield Check("driver-starts-at-boot", state, f"{device.model} {device.pci}", finding.evidence)
    if device.pci.vendor == VIRTIO:
        yield _bound(guest, device)


def _bound(guest: Guest, device: PciDevice) -> Check:
    """Plug and Play has met the device and given it the driver that will start it."""
    number = guest.control_sets.current
    place = f"{control_set_name(number)}\\Enum\\PCI"
    wanted = {b.service.lower() for b in find_binding(guest.system, number, device.pci.ids()) if b.service}
    seen = [
        (f"{place}\\{function.name}\\{instance.name}", *_instance(instance))
        for function in _functions(guest.system.key(place), device)
        for instance in function.subkeys()
    ]
    for path, service, flags in seen:
        if service.lower() in wanted and not flags & BAD_CONFIG_FLAGS:
            return Check("virtio-bound", "passed", f"{device.model} {device.pci}", f"{path}: Service {service}")
    evidence = "; ".join(
        f"{path}: " + (f"Service {service}" if service else "no Service") + (f", ConfigFlags {flags:#x}" if flags else "")
        for path, service, flags in seen[:3]
    )
    nothing = f"{place} has no instance of {device.pci.name}: Windows never met it"
    return Check("virtio-bound", "failed", f"{device.model} {device.pci}", evidence or nothing)


def _functions(pci: Optional[Key], device: PciDevice) -> list[Key]:
    prefix = f"{device.pci.name}&"
    return [key for key in pci.subkeys() if key.name.upper().startswith(prefix)] if pci is not None else []


def _instance(key: Key) -> tuple[str, int]:
    return key.text("Service", ""), key.dword("ConfigFlags", 0)


def _steps(guest: Guest, signals: Sequence[Signal], final: bool) -> Iterator[Check]:
    """Each step as the disk has it: its marker says that it ended. A signal alone is told, not seen: anything in the
    guest can write to a serial port; that a step failed is believed, though."""
    last = {signal.step: signal for signal in signals}
    for step in first_boot_steps.WORK:
        yield _step(guest, step, last.get(step), final)
    yield _done(guest, last.get("done"), final)


def _step(guest: Guest, step: str, signal: Optional[Signal], final: bool) -> Check:
    name, marker = f"first-boot: {step}", guest.stat(f"{MARKERS}/{step}")
    told = f"told: {signal.state}" + (f", {signal.detail}" if signal.detail else "") if signal is not None else "no signal"
    if signal is not None and signal.state == "failed":
        return Check(name, "failed" if final and step not in first_boot_steps.OPTIONAL else "unknown", step, told)
    if marker is not None:
        state = "skipped" if signal is not None and signal.state == "skipped" else "passed"
        return Check(name, state, step, f"{marker.path} is there; {told}")
    return Check(name, "unknown", step, f"{told}, not seen: no marker" if signal is not None else "no signal and no marker")


def _done(guest: Guest, signal: Optional[Signal], final: bool) -> Check:
    marker = guest.stat(f"{MARKERS}/done")
    detail = f"told: {signal.state}, {signal.detail}" if signal is not None else "no signal"
    if marker is not None:
        return Check("first-boot: done", "passed", "done", f"{marker.path} is there; {detail}")
    if signal is not None and not final:
        return Check("first-boot: done", "unknown", "done", f"{detail}; not seen: no marker, the next boot goes on")
    return Check("first-boot: done", "failed", "done", f"{MARKERS}/done is missing; {detail}")


def keep_logs(guest: Guest, directory: Path) -> list[Path]:
    """Copy the guest's logs (device installation, first boot) into a directory; what can't be read is left out."""
    paths = [f"{guest.system_root}{path}" for path in LOGS]
    with contextlib.suppress(BadData):  # the directory is there once our first-boot runner was
        paths += [entry.path for entry in guest.reader.listdir(guest.volume, first_boot.DIRECTORY) if entry.path.endswith(".log")]
    kept: list[Path] = []
    for path in paths[:MAX_LOGS]:
        stat = guest.stat(path)
        if stat is None or stat.directory or not stat.readable or stat.size > LOG_LIMIT:
            continue
        try:
            data = guest.reader.read(guest.volume, path, LOG_LIMIT)
        except BadData:
            continue
        directory.mkdir(parents=True, exist_ok=True)
        # Never the guest's own name as a host path: its last component, of harmless characters.
        name = "".join(c if c.isalnum() or c in ".-_" else "_" for c in path.rsplit("/", 1)[-1])[:80].lstrip(".")
        write_bytes(directory / name, data)
        kept.append(directory / name)
    return kept
