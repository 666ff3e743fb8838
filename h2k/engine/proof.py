"""The one proof of a repair: overlays and copies are read again through code that did not write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.disk.open_reader import open_reader
from h2k.disk.reader import Reader
from h2k.domain.facts import DomainFacts
from h2k.engine.catalogue import in_domain
from h2k.engine.examination import RESULT
from h2k.engine.hooks import propose
from h2k.engine.request import Tools
from h2k.guest.changes import Change, ReplayLogs, pending
from h2k.guest.guest import Guest
from h2k.windows import regf

Images = Sequence[tuple[Path, Optional[str]]]


def problems_of(
    tools: Tools,
    images: Images,
    made: Sequence[Change],
    domain: Optional[DomainFacts],
    open_images: Callable[..., Reader] = open_reader,
) -> list[str]:
    """Every problem that the images still show after the changes `made`: hives that are not sound or not clean (every
    cell is read), changes that do not hold, findings that remain, changes that the hooks would still make."""
    with open_images(images) as reader:
        guest = Guest(reader, tools.request.root)
        problems: list[str] = []
        try:
            problems += written_hives(guest, made)
            problems += [f"does not hold: {c.diff(guest)}" for c in made if not c.holds(guest)]
            again = propose(tools.hooks, guest, tools.options(RESULT, domain), tools.request.skip)
            remaining = (*again.refused, *(f for f in again.broken if not in_domain(f.id)))
            problems += [f"{f.id}, {f.subject}: {f.evidence}" for f in remaining]
            problems += [f"still to do: {c.diff(guest)}" for c in pending(again.changes, guest)]
        except BadData as bad:  # what can't be read is a problem itself
            problems.append(str(bad))
    return problems


def written_hives(guest: Guest, made: Sequence[Change]) -> list[str]:
    """The hives that were written are sound in every cell, and clean."""
    problems: list[str] = []
    for name in sorted({change.hive for change in made if hasattr(change, "hive")}):
        problems += regf.check(guest.hive_bytes(name), name, deep=True)
        state = guest.hive_state(name).state
        if state != "clean":
            problems.append(f"{name} is {state}")
    return problems


def deep_findings(guest: Guest) -> list[Finding]:
    """Every cell of every hive looked at: a finding for each hive that is not sound. What can't be read at all is left to
    the hooks, which have told it."""
    found = []
    for name in ("SYSTEM", "SOFTWARE", "DRIVERS", "BCD"):
        try:
            problems = regf.check(guest.hive_state(name).data, name, deep=True) if guest.has_hive(name) else []
        except BadData:
            continue
        if problems:
            way_out = "restore it from a backup of the source"
            found.append(Finding("bcd-corrupt" if name == "BCD" else "hive-corrupt", "refused", name, problems[0], way_out))
    return found


def replayed_hives(guest: Guest, before: Guest, made: Sequence[Change]) -> list[str]:
    """The hives whose logs were replayed read back as the replay made them; `before` is the guest with its logs."""
    replays = [change for change in made if isinstance(change, ReplayLogs)]
    return [
        f"{change.hive}: the replayed hive does not read back"
        for change in replays
        if guest.hive_bytes(change.hive) != before.complete_hive(change.hive)
    ] + written_hives(guest, replays)
