"""Hives: dirty or corrupt ones are refused before virt-v2v can lose what their logs hold."""

from __future__ import annotations

from collections.abc import Iterator

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.boot_files import bcdboot
from h2k.guest.changes import ReplayLogs
from h2k.guest.guest import Guest, HiveState
from h2k.windows.version import ARCHITECTURES, OLDEST

META = {
    "name": "hives",
    "summary": "Replays the logs of dirty hives, which virt-v2v would mark clean and so lose; refuses corrupt ones",
    "gate": True,
    "answers": [
        "hive-dirty",
        "hive-unrecoverable",
        "hive-corrupt",
        "bcd-corrupt",
        "file-unreadable",
        "windows-unsupported",
    ],
}

REQUIRED = ("SYSTEM", "SOFTWARE")
OPTIONAL = ("DRIVERS", "BCD")  # a missing BCD is the boot loader hook's finding
SHUT_DOWN = "boot the source once and shut it down with: shutdown /s /t 0 (fast startup off)"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    refused: set[str] = set()
    for name in (*REQUIRED, *OPTIONAL):
        for item in _hive(guest, name):
            if isinstance(item, Finding) and item.state == "refused":
                refused.add(name)
            yield item
    if not refused & set(REQUIRED):
        yield from _supported(guest, options)


def _hive(guest: Guest, name: str) -> Iterator[Proposed]:
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
        hive = guest.hive_state(name)
    except BadData as bad:
        hive = HiveState("corrupt", b"", str(bad))
    if hive.state == "dirty":
        evidence = f"its newest changes are in its logs: {hive.why}"
        yield Finding("hive-dirty", "broken", where.path, evidence, "replay the logs before anything else")
        yield ReplayLogs(name, hive.why)
    elif hive.state == "unrecoverable":
        yield Finding("hive-unrecoverable", "refused", where.path, hive.why, SHUT_DOWN)
    elif hive.state == "corrupt":
        # A BCD that is no hive has an id of its own, for it has its own way out.
        found = "bcd-corrupt" if name == "BCD" else "hive-corrupt"
        way_out = bcdboot(guest.firmware) if name == "BCD" else "restore the hive from a backup of the source"
        yield Finding(found, "refused", where.path, hive.why, way_out)


def _supported(guest: Guest, options: Options) -> Iterator[Finding]:
    windows = guest.windows
    if windows.arch == "arm64" and windows.version >= OLDEST:
        repair = "convert it with virt-v2v alone, on an arm64 host"
        evidence = "Windows for arm64, and h2k writes domains for x86_64 alone, which it can't start in"
        yield Finding("windows-unsupported", "refused", windows.name, evidence, repair)
    elif not windows.supported:
        evidence = f"NT {windows.version[0]}.{windows.version[1]} for {windows.arch}"
        oldest = f"{OLDEST[0]}.{OLDEST[1]} and later, for {', '.join(ARCHITECTURES)}"
        repair = "virt-v2v's result is left as it is"
        yield Finding("windows-unsupported", "warning", windows.name, f"{evidence}; h2k knows {oldest}", repair)
