"""h2k-v2v: preflight, virt-v2v with the user's own arguments, the repair, the two domains, the report."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional, TypeVar

from h2k import v2v
from h2k.disk.overlay import DiskSet
from h2k.domain import DomainFacts
from h2k.emit import emit, print_outcome
from h2k.errors import FAILED, READY, REFUSED, H2kError, UsageError
from h2k.finding import Finding
from h2k.heal import command_for, healed, replays
from h2k.host import guestfs_settings, runner_programs
from h2k.options import H2kOptions
from h2k.pipeline import Look, Request, Tools, assess, fix, look, open_tools
from h2k.run import pass_through
from h2k.steps import Steps
from h2k.target import Target, name_of, open_target, result_of, source_of

T = TypeVar("T")
# Guest tools that virt-v2v uninstalls by a first-boot script (its convert_windows.ml).
UNINSTALLED = ("VMware Tools", "Parallels Tools")


def main_v2v(argv: Sequence[str]) -> int:
    """The wrapper h2k-v2v: virt-v2v's arguments and ours in, exit status out."""
    try:
        command = v2v.parse(argv)
        if command.informational:
            return pass_through(["virt-v2v", *command.passed])
        if command.h2k.mode == "report":
            return _watch(command)
        return _convert(command)
    except H2kError as e:
        print(f"h2k-v2v: {e}", file=sys.stderr)
        return e.exit_status
    except KeyboardInterrupt:
        print("h2k-v2v: interrupted; the same command goes on or cleans up", file=sys.stderr)
        return FAILED


def _request(wishes: H2kOptions) -> Request:
    return Request(wishes.bus, wishes.drivers, wishes.plans, wishes.hooks, wishes.skip, wishes.accept, wishes.policies)


# To watch h2k before it is trusted: what a script sees of virt-v2v stays as it was


def _watch(command: v2v.V2vCommand) -> int:
    """Report mode: look and report, refuse nothing, write nothing to the guest, end as virt-v2v did."""
    steps = Steps()
    guestfs_settings()
    source = _attempt(steps, lambda: _seen_source(command, steps))
    status = pass_through(["virt-v2v", *command.passed])
    if status == 0 and command.output_mode == "local":
        _attempt(steps, lambda: _report_result(command, source, steps))
    return status


def _attempt(steps: Steps, what: Callable[[], T]) -> Optional[T]:
    """In report mode h2k's own failures are told and stop nothing."""
    try:
        return what()
    except H2kError as e:
        steps.say(str(e))
        return None


def _seen_source(command: v2v.V2vCommand, steps: Steps) -> Optional[Target]:
    source = source_of(command)
    if source is not None:
        with open_tools(_request(command.h2k)) as tools:
            seen = _preflight(tools, source, steps)
            steps.say(f"the source: {assess(seen).verdict}")
    return source


def _report_result(command: v2v.V2vCommand, source: Optional[Target], steps: Steps) -> None:
    target = _result(command, source)
    with open_tools(_request(command.h2k)) as tools:
        seen = look(tools, target.images, "result", target.domain)
        report = assess(seen)
        emit(tools, target, seen, steps, whatever=True)
    report.timings = steps.timings
    report.write(target.state)
    print_outcome(report)


# The conversion


def _convert(command: v2v.V2vCommand) -> int:
    wishes, steps = command.h2k, Steps()
    if command.output_mode != "local":
        raise UsageError(
            f"-o {command.output_mode}: h2k-v2v repairs what -o local wrote",
            hint="use -o local -os DIR; or --h2k-mode report to let virt-v2v run as ever",
        )
    settings = guestfs_settings()
    if settings:
        steps.say(settings)
    with open_tools(_request(wishes)) as tools:
        if tools.drivers_path is not None:
            os.environ["VIRTIO_WIN"] = str(tools.drivers_path)
        source = source_of(command)
        if source is None:
            steps.say(f"-i {command.input_mode}: the source can't be read beforehand; the state of its hives is unknown")
            seen = None
        else:
            seen = _preflight(tools, source, steps)
            if seen.proposal.refused:
                return _refused(seen, command, steps)
        if wishes.dry_run:
            if seen is not None:
                print_outcome(assess(seen), plan=True)
            return READY
        _finish_earlier(command, source, steps)
        status = _run_virt_v2v(command, source, seen, steps)
        if status != 0:
            steps.say(f"virt-v2v ended with status {status}; nothing more was done")
            return status
        return _repair(tools, command, source, seen, steps)


def _preflight(tools: Tools, source: Target, steps: Steps) -> Look:
    with steps.step("preflight", f"reading the source: {', '.join(str(p) for p, _ in source.images)}"):
        seen = look(tools, source.images, "source", source.domain)
    runner = _runner_missing(tools, seen)
    if runner is not None:
        if runner.id in tools.request.accept:
            runner = runner.with_state("warning")
        proposal = dataclasses.replace(seen.proposal, findings=(*seen.proposal.findings, runner))
        seen.report.findings.append(runner)
        return dataclasses.replace(seen, proposal=proposal)
    return seen


