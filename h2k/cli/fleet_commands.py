"""The commands of `h2k fleet`: from a survey to waves, their run, what has become of each guest, and the playbook."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import click
import yaml

from h2k.base.errors import READY, Refused, UsageError
from h2k.base.steps import counted
from h2k.base.text import shown, time_text
from h2k.cli.command_help import Group
from h2k.cli.options import json_option, new_run, verbose_option
from h2k.engine.ending import guarded, print_json
from h2k.engine.outcome import Outcome
from h2k.fleet import guest_state
from h2k.fleet import rate as rates
from h2k.fleet.ansible_site import write_site
from h2k.fleet.fleet_report import FleetPage, next_commands, summary_of
from h2k.fleet.guest_state import STATES, GuestState, state_of
from h2k.fleet.live_table import open_table
from h2k.fleet.runner import Limits, Runner, in_window, until_time
from h2k.fleet.survey import read_survey
from h2k.fleet.wave_plan import Wishes, waves_yaml
from h2k.fleet.waves import JOBS, PER_SOURCE, Entry, read_waves

_HOUR = 3600.0
_COLUMNS = ("state", "wave", "guest", "time", "estimate", "reason")


@click.group(cls=Group)
def fleet() -> None:
    """Convert many guests, in waves that a survey proposes.

    Example: h2k fleet run waves.yaml
    """


@fleet.command(name="plan")
@click.argument("survey_file", metavar="SURVEY.json")
@click.option("--output", "-o", metavar="DIR", default="converted", show_default=True, help="the directory of the results")
@click.option("--jobs", type=click.IntRange(1, 1024), default=JOBS, show_default=True, metavar="N", help="conversions at a time")
@click.option("--per-source", type=click.IntRange(1, 1024), default=PER_SOURCE, show_default=True, metavar="N", help="conversions at a time from one datastore")
@click.option("--hours", type=click.FloatRange(0.01), default=8.0, show_default=True, metavar="H", help="how long a night is, by the estimates")
@click.option("--most", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="guests of a wave at most")
@click.option("--window", metavar="HH:MM-HH:MM", help="the time of day in which guests are begun")
@click.option("--option", "options", multiple=True, metavar="OPTION", help="an option of every conversion: --h2k-drivers=PATH")
@json_option
@verbose_option
def plan_waves(
    survey_file: str, output: str, jobs: int, per_source: int, hours: float, most: int, window: Optional[str], options: Sequence[str],
    as_json: bool,
) -> int:  # fmt: skip
    """Write waves from a survey on standard output, to be edited.

    What is ready comes first, small guests first; what is refused is a comment.

    Example: h2k fleet plan survey.json --output /var/lib/libvirt/images > waves.yaml
    """
    run = new_run(as_json)

    def work() -> Outcome:
        wishes = Wishes(str(Path(output).absolute()), jobs, per_source, hours * _HOUR, most, window, tuple(options))
        text = waves_yaml(read_survey(Path(survey_file)), wishes)
        if as_json:
            print_json(yaml.safe_load(text))  # a waves file too, without what is not planned
        else:
            click.echo(text, nl=False)
        return Outcome(READY, "PLANNED", "")

    return guarded(run, work, quiet=True)


_html_option = click.option("--html", metavar="FILE", help="write a page to look at: one file, without a network")


def _run_options(command: Any) -> Any:
    for option in reversed((
        click.argument("waves_file", metavar="WAVES.yaml"),
        click.option("--wave", type=int, metavar="N", help="this wave alone"),
        click.option("--jobs", type=click.IntRange(1, 1024), metavar="N", help="conversions at a time [default: what the waves say]"),
        click.option("--per-source", type=click.IntRange(1, 1024), metavar="N", help="conversions at a time from one datastore"),
        click.option("--until", metavar="HH:MM", help="begin none that would end after it, by its estimate"),
        click.option("--boot", is_flag=True, help="boot both phases of each guest that is converted"),
        click.option("--retries", type=click.IntRange(0, 20), default=2, show_default=True, metavar="N", help="attempts more after an error of the network"),
        click.option("--on-end", metavar="COMMAND", help="run this at the end; it gets the summary as JSON on standard input"),
        _html_option,
        json_option,
        verbose_option,
    )):  # fmt: skip
        command = option(command)
    return command


@fleet.command(name="run")
@_run_options
def run_waves(waves_file: str, **given: Any) -> int:
    """Convert the guests of the waves, within their limits.

    Each guest is one command of its own. The same command given again goes on where it was. After Ctrl-C no guest is
    begun any more; Ctrl-C once more stops those that run.

    Example: h2k fleet run waves.yaml --wave 1 --until 06:00
    """
    return _run(waves_file, again=False, **given)


@fleet.command()
@_run_options
def retry(waves_file: str, **given: Any) -> int:
    """Convert again what failed or was refused, and what is left.

    Example: h2k fleet retry waves.yaml
    """
    return _run(waves_file, again=True, **given)


def _run(
    waves_file: str, again: bool, wave: Optional[int], jobs: Optional[int], per_source: Optional[int], until: Optional[str], boot: bool,
    retries: int, on_end: Optional[str], html: Optional[str], as_json: bool,
) -> int:  # fmt: skip
    run = new_run(as_json)

    def work() -> Outcome:
        waves = read_waves(Path(waves_file))
        entries = waves.of(wave)
        limits = Limits(jobs or waves.jobs, per_source or waves.per_source, _deadline(until, waves.window(wave)), retries)
        table = open_table(f"{waves.path.name}, {counted(len(entries), 'guest')}", _COLUMNS)
        page = FleetPage(Path(html), waves, entries, limits.jobs, limits.per_source) if html is not None else None
        with _alone(waves.path), table.shown() as update:

            def heard(entry: Entry, found: GuestState) -> None:
                update(str(entry.state), _cells(entry, found))
                if page is not None:
                    page.heard(entry, found)

            runner = Runner(entries, limits, boot, again, heard, page.tick if page is not None else lambda: None)
            try:
                runner.run()
            finally:
                if page is not None:
                    page.end()
        measured = rates.of_runs(runner.took)
        if measured is not None:
            rates.keep(measured)
        summary = summary_of(waves, entries, {str(e.state): state_of(e, boot) for e in entries})
        if on_end is not None:
            _tell(on_end, summary)
        _print(summary, as_json)
        return Outcome(summary["status"], "RAN", "")

    return guarded(run, work, quiet=True)


def _deadline(until: Optional[str], window: Optional[str]) -> Optional[float]:
    """By when the last guest should have ended: --until, else the end of the wave's window. Refused outside of it."""
    if until is None and window is None:
        return None
    try:
        if until is not None:
            return until_time(until)
        assert window is not None
        if not in_window(window):
            raise Refused(f"it is {time.strftime('%H:%M')}, outside of this wave's window, {window}", hint="give --until HH:MM to begin now")
        return until_time(window.partition("-")[2])
    except ValueError as e:
        raise UsageError(f"--until {until}: not a time", hint="--until 06:00") from e


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the waves: a second run would not know what the first is about to begin, and pass the limits."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise Refused(f"{path}: another h2k fleet run works on it", hint=f"h2k fleet status {path}") from e
        yield
    finally:
        os.close(handle)


