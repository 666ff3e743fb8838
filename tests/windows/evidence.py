"""What is kept of one fault: a directory with records, logs, pictures and digests, and one row for the table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from h2k.base.text import printable
from h2k.engine.records import versions as tool_versions
from tests.windows.answer_file import Answers
from tests.windows.boots import NOT_TRIED, Judged, Start
from tests.windows.configuration import CARDS
from tests.windows.convert import REFUSED, Converted
from tests.windows.faults import KitFault
from tests.windows.media import Media

SCHEMA = 1
REFUSED_OUTCOME, FAILED = "refused", "failed"
MANIFEST = "SHA256SUMS"
EXPECTED = {address for card in CARDS for address, _ in card.addresses}  # a stand-in has no network
TEXT = 300  # characters of a text in a row
KEPT = ("*.log", "*.json", "*.xml", "*.txt")  # of what a conversion left beside its disks


@dataclasses.dataclass(frozen=True)
class Side:
    """One half of a row: what a tool did with the guest, and how that started."""

    converted: Converted
    start: Optional[Start] = None
    lab: Optional[Judged] = None
    boot_status: Optional[int] = None

    def row(self) -> dict[str, Any]:
        """As it stands in the table."""
        record, start, lab = self.converted.record, self.start, self.lab
        nothing = REFUSED_OUTCOME if self.converted.status == REFUSED else FAILED if self.converted.status else NOT_TRIED
        found: dict[str, Any] = {
            "tool": self.converted.tool, "status": self.converted.status, "word": _short(record.get("word", "")),
            "findings": sorted(set(_findings(record)))[:200], "boot_status": self.boot_status,
            "outcome": start.outcome if start is not None else nothing, "reason": _short(start.reason if start is not None else ""),
            "lab": lab.outcome if lab is not None else NOT_TRIED, "lab_reason": _short(lab.reason if lab is not None else ""),
        }  # fmt: skip
        if start is not None:
            seen = start.seen
            found.update({
                "bound": {_short(device): _short(service) for device, service in seen.bound.items() if device.startswith("VEN_1AF4")},
                "addresses": [_short(each) for each in seen.addresses[:100]], "volumes": [_short(each) for each in seen.volumes[:100]],
                "addresses_kept": None if seen.stand_in else set(seen.addresses) >= EXPECTED, "data_disk": seen.data_disk, "stops": seen.stops, "service_errors": seen.service_errors,
            })  # fmt: skip
        return found


def _short(text: Any) -> str:
    return printable(str(text))[:TEXT]


def _findings(record: dict[str, Any]) -> Iterator[str]:
    """The ids of what h2k found to be more than a remark."""
    findings = record.get("findings")
    for each in findings if isinstance(findings, list) else []:
        if isinstance(each, dict) and each.get("state") not in (None, "ok"):
            yield _short(each.get("id", ""))


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all rows of one run have in common."""

    media: Media
    answers: Answers
    virtio_win_sha256: str
    source_bus: str
    kvm: bool

    def row(self, fault: KitFault, with_h2k: Side, without: Side, files: str, seconds: int) -> dict[str, Any]:
        """One line of the table."""
        image = self.answers.image
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        answered = next((side.start.seen.os for side in (with_h2k, without) if side.start is not None and side.start.seen.os), "")
        return {
            "run": f"{self.answers.release.key}-{self.answers.firmware}-{fault.name}-{stamp}-{files[:8]}",
            "stand_in": self.media.stand_in or any(side.start is not None and side.start.seen.stand_in for side in (with_h2k, without)),
            "fault": fault.name, "into": fault.into, "answer": _short(fault.answer), "firmware": self.answers.firmware,
            "windows": {
                "name": _short(image.name), "release": self.answers.release.key, "build": image.build, "arch": image.arch,
                "edition": _short(image.edition), "language": _short(image.language), "answered": _short(answered),
                "iso_sha256": self.media.sha256,
            },
            "virtio_win_sha256": self.virtio_win_sha256, "source_bus": self.source_bus,
            "with": with_h2k.row(), "without": without.row(), "versions": versions(self.kvm), "files_sha256": files, "seconds": seconds,
        }  # fmt: skip


def versions(kvm: bool) -> dict[str, str]:
    """What the host ran: h2k, virt-v2v, QEMU, its kernel and distribution; no name of the host or its user."""
    host = platform.freedesktop_os_release() if hasattr(platform, "freedesktop_os_release") else {}
    return {
        **{name: _short(value) for name, value in tool_versions().items()},
        "kernel": platform.release(), "distribution": _short(host.get("PRETTY_NAME", "")), "kvm": "yes" if kvm else "no",
    }  # fmt: skip


def keep(side: Converted, place: Path) -> None:
    """Copy a conversion's log, its records and its descriptions; never a disk."""
    place.mkdir(parents=True, exist_ok=True)
    if side.log.exists():
        shutil.copyfile(side.log, place / side.log.name)
    if side.state is None:
        return
    for pattern in KEPT:
        for path in sorted(side.state.rglob(pattern)):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 32 << 20:
                target = place / "NAME.h2k" / path.relative_to(side.state)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def close(place: Path) -> str:
    """Write the digests of all files of the directory; the digest of that list."""
    rows = []
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, "row.json"):
            rows.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(place)}\n")
    text = "".join(rows)
    (place / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def write_row(place: Path, row: dict[str, Any]) -> None:
    (place / "row.json").write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
