"""The commands of `h2k` that look at one guest or repair it: inspect, plan, verify, fix, domains."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any, Optional

import click

from h2k.base.errors import NOT_READY, READY, REFUSED, UsageError
from h2k.base.libvirt_connection import DEFAULT_URI
from h2k.base.option_table import request_words
from h2k.cli.handles import opened
from h2k.cli.inspect_table import inspect_table
from h2k.cli.options import guest_argument, guest_options, json_option, new_run, table_option, verbose_option
from h2k.disk.in_use import locked_directory
from h2k.domain.handles import open_guest_files
from h2k.engine.ending import guarded, print_json
from h2k.engine.examination import RESULT, Examination
from h2k.engine.outcome import Outcome, of_repair, of_result, only_domains_wrong
from h2k.engine.pipeline import facts_of, finished, fix, look, look_deep
from h2k.engine.request import Request
from h2k.engine.runs import Run
from h2k.engine.write_domains import build_domains


@click.command()
@guest_argument
@table_option("allow-under")
@json_option
@verbose_option
def inspect(images: Sequence[str], allow_under: Sequence[str], as_json: bool) -> int:
    """Show what the guest is: Windows version, firmware, disks, hives.

    Example: h2k inspect disk.qcow2
    """
    run = new_run(as_json)
    shown: list[dict[str, Any]] = []

    def work() -> Outcome:
        Request.of({"allow_under": allow_under})
        shown.append(facts_of(open_guest_files(images).images))
        return Outcome(READY, "INSPECTED", "")

    status = guarded(run, work, quiet=True)
    if shown and as_json:
        print_json(shown[0])
    elif shown:
        click.echo("\n".join(inspect_table(shown[0])))
    return status


@click.command()
@guest_options
def plan(images: Sequence[str], report: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Show what fix would change, as a diff.

    Example: h2k plan NAME.xml --drivers virtio-win.iso
    """
    return _looked(new_run(as_json, show_plan=True), images, report, wishes)


@click.command()
@guest_options
@click.option("--deep", is_flag=True, help="look at every cell of every hive, not only at those on the way")
@click.option("--ask-qemu", is_flag=True, help="start a scratch copy of each domain, paused, and check what it shows")
@click.option("--connect", metavar="URI", default=DEFAULT_URI, show_default=True, help="libvirt, for --ask-qemu")
def verify(
    images: Sequence[str], report: Optional[str], as_json: bool, deep: bool, ask_qemu: bool, connect: str, **wishes: Any
) -> int:
    """Check every guarantee, read-only.

    Example: h2k verify NAME.xml
    """
    return _looked(new_run(as_json), images, report, wishes, connect if ask_qemu else None, deep)


def _looked(
    run: Run, images: Sequence[str], report: Optional[str], wishes: dict[str, Any], ask: Optional[str] = None, deep: bool = False
) -> int:
    def work() -> Outcome:
        with opened(run, images, report, wishes):
            seen = look(run, RESULT)
            if deep and seen.windows:
                look_deep(run)
            if ask is not None and seen.windows and seen.outcome.status != REFUSED:
                from h2k.boot.hardware import shown_hardware  # libvirt's side, for this option alone

                run.report.findings += shown_hardware(run.guest_files, ask)
            outcome = of_result(run.report.findings, len(seen.todo)) if seen.windows else seen.outcome
            return _with_the_repair(outcome, images, report, wishes)

    return guarded(run, work)


def _with_the_repair(outcome: Outcome, images: Sequence[str], report: Optional[str], wishes: dict[str, Any]) -> Outcome:
    """A guest that is not ready gets the command that repairs it, as this command was spelled."""
    if outcome.status != NOT_READY:
        return outcome
    words = shlex.join([*images, *request_words(wishes), *(("--report", report) if report else ())])
    return dataclasses.replace(outcome, next=(f"h2k fix {words}", f"h2k explain {shlex.join(images)}"))


@click.command(name="fix")
@guest_options
@table_option("dry-run")
def fix_command(images: Sequence[str], report: Optional[str], as_json: bool, dry_run: bool, **wishes: Any) -> int:
    """Repair a guest on an overlay, prove the repair, and commit it.

    A healthy guest gets no write. A repair that can't be proven is thrown away.

    Example: h2k fix NAME.xml --drivers virtio-win.iso
    """
    run = new_run(as_json, dry_run=dry_run, show_plan=dry_run)

    def work() -> Outcome:
        with opened(run, images, report, wishes):
            run.records = None if dry_run else run.guest_files.state
            outcome = fix(run)
            return _with_the_repair(outcome, images, report, wishes) if dry_run else outcome

    return guarded(run, work)


@click.command()
@guest_options
def domains(images: Sequence[str], report: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Write bootstrap.xml and final.xml; the disks stay as they are.

    Example: h2k domains NAME.xml
    """
    run = new_run(as_json)

    def work() -> Outcome:
        with opened(run, images, report, wishes):
            if run.domain is None:
                raise UsageError("domains needs a description of the guest", hint="h2k domains NAME.xml")
            run.records = run.guest_files.state
            with locked_directory(run.guest_files.state):  # what is read must still be so when the domains are written
                seen = look(run, RESULT)
                outcome = _for_domains(run, seen)
                return finished(run, seen, outcome, build_domains(run, seen)) if outcome.status == READY else outcome

    return guarded(run, work)


def _for_domains(run: Run, seen: Examination) -> Outcome:
    """The outcome of writing the domains: what is wrong in the domain alone is put right by writing it."""
    if only_domains_wrong(run.report.findings, len(seen.todo)):
        return of_repair(run.report.findings, 0, ())
    return seen.outcome
