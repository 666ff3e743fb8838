"""What h2k does when virt-v2v has written its result: repair, prove, commit, write the domains and what stands beside them."""

from __future__ import annotations

import dataclasses

from h2k.base.errors import READY
from h2k.convert.outputs import Output
from h2k.engine.examination import RESULT
from h2k.engine.outcome import Outcome
from h2k.engine.pipeline import fix, look
from h2k.engine.request import Tools
from h2k.engine.runs import Run
from h2k.engine.write_domains import build_domains, next_commands, write_domains
from h2k.guest.guest import OTHER


def repair(run: Run, output: Output) -> Outcome:
    """Make the result ready on overlays, prove it, commit it, and write what belongs beside it. The findings of the
    source are in the run's report already, and stay first."""
    run.tools = for_result(run)
    run.accepts = output.accepts
    outcome = fix(run)
    if outcome.status != READY or "final" not in run.report.files:
        return outcome
    changed = bool(run.committed)
    run.committed = run.committed or outcome.sentence  # the domains are written: from here on nothing is refused
    output.finish(run.guest_files, run.report, run.steps.say)
    return dataclasses.replace(outcome, next=next_commands(run, changed))


def watch(run: Run) -> Outcome:
    """Only look: the record and the two domains, whatever was found. The guest and libvirt are left as they are."""
    run.tools = for_result(run)
    run.know_the_bus()
    seen = look(run, RESULT)
    if not seen.proposal.refused:
        write_domains(run, build_domains(run, seen), seen.windows)
    return seen.outcome


def for_result(run: Run) -> Tools:
    """Of several systems virt-v2v has converted one, and its XML names it: when that is none of Windows, Windows is
    not to be touched."""
    tools, domain = run.opened, run.domain
    system = domain.os_id if domain is not None else None
    if system is None or system.startswith("http://microsoft.com/"):
        return tools
    return dataclasses.replace(tools, request=dataclasses.replace(tools.request, root=OTHER))
