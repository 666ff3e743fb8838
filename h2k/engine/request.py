"""What the user asked for, and the same opened: hooks loaded, plan and policy merged, driver source at hand."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.host import runner_programs, virtio_win_path
from h2k.base.option_table import OPTIONS, did_you_mean
from h2k.config.driver_plan import Plan, load_plan
from h2k.config.hyper2kvm import Brought, read_hyper2kvm
from h2k.config.policy import Policy, load_policy
from h2k.disk.reach import allow_under
from h2k.domain.facts import DomainFacts
from h2k.domain.firmware import choose_firmware
from h2k.domain.uefi_variables import TrustedKeys, read_trusted
from h2k.engine.catalogue import known_ids, never_accepted
from h2k.engine.hooks import Hook, Options, find_hooks
from h2k.guest.virtio_win import DriverSource, open_source
from h2k.windows.first_boot import Runner
from h2k.windows.pe import read_pe

MAX_RUNNER = 4 * 1024 * 1024  # bytes; rhsrvany.exe has 30 KiB

log = logging.getLogger("h2k.request")


@dataclasses.dataclass(frozen=True)
class Request:
    """What shapes a look at a guest, the same for every command: the rows of the option table that say `request`.

    `bus` None is what the guest's description says, else virtio.
    """

    bus: Optional[str] = None
    drivers: Optional[str] = None
    plans: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    allow_under: tuple[str, ...] = ()
    root: Optional[str] = None
    config: Optional[str] = None
    keys: bool = False  # virt-v2v was given keys of encrypted volumes

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """The request in parsed options, of which the others are ignored; lists become tuples."""
        allow_under(given.get("allow_under") or ())  # from here on, for the images are opened in many places
        fields = {o.field: given.get(o.field) for o in OPTIONS if o.request}
        wishes: dict[str, Any] = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in fields.items() if v}
        return cls(**wishes)


@dataclasses.dataclass(frozen=True)
class Tools:
    """The request, opened; `source` is what the hooks settled about the source, once it was looked at."""

    request: Request
    hooks: tuple[Hook, ...]
    plan: Plan
    drivers: Optional[DriverSource]
    drivers_path: Optional[Path]
    policy: Policy = Policy()
    runner: Optional[Runner] = None
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def bus(self) -> str:
        """The bus of the final disks."""
        return self.request.bus or "virtio"

    def options(self, side: str, domain: Optional[DomainFacts]) -> Options:
        """The options that the hooks of this run get."""
        return Options(
            plan=self.plan,
            bus=self.bus,
            drivers=self.drivers,
            phase=side,
            domain=domain,
            accept=frozenset(self.request.accept),
            policy=self.policy,
            keys=self.request.keys,
            runner=self.runner,
            trusted=_trusted(domain),
            source=self.source,
        )


def _trusted(domain: Optional[DomainFacts]) -> Optional[TrustedKeys]:
    """What the variables trust that a domain with Secure Boot would get; None without it, or where they can't be read."""
    if domain is None or not domain.secure_boot:
        return None
    try:
        return read_trusted(choose_firmware(secure_boot=True).template)
    except H2kError as e:
        log.debug("%s", e)
        return None


@contextmanager
def open_tools(request: Request) -> Iterator[Tools]:
    """Load hooks and plans and open the driver source; UsageError before anything else is touched."""
    allow_under(request.allow_under)  # in a worker of the pool, too
    hooks = find_hooks([Path(h) for h in request.hooks])
    request = dataclasses.replace(request, skip=_skipped(request.skip, hooks), accept=_accepted(request.accept, hooks))
    brought = read_hyper2kvm(Path(request.config)) if request.config is not None else Brought()
    plan = load_plan([*filter(None, [brought.plan]), *map(Path, request.plans)])
    policy = load_policy([*filter(None, [brought.policy]), *map(Path, request.policies)])
    path = virtio_win_path(request.drivers or brought.drivers)
    if path is None:
        yield Tools(request, hooks, plan, None, None, policy, _host_runner())
        return
    with open_source(path) as drivers:
        yield Tools(request, hooks, plan, drivers, path, policy, _host_runner())


def _host_runner() -> Optional[Runner]:
    """The program that runs a first boot as a service, from where virt-v2v looks for it; UsageError when unreadable."""
    path = runner_programs()
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_RUNNER:
            raise UsageError(f"{path}: {path.stat().st_size} bytes are too many for {path.name}")
        data = path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: can't be read: {e.strerror}") from e
    try:
        machine = read_pe(data, str(path)).machine
    except BadData:
        machine = ""  # none that we know: virt-v2v takes the file as it is
    return Runner(path.name, data, machine)


def named_hook(name: str, hooks: Sequence[Hook]) -> Optional[Hook]:
    """The hook of that name: its own (boot-storage), or its file's (30-boot-storage.py), as `h2k hooks list` prints it."""
    return next((h for h in hooks if name in (h.name, h.path.name, h.path.stem)), None)


def _skipped(names: Sequence[str], hooks: Sequence[Hook]) -> tuple[str, ...]:
    found = []
    for name in names:
        hook = named_hook(name, hooks)
        if hook is None:
            raise UsageError(f"--h2k-skip {name}: no such hook", hint=did_you_mean(name, [h.name for h in hooks]))
        found.append(hook.name)
    return tuple(found)


def _accepted(ids: Sequence[str], hooks: Sequence[Hook]) -> tuple[str, ...]:
    known = known_ids() | {found for hook in hooks for found in hook.answers}
    for found in ids:
        if found not in known:
            raise UsageError(f"--h2k-accept {found}: no such finding", hint=did_you_mean(found, known, "h2k explain"))
        if never_accepted(found):
            raise UsageError(f"--h2k-accept {found}: this refusal can't be overridden", hint=f"h2k explain {found}")
    return tuple(ids)
