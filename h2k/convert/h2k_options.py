"""Our own options, --h2k-…, on virt-v2v's command line and on qemu-img's: parsed by the one option table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from h2k import __version__
from h2k.base.errors import UsageError
from h2k.base.option_table import BY_NAME, QEMU_IMG, V2V, Option, as_sentence, near, options_of
from h2k.engine.request import Request

OURS = ("--h2k-", "-h2k-")
Given = tuple[str, str]
YES = "yes"


@dataclasses.dataclass(frozen=True)
class H2kOptions:
    """Our own options of one wrapper's command line: `request` shapes the look at the guest, `own` are the values of
    options that one wrapper alone has."""

    request: Request = Request()
    mode: str = "repair"
    report: Optional[str] = None
    dry_run: bool = False
    boot: bool = False
    help: bool = False
    version: bool = False
    own: Mapping[str, str] = dataclasses.field(default_factory=dict)


def take(argument: str, waiting: Iterator[str], program: str) -> Given:
    """(name, value) of the option in `argument`, whose value may be the next one. UsageError for an option that this
    program does not have, for a missing value, and for a value that can't be."""
    name, glued, value = argument[argument.index("h2k-") + 4 :].partition("=")
    option = BY_NAME.get(name)
    if option is None or program not in option.programs:
        meant = near(name, [o.name for o in options_of(program)])
        hint = f"did you mean --h2k-{meant}?" if meant else f"{program} --h2k-help lists them"
        raise UsageError(f"{argument}: no such option", hint=hint)
    if not option.metavar:
        if glued:
            raise UsageError(f"{argument}: takes no value")
        return name, YES
    found = value if glued else next(waiting, "")
    if not found:
        raise UsageError(f"{argument}: needs a value", hint=f"{option.spelling(program)} {option.metavar}")
    return name, _checked(option, found, option.spelling(program))


def _checked(option: Option, value: str, spelling: str) -> str:
    if option.choices and value not in option.choices and not (option.name == "firmware" and value == "efi"):
        raise UsageError(f"{spelling} {value}: no such {option.metavar.lower()}", hint=f"one of {', '.join(option.choices)}")
    return value


def read(given: Sequence[Given], root: Optional[str] = None, bus: Optional[str] = None) -> H2kOptions:
    """The options that were given, over their defaults; `root` and `bus` are those of the other tool's own options."""
    found: dict[str, Any] = {"root": root, "bus": bus}
    own: dict[str, str] = {}
    for name, value in given:
        option = BY_NAME[name]
        if option.many:
            found.setdefault(option.field, []).append(value)
        elif option.request or option.name in ("mode", "report", "dry-run", "boot", "help", "version"):
            found[option.field] = value
        else:
            own[name] = value
    flags = {field: found.get(field) == YES for field in ("dry_run", "boot", "help", "version")}
    return H2kOptions(Request.of(found), _mode(found.get("mode")), found.get("report"), own=own, **flags)


def _mode(given: Optional[str]) -> str:
    """The mode that is asked for on the command line, else in the environment."""
    if given is not None:
        return given
    mode = os.environ.get("H2K_MODE") or "repair"
    return _checked(BY_NAME["mode"], mode, "H2K_MODE")


def help_text(program: str, tool: str) -> str:
    """What --h2k-help prints."""
    lines = [
        f"{program} {__version__}: {tool}'s own command line, and these options of h2k's.",
        f"Every other argument goes to {tool} unchanged; {tool} --help lists them.",
        "",
    ]
    for option in options_of(program):
        left = f"  {option.spelling(program)}" + (f" {option.metavar}" if option.metavar else "")
        chosen = f" ({', '.join(option.choices)})" if option.choices else ""
        again = "; may be given again" if option.many else ""
        lines.append(f"{left:<31} {as_sentence(f'{option.help}{chosen}{again}')}")
    return "\n".join([*lines, "", "Example:", f"  {EXAMPLES[program]}", "", *_STATUSES])


EXAMPLES = {
    V2V: "h2k-v2v -i vmx guest.vmx -o local -os /var/lib/libvirt/images --h2k-drivers virtio-win.iso",
    QEMU_IMG: "h2k-qemu-img convert -p -O qcow2 guest.vmdk guest.qcow2 --h2k-drivers virtio-win.iso",
}
_STATUSES = (
    "Exit status: 0 ready; 1 failed (the other tool's own failure is passed on unchanged); 2 wrong usage or",
    "configuration; 3 refused, nothing was written; 4 not ready; 5 the repair did not verify and was thrown away.",
)
