"""waves.yaml: which guests are converted when; read with the line of every mistake, for a person edits it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import UsageError
from h2k.base.option_table import QEMU_IMG, V2V
from h2k.config.documents import Document, Step, check, read_document
from h2k.domain.handles import REPORT_SUFFIX
from h2k.fleet.sources import DISK

VERSION = 1
MAX_SIZE = 32 * 1024 * 1024  # bytes; 5,000 guests have about 1 MiB
JOBS, PER_SOURCE = 2, 2  # two copies at a time from one host is what ESXi bears (kubev2v/forklift 2236)
_HINT = "docs/fleet.md tells what can stand in it"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One guest of a wave: where it is, where it goes, by which program. `bytes` and `estimate` (seconds) are the survey's."""

    name: str
    source: str
    kind: str
    wave: int
    output: Path
    program: str
    options: tuple[str, ...] = ()
    connection: str = ""
    datastore: str = ""
    bytes: int = 0
    estimate: Optional[int] = None

    @property
    def state(self) -> Path:
        """NAME.h2k, which is all that is known of the guest."""
        return self.output / f"{self.name}{REPORT_SUFFIX}"


@dataclasses.dataclass(frozen=True)
class Waves:
    """A waves.yaml: guests in the order of the waves, limits, and the window of each wave that has one."""

    path: Path
    entries: tuple[Entry, ...]
    jobs: int = JOBS
    per_source: int = PER_SOURCE
    windows: tuple[tuple[int, str], ...] = ()

    def of(self, wave: Optional[int]) -> tuple[Entry, ...]:
        """The guests of one wave, or of all. UsageError for a wave that is not there."""
        if wave is None:
            return self.entries
        found = tuple(entry for entry in self.entries if entry.wave == wave)
        if not found:
            there = ", ".join(map(str, sorted({entry.wave for entry in self.entries}))) or "none"
            raise UsageError(f"{self.path}: no wave {wave}", hint=f"there are: {there}")
        return found

    def window(self, wave: Optional[int]) -> Optional[str]:
        """The window of a wave."""
        return dict(self.windows).get(wave) if wave is not None else None


def read_waves(path: Path) -> Waves:
    """Read and check a waves.yaml; UsageError with the line of what is wrong."""
    document = read_document(path, "waves", MAX_SIZE)
    content = document.content
    if isinstance(content, dict) and content.get("version") != VERSION and isinstance(content.get("version"), int):
        raise document.error(["version"], f"waves of version {content['version']}; this h2k reads {VERSION}", "h2k fleet plan writes them anew")
    check(document, schema(), _HINT)
    entries = tuple(_entries(document))
    _require_unique(document)
    limits = content.get("limits") or {}
    windows = tuple((wave["wave"], wave["window"]) for wave in content["waves"] if "window" in wave)
    return Waves(path, entries, limits.get("jobs", JOBS), limits.get("per_source", PER_SOURCE), windows)


def _entries(document: Document) -> Iterator[Entry]:
    content = document.content
    common = tuple(content.get("options", ()))
    base = document.path.absolute().parent
    for wave in sorted(content["waves"], key=lambda found: int(found["wave"])):
        for guest in wave["guests"]:
            policy = ("--h2k-policy", str(base / guest["policy"])) if "policy" in guest else ()
            yield Entry(
                name=guest["name"],
                source=guest["source"],
                kind=guest["kind"],
                wave=wave["wave"],
                output=base / guest.get("output", content["output"]),
                program=guest.get("program") or program_for(guest["kind"]),
                options=(*common, *policy, *guest.get("options", ())),
                connection=guest.get("connection", ""),
                datastore=guest.get("datastore", ""),
                bytes=guest.get("bytes", 0),
                estimate=guest.get("estimate"),
            )


def program_for(kind: str) -> str:
    """qemu-img's wrapper for a disk without a description, virt-v2v's for everything else."""
    return QEMU_IMG if kind == DISK else V2V


def _require_unique(document: Document) -> None:
    """Two results of one name would take each other's place; two waves of one number are a mistake."""
    names: dict[tuple[str, str], Sequence[Step]] = {}
    numbers: set[int] = set()
    for at, wave in enumerate(document.content["waves"]):
        if wave["wave"] in numbers:
            raise document.error(["waves", at, "wave"], f"wave {wave['wave']} is there twice", "one list of guests for each wave")
        numbers.add(wave["wave"])
        for index, guest in enumerate(wave["guests"]):
            place: list[Step] = ["waves", at, "guests", index, "name"]
            key = (str(guest.get("output", document.content["output"])), guest["name"])
            if key in names:
                first = document.line(names[key])
                raise document.error(place, f"the name {guest['name']!r} is there already, in line {first}", "give one another name or output")
            if guest.get("program") == QEMU_IMG and guest["kind"] != DISK:
                raise document.error([*place[:-1], "program"], f"{QEMU_IMG} converts kind: disk alone", "leave program out")
            names[key] = place


def schema() -> dict[str, Any]:
    """The schema of waves.yaml."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "waves.schema.json").read_text(encoding="utf-8"))
    return found
