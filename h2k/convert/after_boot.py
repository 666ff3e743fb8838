"""--h2k-boot: the boot cycle right after a conversion that is ready."""

from __future__ import annotations

from h2k.base.errors import NOT_READY, READY
from h2k.boot.cycle import BootRequest, boot
from h2k.boot.record import next_commands
from h2k.boot.record import word as boot_word
from h2k.engine.outcome import Outcome
from h2k.engine.runs import Run


def boot_too(run: Run, outcome: Outcome) -> Outcome:
    """Boot both phases, as `h2k boot NAME.h2k` does; the outcome of a conversion that is not ready stays."""
    if outcome.status != READY or "bootstrap" not in run.report.files:
        return outcome
    run.committed = run.committed or outcome.sentence
    request = BootRequest(run.guest_files.state, policy=run.opened.policy)
    report = boot(request, run.steps, lambda what: run.commit(f"{outcome.sentence}; {what}"))
    run.report.more["boot"] = report.as_json()
    after = next_commands(report, run.guest_files.state) if report.status in (READY, NOT_READY) else outcome.next
    return Outcome(report.status, boot_word(report.status), f"{outcome.sentence}; {report.verdict}", after)
