"""The one table of h2k's own options: parsing, help, completion and manual pages of all three commands come from it.

`h2k` spells an option --NAME; h2k-v2v and h2k-qemu-img, whose other options are virt-v2v's and qemu-img's, spell it
--h2k-NAME. Texts of hooks and messages use the long spelling; `spelled` turns it into that of the command at hand.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

H2K, V2V, QEMU_IMG = "h2k", "h2k-v2v", "h2k-qemu-img"
PROGRAMS = (H2K, V2V, QEMU_IMG)
_ALL = frozenset(PROGRAMS)
_WRAPPERS = frozenset((V2V, QEMU_IMG))
BUSES = ("virtio", "virtio-scsi", "sata")
MODES = ("repair", "report")
PHASES = ("bootstrap", "final")
FIRMWARE = ("bios", "uefi")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: `metavar` is empty for a flag, `many` may be given again, `programs` are those that have it.

    `request`: it shapes every look at a guest (a field of engine.request.Request), so that each command of h2k that
    looks at one has it.
    """

    name: str
    field: str
    help: str
    metavar: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    programs: frozenset[str] = _ALL
    request: bool = False

    def spelling(self, program: str) -> str:
        """The option as this program spells it; --root is virt-v2v's own."""
        own = program == H2K or (program == V2V and self.name == "root")
        return f"--{self.name}" if own else f"--h2k-{self.name}"


OPTIONS = (
    Option("drivers", "drivers", "the virtio-win ISO or directory [default: $VIRTIO_WIN, then /usr/share/virtio-win]", "PATH", request=True),
    Option("plan", "plans", "a driver plan, merged over the earlier ones", "FILE", many=True, request=True),
    Option("policy", "policies", "a policy, merged over the earlier ones", "FILE", many=True, request=True),
    Option("config", "config", "a hyper2kvm configuration, below the plans and policies", "FILE", request=True),
    Option("bus", "bus", "bus of the final disks [default: what the guest's description says, else virtio]", "BUS",
           choices=BUSES, request=True),
    Option("hooks", "hooks", "a directory with more hooks", "DIR", many=True, request=True),
    Option("skip", "skip", "leave this hook out", "HOOK", many=True, request=True),
    Option("accept", "accept", "go on in spite of this refusal", "FINDING", many=True, request=True),
    Option("allow-under", "allow_under", "a directory that images may reach into with backing files and extents", "DIR", many=True,
           request=True),
    Option("root", "root", "which of several Windows systems is meant", "/dev/sdXN|first", programs=frozenset((H2K, QEMU_IMG)),
           request=True),
    Option("report", "report", "report directory [default: NAME.h2k]", "DIR"),
    Option("dry-run", "dry_run", "look and plan only; write nothing"),
    Option("mode", "mode", "whether to repair, or only to report: refuse nothing, write nothing to the guest [default: $H2K_MODE, then repair]", "MODE",
           choices=MODES, programs=_WRAPPERS),
    Option("boot", "boot", "boot both phases afterwards, as h2k boot does", programs=_WRAPPERS),
    Option("define", "define", "the phase that a domain of libvirt (-o libvirt) is left defined as [default: bootstrap]", "PHASE",
           choices=PHASES, programs=frozenset((H2K, V2V))),
    Option("stage", "stage", "a directory in which an output that leaves this machine is repaired first", "DIR",
           programs=frozenset((V2V,))),
    Option("name", "name", "the guest's name", "NAME", programs=frozenset((QEMU_IMG,))),
    Option("memory", "memory", "the guest's memory: 4096 (MiB), 4G", "SIZE", programs=frozenset((QEMU_IMG,))),
    Option("vcpus", "vcpus", "the guest's number of virtual CPUs", "N", programs=frozenset((QEMU_IMG,))),
    Option("firmware", "firmware", "the guest's firmware", "KIND", choices=FIRMWARE, programs=frozenset((QEMU_IMG,))),
    Option("domain", "domain", "the guest's description: .vmx, .ovf or .xml", "FILE", programs=frozenset((QEMU_IMG,))),
    Option("help", "help", "show h2k's own options and exit", programs=_WRAPPERS),
    Option("version", "version", "show h2k's version and exit", programs=_WRAPPERS),
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}
_SPELT = re.compile(r"--h2k-(" + "|".join(sorted(BY_NAME, key=len, reverse=True)) + r")(?![a-z-])")
_WHOSE = re.compile(rf"(-[a-z0-9-]+ [A-Z]+) of ({V2V}|{QEMU_IMG})(, )?")


def options_of(program: str) -> tuple[Option, ...]:
    """The options that a program has, in the order of the table."""
    return tuple(option for option in OPTIONS if program in option.programs)


def request_words(wishes: Mapping[str, Any]) -> list[str]:
    """The options that shape a look, by their fields, as `h2k` spells them: for the next command. What it has not, the
    command at hand may have had: it is left out."""
    words: list[str] = []
    for option in (o for o in OPTIONS if o.request and H2K in o.programs):
        given = wishes.get(option.field)
        values = (given or ()) if option.many else [given] if given else []
        words += [word for value in values for word in (option.spelling(H2K), str(value))]
    return words


def spelled(text: str, program: str) -> str:
    """A text with its options as the command at hand spells them: --h2k-bus is --bus for `h2k`. Of "-on NAME of h2k-v2v,
    --h2k-name NAME of h2k-qemu-img" a wrapper gets its own alone; `h2k`, which has neither, gets both."""
    program = program.split(" ", maxsplit=1)[0]
    if program in _WRAPPERS:
        text = _WHOSE.sub(lambda match: f"{match.group(1)}{match.group(3) or ''}" if match.group(2) == program else "", text)
    elif program != H2K:
        return text
    return _SPELT.sub(lambda match: _respelled(BY_NAME[match.group(1)], program), text)


def _respelled(option: Option, program: str) -> str:
    known = program in option.programs or program == V2V
    return option.spelling(program) if known else f"--h2k-{option.name}"


def as_sentence(text: str) -> str:
    """The text of an option as help and manual pages print it: a whole sentence."""
    text = re.sub(r"  *", " ", text.strip())
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def near(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant; "" where none is near."""
    return next(iter(difflib.get_close_matches(word, sorted(set(known)), n=1)), "")


def did_you_mean(word: str, known: Iterable[str], listing: str = "") -> str:
    """A hint for a word that is not known: the nearest one, else all of them, or the command that lists them."""
    names: Sequence[str] = sorted(set(known))
    found = near(word, names)
    if found:
        return f"did you mean {found}?"
    return f"{listing} lists them" if listing else f"one of {', '.join(names)}"
