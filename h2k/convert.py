"""h2k-v2v: preflight, virt-v2v with the user's own arguments, the repair, the two domains, the report."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional, TypeVar

from h2k import v2v
from h2k.disk.overlay import DiskSet
from h2k.domain import DomainFacts
from h2k.emit import emit, print_outcome
from h2k.errors import FAILED, READY, REFUSED, H2kError, UsageError
from h2k.finding import Finding
from h2k.guest import OTHER
from h2k.heal import command_for, healed, replays
from h2k.host import guestfs_settings, runner_programs
from h2k.pipeline import Look, Request, Tools, assess, fix, look, open_tools
from h2k.run import pass_through
from h2k.source import name_of, open_source, result_of, unknown_hives
from h2k.steps import Steps
from h2k.target import Target, open_target

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


def _request(command: v2v.V2vCommand) -> Request:
    ours = command.h2k
    return Request(ours.bus, ours.drivers, ours.plans, ours.hooks, ours.skip, ours.accept, ours.policies, command.root)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is known of the source before the copy: its images and facts, or why they can't be read, and the look."""

    command: v2v.V2vCommand
    target: Optional[Target]
    why: str
    seen: Optional[Look] = None
    began: float = dataclasses.field(default_factory=time.time)

    def unknown(self) -> str:
        """The line for people when the source can't be read."""
        return f"the source can't be read beforehand, and the state of its hives is unknown: {self.why}"

    def findings(self) -> list[Finding]:
        """What the report of the result says of the source."""
        if self.target is None:
            return [unknown_hives(self.command, self.why)]
        broken = self.seen.proposal.broken if self.seen is not None else ()
        return [f.with_state("repaired") for f in broken if f.id == "hive-dirty"]


# To watch h2k before it is trusted: what a script sees of virt-v2v stays as it was


def _watch(command: v2v.V2vCommand) -> int:
    """Report mode: look and report, refuse nothing, write nothing to the guest, end as virt-v2v did."""
    steps = Steps()
    guestfs_settings()
    source = _attempt(steps, lambda: _seen_source(command, steps)) or _Source(command, None, "it could not be opened")
    status = pass_through(["virt-v2v", *command.passed])
    if status == 0 and command.output_mode == "local":
        _attempt(steps, lambda: _report_result(source, steps))
    return status


def _attempt(steps: Steps, what: Callable[[], T]) -> Optional[T]:
    """In report mode h2k's own failures are told and stop nothing."""
    try:
        return what()
    except H2kError as e:
        steps.say(str(e))
        return None


def _seen_source(command: v2v.V2vCommand, steps: Steps) -> _Source:
    with open_source(command, steps.say) as (target, why), open_tools(_request(command)) as tools:
        source = _Source(command, target, why)
        if target is None:
            steps.say(source.unknown())
        else:
            seen = _preflight(tools, command, target, steps)
            steps.say(f"the source: {assess(seen).verdict}")
    return source


def _report_result(source: _Source, steps: Steps) -> None:
    target = _result(source)
    with open_tools(_request(source.command)) as tools:
        seen = look(_for_result(tools, target), target.images, "result", target.domain)
        report = assess(seen)
        report.findings = [*source.findings(), *report.findings]
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
    with open_tools(_request(command)) as tools, open_source(command, steps.say) as (target, why):
        if tools.drivers_path is not None:
            os.environ["VIRTIO_WIN"] = str(tools.drivers_path)
        source = _Source(command, target, why)
        if target is None:
            steps.say(source.unknown())
        else:
            seen = _preflight(tools, command, target, steps)
            if seen.proposal.refused:
                return _refused(seen, command, steps)
            source = dataclasses.replace(source, seen=seen)
        if wishes.dry_run:
            if source.seen is not None:
                print_outcome(assess(source.seen), plan=True)
            return READY
        _finish_earlier(command, target, steps)
        status = _run_virt_v2v(source, steps)
        if status != 0:
            steps.say(f"virt-v2v ended with status {status}; nothing more was done")
            return status
        return _repair(tools, source, steps)


def _preflight(tools: Tools, command: v2v.V2vCommand, source: Target, steps: Steps) -> Look:
    with steps.step("preflight", f"reading the source: {', '.join(command.arguments)}"):
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


def _run_virt_v2v(source: _Source, steps: Steps) -> int:
    command, target = source.command, source.target
    todo = replays(source.seen.todo) if source.seen is not None else ()
    if target is None or not todo:
        with steps.step("convert", "virt-v2v " + " ".join(command.passed)):
            return pass_through(["virt-v2v", *command.passed])
    _, state = result_of(command, name_of(command, target) or "guest")
    with healed(target, todo, state, steps, command.root) as overlays:
        argv = command_for(command, target, overlays, state)
        steps.say(f"virt-v2v reads the healed source: virt-v2v {' '.join(argv)}")
        with steps.step("convert", "virt-v2v on overlays of the source, which keeps its bytes"):
            return pass_through(["virt-v2v", *argv])


def _repair(tools: Tools, source: _Source, steps: Steps) -> int:
    target = _result(source)
    seen = fix(_for_result(tools, target), target.writable(), target.state, steps, target.domain)
    report = seen.report
    report.findings = [*source.findings(), *report.findings]
    emit(tools, target, seen, steps)
    report.timings = steps.timings
    report.write(target.state)
    print_outcome(report)
    return report.status


def _for_result(tools: Tools, target: Target) -> Tools:
    """Of several systems virt-v2v has converted one, and its XML names it: when that is none of Windows, Windows is
    not to be touched."""
    system = target.domain.os_id if target.domain is not None else None
    if system is None or system.startswith("http://microsoft.com/"):
        return tools
    return dataclasses.replace(tools, request=dataclasses.replace(tools.request, root=OTHER))


def _result(source: _Source) -> Target:
    """What virt-v2v wrote: OS/NAME.xml with its disks, and NAME.h2k beside it."""
    command = source.command
    xml, state = result_of(command, name_of(command, source.target) or _name_written(source))
    if not xml.exists():
        raise H2kError(f"{xml}: virt-v2v wrote no such domain", hint="run: h2k fix NAME.xml")
    target = open_target([str(xml)], str(state))
    return dataclasses.replace(target, domain=_with_source(target.domain, source.target))


def _name_written(source: _Source) -> str:
    """The name that virt-v2v alone knew: that of the one XML file that is new in -os."""
    directory = Path(source.command.output_storage or ".")
    written = [path.stem for path in directory.glob("*.xml") if path.stat().st_mtime > source.began - 0.1]
    if len(written) != 1:
        raise H2kError("virt-v2v alone knows the name of its result", hint="give -on NAME, or run: h2k fix NAME.xml")
    return written[0]


def _with_source(result: Optional[DomainFacts], source: Optional[Target]) -> Optional[DomainFacts]:
    """What virt-v2v's XML drops but the source knew: Secure Boot, TPM, and MACs where the NICs agree in number."""
    if result is None or source is None or source.domain is None:
        return result
    known = source.domain
    nics = result.nics
    if len(nics) == len(known.nics):
        nics = tuple(dataclasses.replace(n, mac=n.mac or k.mac) for n, k in zip(nics, known.nics))
    return dataclasses.replace(result, nics=nics, secure_boot=known.secure_boot, tpm=result.tpm or known.tpm)
