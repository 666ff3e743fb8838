"""h2k-v2v: preflight, virt-v2v with the user's own arguments, the repair, the two domains, the record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional, TypeVar

from h2k import __version__
from h2k.base.children import cleaned_up
from h2k.base.errors import FAILED, READY, REFUSED, H2kError, UsageError
from h2k.base.finding import Finding
from h2k.base.host import RUNNER_STEPS, guestfs_settings, runner_programs
from h2k.base.option_table import V2V, request_words
from h2k.base.run import not_called_by_h2k, pass_through, replayable
from h2k.base.steps import Steps
from h2k.convert import v2v_command
from h2k.convert.after_boot import boot_too
from h2k.convert.finish import repair, watch
from h2k.convert.h2k_options import help_text
from h2k.convert.log_replay import command_for, replayed, replays
from h2k.convert.outputs import Output, choose, is_nobodys, leaves
from h2k.convert.readiness import require_domains, require_ready
from h2k.convert.source import is_missing, likely_names, name_of, open_source, require_shut_down, unknown_hives
from h2k.convert.two_steps import in_two_runs, refusal
from h2k.convert.v2v_command import V2vCommand
from h2k.convert.v2v_scripts import installed_version, scripts_for, shown
from h2k.disk import direct_reader
from h2k.disk.in_use import converting, require_unused
from h2k.disk.overlay import DiskSet
from h2k.domain.facts import with_source
from h2k.domain.guest_files import GuestFiles
from h2k.domain.handles import with_cards
from h2k.domain.names import check_name, wrong_name
from h2k.engine.ending import guarded
from h2k.engine.examination import SOURCE, Examination
from h2k.engine.outcome import WORDS, Outcome, of_source
from h2k.engine.pipeline import finish_earlier, look
from h2k.engine.request import open_tools
from h2k.engine.runs import Run

T = TypeVar("T")
_HELP = f"\nh2k's own options are listed by: {V2V} --h2k-help"


def main_v2v(argv: Sequence[str]) -> int:
    """The wrapper h2k-v2v: virt-v2v's arguments and ours in, exit status out."""
    run = Run(V2V, tuple(argv))
    try:
        not_called_by_h2k("virt-v2v")
        command = v2v_command.parse(argv)
    except H2kError as e:
        error = e

        def fail() -> Outcome:
            raise error

        return guarded(run, fail)
    if command.h2k.help or command.h2k.version:
        print(help_text(V2V, "virt-v2v") if command.h2k.help else f"{V2V} {__version__}")
        return READY
    if command.informational:
        status = pass_through(["virt-v2v", *command.passed])
        if command.asks_help:
            print(_HELP, file=sys.stderr)  # standard output is virt-v2v's, to the byte
        return status
    run.aside, run.dry_run = command.machine_readable, command.h2k.dry_run
    run.source = " ".join(command.arguments)
    if command.h2k.mode == "report" and not command.h2k.dry_run:
        return _watch(run, command)
    if not leaves(command) and _is_virt_v2vs(command):
        return pass_through(["virt-v2v", *command.passed])  # in virt-v2v's own words
    return guarded(run, lambda: _whole(run, command))


def _is_virt_v2vs(command: V2vCommand) -> bool:
    """Whether virt-v2v would refuse the command line itself, before it reads anything."""
    try:
        if not command.arguments or is_nobodys(command) or is_missing(command):
            return True
        output = choose(command) if not command.boots else None
        return output is not None and output.fails_at_once()
    except H2kError:
        return False  # told in our words, by the run


def _whole(run: Run, command: V2vCommand) -> Outcome:
    """The conversion, in two steps where the output leaves the machine, and the boots where they are asked for."""
    if leaves(command) and command.stage is None:
        raise refusal(command, run.argv)
    if leaves(command):
        return in_two_runs(run, command, lambda first: _convert(run, first))
    outcome = _convert(run, command)
    return boot_too(run, outcome) if command.h2k.boot and not run.dry_run else outcome


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is known of the source before the copy: its images and facts, or why they can't be read, and the look."""

    command: V2vCommand
    files: Optional[GuestFiles]
    why: str
    seen: Optional[Examination] = None

    def disks(self) -> Optional[int]:
        """How many disks virt-v2v will write; None where it alone can read the source."""
        return len(self.files.images) if self.files is not None else None

    def unknown(self) -> str:
        """The line for people when the source can't be read."""
        return f"the source can't be read beforehand, and the state of its hives is unknown: {self.why}"

    def findings(self) -> list[Finding]:
        """What the record of the result says of the source."""
        if self.files is None:
            return [unknown_hives(self.command, self.why)]
        broken = self.seen.proposal.broken if self.seen is not None else ()
        return [f.with_state("repaired") for f in broken if f.id == "hive-dirty"]


