"""virt-v2v's command line: every argument passes through unchanged; ours, --h2k-…, are taken out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Optional

from h2k.base.option_table import BY_NAME as BY_OWN_NAME
from h2k.base.option_table import PHASES, V2V
from h2k.convert.h2k_options import OURS, Given, H2kOptions, read, take
from h2k.convert.v2v_options import BY_LETTER, BY_NAME

# What virt-v2v answers before it converts anything; of -io and -oo a question mark asks.
_INFORMATIONAL = frozenset(name for name, option in BY_NAME.items() if option.side == "question")
# Options that describe the source to virt-v2v, and go when it reads another one; -on is then given anew.
_OF_THE_SOURCE = frozenset(("i", "ic", "if", "io", "ip", "it", "on", "password-file"))
_KEPT_BY_A_STAGE = frozenset(("of", "oa", "on", "compressed"))  # of the result: true of the files in between as well
_FIELDS = {
    "i": "input_mode", "if": "input_format", "it": "input_transport", "ic": "input_connection",
    "o": "output_mode", "os": "output_storage", "on": "output_name", "of": "output_format", "oc": "output_connection",
    "root": "root", "ip": "password_file", "password-file": "password_file",
}  # fmt: skip
_SAME_MODE = {"input_mode": {"local": "disk"}, "output_mode": {"disk": "local"}}


@dataclasses.dataclass(frozen=True)
class V2vCommand:
    """What virt-v2v gets (`passed`), what h2k understood of it, and our own options.

    `arguments` are the guest's name or its files, for `-i disk` perhaps an nbd:// URI. `informational`: virt-v2v
    answers a question (--version, --print-source, …) and converts nothing. "-i local" is "disk", "-o disk" "local".
    `boots`: virt-v2v would start the guest when it has written it. `define` is the phase that -o libvirt leaves defined,
    `stage` the directory for an output that leaves the machine.
    """

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
    output_connection: Optional[str] = None
    root: Optional[str] = None
    password_file: Optional[str] = None
    machine_readable: bool = False
    boots: bool = False
    define: str = PHASES[0]
    stage: Optional[str] = None
    asks_help: bool = False


@dataclasses.dataclass(frozen=True)
class _Word:
    """One or two arguments that belong together: options (several in `-vx`), one of ours, or an operand."""

    given: tuple[str, ...]
    options: tuple[tuple[str, Optional[str]], ...] = ()
    own: Optional[Given] = None

    @property
    def operand(self) -> bool:
        return not self.options and self.own is None and self.given != ("--",)


def options_of(command: V2vCommand) -> list[tuple[str, Optional[str]]]:
    """virt-v2v's options by their whole names, with their values."""
    return [option for word in _words(command.passed) for option in word.options]


def parse(argv: Sequence[str]) -> V2vCommand:
    """Split the arguments; UsageError for an --h2k- option that does not exist, or whose value is missing or wrong."""
    words = tuple(_words(argv))
    theirs = [option for word in words if word.own is None for option in word.options]
    known = {_FIELDS[name]: value for name, value in theirs if name in _FIELDS and value is not None}
    for field, same in _SAME_MODE.items():
        if field in known:
            known[field] = same.get(known[field], known[field])
    arguments = tuple(word.given[0] for word in words if word.operand)
    names = {name for name, _ in theirs}
    # virt-v2v's own choice of a boot driver (2.8 and later) is ours too, unless we are told otherwise.
    bus = "virtio-scsi" if dict(theirs).get("block-driver") == "virtio-scsi" else None
    # --machine-readable alone asks what virt-v2v can do; with a guest it only shapes the messages.
    asks = bool(names & _INFORMATIONAL) or ("machine-readable" in names and not arguments)
    ours = [word.own for word in words if word.own is not None]
    h2k = read(ours, root=known.get("root"), bus=bus)
    keys = bool(names & {"key", "keys-from-stdin"})
    h2k = dataclasses.replace(h2k, request=dataclasses.replace(h2k.request, keys=keys))
    return V2vCommand(
        passed=tuple(given for word in words if word.own is None for given in word.given),
        h2k=h2k,
        arguments=arguments,
        informational=asks or ("io", "?") in theirs or ("oo", "?") in theirs,
        machine_readable="machine-readable" in names,
        boots="qemu-boot" in names or any(("oo", f"qemu-boot{value}") in theirs for value in ("", "=", "=true")),
        asks_help="help" in names,
        define=h2k.own.get("define", PHASES[0]),
        stage=h2k.own.get("stage"),
        **known,
    )


