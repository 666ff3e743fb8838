"""The way of the data: examine, propose, apply on an overlay, verify through other code, commit, emit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import NOT_READY, NOT_VERIFIED, READY, REFUSED, BadData, H2kError, Refused
from h2k.base.finding import Finding
from h2k.base.host import virtio_win_path
from h2k.base.steps import Steps, counted
from h2k.config.driver_plan import Plan, load_plan
from h2k.config.hyper2kvm import Brought, read_hyper2kvm
from h2k.config.policy import Policy, load_policy
from h2k.disk.image import damage
from h2k.disk.open_reader import open_reader
from h2k.disk.overlay import DiskSet
from h2k.domain.facts import DomainFacts
from h2k.engine.apply import Backups, apply
from h2k.engine.catalogue import in_domain
from h2k.engine.hooks import Hook, Options, Proposal, find_hooks, propose
from h2k.engine.report import Report, guest_facts, windows_facts
from h2k.guest.changes import Change, as_json, pending
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource, open_source
from h2k.windows import regf

Images = Sequence[tuple[Path, Optional[str]]]
BUSES = ("virtio", "virtio-scsi", "sata")


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for, the same for every command."""

    bus: str = "virtio"
    drivers: Optional[str] = None
    plans: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    root: Optional[str] = None
    config: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Tools:
    """The request, opened: hooks loaded, plan merged, driver source at hand."""

    request: Request
    hooks: tuple[Hook, ...]
    plan: Plan
    drivers: Optional[DriverSource]
    drivers_path: Optional[Path]
    policy: Policy = Policy()

    def options(self, phase: str, domain: Optional[DomainFacts]) -> Options:
        """The options that the hooks of this run get."""
        return Options(
            plan=self.plan,
            bus=self.request.bus,
            drivers=self.drivers,
            phase=phase,
            domain=domain,
            accept=frozenset(self.request.accept),
            policy=self.policy,
        )


@contextmanager
def open_tools(request: Request) -> Iterator[Tools]:
    """Load hooks and plans and open the driver source; UsageError before anything else is touched."""
    hooks = find_hooks([Path(h) for h in request.hooks])
    brought = read_hyper2kvm(Path(request.config)) if request.config is not None else Brought()
    plan = load_plan([*filter(None, [brought.plan]), *map(Path, request.plans)])
    policy = load_policy([*filter(None, [brought.policy]), *map(Path, request.policies)])
    path = virtio_win_path(request.drivers or brought.drivers)
    if path is None:
        yield Tools(request, hooks, plan, None, None, policy)
        return
    with open_source(path) as drivers:
        yield Tools(request, hooks, plan, drivers, path, policy)


@dataclasses.dataclass(frozen=True)
class Examination:
    """One read-only look at a guest: what the hooks proposed, what is still to do, and the facts."""

    proposal: Proposal
    todo: tuple[Change, ...]
    windows: bool
    report: Report


def examine(tools: Tools, images: Images, phase: str, domain: Optional[DomainFacts]) -> Examination:
    """Examine and propose; nothing is written."""
    with open_reader(images) as reader:
        return _examine(tools, Guest(reader, tools.request.root), phase, domain)


def _examine(tools: Tools, guest: Guest, phase: str, domain: Optional[DomainFacts]) -> Examination:
    report = Report(guest=guest_facts(guest))
    if guest.is_other or not (guest.is_windows or guest.volumes("bitlocker")):
        refuse_damaged(guest)
        system = domain.os_id if domain is not None and domain.os_id else "another system, or none"
        report.guest["system"] = system
        report.verdict = f"not Windows ({system}): left as it is"
        return Examination(Proposal((), (), ()), (), False, report)
    proposal = propose(tools.hooks, guest, tools.options(phase, domain), tools.request.skip)
    todo = () if proposal.refused else pending(proposal.changes, guest)
    if not proposal.refused:
        report.guest.update(windows_facts(guest))
    report.findings = list(proposal.findings)
    report.changes = [as_json(change, guest) for change in todo]
    report.settings = [dataclasses.asdict(s) for s in proposal.settings]
    report.documents = {d.name: d.content for d in proposal.documents}
    return Examination(proposal, todo, True, report)


def refuse_damaged(guest: Guest) -> None:
    """Refused for an image that was cut short or is corrupt; asked where nothing is found, and before a write."""
    for disk in guest.disks:
        wrong = damage(disk.info)
        if wrong:
            raise Refused(f"{disk.info.path}: the image is damaged: {wrong}", hint="copy it from the source again")


def assess(seen: Examination) -> Report:
    """The status and the verdict of a look alone (plan, verify, report mode)."""
    report = seen.report
    if not seen.windows:
        return report
    if seen.proposal.refused:
        report.status = REFUSED
        report.verdict = _because(seen.proposal.refused)
    elif seen.todo or seen.proposal.broken:
        report.status = NOT_READY
        because = f": {_because(seen.proposal.broken)}" if seen.proposal.broken else ""
        report.verdict = f"{counted(len(seen.todo), 'change')} to make{because}"
    else:
        report.verdict = "healthy: every check holds"
    return report


def _because(findings: Sequence[Finding]) -> str:
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    way_out = f"; {first.repair}" if first.repair and first.state == "refused" else ""
    return f"{first.id}, {first.subject}: {first.evidence}{way_out}{more}"


