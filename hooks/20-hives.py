"""Hives: dirty or corrupt ones are refused before virt-v2v can lose what their logs hold."""

from __future__ import annotations

from collections.abc import Iterator

from h2k.errors import BadData
from h2k.finding import Finding
from h2k.guest import HIVE_LIMIT, Guest, HiveFile
from h2k.hook import Options, Proposed
from h2k.windows import regf

META = {
    "name": "hives",
    "summary": "Tells clean, dirty and corrupt hives apart; virt-v2v would mark a dirty one clean and lose its logs",
    "gate": True,
    "answers": ["hive-dirty", "hive-unrecoverable", "hive-corrupt", "file-unreadable", "windows-unsupported"],
}

REQUIRED = ("SYSTEM", "SOFTWARE")
OPTIONAL = ("DRIVERS", "BCD")  # a missing BCD is the boot loader hook's finding
SHUT_DOWN = "boot the source once and shut it down with: shutdown /s /t 0 (fast startup off)"
OLDEST = (6, 1)


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    sound = True
    for name in (*REQUIRED, *OPTIONAL):
        for finding in _hive(guest, name):
            sound = False
            yield finding
    if sound:
        yield from _supported(guest, options)


def _hive(guest: Guest, name: str) -> Iterator[Finding]:
    where = guest.hive_file(name)
    if where is None:
        if name in REQUIRED:
            yield Finding("hive-corrupt", "refused", name, "the hive's file is missing", "restore it from a backup")
        return
    stat = guest.reader.stat(where.volume, where.path)
    if stat is not None and not stat.readable:
        yield Finding("file-unreadable", "refused", where.path, stat.why, "uncompress it on the source: compact /u")
        return
    try:
        data = guest.reader.read(where.volume, where.path, HIVE_LIMIT)
        problems = regf.check(data, name)
        state = guest.hive(name).state if not problems else "corrupt"
    except BadData as bad:
        problems, state = [str(bad)], "corrupt"
    if state == "dirty":
        yield _dirty(guest, where)
    elif state == "corrupt":
        # A BCD that is no hive has an id of its own, and the loader hook names the way out.
        found = "bcd-corrupt" if name == "BCD" else "hive-corrupt"
        yield Finding(found, "refused", where.path, problems[0], "restore the hive from a backup of the source")


def _dirty(guest: Guest, where: HiveFile) -> Finding:
    logs = [guest.reader.stat(where.volume, f"{where.path}.{log}") for log in ("LOG1", "LOG2", "LOG")]
    held = [f"{stat.path.rsplit('/', 1)[-1]} of {stat.size} bytes" for stat in logs if stat is not None and stat.size]
    if not held:
        return Finding("hive-unrecoverable", "refused", where.path, "dirty, and its logs are missing", SHUT_DOWN)
    return Finding("hive-dirty", "refused", where.path, f"dirty; the newest changes are in {', '.join(held)}", SHUT_DOWN)


def _supported(guest: Guest, options: Options) -> Iterator[Finding]:
    windows = guest.windows
    if windows.version < OLDEST:
        yield Finding(
            "windows-unsupported",
            "warning",
            windows.name,
            f"NT {windows.version[0]}.{windows.version[1]}; h2k knows {OLDEST[0]}.{OLDEST[1]} and later",
            "virt-v2v's result is left as it is",
        )
