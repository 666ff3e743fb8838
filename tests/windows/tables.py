"""Tables of evidence: read with suspicion, joined, shown with the lab's disagreements first, and docs/proven.md made of them.

    tests/windows/h2k-evidence merge TABLE… [-o TABLE] [--proven docs/proven.md]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from h2k.base.errors import H2kError, UsageError
from h2k.base.text import printable

SCHEMA_FILE = Path(__file__).with_name("evidence.schema.json")
TABLE_LIMIT = 64 << 20  # bytes of a table that somebody sent
STARTS = "starts"
JUDGED = ("starts", "stops", "silent", "restarts")  # outcomes of a guest that was tried
EMPTY = "Nothing yet: nobody has sent a table of a real Windows. Every claim of h2k's rests on made guests alone."

Row = dict[str, Any]


def read_table(path: Path) -> list[Row]:
    """The rows of a table; UsageError names the place of what is wrong in it."""
    try:
        if path.stat().st_size > TABLE_LIMIT:
            raise UsageError(f"{path}: larger than {TABLE_LIMIT} bytes; no table of the kit's")
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
        jsonschema.Draft7Validator(schema).validate(content)
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}", hint="give table.json of the kit's results") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path}: not JSON: {str(e)[:200]}", hint="give table.json of the kit's results") from e
    except jsonschema.ValidationError as e:
        place = "/".join(map(str, e.absolute_path)) or "the table"
        raise UsageError(f"{path}: {place}: {e.message[:200]}", hint="send the table as the kit wrote it") from e
    rows: list[Row] = content["rows"]
    return rows


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """A table as it is written."""
    return {"schema": 1, "rows": list(rows)}


def merge(tables: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of all tables, each run once. UsageError where two tables tell two stories of one run."""
    found: dict[str, Row] = {}
    for row in (row for rows in tables for row in rows):
        known = found.setdefault(row["run"], row)
        if known != row:
            raise UsageError(f"{row['run']}: two tables tell different things of this run", hint="ask who sent them")
    return sorted(found.values(), key=_order)


def disagreements(row: Row) -> list[str]:
    """Where the boot lab and the guest do not agree: the most valuable rows there are."""
    found = []
    for side in ("with", "without"):
        guest, lab = row[side]["outcome"], row[side]["lab"]
        if guest in JUDGED and lab in JUDGED and (guest == STARTS) != (lab == STARTS):
            found.append(f"{side}: the guest {guest}, the lab {lab}")
    return found


def verdict(row: Row) -> str:
    """What the row says of h2k, in words."""
    with_h2k, without = row["with"]["outcome"], row["without"]["outcome"]
    if with_h2k == STARTS:
        return "starts with or without h2k" if without == STARTS else "starts only with h2k"
    if with_h2k == "refused":
        return "refused, and it would have started" if without == STARTS else "refused, and it does not start"
    return "starts only without h2k" if without == STARTS else "does not start"


def remarks(row: Row, side: str) -> list[str]:
    """What a guest that starts has lost, or complains of; a stand-in has no addresses, event log and letters to lose."""
    seen = row[side]
    if row["stand_in"] or seen["outcome"] != STARTS:
        return []
    found = []
    if seen.get("addresses_kept") is False:
        found.append("addresses lost")
    if seen.get("data_disk") is False:
        found.append("data disk not at its letter")
    if seen.get("stops"):
        found.append(f"{seen['stops']} stops in its event log")
    return found


def _order(row: Row) -> tuple[Any, ...]:
    """Disagreements first, then what speaks against h2k, then by Windows and fault."""
    against = verdict(row) in ("starts only without h2k", "does not start", "refused, and it would have started")
    return (not disagreements(row), not against, row["windows"]["release"], row["firmware"], row["fault"] != "healthy", row["fault"], row["run"])


def _cell(text: Any) -> str:
    """Text of a table that somebody sent, fit for a cell of Markdown: no markup, no HTML, no line break."""
    plain = printable(str(text))
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!" else c for c in plain)[:400]


def markdown(rows: Sequence[Row]) -> str:
    """The table for people: a line for each row, disagreements in front and told."""
    lines = []
    doubtful = [row for row in rows if disagreements(row)]
    if doubtful:
        lines += [f"**The boot lab and the guest disagree in {len(doubtful)} of {len(rows)} rows:**", ""]
        lines += [f"- {_cell(row['windows']['release'])}, {_cell(row['fault'])}: {_cell('; '.join(disagreements(row)))}" for row in doubtful]
        lines.append("")
    lines += [
        "| guest | firmware | fault | put into | with h2k | without | the lab | verdict |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        windows, with_h2k, without = row["windows"], row["with"], row["without"]
        guest = f"{windows['release']} {windows['build']} {windows['arch']}" + (" STAND-IN, not Windows" if row["stand_in"] else "")
        labs = "agrees" if with_h2k["lab"] in JUDGED or without["lab"] in JUDGED else "not tried"
        cells = (
            guest, row["firmware"], row["fault"], row["into"],
            "; ".join([f"{with_h2k['outcome']} (status {with_h2k['status']})", *remarks(row, "with")]),
            "; ".join([f"{without['outcome']} {without.get('reason', '')}".strip(), *remarks(row, "without")]), "DISAGREES" if disagreements(row) else labs, verdict(row),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def proven(rows: Sequence[Row]) -> str:
    """docs/proven.md; UsageError for a row of a stand-in, which proves nothing of Windows."""
    for row in rows:
        if row["stand_in"]:
            raise UsageError(f"{row['run']}: a stand-in's row proves nothing of Windows", hint="merge without its table, or without --proven")
    head = (
        "# What was proven on real Windows\n\nMade from the tables that people sent (docs/evidence/*.json), by\n"
        "`tests/windows/h2k-evidence merge docs/evidence/*.json --proven docs/proven.md`; never edited by hand. How such a table\n"
        "comes about: [prove-on-windows.md](prove-on-windows.md).\n\n"
    )
    if not rows:
        return f"{head}{EMPTY}\n"
    faults = len({row["fault"] for row in rows})
    builds = sorted({f"{row['windows']['release']} {row['windows']['build']}" for row in rows})
    return f"{head}{len(rows)} rows, {faults} faults, on: {_cell(', '.join(builds))}.\n\n{markdown(rows)}"


def main(argv: Sequence[str]) -> int:
    """h2k-evidence merge TABLE… [-o TABLE] [--proven FILE]"""
    parser = argparse.ArgumentParser(prog="h2k-evidence", description="Joins tables of evidence that the Windows kit wrote.")
    commands = parser.add_subparsers(dest="command", required=True)
    joining = commands.add_parser("merge", help="join tables; the lab's disagreements are printed first")
    joining.add_argument("tables", nargs="*", type=Path, metavar="TABLE", help="table.json of a run of the kit")
    joining.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the joined table there")
    joining.add_argument("--proven", type=Path, metavar="FILE", help="write docs/proven.md there; refused for a stand-in's rows")
    options = parser.parse_args(argv)
    try:
        rows = merge(read_table(path) for path in options.tables)
        page = proven(rows) if options.proven is not None else ""
    except H2kError as e:
        print(f"h2k-evidence: {e}", file=sys.stderr)
        return e.exit_status
    if options.output is not None:
        options.output.write_text(json.dumps(table(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.proven is not None:
        options.proven.write_text(page, encoding="utf-8")
    print(markdown(rows) if rows else "no rows", end="" if rows else "\n")
    return 0