def finish_earlier(disks: DiskSet, steps: Steps) -> None:
    """Finish or throw away what an earlier run left on these disks; Refused while a boot's overlays are kept on them:
    the guest's newest state is there, and a write below would spoil it."""
    ended = disks.recover()
    if ended == "kept":
        raise Refused(
            f"{disks.state_dir}: the overlays of a boot are kept, and these disks are below them",
            hint=f"h2k boot {disks.state_dir} commits them, h2k rollback throws them away",
        )
    if ended != "clean":
        steps.say(f"an unfinished run was found and {ended}")


def fix(
    tools: Tools,
    images: Sequence[tuple[Path, str]],
    state: Path,
    steps: Steps,
    domain: Optional[DomainFacts] = None,
    dry_run: bool = False,
    on_step: Optional[Callable[[str], None]] = None,
) -> Examination:
    """Repair the guest on overlays of its images, prove the repair, commit it; the report says how it ended.

    `state` is the report directory (NAME.h2k). A guest that needs nothing gets no appliance and no write.
    `on_step` hears the name of each step that the engine is about to take.
    """
    disks = DiskSet(images, state)
    if dry_run:
        return _fix(tools, disks, images, state, steps, domain, True, on_step)
    with disks.held():  # before the guest is read: what is read must still be so when it is written
        finish_earlier(disks, steps)
        disks.require_unused()
        return _fix(tools, disks, images, state, steps, domain, False, on_step)


def _fix(
    tools: Tools, disks: DiskSet, images: Images, state: Path, steps: Steps, domain: Optional[DomainFacts], dry_run: bool,
    on_step: Optional[Callable[[str], None]],
) -> Examination:  # fmt: skip
    mark = on_step or (lambda name: None)
    with open_reader(images) as reader:
        guest = Guest(reader, tools.request.root)
        with steps.step("examine", "reading the guest"):
            seen = _examine(tools, guest, "result", domain)
        report = assess(seen)
        if not seen.windows or report.status != NOT_READY or dry_run:
            return seen
        if not seen.todo:
            settle_in_domain(seen)
            return seen
        refuse_damaged(guest)
        steps.say(f"repairing {', '.join(dict.fromkeys(f.id for f in seen.proposal.broken)) or 'the guest'}")
        overlays = disks.create_overlays()
        backups = Backups(state / "backup")
        if guest.has_hive("BCD"):
            backups.keep("BCD", guest.hive_bytes("BCD"))
        mark("apply")
        try:
            with steps.step("apply", f"{counted(len(seen.todo), 'change')} on an overlay, in one libguestfs session"):
                apply(overlays, guest, seen.todo, backups)
        except (H2kError, OSError):
            disks.discard()
            raise
    mark("verify")
    with steps.step("verify", "reading the overlay back through other code"):
        problems = verify_overlay(tools, overlays, seen, domain)
    if problems:
        disks.discard()
        report.status = NOT_VERIFIED
        report.verdict = f"the repair did not verify and was thrown away: {problems[0]}"
        return seen
    mark("commit")
    with steps.step("commit", "saving the undo data and committing"):
        disks.commit(on_step=on_step)
    report.status = READY
    report.verdict = f"repaired and verified: {counted(len(seen.todo), 'change')}"
    report.findings = [f.with_state("repaired") if f.state == "broken" else f for f in report.findings]
    return seen


def settle_in_domain(seen: Examination) -> None:
    """Nothing on the disks is to be changed: the guest is ready if all that is wrong is wrong in the domain, for
    h2k's two domains are written right."""
    if all(in_domain(f.id) for f in seen.proposal.broken):
        seen.report.status = READY
        seen.report.verdict = f"the disks are healthy; right in h2k's domains: {_because(seen.proposal.broken)}"
        seen.report.findings = [f.with_state("repaired") if f.state == "broken" else f for f in seen.report.findings]


def verify_overlay(
    tools: Tools, overlays: Sequence[Path], seen: Examination, domain: Optional[DomainFacts]
) -> list[str]:
    """Every problem that the overlays still show: unsound hives, changes that do not hold, findings that remain."""
    problems: list[str] = []
    with open_reader([(overlay, "qcow2") for overlay in overlays]) as reader:
        guest = Guest(reader, tools.request.root)
        touched = {change.hive for change in seen.todo if hasattr(change, "hive")}
        try:
            for name in sorted(touched):
                problems += regf.check(guest.hive_bytes(name), name, deep=True)
                if guest.hive(name).state != "clean":
                    problems.append(f"{name} is {guest.hive(name).state}")
            problems += [f"does not hold: {c.diff(guest)}" for c in seen.todo if not c.holds(guest)]
            again = propose(tools.hooks, guest, tools.options("result", domain), tools.request.skip)
        except BadData as bad:
            return [*problems, str(bad)]
        remaining = (*again.refused, *(f for f in again.broken if not in_domain(f.id)))
        problems += [f"{f.id}, {f.subject}: {f.evidence}" for f in remaining]
        problems += [f"still to do: {c.diff(guest)}" for c in pending(again.changes, guest)]
    return problems


def facts_of(images: Images) -> dict[str, Any]:
    """What `h2k inspect` shows: the guest's facts, with Windows' version when its hives can be read."""
    with open_reader(images) as reader:
        guest = Guest(reader)
        facts = guest_facts(guest)
        if guest.is_windows and len(guest.system_roots) == 1:
            facts.update(windows_facts(guest))
        return facts