@fleet.command(name="ansible")
@click.argument("waves_file", metavar="WAVES.yaml")
@click.option("--output", "-o", metavar="DIR", default="site", show_default=True, help="the directory for inventory and playbook")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="a conversion host, as Ansible reaches it [default: this one]")
@json_option
@verbose_option
def ansible_site(waves_file: str, output: str, hosts: Sequence[str], as_json: bool) -> int:
    """Write an inventory and a playbook, for many conversion hosts.

    Ansible then converts the guests of the waves, within the same limits.

    Example: h2k fleet ansible waves.yaml -o site --host conv1 --host conv2
    """
    run = new_run(as_json)

    def work() -> Outcome:
        waves = read_waves(Path(waves_file))
        written = write_site(waves, hosts, Path(output))
        if as_json:
            print_json({"status": READY, "written": [str(path) for path in written]})
        else:
            click.echo(f"wrote {', '.join(path.name for path in written)} into {written[0].parent}")
            click.echo(f"next: cd {shlex.quote(str(written[0].parent))} && ansible-playbook playbook.yaml")
        return Outcome(READY, "WRITTEN", "")

    return guarded(run, work, quiet=True)


@fleet.command()
@click.argument("waves_file", metavar="WAVES.yaml")
@click.option("--wave", type=int, metavar="N", help="this wave alone")
@click.option("--boot", is_flag=True, help="count a guest as done when it was booted")
@json_option
@verbose_option
def status(waves_file: str, wave: Optional[int], boot: bool, as_json: bool) -> int:
    """Show what has become of each guest, from any terminal. Status as that of run.

    Example: h2k fleet status waves.yaml
    """
    run = new_run(as_json)

    def work() -> Outcome:
        waves = read_waves(Path(waves_file))
        entries = waves.of(wave)
        summary = summary_of(waves, entries, {str(e.state): state_of(e, boot) for e in entries})
        if not as_json:
            for entry, found in zip(entries, summary["guests"]):
                click.echo("  ".join(filter(None, map(shown, _cells(entry, GuestState(found["state"], found["reason"], found["seconds"]))))))
        _print(summary, as_json)
        return Outcome(summary["status"], "STATUS", "")

    return guarded(run, work, quiet=True)


