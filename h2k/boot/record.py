"""What is kept of a boot cycle: boot.json in NAME.h2k/boot, how far it came, and the report for people."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import NOT_READY, NOT_VERIFIED, READY, H2kError, Refused
from h2k.base.files import open_own, require_own, write_json
from h2k.base.libvirt_connection import DEFAULT_URI
from h2k.boot.disk_evidence import Check
from h2k.boot.watcher import Observation
from h2k.engine.outcome import WORDS

REPORT_LIMIT = 64 * 1024 * 1024  # bytes of a report.json or boot.json


@dataclasses.dataclass
class BootReport:
    """How a boot cycle went, in the shape of boot/boot.json.

    `reached` is how far it came: "started", "booting", "committing", "committed", "kept", "production", or "failed".
    `commits` is how many commits the disks had when it was written, `connect` the URI of libvirt.
    """

    status: int = NOT_VERIFIED
    verdict: str = ""
    reached: str = "started"
    commits: int = 0
    connect: str = ""
    observed: list[Observation] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    validation: list[Check] = dataclasses.field(default_factory=list)
    timings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    name: str = ""  # of the domain, for commands that are told

    def as_json(self) -> dict[str, Any]:
        """The report object."""
        return {
            "status": self.status,
            "verdict": self.verdict,
            "stage": self.reached,
            "commits": self.commits,
            "connect": self.connect,
            "phases": [observation.as_json() for observation in self.observed],
            "checks": [check.as_json() for check in self.checks],
            "validation": [check.as_json() for check in self.validation],
            "timings": self.timings,
        }


class Evidence:
    """NAME.h2k/boot: the report of the cycle and what was observed. Refused for a directory that is not ours alone."""

    def __init__(self, state: Path) -> None:
        self.path = state / "boot"
        if os.path.lexists(self.path):
            require_own(self.path, self.path.lstat())

    def earlier(self) -> dict[str, Any]:
        """boot.json as an earlier run left it, {} where there is none or none that makes sense."""
        return read_json(self.path / "boot.json", own=True) or {}

    def begin(self) -> None:
        """An empty directory, which QEMU's user may pass."""
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(mode=0o711)
            self.path.chmod(0o711)
        except OSError as e:
            raise Refused(f"{e.filename or self.path}: {e.strerror}", hint="see the file system of the report directory") from e

    def keep(self, report: BootReport) -> None:
        """Write boot.json; a full disk must not hide why a boot failed."""
        with contextlib.suppress(H2kError):
            write_json(self.path / "boot.json", report.as_json())

    def throw_away(self) -> None:
        """Remove what serves a boot alone: the working copy of the firmware variables, scratch disks."""
        for path in (self.path / "nvram.fd", *self.path.glob("scratch-*.qcow2")):
            path.unlink(missing_ok=True)


def read_json(path: Path, own: bool = False) -> Optional[dict[str, Any]]:
    """An object of JSON, None for anything else. `own`: Refused for a link and for a file that others can write."""
    try:
        if path.stat().st_size > REPORT_LIMIT:
            return None
        if own:
            with open(open_own(path), encoding="utf-8") as file:
                content = json.load(file)
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def word(status: int) -> str:
    """How a boot cycle ended, in a word."""
    return {READY: "BOOTED", NOT_READY: "BOOTED, NOT VALIDATED"}.get(status, WORDS[NOT_VERIFIED])


def next_commands(report: BootReport, state: Path) -> tuple[str, ...]:
    """The commands that the owner can give after a boot cycle. Nothing can be taken back below a guest that runs."""
    directory, uri = shlex.quote(str(state)), report.connect or DEFAULT_URI
    connect = f" --connect {shlex.quote(uri)}" if uri != DEFAULT_URI else ""
    if report.status not in (READY, NOT_READY) or report.reached == "committed":
        return (f"h2k boot {directory}{connect}",)
    validate = f"h2k validate {directory}{connect}"
    if report.status == READY:
        return (validate,)
    return (validate, f"virsh{connect} shutdown {shlex.quote(report.name)}", f"h2k rollback {directory}")


def explain(report: BootReport) -> Iterator[str]:
    """The report for people, a line at a time: the verdict first, and each check once, as it stood at last."""
    yield f"h2k: {word(report.status)}: {report.verdict}"
    for observation in report.observed:
        why = observation.ending.why if observation.ending else "not ended"
        yield f"  {observation.name:<11}{observation.seconds:7.1f} s  {why}"
    last = {(check.name, check.subject): check for check in (*report.checks, *report.validation)}
    for check in last.values():
        yield f"  {check.state:<8} {check.name:<22} {check.subject}: {check.evidence}"
    for observation in report.observed:
        shown = observation.files.get("screen-stop") or observation.files.get("screen-last")
        if shown is not None:
            yield f"  {observation.name + ':':<12}{os.path.relpath(shown)}"
