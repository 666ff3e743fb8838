"""`h2k explain`: what a finding means, what the owner sees, what h2k does, and how to do it by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Optional

import click

from h2k.base.errors import READY, UsageError
from h2k.base.option_table import H2K, did_you_mean, spelled
from h2k.cli.options import json_option, new_run, verbose_option
from h2k.engine.catalogue import ACCEPTABLE, ENTRIES
from h2k.engine.ending import guarded, print_json
from h2k.engine.finding_entry import Entry
from h2k.engine.outcome import Outcome

_WIDTH = 100  # characters of a line


@click.command()
@click.argument("finding", required=False, metavar="FINDING")
@click.option("--words", is_flag=True, help="print the ids alone, for completion")
@json_option
@verbose_option
def explain(finding: Optional[str], words: bool, as_json: bool) -> int:
    """Explain a finding: the fault, what its owner sees, what h2k does, and how to mend it by hand.

    Without an id, list all of them.

    Example: h2k explain device-id-unbound
    """
    if words:
        click.echo(" ".join(entry.id for entry in ENTRIES))
        return READY
    run = new_run(as_json)
    found: list[Entry] = []

    def work() -> Outcome:
        found.extend(entry for entry in ENTRIES if finding in (None, entry.id))
        if not found:
            raise UsageError(f"{finding}: no such finding", hint=did_you_mean(str(finding), [e.id for e in ENTRIES], "h2k explain"))
        return Outcome(READY, "EXPLAINED", "")

    status = guarded(run, work, quiet=True)
    if found and as_json:
        print_json({"status": status, "findings": [_as_json(entry) for entry in found]})
    elif found and finding is None:
        wide = max(len(entry.id) for entry in found)
        click.echo("\n".join(f"{entry.id:<{wide}}  {entry.fault}" for entry in found))
    elif found:
        click.echo("\n".join(_lines(found[0])))
    return status


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "fault": entry.fault,
        "answer": entry.answer,
        "symptom": entry.screen,
        "where": entry.where,
        "action": spelled(entry.action, H2K),
        "by_hand": spelled(entry.by_hand, H2K),
        "acceptable": entry.id in ACCEPTABLE,
    }


def _lines(entry: Entry) -> Iterator[str]:
    yield f"{entry.id}: {entry.fault}"
    rows = [
        ("you would see", entry.screen),
        ("where", entry.where),
        ("h2k", f"{entry.answer}. {entry.action}"),
        ("by hand", entry.by_hand),
    ]
    if entry.id in ACCEPTABLE:
        rows.append(("override", f"--h2k-accept {entry.id} goes on in spite of it"))
    for name, text in rows:
        plain = spelled(text.replace("`", ""), H2K)
        yield from textwrap.wrap(plain, _WIDTH, initial_indent=f"  {name + ':':<15}", subsequent_indent=" " * 17)