def _runner_missing(tools: Tools, seen: Look) -> Optional[Finding]:
    """virt-v2v 2.2 fails without rhsrvany.exe or pvvxsvc.exe as soon as it needs a first-boot script: VMware Tools
    in the guest, or a guest-agent MSI in the virtio-win tree (measured)."""
    if not seen.windows or runner_programs() is not None or "arch" not in seen.report.guest:
        return None
    present = [f.subject for f in seen.proposal.findings if f.id == "hypervisor-tools-present"]
    reasons = [name for name in present if name.startswith(UNINSTALLED)]
    if tools.drivers is not None and tools.drivers.has_guest_agent_msi(seen.report.guest["arch"]):
        reasons.append("the guest agent's MSI in the virtio-win tree")
    if not reasons:
        return None
    return Finding(
        "first-boot-runner-missing",
        "refused",
        "rhsrvany.exe",
        f"virt-v2v needs it for {' and '.join(reasons)}; neither rhsrvany.exe nor pvvxsvc.exe is on this host",
        "put rhsrvany.exe (Fedora/RHEL package mingw32-srvany-redistributable) into /usr/share/virt-tools "
        "or set VIRT_TOOLS_DATA_DIR",
    )


def _refused(seen: Look, command: v2v.V2vCommand, steps: Steps) -> int:
    report = assess(seen)
    report.timings = steps.timings
    if command.h2k.report is not None:
        report.write(Path(command.h2k.report))
    print_outcome(report)
    print("h2k-v2v: refused before the copy; nothing was written", file=sys.stderr)
    return REFUSED


def _finish_earlier(command: v2v.V2vCommand, source: Optional[Target], steps: Steps) -> None:
    """An unfinished run on the disks that are about to be written anew is finished or thrown away first."""
    name = name_of(command, source)
    if name is None:
        return
    xml, state = result_of(command, name)
    if not (state / "journal.json").exists() or not xml.exists():
        return
    target = open_target([str(xml)], str(state))
    if all(path.exists() for path, _ in target.images):
        disks = DiskSet(target.writable(), state)
        ended = disks.recover()
        if ended != "clean":
            steps.say(f"an unfinished run was found and {ended}")


def _run_virt_v2v(command: v2v.V2vCommand, source: Optional[Target], seen: Optional[Look], steps: Steps) -> int:
    todo = replays(seen.todo) if seen is not None else ()
    if source is None or not todo:
        with steps.step("convert", "virt-v2v " + " ".join(command.passed)):
            return pass_through(["virt-v2v", *command.passed])
    _, state = result_of(command, name_of(command, source) or "guest")
    with healed(source, todo, state, steps) as overlays:
        argv = command_for(command, source, overlays, state)
        steps.say(f"virt-v2v reads the healed source: virt-v2v {' '.join(argv)}")
        with steps.step("convert", "virt-v2v on overlays of the source, which keeps its bytes"):
            return pass_through(["virt-v2v", *argv])


def _repair(
    tools: Tools, command: v2v.V2vCommand, source: Optional[Target], before: Optional[Look], steps: Steps
) -> int:
    target = _result(command, source)
    seen = fix(tools, target.writable(), target.state, steps, target.domain)
    report = seen.report
    healed_before = [f.with_state("repaired") for f in before.proposal.broken if f.id == "hive-dirty"] if before else []
    report.findings = [*healed_before, *report.findings]
    emit(tools, target, seen, steps)
    report.timings = steps.timings
    report.write(target.state)
    print_outcome(report)
    return report.status


def _result(command: v2v.V2vCommand, source: Optional[Target]) -> Target:
    """What virt-v2v wrote: OS/NAME.xml with its disks, and NAME.h2k beside it."""
    name = name_of(command, source)
    if name is None:
        raise H2kError("virt-v2v alone knows the name of its result", hint="give -on NAME, or run: h2k fix NAME.xml")
    xml, state = result_of(command, name)
    if not xml.exists():
        raise H2kError(f"{xml}: virt-v2v wrote no such domain", hint="run: h2k fix NAME.xml")
    target = open_target([str(xml)], str(state))
    return dataclasses.replace(target, domain=_with_source(target.domain, source))


def _with_source(result: Optional[DomainFacts], source: Optional[Target]) -> Optional[DomainFacts]:
    """What virt-v2v's XML drops but the source knew: Secure Boot, TPM, and MACs where the NICs agree in number."""
    if result is None or source is None or source.domain is None:
        return result
    known = source.domain
    nics = result.nics
    if len(nics) == len(known.nics):
        nics = tuple(dataclasses.replace(n, mac=n.mac or k.mac) for n, k in zip(nics, known.nics))
    return dataclasses.replace(result, nics=nics, secure_boot=known.secure_boot, tpm=result.tpm or known.tpm)
