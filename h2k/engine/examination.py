"""One read-only look at a guest: what the hooks propose, what is still to do, and the facts."""

from __future__ import annotations

import dataclasses
from typing import Optional

from h2k.base.errors import BadData, Refused
from h2k.disk.image import damage
from h2k.domain.facts import DomainFacts
from h2k.engine.hooks import Proposal, propose
from h2k.engine.outcome import Outcome, not_windows, of_result, of_source
from h2k.engine.report import Report, digests_of, guest_facts, installed_drivers, windows_facts
from h2k.engine.request import Tools
from h2k.guest.changes import Change, as_json, pending
from h2k.guest.guest import Guest

SOURCE, RESULT = "source", "result"
# Findings that a conversion answers by installing drivers: no fault of a source that never ran on KVM.
_INSTALLED = ("driver-", "device-", "nic-driver-missing", "bootstrap-controller-not-boot-start")


@dataclasses.dataclass(frozen=True)
class Examination:
    """What the hooks proposed for one guest, the changes that do not hold yet, and the report of it so far.

    `side` is SOURCE before the copy and RESULT after it; `system` names a guest that is not Windows.
    """

    proposal: Proposal
    todo: tuple[Change, ...]
    report: Report
    side: str = RESULT
    system: str = ""

    @property
    def windows(self) -> bool:
        """Whether it is Windows, and so any business of h2k's."""
        return not self.system

    @property
    def repairs(self) -> tuple[str, ...]:
        """The ids of what is wrong with a source itself, and will be repaired."""
        return tuple(dict.fromkeys(f.id for f in self.proposal.broken if not f.id.startswith(_INSTALLED)))

    @property
    def outcome(self) -> Outcome:
        """How a run ends that only looks."""
        if self.system:
            return not_windows(self.system)
        if self.side == SOURCE:
            return of_source(self.report.findings, installed_drivers(self.todo), self.repairs)
        return of_result(self.report.findings, len(self.todo))


def examine_guest(tools: Tools, guest: Guest, side: str, domain: Optional[DomainFacts]) -> Examination:
    """Ask the hooks about a guest that is open; nothing is written."""
    report = Report(guest=guest_facts(guest))
    if domain is not None:
        report.guest["name"] = domain.name
    if guest.is_other or not (guest.is_windows or guest.volumes("bitlocker") or guest.managed_disks):
        refuse_damaged(guest)
        system = domain.os_id if domain is not None and domain.os_id else "another system, or none"
        report.guest["system"] = system
        return Examination(Proposal((), (), ()), (), report, side, system)
    proposal = propose(tools.hooks, guest, tools.options(side, domain), tools.request.skip)
    todo = () if proposal.refused else pending(proposal.changes, guest)
    if not proposal.refused:
        facts = windows_facts(guest)
        report.guest.update(facts, windows_name=facts["name"], name=domain.name if domain is not None else facts["name"])
    report.findings = list(proposal.findings)
    report.changes = [as_json(change, guest) for change in todo]
    report.digests = digests_of(todo)
    report.settings = [dataclasses.asdict(s) for s in proposal.settings]
    report.documents = {d.name: d.content for d in proposal.documents}
    return Examination(proposal, todo, report, side)


def refuse_damaged(guest: Guest) -> None:
    """Refused for an image that was cut short or is corrupt; asked where nothing is found, and before a write."""
    for disk in guest.disks:
        wrong = damage(disk.info)
        if wrong:
            raise Refused(f"{disk.info.path}: the image is damaged: {wrong}", hint="copy it from the source again")
        if disk.table.fault and not guest.is_windows:
            raise BadData(disk.table.fault)