# To watch h2k before it is trusted: what a script sees of virt-v2v stays as it was


def _watch(run: Run, command: V2vCommand) -> int:
    """Report mode: look and report, refuse nothing, write nothing to the guest, end as virt-v2v did."""
    source = _Source(command, None, "it could not be opened")
    source = _attempt(run.steps, lambda: _seen_source(run, command)) or source
    output = _attempt(run.steps, lambda: choose(command))
    if output is None:
        return pass_through(["virt-v2v", *command.passed])
    chosen = output
    _attempt(run.steps, lambda: chosen.begin(source.disks()))
    status = pass_through(["virt-v2v", *command.passed])
    if status == 0:
        _attempt(run.steps, lambda: _report_result(run, source, chosen))
    return status


def _attempt(steps: Steps, what: Callable[[], T]) -> Optional[T]:
    """In report mode h2k's own failures are told and stop nothing, not even those that are mistakes of h2k's own; and
    what h2k sets for its own tools is not virt-v2v's."""
    environment = dict(os.environ)
    try:
        return what()
    except H2kError as e:
        steps.say(str(e))
    except Exception as e:  # a mistake in h2k must not change what a script sees of virt-v2v
        steps.say(f"h2k itself failed, and goes on without: {type(e).__name__}: {e}")
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return None


def _seen_source(run: Run, command: V2vCommand) -> _Source:
    with open_source(command, run.steps.say) as (files, why), open_tools(command.h2k.request) as run.tools:
        source = _Source(command, files, why)
        if files is None:
            run.steps.say(source.unknown())
        else:
            source_files = files
            _attempt(run.steps, lambda: require_shut_down(command, source_files))
            outcome = _preflight(run, command, files).outcome
            run.steps.say(run.spelled(f"the source: {outcome.word}: {outcome.sentence}"))
    return source


def _report_result(run: Run, source: _Source, output: Output) -> None:
    run.files = _result(source, output)
    run.records, run.aside = run.files.state, True
    run.report.findings = source.findings()
    with open_tools(source.command.h2k.request) as run.tools:
        guarded(run, lambda: watch(run))


# The conversion


def _convert(run: Run, command: V2vCommand) -> Outcome:
    direct_reader.start_by_fork()
    output = choose(command)
    if output is not None and command.boots:
        raise UsageError(
            f"-o {command.output_mode}: virt-v2v would start the guest before it is repaired",
            hint="leave qemu-boot out, and start NAME.h2k/bootstrap.sh",
        )
    with open_tools(command.h2k.request) as run.tools, open_source(command, run.steps.say) as (files, why):
        if run.tools.drivers_path is not None:
            os.environ["VIRTIO_WIN"] = str(run.tools.drivers_path)
        run.records = _record_place(command, output, files)
        source = _Source(command, files, why)
        if files is None:
            run.steps.say(source.unknown())
            outcome = of_source(run.report.findings, (), ())
            name = name_of(command, None)
            if output is not None and name is not None:
                check_name(name)  # in a dry run too; of a source that can be read a hook says it
        else:
            require_shut_down(command, files)
            seen = _preflight(run, command, files)
            outcome = seen.outcome
            if outcome.status == REFUSED and (output is not None or run.dry_run):
                return dataclasses.replace(outcome, sentence=f"{outcome.sentence}; nothing was written")
            source = dataclasses.replace(source, seen=seen)
            if output is not None:
                require_domains(run, seen, output, name_of(command, files))
        if run.dry_run:
            return dataclasses.replace(outcome, next=_plan_of(command)) if files is not None else outcome
        if output is None:
            return _run_as_ever(run, source, outcome)
        require_ready(command, output, files, name_of(command, files))
        with _alone(command, output, files):
            _finish_earlier(run, command, output, files)
            output.begin(source.disks())
            status = _run_virt_v2v(run, source, output)
            if status != 0:
                return _virt_v2v_failed(run, status)
            run.report.findings = source.findings()
            run.files = _result(source, output)
            run.records = run.files.state
            return repair(run, output)


def _alone(command: V2vCommand, output: Output, files: Optional[GuestFiles]) -> contextlib.AbstractContextManager[None]:
    """No other conversion to the same result meanwhile, as far as its name is known before, or can be guessed."""
    names = likely_names(command, files)
    return converting(output.state(names[0])) if names else contextlib.nullcontext()


def _plan_of(command: V2vCommand) -> tuple[str, ...]:
    """The command that shows every change as a diff, where the source is a file that h2k itself can be given."""
    words = request_words(dataclasses.asdict(command.h2k.request))
    files = command.input_mode in ("vmx", "disk", "libvirtxml") and command.input_transport is None
    return (shlex.join(["h2k", "plan", *command.arguments, *words]),) if files else ()


