"""One guest's conversion as a command, and whether what it failed of is worth another attempt."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from h2k.base.errors import FAILED
from h2k.base.option_table import H2K, QEMU_IMG
from h2k.fleet.sources import LIBVIRT
from h2k.fleet.waves import Entry

_LOG_TAIL = 16 * 1024  # bytes of a log in which the reason of its end is looked for
# What ends a copy by the network, and may be gone in a minute; h2k's own refusals have other exit statuses.
_NETWORK = re.compile(
    r"(?i)connection (?:refused|reset|timed out|closed|aborted)|no route to host|network is (?:unreachable|down)|broken pipe"
    r"|host is (?:down|unreachable)|temporary failure in name resolution|(?:operation|read|request|connect\w*) timed out"
    r"|ssh: connect to host|kex_exchange_identification|curl: \((?:6|7|18|28|52|55|56)\)|stale file handle|service unavailable|server disconnected"
)


def argv_for(entry: Entry) -> list[str]:
    """The command that converts a guest; given again after a kill it goes on or cleans up."""
    if entry.program == QEMU_IMG:
        target = str(entry.output / f"{entry.name}.qcow2")
        form = () if "-O" in entry.options else ("-O", "qcow2")
        return [_program(entry.program), "convert", *form, "--h2k-name", entry.name, *entry.options, "--", entry.source, target]
    connection = ("-ic", entry.connection) if entry.kind == LIBVIRT and entry.connection else ()
    where = () if "-o" in entry.options else ("-o", "local", "-os", str(entry.output))
    return [
        _program(entry.program), "-i", entry.kind, *connection, *where, "-on", entry.name, *entry.options, "--", entry.source,
    ]  # fmt: skip


def boot_argv_for(entry: Entry) -> list[str]:
    """The command that boots a guest that was converted."""
    return [_program(H2K), "boot", str(entry.state)]


def _program(name: str) -> str:
    """The wrapper beside the h2k that runs, else the one on PATH."""
    beside = Path(sys.argv[0]).absolute().parent / name
    return str(beside) if beside.is_file() else shutil.which(name) or name


def is_passing(status: int, log: Path) -> bool:
    """Whether a failure is one of the network, by the end of the log: worth another attempt, as a refusal is not."""
    return status == FAILED and bool(_NETWORK.search(tail(log)))


def tail(log: Path) -> str:
    """The end of a log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def last_line(log: Path, kept: Sequence[str] = ("error", "refused", "failed", "h2k:")) -> str:
    """The line of a log that says most about its end: the last with a word of `kept`, else the last."""
    lines = [line.strip() for line in tail(log).splitlines() if line.strip()]
    said: Optional[str] = next((line for line in reversed(lines) if any(word in line.lower() for word in kept)), None)
    return said or (lines[-1] if lines else "")
