"""The page of a fleet: how far each wave is, what needs somebody, and a table of all guests with links to their pages."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.pages.grouped import anchor, grouped
from h2k.pages.guest_page import PAGE
from h2k.pages.rendering import clean, link, render

_RUNNING, _DONE = "running", "done"


@dataclasses.dataclass(frozen=True)
class FleetFacts:
    """What the page shows beside the summary (docs/schemas/fleet.json): limits, the windows by wave, groups of what needs
    somebody, commands, times as people read them. `written_at` in seconds since 1970; `running`: the run goes on."""

    jobs: int
    per_source: int
    windows: Mapping[int, str]
    groups: Sequence[Mapping[str, Any]]
    commands: Sequence[str]
    status_command: str
    host: str
    written: str
    written_at: float
    began: Optional[str] = None
    running: bool = False


def fleet_page(path: Path, summary: dict[str, Any], facts: FleetFacts) -> str:
    """The HTML of the page that will lie at `path`: the links to the guests' pages are relative to it."""
    order = {state: number for number, state in enumerate(summary["states"])}
    rows = summary["guests"]
    anchors = {row["report"]: (anchor(number), clean(row["name"])) for number, row in enumerate(rows)}
    guests = [
        {**clean(row), "anchor": anchor(number), "rank": order.get(row["state"], 0), "page": _page_link(path, row["report"])}
        for number, row in enumerate(rows)
    ]
    done = [row for row in rows if row["state"] == _DONE]
    timed = [row for row in done if row["seconds"] and row["estimate"]]
    left = [row["estimate"] for row in rows if row["state"] not in (_DONE, "failed", "refused") and row["estimate"]]
    given = {name: clean(value) for name, value in dataclasses.asdict(facts).items() if name not in ("groups", "windows")}
    return render(
        "fleet.html.j2",
        **given,
        waves_file=clean(Path(summary["waves"]).name),
        states=summary["states"],
        guests=guests,
        waves=_waves(rows, facts.windows, tuple(summary["states"])),
        groups=grouped([{**clean(dict(group)), "guests": group["guests"]} for group in facts.groups], anchors),
        bytes=sum(row["bytes"] for row in rows),
        bytes_done=sum(row["bytes"] for row in done),
        took=sum(row["seconds"] for row in timed),
        said=sum(row["estimate"] for row in timed),
        left=sum(left) / max(facts.jobs, 1),
        scripted=True,
    )


def _page_link(path: Path, report_dir: str) -> str:
    """The address of a guest's page from the fleet's, "" where there is none."""
    page = Path(report_dir) / PAGE
    return link(os.path.relpath(page, path.absolute().parent)) if page.is_file() else ""


def _waves(rows: Sequence[Mapping[str, Any]], windows: Mapping[int, str], states: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for number in sorted({row["wave"] for row in rows}):
        ours = [row for row in rows if row["wave"] == number]
        count = collections.Counter(row["state"] for row in ours)
        found.append({
            "wave": number, "window": clean(windows.get(number, "")), "count": len(ours), "states": [(s, count[s]) for s in states],
            "text": ", ".join(f"{count[s]} {s}" for s in states if count[s]), "bytes": sum(row["bytes"] for row in ours),
            "estimate": sum(row["estimate"] or 0 for row in ours),
        })  # fmt: skip
    return found
