"""The survey as a document: rows, the same finding across guests, what changed since the last one, the worst class."""

from __future__ import annotations

import collections
import datetime
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k import __version__
from h2k.base.errors import NOT_READY, REFUSED, UsageError
from h2k.base.errors import READY as READY_STATUS
from h2k.base.option_table import BY_NAME, H2K
from h2k.config.schema_check import first_fault
from h2k.engine.catalogue import ACCEPTABLE
from h2k.engine.records import read_json
from h2k.fleet.look import CLASSES, REFUSED_CLASS, UNKNOWN, Row
from h2k.fleet.rate import Rate

SCHEMA = 1
SHOWN_IN_GROUP = 1000  # guests that a group names; its count is of all
_COMPARED = ("class", "reason", "repairs", "flags", "running", "bytes")


def document(rows: Sequence[Row], rate: Optional[Rate], notes: Sequence[str] = (), old: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """The survey (docs/schemas/survey.json); `old` is the last one, for what changed since."""
    for row in rows:
        row["estimate"] = math.ceil(rate.seconds_for(row["bytes"])) if rate is not None and row["bytes"] else None
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    count = collections.Counter(row["class"] for row in rows)
    return {
        "schema": SCHEMA,
        "h2k": __version__,
        "made": now,
        "classes": {name: count.get(name, 0) for name in CLASSES},
        "bytes": sum(row["bytes"] for row in rows),
        "rate": rate.as_json() if rate is not None else None,
        "notes": list(notes),
        "groups": groups(rows),
        "changes": changes(old["guests"], rows) if old is not None else None,
        "guests": list(rows),
    }


def groups(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The same finding, or the same reason, across guests: how many, which, and the one thing to do; the largest first."""
    found: dict[tuple[str, str], list[Row]] = {}
    texts: dict[tuple[str, str], collections.Counter[str]] = {}
    for row in rows:
        for key, text in _group_keys(row):
            members = found.setdefault(key, [])
            if not members or members[-1] is not row:
                members.append(row)
            texts.setdefault(key, collections.Counter())[text] += 1
    listed = [
        {
            "id": key[0], "state": key[1], "count": len(members), "action": _action(key, texts[key].most_common(1)[0][0]),
            "guests": [row["key"] for row in members[:SHOWN_IN_GROUP]],
        }
        for key, members in found.items()
    ]  # fmt: skip
    rank = {"refused": 0, "unknown": 1, "warning": 2, "broken": 3}
    return sorted(listed, key=lambda g: (rank.get(g["state"], 4), -g["count"], g["id"]))


def _group_keys(row: Row) -> list[tuple[tuple[str, str], str]]:
    if row["findings"]:
        repairs = set(row["repairs"])
        kept = [f for f in row["findings"] if f["state"] in ("refused", "warning") or f["id"] in repairs]
        return [((f["id"], f["state"]), f["repair"]) for f in kept]
    if row["class"] in (UNKNOWN, REFUSED_CLASS):
        state = "unknown" if row["class"] == UNKNOWN else "refused"
        return [((_without_name(row), state), row["actions"][0] if row["actions"] else "")]
    return []


def _without_name(row: Row) -> str:
    """The reason without the guest's own files in it, so that the same reason is one group."""
    reason = str(row["reason"])
    for name in (row["key"], row["source"], *(disk["path"] for disk in row["disks"])):
        reason = reason.replace(f"{name}: ", "")
    head, colon, tail = reason.partition(": ")
    return (tail if colon and head.startswith("/") else reason)[:200]


def _action(key: tuple[str, str], text: str) -> str:
    if key[1] == "broken":
        return "h2k repairs it on the way: h2k fleet run"
    if key[1] == "refused" and key[0] in ACCEPTABLE:
        return f"{text}; or go on in spite of it: {BY_NAME['accept'].spelling(H2K)} {key[0]}"
    return text


def changes(old: Iterable[Row], new: Iterable[Row]) -> list[dict[str, Any]]:
    """What became of each guest since the last survey: new, gone, or what changed."""
    before = {row["key"]: row for row in old}
    found: list[dict[str, Any]] = []
    seen = set()
    for row in new:
        seen.add(row["key"])
        earlier = before.get(row["key"])
        if earlier is None:
            found.append({"key": row["key"], "change": "new", "was": None, "now": row["class"]})
            continue
        for name in _COMPARED:
            if earlier.get(name) != row[name]:
                found.append({"key": row["key"], "change": name, "was": earlier.get(name), "now": row[name]})
    return found + [
        {"key": key, "change": "gone", "was": row["class"], "now": None} for key, row in before.items() if key not in seen
    ]


def status_of(rows: Iterable[Row]) -> int:
    """The exit status by the worst class: 3 refused, 4 unknown, 0 when every guest can be converted."""
    found = {row["class"] for row in rows}
    if REFUSED_CLASS in found:
        return REFUSED
    return NOT_READY if UNKNOWN in found else READY_STATUS


def read_survey(path: Path) -> dict[str, Any]:
    """A survey that was written earlier; UsageError for anything else."""
    content = read_json(path, "survey")
    if isinstance(content, dict) and content.get("schema") != SCHEMA and isinstance(content.get("schema"), int):
        raise UsageError(f"{path}: a survey of schema {content['schema']}; this h2k reads {SCHEMA}", hint="survey again")
    fault = first_fault(content, schema())
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the top"
        raise UsageError(f"{path}: not a survey of h2k: {place}: {fault.message[:200]}", hint="h2k survey writes one")
    found: dict[str, Any] = content
    return found


def schema() -> dict[str, Any]:
    """The schema of a survey, which docs/schemas/survey.json repeats."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "survey.schema.json").read_text(encoding="utf-8"))
    return found
