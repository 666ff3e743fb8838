"""The command `h2k survey`: every guest before any copy."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from h2k.base.children import temporary_directory
from h2k.base.errors import UsageError
from h2k.base.files import write_bytes, write_json, write_text
from h2k.base.libvirt_connection import connected
from h2k.base.steps import counted
from h2k.base.text import shown, size_text, time_text
from h2k.cli.options import json_option, new_run, request_options, verbose_option
from h2k.domain.ova import large_directory
from h2k.engine.ending import guarded, print_json
from h2k.engine.outcome import Outcome
from h2k.engine.pool import in_pool
from h2k.engine.request import Request, open_tools
from h2k.fleet import rate as rates
from h2k.fleet.live_table import open_table
from h2k.fleet.look import CLASSES, Row, SurveyLook, row_of
from h2k.fleet.sources import Source, Walk, of_libvirt, sources_of
from h2k.fleet.spreadsheet import as_csv
from h2k.fleet.survey import document, read_survey, status_of
from h2k.pages.survey_page import survey_page

_GROUPS = 12  # that a terminal shows; all are in the JSON
_LIMIT = 120.0  # seconds for the look at one guest


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH…]")
@click.option("--libvirt", "uris", multiple=True, metavar="URI", help="look at every shut-off domain of this libvirt too")
@click.option("--running", is_flag=True, help="look at running domains too; what is seen may be half written")
@click.option("--list", "lists", multiple=True, metavar="FILE", help="a file with a path a line")
@click.option("--output", "-o", metavar="FILE", help="write the survey as JSON")
@click.option("--csv", "csv_file", metavar="FILE", help="write a table for spreadsheets")
@click.option("--html", metavar="FILE", help="write a page to look at: one file, without a network")
@click.option("--since", metavar="OLD.json", help="an earlier survey, to tell what changed")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="guests at a time [default: one a processor]")
@click.option("--limit", type=click.FloatRange(1), default=_LIMIT, show_default=True, metavar="SECONDS", help="longest look at one guest")
@request_options
@json_option
@verbose_option
def survey(
    paths: Sequence[str], uris: Sequence[str], running: bool, lists: Sequence[str], output: Optional[str], csv_file: Optional[str],
    html: Optional[str], since: Optional[str], workers: Optional[int], limit: float, as_json: bool, **wishes: Any,
) -> int:  # fmt: skip
    """Look at many guests before any copy, read-only.

    They are found below directories, in lists of paths, and in libvirt.

    Example: h2k survey /exports -o survey.json --csv survey.csv
    """
    run = new_run(as_json)

    def work() -> Outcome:
        request = Request.of(wishes)
        old = read_survey(Path(since)) if since is not None else None
        with open_tools(request):
            pass  # a wrong option is told once and before anything is read
        walk = Walk()
        sources = [*sources_of(paths, lists, walk), *_of_libvirts(uris, running)]
        if not sources:
            hint = "guests are .vmx, .ova, .ovf, .vhd, .vhdx, .vdi, .vmdk, .qcow2, .raw, .img and libvirt's .xml"
            raise UsageError("no guest found" if paths or lists or uris else "nothing is named to look at", hint=hint)
        rows = _looked(sources, request, workers, limit)
        found = document(rows, _rate(), [*filter(None, [walk.stopped]), *walk.unreadable], old)
        if output is not None:
            write_json(Path(output), found)
        if csv_file is not None:
            write_bytes(Path(csv_file), as_csv(found["guests"]))
        if html is not None:
            write_text(Path(html), survey_page(found, _planning(output)))
        if as_json:
            print_json(found)
        else:
            click.echo("\n".join(_summary(found)))
        return Outcome(status_of(rows), "SURVEYED", "")

    return guarded(run, work, quiet=True)


def _planning(output: Optional[str]) -> list[str]:
    """What comes after a survey that was kept."""
    return [f"h2k fleet plan {shlex.quote(output)} > waves.yaml"] if output is not None else []


def _of_libvirts(uris: Sequence[str], running: bool) -> list[Source]:
    found: list[Source] = []
    for uri in uris:
        with connected(uri) as connection:
            found += of_libvirt(uri, connection, running)
    return found


def _looked(sources: Sequence[Source], request: Request, workers: Optional[int], limit: float) -> list[Row]:
    """The row of each guest, in the order of the sources."""
    rows: dict[str, Row] = {}
    table = open_table(f"survey of {counted(len(sources), 'guest')}", ("class", "guest", "Windows", "size", "reason"))
    with _scratch() as scratch, table.shown() as update:
        for ended in in_pool(SurveyLook(request, scratch), sources, workers, limit):
            row = rows[ended.job.key] = row_of(ended)
            update(row["key"], (row["class"], row["name"], row["windows"], size_text(row["bytes"]), row["reason"]))
    return [rows[source.key] for source in sources]


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """Where archives are unpacked that can't be read as they are; gone afterwards, whatever became of the workers
    and of us."""
    with temporary_directory("h2k-survey-", large_directory()) as work:
        yield str(work)


def _rate() -> Optional[rates.Rate]:
    """The rate of this host: the kept one, else one that is measured now and kept."""
    found = rates.kept()
    if found is None:
        found = rates.measured()
        if found is not None:
            rates.keep(found)
    return found


def _summary(found: dict[str, Any]) -> Iterator[str]:
    """What people read after the table."""
    yield ", ".join(f"{found['classes'][name]} {name}" for name in CLASSES if found["classes"][name]) + f", {size_text(found['bytes'])}"
    rate = found["rate"]
    if rate is not None:
        speed = f"{size_text(int(rate['bytes_per_second']))}/s, measured on {rate['date']}: {rate['basis']}"
        yield f"one after the other: {time_text(found['bytes'] / rate['bytes_per_second'])} ({speed})"
    for group in found["groups"][:_GROUPS]:
        yield shown(f"  {group['count']:>5} × {group['state']}: {group['id']}" + (f" → {group['action']}" if group["action"] else ""))
    if len(found["groups"]) > _GROUPS:
        yield f"  ({len(found['groups']) - _GROUPS} more groups in the JSON)"
    for change in (found["changes"] or ())[:_GROUPS]:
        yield shown(f"  since then: {change['key']}: {change['change']}: {change['was']} → {change['now']}")
    if found["changes"] is not None:
        yield f"  {counted(len(found['changes']), 'change')} since the earlier survey"
    yield from (shown(f"  not looked at: {note}") for note in found["notes"][:_GROUPS])
