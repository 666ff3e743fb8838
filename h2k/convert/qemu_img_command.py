"""qemu-img's command line: `convert` as qemu-img reads it, and our own options, --h2k-…, taken out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from h2k.base.errors import UsageError
from h2k.base.option_table import QEMU_IMG
from h2k.convert import h2k_options
from h2k.convert.disk_description import Wanted
from h2k.convert.h2k_options import OURS, Given, H2kOptions

# The options of `qemu-img convert`, 4.2 to 11.0: its letters, and the long names that most of them got with 10.1. It
# reads them with getopt_long: letters may be joined, an unambiguous beginning does for a long name, and options may
# follow the files.
_LETTERS = {
    "f": "source-format", "T": "source-cache", "l": "snapshot", "O": "target-format", "o": "target-format-options",
    "t": "target-cache", "B": "backing", "b": "backing", "F": "backing-format", "S": "sparse-size", "r": "rate-limit",
    "m": "parallel", "n": "no-create", "U": "force-share", "W": "oob-writes", "C": "copy-range-offloading",
    "c": "compress", "p": "progress", "q": "quiet", "h": "help",
}  # fmt: skip
_WITH_VALUE = frozenset(
    """source-format source-cache snapshot target-format target-format-options target-cache backing backing-format
    sparse-size rate-limit parallel object""".split()
)
_LONG = frozenset((*_LETTERS.values(), "object", "bitmaps", "skip-broken-bitmaps", "image-opts", "target-image-opts")) | {
    "salvage", "target-is-zero",
}  # fmt: skip
# What can't be said of a guest that is repaired on an overlay of its disk, and what to do instead.
_IMPOSSIBLE = {
    "image-opts": "the source is named by options: give its file name, and -f FORMAT",
    "target-image-opts": "the result is named by options: give its file name, and -O FORMAT",
    "snapshot": "an internal snapshot: convert it with qemu-img first, then give h2k the copy",
    "bitmaps": "bitmaps tell what changed on the source, and the result is another disk: leave them out",
    "skip-broken-bitmaps": "bitmaps tell what changed on the source, and the result is another disk: leave them out",
}
FORMATS = ("qcow2", "raw")
_UNITS = {"": 20, "k": 10, "m": 20, "g": 30, "t": 40}
_URL = re.compile(r"[a-z][a-z0-9+.-]+:")


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
    """`qemu-img convert`: `before` are qemu-img's own options before the command, `options` those of convert apart
    from the source's format, as they were given; `no_create`: the target exists and is written in place."""

    before: tuple[str, ...]
    options: tuple[str, ...]
    source: str
    target: str
    h2k: H2kOptions
    wanted: Wanted
    source_format: Optional[str] = None
    target_format: str = "raw"
    no_create: bool = False

    def argv(self, source: str, form: Optional[str], target: str) -> list[str]:
        """qemu-img's command line with another source, of the format `form`, and another target."""
        source_format = ["-f", form] if form is not None else []
        return ["qemu-img", *self.before, "convert", *self.options, *source_format, "--", source, target]


def parse(argv: Sequence[str]) -> Optional[ConvertCommand]:
    """The conversion that is asked for; None for everything else that qemu-img does, which is qemu-img's own.

    UsageError for an option of ours that does not exist, and for conversions that h2k can't prove.
    """
    ours: list[Given] = []
    before: list[str] = []
    waiting = iter(argv)
    for argument in waiting:
        if argument.startswith(OURS):
            ours.append(h2k_options.take(argument, waiting, QEMU_IMG))
        elif argument in ("-T", "--trace"):
            before += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.startswith("-"):
            before.append(argument)
        else:
            return _convert(tuple(before), list(waiting), ours) if argument == "convert" else None
    return None


