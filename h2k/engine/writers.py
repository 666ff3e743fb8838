"""Which of the two writers does it: the direct one, and the appliance where the host lacks a piece of the direct one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

from h2k.base.errors import UsageError
from h2k.engine import direct_writer
from h2k.engine.appliance_writer import ApplianceWriter
from h2k.engine.writing import Unavailable, Work, Writer


def write(overlays: Sequence[Path], work: Work, wanted: str = "auto", say: Callable[[str], None] = lambda text: None) -> str:
    """Carry the work out with the writer that is wanted; the name of the one that did it. `say` gets a line for people."""
    reasons = []
    for writer in _candidates(wanted, say):
        try:
            writer.write(overlays, work)
            return writer.name
        except Unavailable as why:
            if wanted == "direct":
                raise UsageError(f"the direct writer can't work here: {why}", hint="writer: auto in the policy") from why
            reasons.append(str(why))
            say(f"the direct writer can't work here ({why}): an appliance does it, which takes longer")
    raise AssertionError(f"the appliance is always a writer: {reasons}")


def expected(wanted: str = "auto") -> tuple[str, str]:
    """Which writer it will be on this host, and why not the direct one ("" when it is)."""
    if wanted == "appliance":
        return wanted, "the policy says so"
    lacking = direct_writer.missing()
    return ("appliance", f"{', '.join(lacking)} missing") if lacking else ("direct", "")


def _candidates(wanted: str, say: Callable[[str], None]) -> Iterator[Writer]:
    if wanted != "appliance":
        yield direct_writer.DirectWriter()
    yield ApplianceWriter(say)
