"""Our own options, --h2k-…: the same on virt-v2v's command line and on qemu-img's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Optional

from h2k.base.errors import UsageError
from h2k.domain.facts import BUSES

OURS = ("--h2k-", "-h2k-")
MODES = ("repair", "report")
_VALUES = ("drivers", "plan", "bus", "hooks", "skip", "mode", "report", "accept", "policy", "config")
_LISTS = {"plan": "plans", "policy": "policies", "hooks": "hooks", "skip": "skip", "accept": "accept"}
Given = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class H2kOptions:
    """Our own options."""

    drivers: Optional[str] = None
    plans: tuple[str, ...] = ()
    bus: str = "virtio"
    hooks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    mode: str = "repair"
    report: Optional[str] = None
    dry_run: bool = False
    config: Optional[str] = None


def take(argument: str, waiting: Iterator[str], more: Sequence[str] = ()) -> Given:
    """(name, value) of the option in `argument`, whose value may be the next one; `more` are names that one command
    alone has. UsageError for an option that does not exist or has no value."""
    name, glued, value = argument[argument.index("h2k-") + 4 :].partition("=")
    if name == "dry-run":
        if glued:
            raise UsageError(f"{argument}: takes no value")
        return name, "yes"
    if name not in (*_VALUES, *more):
        valid = ", ".join(f"--h2k-{n}" for n in (*_VALUES, *more, "dry-run"))
        raise UsageError(f"{argument}: no such option", hint=f"h2k has {valid}")
    found = value if glued else next(waiting, "")
    if not found:
        raise UsageError(f"{argument}: needs a value")
    return name, found


def read(given: Sequence[Given], bus: str = "virtio") -> H2kOptions:
    """The options that were given, over their defaults (`bus` is one); UsageError for a value that can't be."""
    lists = {field: tuple(v for n, v in given if n == name) for name, field in _LISTS.items()}
    single = {n: v for n, v in given if n not in _LISTS}
    bus = single.get("bus") or bus
    mode = single.get("mode") or os.environ.get("H2K_MODE") or "repair"
    if bus not in BUSES:
        raise UsageError(f"--h2k-bus {bus}: no such bus", hint=f"one of {', '.join(BUSES)}")
    if mode not in MODES:
        where = "--h2k-mode" if "mode" in single else "H2K_MODE"
        raise UsageError(f"{where} {mode}: no such mode", hint=f"one of {', '.join(MODES)}")
    return H2kOptions(
        drivers=single.get("drivers"),
        bus=bus,
        mode=mode,
        report=single.get("report"),
        dry_run="dry-run" in single,
        config=single.get("config"),
        **lists,
    )
