"""The machine as it will be: both domains side by side, and what their disks and cards are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from h2k.base.errors import H2kError
from h2k.base.text import shown
from h2k.base.xml import parse_xml

PHASES = ("bootstrap", "final")
DOMAIN_LIMIT = 1024 * 1024  # bytes of a domain that is compared
MAX_LINES = 5000


def side_by_side(report_dir: Path) -> Iterator[tuple[bool, str, str]]:
    """(differs, line of the bootstrap, line of final) of both domains; nothing where one is missing."""
    texts = [_text(report_dir / f"{phase}.xml") for phase in PHASES]
    if not all(texts):
        return
    left, right = (text.splitlines()[:MAX_LINES] for text in texts)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for number in range(max(b - a, d - c)):
            one = left[a + number] if a + number < b else ""
            other = right[c + number] if c + number < d else ""
            yield kind != "equal", one, other


def name_of(report_dir: Path, phase: str) -> str:
    """The name of a domain, "" where there is none."""
    root = _root(report_dir, phase)
    return shown((root.findtext("name") or "").strip()) if root is not None else ""


def disks_of(report_dir: Path, phase: str) -> list[dict[str, str]]:
    """The hard disks of a domain in its order: the image's file name, bus and target."""
    found = []
    for disk in _devices(report_dir, phase, "disk"):
        target = disk.find("target")
        source = disk.find("source")
        if disk.get("device", "disk") == "disk" and target is not None:
            place = source.get("file") or source.get("dev") or "" if source is not None else ""
            found.append({"file": shown(place), "bus": shown(target.get("bus", "")), "target": shown(target.get("dev", ""))})
    return found


def cards_of(report_dir: Path, phase: str) -> dict[str, str]:
    """The network cards of a domain: MAC → model."""
    found = {}
    for card in _devices(report_dir, phase, "interface"):
        mac, model = card.find("mac"), card.find("model")
        if mac is not None:
            found[shown(mac.get("address", ""))] = shown(model.get("type", "")) if model is not None else ""
    return found


def _devices(report_dir: Path, phase: str, kind: str) -> list[Any]:
    root = _root(report_dir, phase)
    return list(root.findall(f"devices/{kind}")) if root is not None else []


def _root(report_dir: Path, phase: str) -> Any:
    data = _bytes(report_dir / f"{phase}.xml")
    try:
        return parse_xml(data, phase) if data else None
    except H2kError:
        return None


def _text(path: Path) -> str:
    lines = _bytes(path).decode("utf-8", "replace").splitlines()
    return "\n".join(shown(line) if line.strip() else "" for line in lines)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= DOMAIN_LIMIT else b""
    except OSError:
        return b""
