"""The survey as CSV that a spreadsheet opens rightly: UTF-8 with its mark, quoted, and no cell that it takes for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from h2k.fleet.look import Row

# A cell that begins so is a formula in Excel and LibreOffice (OWASP, CSV Injection); an apostrophe makes it text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
COLUMNS = (
    "name", "class", "reason", "windows", "build", "arch", "firmware", "disks", "virtual bytes", "bytes to copy",
    "estimate seconds", "network", "installs", "restarts", "repairs", "owner's actions", "flags", "roles", "running", "kind", "source",
)  # fmt: skip


def as_csv(rows: Iterable[Row]) -> bytes:
    """The rows as a spreadsheet's file."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([cell(value) for value in _values(row)])
    return ("\ufeff" + out.getvalue()).encode("utf-8", "replace")


def cell(value: Any) -> str:
    """One cell: text that no spreadsheet computes; control characters but line breaks become spaces."""
    if value is None:
        return ""
    text = str(value).replace("\r\n", "\n")
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA[:4]) else text


def _values(row: Row) -> Sequence[Any]:
    nics = [f"{n['name']} {', '.join(n['addresses']) or 'DHCP'}: {n['fate']}" for n in row["nics"]]
    size = sum(disk["size"] for disk in row["disks"])
    return (
        row["name"], row["class"], row["reason"], row["windows"], row["build"], row["arch"], row["firmware"], len(row["disks"]),
        size, row["bytes"], row["estimate"], "\n".join(nics), ", ".join(row["installs"]), row["restarts"], ", ".join(row["repairs"]),
        "\n".join(row["actions"]), ", ".join(row["flags"]), ", ".join(row["roles"]), "yes" if row["running"] else "no",
        row["kind"], row["source"],
    )  # fmt: skip
