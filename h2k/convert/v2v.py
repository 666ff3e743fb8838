"""h2k-v2v: preflight, virt-v2v with the user's own arguments, the repair, the two domains, the report."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional, TypeVar

from h2k.base.errors import FAILED, READY, REFUSED, H2kError, UsageError
from h2k.base.finding import Finding
from h2k.base.host import guestfs_settings, runner_programs
from h2k.base.run import not_called_by_h2k, pass_through
from h2k.base.steps import Steps
from h2k.convert import v2v_command
from h2k.convert.finish import repair, tell, watch
from h2k.convert.log_replay import command_for, replayed, replays
from h2k.convert.outputs import Output, choose, is_nobodys, leaves
from h2k.convert.source import is_missing, name_of, open_source, unknown_hives
from h2k.convert.two_steps import in_stages, refusal
from h2k.disk.in_use import require_unused
from h2k.disk.overlay import DiskSet
from h2k.domain.facts import DomainFacts
from h2k.domain.guest_files import GuestFiles
from h2k.engine.pipeline import Examination, Request, Tools, assess, examine, finish_earlier, open_tools

T = TypeVar("T")
# Guest tools that virt-v2v uninstalls by a first-boot script (its convert_windows.ml).
UNINSTALLED = ("VMware Tools", "Parallels Tools")


def main_v2v(argv: Sequence[str]) -> int:
    """The wrapper h2k-v2v: virt-v2v's arguments and ours in, exit status out."""
    try:
        not_called_by_h2k("virt-v2v")
        command = v2v_command.parse(argv)
        if command.informational:
            return pass_through(["virt-v2v", *command.passed])
        if command.h2k.mode == "report":
            return _watch(command)
        if leaves(command) and command.stage is None:
            raise refusal(command, argv)
        steps = Steps()
        settings = guestfs_settings()
        if settings:
            steps.say(settings)
        if leaves(command):
            return in_stages(command, argv, lambda first: _convert(first, steps), steps)
        return _convert(command, steps)[0]
    except H2kError as e:
        print(f"h2k-v2v: {e}", file=sys.stderr)
        return e.exit_status
    except KeyboardInterrupt:
        print("h2k-v2v: interrupted; the same command goes on or cleans up", file=sys.stderr)
        return FAILED


def _request(command: v2v_command.V2vCommand) -> Request:
    ours = command.h2k
    return Request(ours.bus, ours.drivers, ours.plans, ours.hooks, ours.skip, ours.accept, ours.policies, command.root, ours.config)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is known of the source before the copy: its images and facts, or why they can't be read, and the look."""

    command: v2v_command.V2vCommand
    target: Optional[GuestFiles]
    why: str
    seen: Optional[Examination] = None

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


def _watch(command: v2v_command.V2vCommand) -> int:
    """Report mode: look and report, refuse nothing, write nothing to the guest, end as virt-v2v did."""
    steps = Steps()
    source = _Source(command, None, "it could not be opened")
    source = _attempt(steps, lambda: _seen_source(command, steps)) or source
    output = _attempt(steps, lambda: choose(command))
    _attempt(steps, lambda: output.begin() if output is not None else None)
    status = pass_through(["virt-v2v", *command.passed])
    if status == 0 and output is not None:
        _report_result(source, output, steps)
    return status


def _attempt(steps: Steps, what: Callable[[], T]) -> Optional[T]:
    """In report mode h2k's own failures are told and stop nothing, not even those that are mistakes of h2k's own; and
    what h2k sets for its own tools is not virt-v2v's."""
    environment = dict(os.environ)
    try:
        guestfs_settings()
        return what()
    except H2kError as e:
        steps.say(str(e))
    except Exception as e:  # a mistake in h2k must not change what a script sees of virt-v2v
        steps.say(f"h2k itself failed, and goes on without: {type(e).__name__}: {e}")
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return None


def _seen_source(command: v2v_command.V2vCommand, steps: Steps) -> _Source:
    with open_source(command, steps.say) as (target, why), open_tools(_request(command)) as tools:
        source = _Source(command, target, why)
        if target is None:
            steps.say(source.unknown())
        else:
            seen = _preflight(tools, command, target, steps)
            steps.say(f"the source: {assess(seen).verdict}")
    return source


def _report_result(source: _Source, output: Output, steps: Steps) -> None:
    def report() -> None:
        target = _result(source, output)
        with open_tools(_request(source.command)) as tools:
            tell(watch(tools, target, source.findings(), steps), aside=True)

    _attempt(steps, report)


# The conversion


