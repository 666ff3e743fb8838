"""What h2k does when virt-v2v has written its result: repair, prove, commit, write the two domains, report."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence

from h2k.base.errors import FAILED, READY, H2kError
from h2k.base.finding import Finding
from h2k.base.steps import Steps
from h2k.convert.outputs import Output
from h2k.domain.guest_files import GuestFiles
from h2k.engine.pipeline import Examination, Tools, assess, examine, fix
from h2k.engine.report import Report
from h2k.engine.write_domains import emit, print_outcome
from h2k.guest.guest import OTHER


def repair(tools: Tools, output: Output, target: GuestFiles, findings: Sequence[Finding], steps: Steps) -> Report:
    """Make the result ready on overlays, prove it, commit it, and write what belongs beside it. `findings` are those
    of the source, and come first in the report."""
    seen = fix(for_result(tools, target), target.writable(), target.state, steps, target.domain)
    return _finish(tools, output, target, seen, findings, steps)


def watch(tools: Tools, target: GuestFiles, findings: Sequence[Finding], steps: Steps) -> Report:
    """Only look: the report and the two domains, whatever was found. The guest and libvirt are left as they are."""
    seen = examine(for_result(tools, target), target.images, "result", target.domain)
    report = assess(seen)
    report.findings = [*findings, *report.findings]
    emit(tools, target, seen, steps, whatever=True)
    report.timings = steps.timings
    report.write(target.state)
    return report


def _finish(
    tools: Tools, output: Output, target: GuestFiles, seen: Examination, findings: Sequence[Finding], steps: Steps
) -> Report:
    report = seen.report
    report.findings = [*findings, *report.findings]
    if target.domain is not None:
        report.guest.setdefault("name", target.domain.name)
    try:
        emit(tools, target, seen, steps)
        if report.status == READY:
            output.finish(target, seen)
    except H2kError as e:
        report.status, report.verdict = e.exit_status or FAILED, f"{report.verdict}; but {e}"
    report.timings = steps.timings
    report.write(target.state)
    return report


def for_result(tools: Tools, target: GuestFiles) -> Tools:
    """Of several systems virt-v2v has converted one, and its XML names it: when that is none of Windows, Windows is
    not to be touched."""
    system = target.domain.os_id if target.domain is not None else None
    if system is None or system.startswith("http://microsoft.com/"):
        return tools
    return dataclasses.replace(tools, request=dataclasses.replace(tools.request, root=OTHER))


def tell(report: Report, aside: bool = False, plan: bool = False) -> None:
    """The outcome for people; `aside` from standard output where a script reads that as virt-v2v's."""
    with contextlib.redirect_stdout(sys.stderr) if aside else contextlib.nullcontext():
        print_outcome(report, plan=plan)
