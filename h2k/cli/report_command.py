"""`h2k report`: the record of the last run, or the history of all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from h2k.base.errors import READY, BadData, UsageError
from h2k.cli.handles import record_directory
from h2k.cli.options import json_option, new_run, verbose_option
from h2k.engine.ending import guarded, print_json, told
from h2k.engine.guest_pages import write_guest_page
from h2k.engine.outcome import Outcome
from h2k.engine.records import command_line, judging_record, records
from h2k.engine.standing import Standing, standing


@click.command()
@click.argument("guest", metavar="NAME|NAME.xml|NAME.h2k|DOMAIN")
@click.option("--history", is_flag=True, help="a line for each run of this guest")
@click.option("--html", metavar="FILE", help="write a page to look at: one file, without a network")
@click.option("--connect", metavar="URI", default=None, help="libvirt, for a DOMAIN that it knows")
@json_option
@verbose_option
def report(guest: str, history: bool, html: Optional[str], connect: Optional[str], as_json: bool) -> int:
    """Show the record of the last run, and what it is worth now.

    A run that was refused for what is around the guest (its name is taken, somebody has the disks) says nothing of it:
    the record before it is shown, and the newer one told in a line.

    Example: h2k report NAME.h2k
    """
    run = new_run(as_json)

    def work() -> Outcome:
        directory = record_directory(guest, connect)
        found = records(directory)
        if not found:
            raise UsageError(f"{directory}: no record of h2k here", hint="h2k report NAME.h2k")
        try:
            return _shown(directory, found, history, html, as_json)
        except (TypeError, AttributeError, LookupError, ValueError) as e:  # whoever brought the disks may have brought it too
            raise BadData(
                f"{directory}: a record that is not as h2k writes it: {e}", hint="h2k verify looks at the disks themselves"
            ) from e

    return guarded(run, work, quiet=True)


def _shown(directory: Path, found: Sequence[dict[str, Any]], history: bool, html: Optional[str], as_json: bool) -> Outcome:
    if html is not None:
        write_guest_page(Path(html), directory, found)
    if history:
        return Outcome(_history(found, as_json), "READ", "")
    judging = judging_record(found)
    now = standing(judging)
    told(_worth_now(judging, now, found[-1]), as_json=as_json)
    return Outcome(now.status(int(judging["status"])), "READ", "")


def _worth_now(judging: dict[str, Any], now: Standing, newest: dict[str, Any]) -> dict[str, Any]:
    """A record with what it is worth now, and the newer run that was kept out, where there is one."""
    record: dict[str, Any] = {**judging, "standing": dataclasses.asdict(now)}
    if now.sentence:
        record["verdict"] = f"{record['verdict']}; {'since then' if now.holds else 'but now'}: {now.sentence}"
    if not now.holds:
        record["word"] = f"{record.get('word', 'READY')}, {now.state.upper()}"
    if newest is not judging:
        record["newer"] = {key: newest.get(key) for key in ("run", "command", "started", "status", "word", "verdict")}
        details = record.get("details")
        line = f"  newer:     {command_line(newest)}: {newest.get('word')}: {newest.get('verdict')}"
        record["details"] = [*(details if isinstance(details, list) else ()), line]
    return record


def _history(found: Sequence[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print_json({"status": READY, "runs": list(found)})
        return READY
    judging = judging_record(found)
    for record in found:
        state = standing(record).state if record is judging else ""
        word = record.get("word") or json.dumps(record.get("status"))
        click.echo(f"{record.get('started', '?'):<26} {word:<14} {command_line(record)}" + (f"  [{state}]" if state else ""))
    return READY
