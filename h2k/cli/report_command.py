"""`h2k report`: the record of the last run, or the history of all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from h2k.base.errors import READY, UsageError
from h2k.cli.handles import record_directory
from h2k.cli.options import json_option, new_run, verbose_option
from h2k.engine.ending import guarded, print_json, told
from h2k.engine.guest_pages import write_guest_page
from h2k.engine.outcome import Outcome
from h2k.engine.records import command_line, records
from h2k.engine.standing import standing


@click.command()
@click.argument("guest", metavar="NAME|NAME.xml|NAME.h2k|DOMAIN")
@click.option("--history", is_flag=True, help="a line for each run of this guest")
@click.option("--html", metavar="FILE", help="write a page to look at: one file, without a network")
@click.option("--connect", metavar="URI", default=None, help="libvirt, for a DOMAIN that it knows")
@json_option
@verbose_option
def report(guest: str, history: bool, html: Optional[str], connect: Optional[str], as_json: bool) -> int:
    """Show the record of the last run, and what it is worth now.

    Example: h2k report NAME.h2k
    """
    run = new_run(as_json)
    found: list[dict[str, Any]] = []

    def work() -> Outcome:
        directory = record_directory(guest, connect)
        found.extend(records(directory))
        if not found:
            raise UsageError(f"{directory}: no record of h2k here", hint="h2k report NAME.h2k")
        if html is not None:
            write_guest_page(Path(html), directory, found)
        return Outcome(READY, "READ", "")

    status = guarded(run, work, quiet=True)
    if not found:
        return status
    if history:
        return _history(found, as_json)
    now = standing(found[-1])
    record: dict[str, Any] = {**found[-1], "standing": dataclasses.asdict(now)}
    if now.sentence:
        record["verdict"] = f"{record['verdict']}; but now: {now.sentence}"
        record["word"] = f"{record.get('word', 'READY')}, {now.state.upper()}"
    told(record, as_json=as_json)
    return now.status(int(record["status"]))


def _history(found: Sequence[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print_json({"status": READY, "runs": list(found)})
        return READY
    for number, record in enumerate(found):
        state = standing(record).state if number == len(found) - 1 else ""
        word = record.get("word") or json.dumps(record.get("status"))
        click.echo(f"{record.get('started', '?'):<26} {word:<14} {command_line(record)}" + (f"  [{state}]" if state else ""))
    return READY
