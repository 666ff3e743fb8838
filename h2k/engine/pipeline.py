"""The way of the data: examine, propose, apply on overlays, verify through other code, commit, write the domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.steps import Steps, counted
from h2k.disk.open_reader import open_reader
from h2k.domain.facts import DomainFacts
from h2k.engine import outcome as outcomes
from h2k.engine.examination import RESULT, Examination, examine_guest, refuse_damaged
from h2k.engine.outcome import Outcome
from h2k.engine.preconditions import require_rights
from h2k.engine.proof import deep_findings, problems_of
from h2k.engine.report import guest_facts, windows_facts
from h2k.engine.request import Tools
from h2k.engine.runs import Run
from h2k.engine.write_domains import Domains, build_domains, next_commands, write_domains
from h2k.guest.guest import Guest

if TYPE_CHECKING:
    from h2k.disk.overlay import DiskSet

Images = Sequence[tuple[Path, Optional[str]]]


def examine(tools: Tools, images: Images, side: str, domain: Optional[DomainFacts]) -> Examination:
    """One read-only look at a guest's images; nothing is written."""
    with open_reader(images) as reader:
        return examine_guest(tools, Guest(reader, tools.request.root), side, domain)


def look(run: Run, side: str = RESULT) -> Examination:
    """Examine the guest of a run; the run's report is that of the examination."""
    with run.parts.open_reader(run.guest_files.images) as reader:
        return _examine(run, Guest(reader, run.opened.request.root), side)


def look_deep(run: Run) -> None:
    """Look at every cell of the hives too; what is found joins the report of the last look."""
    with run.parts.open_reader(run.guest_files.images) as reader:
        guest = Guest(reader, run.opened.request.root)
        known = {(f.id, f.subject) for f in run.report.findings}
        run.report.findings += [f for f in deep_findings(guest) if (f.id, f.subject) not in known]


def _examine(run: Run, guest: Guest, side: str) -> Examination:
    seen = examine_guest(run.opened, guest, side, run.domain)
    seen.report.findings = [*run.report.findings, *seen.report.findings]
    run.report, run.seen = seen.report, seen
    return seen


def fix(run: Run) -> Outcome:
    """Repair the guest on overlays of its images, prove the repair, commit it, and write the two domains.

    All that can be refused is refused before the first write: the domains are built before anything is applied. A
    guest that needs nothing gets no write. Raises H2kError with the disks as they were; after the commit
    `run.committed` says what was done.
    """
    files = run.guest_files
    run.know_the_bus()
    if not run.dry_run:
        require_rights(files)
    disks = run.parts.disk_set(files.writable(), files.state)
    if run.dry_run:
        return _fix(run, disks)
    with disks.held():  # before the guest is read: what is read must still be so when it is written
        disks.require_unused()
        finish_earlier(disks, run.steps)
        return _fix(run, disks)


def _fix(run: Run, disks: Any) -> Outcome:
    files = run.guest_files
    with run.parts.open_reader(files.images) as reader:
        guest = Guest(reader, run.opened.request.root)
        with run.steps.step("examine", "reading the guest"):
            seen = _examine(run, guest, RESULT)
        if run.dry_run or seen.proposal.refused:
            return seen.outcome
        domains = build_domains(run, seen)
        run.accepts(domains)
        if not seen.todo:
            return _healthy(run, seen, domains)
        refuse_damaged(guest)
        overlays = _applied(run, guest, seen, disks)
    problems = _proven(run, overlays, seen)
    if problems:
        disks.discard()
        return outcomes.of_repair(run.report.findings, len(seen.todo), problems)
    run.on_step("commit")
    with run.steps.step("commit", "saving the undo data and committing"):
        disks.commit(on_step=run.on_step)
    outcome = outcomes.of_repair(run.report.findings, len(seen.todo), ())
    run.committed = outcome.sentence
    return finished(run, seen, outcome, domains)


def _healthy(run: Run, seen: Examination, domains: Domains) -> Outcome:
    """Nothing is to be changed on the disks: ready, unless more is wrong than what the domains put right."""
    if not seen.windows:
        return finished(run, seen, seen.outcome, domains)
    if seen.proposal.broken and not outcomes.only_domains_wrong(run.report.findings, 0):
        return seen.outcome
    return finished(run, seen, outcomes.of_repair(run.report.findings, 0, ()), domains)


def finished(run: Run, seen: Examination, outcome: Outcome, domains: Domains) -> Outcome:
    """Write the domains of a guest that is ready, and tell the next commands."""
    write_domains(run, domains, seen.windows)
    run.report.findings = outcomes.settled(run.report.findings, outcome)
    return Outcome(outcome.status, outcome.word, outcome.sentence, next_commands(run, bool(run.committed)))


def _applied(run: Run, guest: Guest, seen: Examination, disks: Any) -> Sequence[Path]:
    """The changes carried out on overlays; when that fails the overlays are gone."""
    run.steps.say(f"repairing {', '.join(dict.fromkeys(f.id for f in seen.proposal.broken)) or 'the guest'}")
    overlays: Sequence[Path] = disks.create_overlays()
    try:
        apply_all(run, guest, seen, overlays)
    except (H2kError, OSError):
        disks.discard()
        raise
    return overlays


def apply_all(run: Run, guest: Guest, seen: Examination, overlays: Sequence[Path]) -> None:
    """Back up the BCD, and carry the changes out on the overlays."""
    from h2k.engine.apply import Backups  # what only looks does without the writers

    backups = Backups(run.guest_files.state / "backup")
    if guest.has_hive("BCD"):
        backups.keep("BCD", guest.hive_bytes("BCD"))
    run.on_step("apply")
    with run.steps.step("apply", f"{counted(len(seen.todo), 'change')} on an overlay"):
        run.parts.apply(overlays, guest, seen.todo, backups, run.opened.policy.writer, run.steps.say)


def _proven(run: Run, overlays: Sequence[Path], seen: Examination) -> list[str]:
    run.on_step("verify")
    with run.steps.step("verify", "reading the overlay back through other code"):
        images = [(overlay, "qcow2") for overlay in overlays]
        return problems_of(run.opened, images, seen.todo, run.domain, run.parts.open_reader)


def finish_earlier(disks: DiskSet, steps: Steps) -> None:
    """Finish or throw away what an earlier run left on these disks; Refused while a boot's overlays are kept on them:
    the guest's newest state is there, and a write below would spoil it."""
    ended = disks.recover()
    if ended == "kept":
        raise Refused(
            f"{disks.state_dir}: the overlays of a boot are kept, and these disks are below them",
            hint=f"h2k boot {disks.state_dir} commits them, h2k rollback {disks.state_dir} throws them away",
        )
    if ended != "clean":
        steps.say(f"an unfinished run was found and {ended}")


def facts_of(images: Images) -> dict[str, Any]:
    """What `h2k inspect` shows: the guest's facts, with Windows' version when its hives can be read."""
    with open_reader(images) as reader:
        guest = Guest(reader)
        facts = guest_facts(guest)
        if guest.is_windows and len(guest.system_roots) == 1:
            facts.update(windows_facts(guest))
        return facts