def _convert(command: v2v_command.V2vCommand, steps: Steps) -> tuple[int, Optional[GuestFiles]]:
    """(exit status, the result where there is one that is looked at)."""
    if is_nobodys(command) or is_missing(command):
        return pass_through(["virt-v2v", *command.passed]), None  # in virt-v2v's own words
    output = choose(command)
    if output is not None and command.boots:
        raise UsageError(
            f"-o {command.output_mode}: virt-v2v would start the guest before it is repaired",
            hint="leave qemu-boot out, and start NAME.h2k/bootstrap.sh",
        )
    if output is not None and output.fails_at_once():
        return pass_through(["virt-v2v", *command.passed]), None
    with open_tools(_request(command)) as tools, open_source(command, steps.say) as (target, why):
        if tools.drivers_path is not None:
            os.environ["VIRTIO_WIN"] = str(tools.drivers_path)
        source = _Source(command, target, why)
        if target is None:
            steps.say(source.unknown())
        else:
            seen = _preflight(tools, command, target, steps)
            if seen.proposal.refused and output is not None:
                return _refused(seen, command, steps), None
            source = dataclasses.replace(source, seen=seen)
        if command.h2k.dry_run or output is None:
            _tell_plan(source, steps)
        if command.h2k.dry_run:
            return READY, None
        if output is None:
            return _run_as_ever(source, steps), None
        _finish_earlier(command, output, target, steps)
        output.begin()
        status = _run_virt_v2v(source, output, steps)
        if status != 0:
            steps.say(f"virt-v2v ended with status {status}; nothing more was done")
            return status, None
        result = _result(source, output)
        report = repair(tools, output, result, source.findings(), steps)
        tell(report, aside=command.machine_readable)
        return report.status, result


def _tell_plan(source: _Source, steps: Steps) -> None:
    if source.seen is None:
        return
    report = assess(source.seen)
    report.timings = steps.timings
    if source.command.h2k.report is not None:
        report.write(Path(source.command.h2k.report))
    tell(report, aside=source.command.machine_readable, plan=True)


def _run_as_ever(source: _Source, steps: Steps) -> int:
    """-o null: there is no result to repair. 3 when virt-v2v went through and h2k would have refused."""
    with steps.step("convert", "virt-v2v " + " ".join(source.command.passed)):
        status = pass_through(["virt-v2v", *source.command.passed])
    refused = source.seen is not None and source.seen.proposal.refused
    return REFUSED if status == 0 and refused else status


def _preflight(tools: Tools, command: v2v_command.V2vCommand, source: GuestFiles, steps: Steps) -> Examination:
    with steps.step("preflight", f"reading the source: {', '.join(command.arguments)}"):
        seen = examine(tools, source.images, "source", source.domain)
    runner = _runner_missing(tools, seen)
    if runner is not None:
        if runner.id in tools.request.accept:
            runner = runner.with_state("warning")
        proposal = dataclasses.replace(seen.proposal, findings=(*seen.proposal.findings, runner))
        seen.report.findings.append(runner)
        return dataclasses.replace(seen, proposal=proposal)
    return seen


def _runner_missing(tools: Tools, seen: Examination) -> Optional[Finding]:
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


def _refused(seen: Examination, command: v2v_command.V2vCommand, steps: Steps) -> int:
    report = assess(seen)
    report.timings = steps.timings
    if command.h2k.report is not None:
        report.write(Path(command.h2k.report))
    tell(report, aside=command.machine_readable)
    print("h2k-v2v: refused before the copy; nothing was written", file=sys.stderr)
    return REFUSED


def _finish_earlier(command: v2v_command.V2vCommand, output: Output, source: Optional[GuestFiles], steps: Steps) -> None:
    """Disks that somebody uses are not written anew; an unfinished run on them is finished or thrown away first."""
    name = name_of(command, source)
    if name is not None:
        require_unused(output.replaced(name))
    if name is None or not (output.state(name) / "journal.json").exists():
        return
    target = output.earlier(name)
    if target is not None:
        finish_earlier(DiskSet(target.writable(), target.state), steps)


def _run_virt_v2v(source: _Source, output: Output, steps: Steps) -> int:
    command, target = source.command, source.target
    todo = replays(source.seen.todo) if source.seen is not None else ()
    if target is None or not todo:
        with steps.step("convert", "virt-v2v " + " ".join(command.passed)):
            return pass_through(["virt-v2v", *command.passed])
    state = output.state(name_of(command, target) or "guest")
    with replayed(target, todo, state, steps, command.root) as overlays:
        argv = command_for(command, target, overlays, state)
        steps.say(f"virt-v2v reads the replayed source: virt-v2v {' '.join(argv)}")
        with steps.step("convert", "virt-v2v on overlays of the source, which keeps its bytes"):
            return pass_through(["virt-v2v", *argv])


def _result(source: _Source, output: Output) -> GuestFiles:
    """What virt-v2v wrote, and what only the source knew of it."""
    target = output.result(name_of(source.command, source.target))
    return dataclasses.replace(target, domain=_with_source(target.domain, source.target))


def _with_source(result: Optional[DomainFacts], source: Optional[GuestFiles]) -> Optional[DomainFacts]:
    """What virt-v2v's XML drops but the source knew: Secure Boot, TPM, and MACs where the NICs agree in number."""
    if result is None or source is None or source.domain is None:
        return result
    known = source.domain
    nics = result.nics
    if len(nics) == len(known.nics):
        nics = tuple(dataclasses.replace(n, mac=n.mac or k.mac) for n, k in zip(nics, known.nics))
    return dataclasses.replace(result, nics=nics, secure_boot=known.secure_boot, tpm=result.tpm or known.tpm)
