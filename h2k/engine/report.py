"""The report: report.json for programs, one verdict and a table of findings for people."""

from __future__ import annotations

import dataclasses
import platform
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from h2k import __version__
from h2k.base.errors import FAILED, NOT_READY, NOT_VERIFIED, READY, REFUSED, USAGE
from h2k.base.files import own_directory, write_json
from h2k.base.finding import Finding
from h2k.base.text import shown
from h2k.guest.guest import Guest

VERDICTS = {
    READY: "READY",
    FAILED: "FAILED",
    USAGE: "USAGE ERROR",
    REFUSED: "REFUSED",
    NOT_READY: "NOT READY",
    NOT_VERIFIED: "NOT VERIFIED",
}


@dataclasses.dataclass
class Report:
    """Everything a run found and did, in the shape of docs/report.schema.json."""

    status: int = READY
    verdict: str = ""
    guest: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    settings: list[dict[str, str]] = dataclasses.field(default_factory=list)
    timings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report object."""
        return {
            "status": self.status,
            "verdict": self.verdict,
            "guest": self.guest,
            "findings": [f.as_json() for f in self.findings],
            "changes": self.changes,
            "settings": self.settings,
            "timings": self.timings,
            "files": self.files,
            "versions": {"h2k": __version__, "python": platform.python_version()},
        }

    def write(self, directory: Path) -> Path:
        """Write report.json, plan.json and the hooks' documents into the report directory; returns the report's path."""
        directory = own_directory(directory)
        write_json(directory / "plan.json", {"changes": self.changes, "settings": self.settings})
        for name, content in self.documents.items():
            write_json(directory / Path(name).name, content)
            self.files[Path(name).stem] = str(directory / Path(name).name)
        path = directory / "report.json"
        self.files["report"] = str(path)
        write_json(path, self.as_json())
        return path


def guest_facts(guest: Guest) -> dict[str, Any]:
    """The guest's facts as the report shows them; only what is cheap to read."""
    facts: dict[str, Any] = {
        "windows": guest.is_windows,
        "read": guest.reader.how,
        "disks": [
            {
                "path": str(d.info.path),
                "format": d.info.format,
                "size": d.info.size,
                "scheme": d.table.scheme,
                "id": d.table.id,
                "partitions": [
                    {"number": p.number, "start": p.start, "size": p.size, "type": p.type, "active": p.active}
                    for p in d.table.partitions
                ],
            }
            for d in guest.disks
        ],
    }
    if not guest.is_windows or len(guest.system_roots) != 1:
        return facts
    facts.update(firmware=guest.firmware, boot_disk=guest.boot_disk, system_root=guest.system_root)
    facts["system_volume"] = dataclasses.asdict(guest.volume)
    facts["hives"] = {}
    for name in ("SYSTEM", "SOFTWARE", "DRIVERS", "BCD"):
        where = guest.hive_file(name)
        if where is not None:
            facts["hives"][name] = where.path
    return facts


def windows_facts(guest: Guest) -> dict[str, Any]:
    """Version, edition and control sets; BadData when the hives can't be parsed."""
    return {
        **dataclasses.asdict(guest.windows),
        "version": ".".join(map(str, guest.windows.version)),
        "control_sets": dataclasses.asdict(guest.control_sets),
    }


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that stop a run first, then what was wrong, then the rest."""
    order = {"refused": 0, "broken": 1, "repaired": 2, "warning": 3, "ok": 4}
    return sorted(findings, key=lambda f: (order[f.state], f.id))


def table(findings: Sequence[Finding], width: int = 110) -> str:
    """The findings as aligned lines: state, id, subject, and the evidence wrapped below."""
    if not findings:
        return "  no findings: the guest is as h2k would leave it"
    rows = by_weight(findings)
    wide = max(len(f.id) for f in rows)
    lines: list[str] = []
    for f in rows:
        lines.append(f"  {f.state:<9} {f.id:<{wide}}  {f.subject}")
        done = "" if f.state != "repaired" or not f.repair else f" → {f.repair}"
        text = f"{f.evidence}{done}" if f.state == "repaired" else "; ".join(filter(None, (f.evidence, f.repair)))
        lines += textwrap.wrap(text, width, initial_indent=" " * (wide + 14), subsequent_indent=" " * (wide + 14))
    return "\n".join(lines)


def diff(changes: Iterable[dict[str, Any]]) -> str:
    """The plan as a readable diff, a line a change."""
    return "\n".join(f"  {shown(str(c['diff']))}" for c in changes)