def _record_place(command: V2vCommand, output: Optional[Output], files: Optional[GuestFiles]) -> Optional[Path]:
    """Where the record of this run goes: NAME.h2k of the result, once its name is known. A dry run writes none, unless
    a directory is named for it."""
    if command.h2k.report is not None:
        return Path(command.h2k.report)
    name = name_of(command, files)
    if command.h2k.dry_run or output is None or name is None or wrong_name(name):
        return None
    try:
        return output.state(name)
    except H2kError:
        return None


def _run_as_ever(run: Run, source: _Source, looked: Outcome) -> Outcome:
    """-o null: there is no result to repair. 3 when virt-v2v went through and h2k would have refused."""
    guestfs_settings(run.steps.say)
    with run.steps.step("convert", replayable(["virt-v2v", *source.command.passed])):
        status = _virt_v2v(source.command.passed)
    return looked if status == 0 else _virt_v2v_failed(run, status)


def _virt_v2v_failed(run: Run, status: int) -> Outcome:
    """virt-v2v's own failure: its status is passed on, and standard output stays as virt-v2v left it."""
    run.aside = True
    return Outcome(status, WORDS[FAILED], f"virt-v2v ended with status {status}; nothing more was done")


def _preflight(run: Run, command: V2vCommand, files: GuestFiles) -> Examination:
    run.files, run.source_domain = files, files.domain
    with run.steps.step("preflight", f"reading the source: {', '.join(command.arguments)}"):
        seen = look(run, SOURCE)
    run.tools = dataclasses.replace(run.opened, source={s.name: s.value for s in seen.proposal.settings})
    runner = _runner_missing(run, command, seen)
    if runner is not None:
        runner = runner.with_state("warning") if runner.id in run.opened.request.accept else runner
        seen.report.findings.append(runner)
    return seen


def _runner_missing(run: Run, command: V2vCommand, seen: Examination) -> Optional[Finding]:
    """virt-v2v fails without rhsrvany.exe or pvvxsvc.exe as soon as it has a first-boot script to stage (measured with
    2.2 and 2.6): from 2.4 on always."""
    if not seen.windows or runner_programs() is not None or "arch" not in seen.report.guest:
        return None
    version = installed_version()
    scripts = scripts_for(seen, run.opened.drivers, version, v2v_command.options_of(command))
    if not scripts:
        return None
    return Finding(
        "first-boot-runner-missing",
        "refused",
        "rhsrvany.exe",
        f"{shown(version)} needs it for its first-boot scripts ({', '.join(script.name for script in scripts)}); "
        "neither rhsrvany.exe nor pvvxsvc.exe is on this host",
        RUNNER_STEPS,
    )


def _finish_earlier(run: Run, command: V2vCommand, output: Output, source: Optional[GuestFiles]) -> None:
    """Disks that somebody uses are not written anew; an unfinished run on them is finished or thrown away first."""
    for likely in likely_names(command, source):
        require_unused(output.replaced(likely))
    name = name_of(command, source)
    if name is None or not (output.state(name) / "journal.json").exists():
        return
    files = output.earlier(name)
    if files is not None:
        finish_earlier(DiskSet(files.writable(), files.state), run.steps)


def _virt_v2v(arguments: Sequence[str]) -> int:
    """virt-v2v, which leaves temporary files and servers behind when it is killed: we end and remove them."""
    with cleaned_up("h2k-v2v-") as environment:
        return pass_through(["virt-v2v", *arguments], environment)


def _run_virt_v2v(run: Run, source: _Source, output: Output) -> int:
    command, files = source.command, source.files
    todo = replays(source.seen.todo) if source.seen is not None else ()
    guestfs_settings(run.steps.say)
    if files is None or not todo:
        with run.steps.step("convert", replayable(["virt-v2v", *command.passed])):
            return _virt_v2v(command.passed)
    state = output.state(name_of(command, files) or "guest")
    with replayed(files, todo, state, run.steps, command.root, run.opened.policy.writer) as overlays:
        argv = command_for(command, files, overlays, state)
        run.steps.say(f"virt-v2v reads the replayed source: {replayable(['virt-v2v', *argv])}")
        with run.steps.step("convert", "virt-v2v on overlays of the source, which keeps its bytes"):
            return _virt_v2v(argv)


def _result(source: _Source, output: Output) -> GuestFiles:
    """What virt-v2v wrote, and what only the source knew of it."""
    files = output.result(name_of(source.command, source.files))
    known = source.files.domain if source.files is not None else None
    if files.domain is None or known is None:
        return with_cards(files)
    return dataclasses.replace(files, domain=with_source(files.domain, known))
