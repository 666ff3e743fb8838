"""virt-v2v's command line: every argument passes through unchanged; ours, --h2k-…, are taken out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Optional

from h2k.options import OURS, Given, H2kOptions, read, take

# The options of virt-v2v 2.2 to 2.12, its virt-customize ones among them. It reads them with getopt_long_only: one
# dash does for two, `--option=value` for two arguments, and an unambiguous beginning for the whole name.
_WITH_VALUE = frozenset(
    """bandwidth bandwidth-file block-driver bridge collect collect-output ic if io ip it key mac memsize network
    no-trim oa oc of on oo op os parallel password-file root smp vmtype
    vddk-config vddk-cookie vddk-libdir vddk-nfchostport vddk-port vddk-snapshot vddk-thumbprint vddk-transports
    vdsm-compat vdsm-image-uuid vdsm-ovf-flavour vdsm-ovf-output vdsm-vm-uuid vdsm-vol-uuid
    append-line chmod chown commands-from-file copy copy-in delete edit firstboot firstboot-command firstboot-install
    hostname inject-qemu-ga inject-virtio-win install link mkdir move password password-crypto root-password run
    run-command scrub selinux-relabel-exclude sm-attach sm-credentials ssh-inject tar-in timezone touch truncate
    truncate-recursive uninstall upload write""".split()
)
_WITHOUT_VALUE = frozenset(
    """color colors colour colours compressed debug-gc echo-keys help in-place keys-from-stdin long-options
    machine-readable no-fstrim no-logfile no-selinux-relabel print-source qemu-boot quiet selinux-relabel
    selinux-relabel-at-boot short-options sm-register sm-remove sm-unregister update verbose version wrap""".split()
)
_SHORT_WITH_VALUE = {"b": "bridge", "i": "i", "n": "network", "o": "o"}
_SHORT_WITHOUT_VALUE = {"q": "quiet", "v": "verbose", "V": "version", "x": "x"}
# Those that end virt-v2v before it converts anything; of -io and -oo a question mark does.
_INFORMATIONAL = frozenset(("help", "in-place", "long-options", "print-source", "short-options", "version"))
_OF_THE_SOURCE = frozenset(("i", "ic", "if", "io", "ip", "it", "on", "password-file"))
_FIELDS = {
    "i": "input_mode", "if": "input_format", "it": "input_transport", "ic": "input_connection",
    "o": "output_mode", "os": "output_storage", "on": "output_name", "of": "output_format",
    "root": "root", "ip": "password_file", "password-file": "password_file",
}  # fmt: skip
_SAME_MODE = {"input_mode": {"local": "disk"}, "output_mode": {"disk": "local"}}


@dataclasses.dataclass(frozen=True)
class V2vCommand:
    """What virt-v2v gets (`passed`), what h2k understood of it, and our own options.

    `arguments` are the guest's name or its files, for `-i disk` perhaps an nbd:// URI. `informational`: virt-v2v
    answers a question (--version, --print-source, …) and converts nothing. "-i local" is "disk", "-o disk" "local".
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
    root: Optional[str] = None
    password_file: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class _Word:
    """One or two arguments that belong together: options (several in `-vx`), one of ours, or an operand."""

    given: tuple[str, ...]
    options: tuple[tuple[str, Optional[str]], ...] = ()
    own: Optional[Given] = None

    @property
    def operand(self) -> bool:
        return not self.options and self.own is None and self.given != ("--",)


def parse(argv: Sequence[str]) -> V2vCommand:
    """Split the arguments; UsageError for an --h2k- option that does not exist or has no value."""
    words = tuple(_words(argv))
    theirs = [option for word in words if word.own is None for option in word.options]
    known = {_FIELDS[name]: value for name, value in theirs if name in _FIELDS and value is not None}
    for field, same in _SAME_MODE.items():
        if field in known:
            known[field] = same.get(known[field], known[field])
    arguments = tuple(word.given[0] for word in words if word.operand)
    names = {name for name, _ in theirs}
    # virt-v2v's own choice of a boot driver (2.8 and later) is ours too, unless we are told otherwise.
    bus = "virtio-scsi" if dict(theirs).get("block-driver") == "virtio-scsi" else "virtio"
    # --machine-readable alone asks what virt-v2v can do; with a guest it only shapes the messages.
    asks = bool(names & _INFORMATIONAL) or ("machine-readable" in names and not arguments)
    return V2vCommand(
        passed=tuple(given for word in words if word.own is None for given in word.given),
        h2k=read([word.own for word in words if word.own is not None], bus),
        arguments=arguments,
        informational=asks or ("io", "?") in theirs or ("oo", "?") in theirs,
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


def _words(argv: Sequence[str]) -> Iterator[_Word]:
    waiting = iter(argv)
    for argument in waiting:
        if argument.startswith(OURS):
            yield _Word((argument,), own=take(argument, waiting))
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


def _understand(argument: str) -> list[tuple[str, Optional[str], bool]]:
    """The options in one argument, as getopt_long_only reads it: (name, value, whether the next argument is it)."""
    body = argument[2:] if argument.startswith("--") else argument[1:]
    short = not argument.startswith("--") and body[0] in {**_SHORT_WITH_VALUE, **_SHORT_WITHOUT_VALUE}
    name, glued, value = body.partition("=")
    if not (short and len(body) == 1):
        known = _whole_name(name)
        if known is not None:
            return [(known, value if glued else None, not glued and known in _WITH_VALUE)]
    if short:
        return list(_letters(body))
    # Not known here: a newer virt-v2v's. Most take a value, and a value taken for a disk would be examined.
    return [(name, value if glued else None, not glued)]


def _whole_name(name: str) -> Optional[str]:
    if name == "h":  # of the older ones; newer ones have --hostname beside --help
        return "help"
    if name in _WITH_VALUE or name in _WITHOUT_VALUE:
        return name
    found = [n for n in (*_WITH_VALUE, *_WITHOUT_VALUE) if n.startswith(name)]
    return found[0] if len(found) == 1 else None


def _letters(body: str) -> Iterator[tuple[str, Optional[str], bool]]:
    """`-vx`, `-idisk`, `-vi disk`."""
    for at, letter in enumerate(body):
        if letter in _SHORT_WITH_VALUE:
            yield _SHORT_WITH_VALUE[letter], body[at + 1 :] or None, at + 1 == len(body)
            return
        yield _SHORT_WITHOUT_VALUE.get(letter, letter), None, False
