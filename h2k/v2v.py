"""virt-v2v's command line: every argument passes through unchanged; ours, --h2k-…, are taken out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Optional

from h2k.errors import UsageError

# virt-v2v's options that take no value (2.2 to 2.12); every other option takes one. A single dash does for all.
FLAGS = frozenset(
    """? h help V version v x verbose trace q quiet debug-gc machine-readable echo-keys keys-from-stdin colors colours
    print-source print-estimate in-place no-copy no-trim no-fstrim vmtype-server qemu-boot colour color
    compressed no-compressed short-options long-options""".split()
)
INFORMATIONAL = frozenset("? help V version machine-readable print-source print-estimate short-options long-options".split())
_NAMES = {"i": "input_mode", "if": "input_format", "it": "input_transport", "ic": "input_connection"}
_NAMES.update({"o": "output_mode", "os": "output_storage", "on": "output_name", "of": "output_format"})
BUSES = ("virtio", "virtio-scsi", "sata")
MODES = ("repair", "report")
_VALUES = ("drivers", "plan", "bus", "hooks", "skip", "mode", "report", "accept")
_LISTS = {"plan": "plans", "hooks": "hooks", "skip": "skip", "accept": "accept"}


@dataclasses.dataclass(frozen=True)
class H2kOptions:
    """Our own options."""

    drivers: Optional[str] = None
    plans: tuple[str, ...] = ()
    bus: str = "virtio"
    hooks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    mode: str = "repair"
    report: Optional[str] = None
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class V2vCommand:
    """What virt-v2v gets (`passed`), what h2k understood of it, and our own options."""

    passed: tuple[str, ...]
    h2k: H2kOptions
    arguments: tuple[str, ...] = ()
    informational: bool = False
    input_mode: str = "libvirt"
    input_format: Optional[str] = None
    input_transport: Optional[str] = None
    input_connection: Optional[str] = None
    output_mode: str = "libvirt"
    output_storage: Optional[str] = None
    output_name: Optional[str] = None
    output_format: Optional[str] = None


def parse(argv: Sequence[str]) -> V2vCommand:
    """Split the arguments; UsageError for an --h2k- option that does not exist or has no value."""
    passed, ours = _split(argv)
    known: dict[str, str] = {}
    arguments: list[str] = []
    informational = False
    waiting = iter(passed)
    for argument in waiting:
        if argument == "--":
            arguments += list(waiting)
        elif not argument.startswith("-") or argument == "-":
            arguments.append(argument)
        else:
            name, glued, value = argument.lstrip("-").partition("=")
            informational = informational or name in INFORMATIONAL
            if not glued and name not in FLAGS:
                value = next(waiting, "")
            if name in _NAMES:
                known[_NAMES[name]] = value
    return V2vCommand(tuple(passed), _options(ours), tuple(arguments), informational, **known)  # type: ignore[arg-type]


def _split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    passed: list[str] = []
    ours: list[tuple[str, str]] = []
    waiting = iter(argv)
    for argument in waiting:
        if argument == "--":
            passed += [argument, *waiting]
        elif not argument.startswith("--h2k-"):
            passed.append(argument)
        else:
            name, glued, value = argument[len("--h2k-") :].partition("=")
            if name == "dry-run" and not glued:
                value = "yes"
            elif name not in _VALUES:
                valid = ", ".join(f"--h2k-{n}" for n in (*_VALUES, "dry-run"))
                raise UsageError(f"{argument}: no such option", hint=f"h2k has {valid}")
            elif not glued:
                found = next(waiting, None)
                if found is None:
                    raise UsageError(f"{argument}: needs a value")
                value = found
            ours.append((name, value))
    return passed, ours


def _options(ours: list[tuple[str, str]]) -> H2kOptions:
    lists = {field: tuple(v for n, v in ours if n == name) for name, field in _LISTS.items()}
    single = {n: v for n, v in ours if n not in _LISTS}
    bus = single.get("bus", "virtio")
    mode = single.get("mode") or os.environ.get("H2K_MODE") or "repair"
    if bus not in BUSES:
        raise UsageError(f"--h2k-bus {bus}: no such bus", hint=f"one of {', '.join(BUSES)}")
    if mode not in MODES:
        raise UsageError(f"mode {mode}: no such mode", hint=f"one of {', '.join(MODES)}")
    return H2kOptions(
        drivers=single.get("drivers"),
        bus=bus,
        mode=mode,
        report=single.get("report"),
        dry_run="dry-run" in single,
        **lists,
    )