def _convert(before: tuple[str, ...], argv: list[str], ours: list[Given]) -> Optional[ConvertCommand]:
    kept: list[str] = []
    given: dict[str, Optional[str]] = {}
    files: list[str] = []
    waiting = iter(argv)
    for argument in waiting:
        if argument.startswith(OURS):
            ours.append(h2k_options.take(argument, waiting, QEMU_IMG))
        elif argument == "--":
            files += waiting
        elif not argument.startswith("-") or argument == "-":
            files.append(argument)
        else:
            for name, value, words in _understand(argument, waiting):
                if name == "target-format-options" and _asks_help(value):
                    return None
                given[name] = value
                if name != "source-format":
                    kept += words
    if "help" in given:
        return None
    _check(given, files)
    wishes = h2k_options.read(ours)
    return ConvertCommand(
        before=before,
        options=tuple(kept),
        source=files[0],
        target=files[1],
        h2k=wishes,
        wanted=_wanted(wishes.own, wishes.request.root),
        source_format=given.get("source-format"),
        target_format=given.get("target-format") or "raw",
        no_create="no-create" in given,
    )


def _understand(argument: str, waiting: Iterator[str]) -> Iterator[tuple[str, Optional[str], tuple[str, ...]]]:
    """(name, value, the arguments that say so) of each option in one argument, which may take the next as its value."""
    if argument.startswith("--"):
        name, glued, value = argument[2:].partition("=")
        known = [name] if name in _LONG else [n for n in _LONG if n.startswith(name)]
        name = known[0] if len(known) == 1 else name
        if name in _WITH_VALUE and not glued:
            value = _next(argument, waiting)
            yield name, value, (argument, value)
        else:
            yield name, value if glued else None, (argument,)
        return
    for at, letter in enumerate(argument[1:], start=1):
        name = _LETTERS.get(letter, letter)
        if name in _WITH_VALUE:
            value = argument[at + 1 :] or _next(f"-{letter}", waiting)
            yield name, value, (f"-{letter}", value)
            return
        yield name, None, (f"-{letter}",)


def _next(option: str, waiting: Iterator[str]) -> str:
    value = next(waiting, None)
    if value is None:
        raise UsageError(f"qemu-img convert {option}: needs a value")
    return value


def _asks_help(value: Optional[str]) -> bool:
    return any(word in ("help", "?") for word in (value or "").split(","))


def _check(given: dict[str, Optional[str]], files: Sequence[str]) -> None:
    for name, why in _IMPOSSIBLE.items():
        if name in given:
            raise UsageError(f"h2k-qemu-img convert: {why}")
    if len(files) < 2:
        raise UsageError("h2k-qemu-img convert: needs a source and a target", hint="convert -O qcow2 guest.vmdk guest.qcow2")
    if len(files) > 2:
        raise UsageError(
            f"h2k-qemu-img convert: {len(files) - 1} sources, which qemu-img would join to one disk",
            hint="join them with qemu-img first; of a guest with several disks convert each by itself",
        )
    form = given.get("target-format") or "raw"
    if form not in FORMATS:
        raise UsageError(f"-O {form}: h2k-qemu-img makes disks for KVM", hint="-O qcow2 or -O raw; qemu-img for others")
    if _URL.match(files[1]):
        raise UsageError(f"{files[1]}: h2k-qemu-img writes a domain beside the disk", hint="give a file or a block device")
    if _URL.match(files[0]) and not files[0].startswith("nbd"):
        raise UsageError(f"{files[0]}: h2k-qemu-img reads files, block devices and nbd://", hint="copy it here first")


def _wanted(given: Mapping[str, str], root: Optional[str]) -> Wanted:
    firmware = given.get("firmware")
    return Wanted(
        name=given.get("name"),
        memory=_memory(given["memory"]) if "memory" in given else None,
        vcpus=_count(given["vcpus"]) if "vcpus" in given else None,
        firmware="uefi" if firmware == "efi" else firmware,
        domain=given.get("domain"),
        root=root,
    )


def _memory(text: str) -> int:
    """Bytes; a plain number is MiB, as virt-v2v's --memsize has it."""
    match = re.fullmatch(r"([0-9]{1,12})([kmgt]?)(?:i?b)?", text.lower())
    if match is None or int(match.group(1)) << _UNITS[match.group(2)] < 1 << 20:
        raise UsageError(f"--h2k-memory {text}: not an amount of memory", hint="4096 (MiB), 4G")
    return int(match.group(1)) << _UNITS[match.group(2)]


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) == 0:
        raise UsageError(f"--h2k-vcpus {text}: not a number of CPUs")
    return int(text)