def with_input(
    command: V2vCommand, mode: str, arguments: Sequence[str], name: str, form: Optional[str] = None
) -> tuple[str, ...]:
    """virt-v2v's arguments with another source: `-i mode` (and `-if form`) on `arguments`, everything else as the
    user gave it. The result keeps the name that the user's own source gives it."""
    kept: list[str] = []
    for word in _words(command.passed):
        replaced = [option for option, _ in word.options if option in _OF_THE_SOURCE or option.startswith("vddk-")]
        if word.options and not replaced:
            kept += word.given
        elif word.options:  # of `-qidisk` the -q stays
            kept += [f"--{option}" for option, value in word.options if option not in replaced and value is None]
    return ("-i", mode, *(("-if", form) if form is not None else ()), "-on", name, *kept, "--", *arguments)


def in_two_steps(argv: Sequence[str], directory: str, name: str) -> tuple[list[str], list[str]]:
    """(h2k-v2v's arguments, virt-v2v's) that convert to files in `directory` first, and take them to the output that
    `argv` names afterwards. What speaks of the source and the guest is of the first step alone."""
    first: list[str] = []
    second = ["-i", "libvirtxml", f"{directory.rstrip('/')}/{name}.xml"]
    for word in _words(argv):
        sides = {BY_NAME[option].side for option, _ in word.options if option in BY_NAME}
        names = {option for option, _ in word.options}
        if word.own is not None:
            first += word.given if word.own[0] not in ("define", "stage") else ()
            continue
        if "result" not in sides or names <= _KEPT_BY_A_STAGE:
            first += word.given
        if sides and sides <= {"result", "messages"} and "on" not in names:
            second += word.given
    return ["-o", "local", "-os", directory, *first], second


def _words(argv: Sequence[str]) -> Iterator[_Word]:
    waiting = iter(argv)
    for argument in waiting:
        if argument.startswith(OURS):
            yield _Word(*_ours(argument, waiting))
        elif argument == "--":
            yield _Word((argument,))
            yield from (_Word((operand,)) for operand in waiting)
        elif not argument.startswith("-") or argument == "-":
            yield _Word((argument,))
        else:
            *flags, (name, value, wants) = _understand(argument)
            if wants:
                value = next(waiting, None)
            given = (argument, value) if wants and value is not None else (argument,)
            yield _Word(given, (*((flag, None) for flag, _, _ in flags), (name, value)))


def _ours(argument: str, waiting: Iterator[str]) -> tuple[tuple[str, ...], tuple[()], Given]:
    name, value = take(argument, waiting, V2V)
    glued = "=" in argument or not BY_OWN_NAME[name].metavar
    return (argument,) if glued else (argument, value), (), (name, value)


def _understand(argument: str) -> list[tuple[str, Optional[str], bool]]:
    """The options in one argument, as getopt_long_only reads it: (name, value, whether the next argument is it)."""
    body = argument[2:] if argument.startswith("--") else argument[1:]
    short = not argument.startswith("--") and body[0] in BY_LETTER
    name, glued, value = body.partition("=")
    if not (short and len(body) == 1):
        known = _whole_name(name)
        if known is not None:
            return [(known, value if glued else None, not glued and BY_NAME[known].value)]
    if short:
        return list(_letters(body))
    # Not known here: a newer virt-v2v's. Most take a value, and a value taken for a disk would be examined.
    return [(name, value if glued else None, not glued)]


def _whole_name(name: str) -> Optional[str]:
    if name == "h":  # of the older ones; newer ones have --hostname beside --help
        return "help"
    if name in BY_NAME:
        return name
    found = [n for n in BY_NAME if n.startswith(name)]
    return found[0] if len(found) == 1 else None


def _letters(body: str) -> Iterator[tuple[str, Optional[str], bool]]:
    """`-vx`, `-idisk`, `-vi disk`."""
    for at, letter in enumerate(body):
        option = BY_LETTER.get(letter)
        if option is not None and option.value:
            yield option.name, body[at + 1 :] or None, at + 1 == len(body)
            return
        yield option.name if option is not None else letter, None, False
