"""From a survey to waves.yaml: what is ready first, the small ones first, no more in a night than the estimate allows."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from h2k.base.text import size_text, time_text
from h2k.fleet.look import READY, REPAIRS, Row
from h2k.fleet.waves import VERSION

_ORDER = {READY: 0, REPAIRS: 1}
_UNSAFE = re.compile(r"[/\x00-\x1f\x7f]")
_LONGEST = 100  # characters of a name, with room for a number
_HEAD = """\
# Waves for h2k fleet run, made by h2k fleet plan from a survey of {made}.
# Edit it as you like: h2k tells the line of every mistake. docs/fleet.md has all keys.
# A guest's own directory, OUTPUT/NAME.h2k, is its state: moving a guest to another wave loses nothing.
"""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the person wants: `night` in seconds, `most` guests in a wave."""

    output: str
    jobs: int
    per_source: int
    night: float
    most: int
    window: Optional[str] = None
    options: tuple[str, ...] = ()


def waves_yaml(survey: dict[str, Any], wishes: Wishes) -> str:
    """The text of waves.yaml."""
    guests = survey["guests"]
    names = unique_names(guests)
    can = sorted((g for g in guests if g["class"] in _ORDER), key=lambda g: (_ORDER[g["class"]], g["bytes"], g["key"]))
    lines = [_HEAD.format(made=survey["made"]) + f"version: {VERSION}", f"output: {quoted(wishes.output)}"]
    if wishes.options:
        lines.append(f"options: [{', '.join(map(quoted, wishes.options))}]")
    lines.append(f"limits: {{jobs: {wishes.jobs}, per_source: {wishes.per_source}}}")
    planned = list(in_waves(can, wishes))
    lines.append("waves:" if planned else "waves: []")
    for number, wave in enumerate(planned, start=1):
        size, seconds = sum(g["bytes"] for g in wave), _seconds(wave, wishes.jobs)
        lines.append(f"  - wave: {number}  # {len(wave)} guests, {size_text(size)}, about {time_text(seconds)}")
        if wishes.window is not None:
            lines.append(f"    window: {quoted(wishes.window)}")
        lines.append("    guests:")
        lines += [f"      - {_entry(g, names[g['key']])}{_remark(g)}" for g in wave]
    lines += _left_out([g for g in guests if g["class"] not in _ORDER], names)
    return "\n".join(lines) + "\n"


def in_waves(guests: Sequence[Row], wishes: Wishes) -> Iterator[list[Row]]:
    """The guests in their order, cut where a night is full; a guest that alone takes more than a night has its own."""
    wave: list[Row] = []
    for guest in guests:
        if wave and (len(wave) >= wishes.most or (_seconds([*wave, guest], wishes.jobs) or 0) > wishes.night):
            yield wave
            wave = []
        wave.append(guest)
    if wave:
        yield wave


def _seconds(wave: Sequence[Row], jobs: int) -> Optional[float]:
    """How long a wave takes: shared among the jobs, and no less than its largest guest; None without an estimate."""
    estimates = [g["estimate"] for g in wave if g["estimate"] is not None]
    return max(sum(estimates) / jobs, *estimates) if estimates else None


def unique_names(guests: Sequence[Row]) -> dict[str, str]:
    """A name for each guest's result, by its key: its own made fit for a file, with a number where it is taken."""
    taken: dict[str, int] = {}
    found = {}
    for guest in guests:
        name = _UNSAFE.sub("_", guest["name"]).lstrip(".-").strip()[:_LONGEST] or "guest"
        found[guest["key"]] = free_name(name, taken)
    return found


def free_name(name: str, taken: dict[str, int]) -> str:
    """The name, with a number where it is taken; taken now. `taken` has the last number that each name got, so that
    thousands of guests of one name are not compared with each other."""
    number, unique = taken.get(name, 0), name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    taken[name] = max(number, 1)
    taken.setdefault(unique, 1)
    return unique


def quoted(text: str) -> str:
    """Text as YAML takes it, whatever is in it."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _entry(guest: Row, name: str) -> str:
    fields = {"name": quoted(name), "source": quoted(guest["source"]), "kind": guest["kind"]}
    for key in ("connection", "datastore"):
        if guest[key]:
            fields[key] = quoted(guest[key])
    fields["bytes"] = str(guest["bytes"])
    if guest["estimate"] is not None:
        fields["estimate"] = str(guest["estimate"])
    return "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"


def _remark(guest: Row) -> str:
    """What a person should know about a guest that will be converted."""
    what = [*guest["repairs"], *guest["flags"], *guest.get("roles", ())]
    return f"  # {_line(', '.join(what))}" if what else ""


def _left_out(guests: Sequence[Row], names: dict[str, str]) -> Iterator[str]:
    """The guests that are refused or unknown, as comments with the reason."""
    if guests:
        yield "# Not planned; a line without its # belongs below the guests of a wave:"
    for guest in guests:
        yield f"#     {guest['class']}: {_line(guest['reason'])}"
        for action in guest["actions"]:
            yield f"#       → {_line(action)}"
        if guest["kind"] != "missing":
            yield f"#     - {_entry(guest, names[guest['key']])}"


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())