@fleet.command(name="report")
@click.argument("waves_file", metavar="WAVES.yaml")
@click.option("--html", metavar="FILE", required=True, help="write a page to look at: one file, without a network")
@click.option("--wave", type=int, metavar="N", help="this wave alone")
@click.option("--boot", is_flag=True, help="count a guest as done when it was booted")
@json_option
@verbose_option
def report_waves(waves_file: str, html: str, wave: Optional[int], boot: bool, as_json: bool) -> int:
    """Write a page of the fleet to look at.

    It links to the page of each guest, which is written into the guest's own directory.

    Example: h2k fleet report waves.yaml --html fleet.html
    """
    run = new_run(as_json)

    def work() -> Outcome:
        waves = read_waves(Path(waves_file))
        entries = waves.of(wave)
        page, states = FleetPage(Path(html), waves, entries, waves.jobs, waves.per_source), {}
        for entry in entries:
            states[str(entry.state)] = found = state_of(entry, boot)
            page.heard(entry, found)
        page.write()
        summary = summary_of(waves, entries, states)
        _print(summary, as_json)
        return Outcome(summary["status"], "STATUS", "")

    return guarded(run, work, quiet=True)


def _cells(entry: Entry, found: GuestState) -> Sequence[str]:
    took = time_text(found.seconds) if found.seconds is not None else ""
    return found.state, str(entry.wave), entry.name, took, f"of {time_text(entry.estimate)}" if entry.estimate else "", found.reason


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    states = summary["states"]
    click.echo(", ".join(f"{states[state]} {state}" for state in STATES if states[state]) or "no guest in these waves")
    done = [g for g in summary["guests"] if g["state"] == guest_state.DONE and g["seconds"] and g["estimate"]]
    if done:
        took, said = sum(g["seconds"] for g in done), sum(g["estimate"] for g in done)
        click.echo(f"what is done took {time_text(took)}, estimated {time_text(said)}")
    for command in next_commands(summary):
        mended = states[guest_state.FAILED] or states[guest_state.REFUSED_STATE]
        click.echo(f"next: {command}" + ("  (when the reasons are mended; NAME.h2k/fleet.log has the rest)" if mended else ""))


def _tell(command: str, summary: dict[str, Any]) -> None:
    """Give the summary to the owner's command; that it fails is said, and changes nothing."""
    try:
        done = subprocess.run(shlex.split(command), input=json.dumps(summary).encode(), check=False)
        if done.returncode:
            print(f"h2k: --on-end ended with status {done.returncode}", file=sys.stderr)
    except (OSError, ValueError) as e:
        print(f"h2k: --on-end can't be run: {shown(str(e))}", file=sys.stderr)
