"""The page of one guest: what h2k found, changed and saw, in one file without scripts and without a network."""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.files import PRIVATE, write_text
from h2k.base.finding import STATES
from h2k.pages.chain import chain_of
from h2k.pages.machine import cards_of, disks_of, name_of, side_by_side
from h2k.pages.rendering import clean, mapping, objects, render

PAGE = "page.html"  # in a report directory
MAX_PICTURES = 8
PICTURE_LIMIT = 2 * 1024 * 1024  # bytes of one screenshot
DOCUMENT_LIMIT = 16 * 1024 * 1024  # bytes of a JSON document beside the records
MAX_CHANGES = 2000  # shown one by one; the rest is counted
_WEIGHT = {"refused": 0, "broken": 1, "repaired": 2, "warning": 3, "ok": 4}


@dataclasses.dataclass(frozen=True)
class GuestRecords:
    """What a page is made of: NAME.h2k, its records (oldest first) with their command lines, and what the one at
    `judging`, the last that judged the disks, is worth at the time `made`: `state` in a word, `sentence` for people."""

    directory: Path
    history: tuple[dict[str, Any], ...]
    commands: tuple[str, ...]
    state: str = ""
    sentence: str = ""
    made: str = ""
    judging: int = -1


def write_page(path: Path, guest: GuestRecords) -> None:
    """Write the page of a guest. H2kError when the file can't be written."""
    write_text(path, page(guest), PRIVATE)


def page(guest: GuestRecords) -> str:
    """The HTML of the page."""
    directory, history = guest.directory.absolute(), _with_boot(guest.directory, [clean(record) for record in guest.history])
    newest, record = history[guest.judging], _telling(history)
    final = disks_of(directory, "final")
    network = clean(_document(directory / "network.json"))
    return render(
        "guest.html.j2",
        record=record,
        newest=newest,
        last=history[-1],
        name=name_of(directory, "final") or clean(directory.stem),
        standing={"state": guest.state, "sentence": clean(guest.sentence)},
        chain=chain_of(record, ", ".join(dict.fromkeys(disk["bus"] for disk in final)), _checks_after(history, record)),
        findings=_by_weight(objects(record.get("findings"))),
        groups=_groups(objects(_changed(history).get("changes"))),
        changes=len(objects(_changed(history).get("changes"))),
        cards=list(_cards(network, cards_of(directory, "final"))),
        routes=network.get("routes", []),
        disks=list(_disks(record, disks_of(directory, "bootstrap"), final)),
        machine=list(side_by_side(directory)),
        boot=next((r["boot"] for r in reversed(history) if isinstance(r.get("boot"), dict)), {}),
        pictures=_pictures(directory / "boot"),
        runs=list(zip(history, map(clean, guest.commands)))[::-1],
        back=clean(f"h2k rollback {shlex.quote(str(directory))}") if _can_go_back(history) else "",
        directory=clean(str(directory)),
        made=guest.made,
        worth=clean(f"h2k report {shlex.quote(str(directory))}"),
    )


def _with_boot(directory: Path, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records; a last boot that was ended by an error has left what it saw in boot/boot.json alone."""
    boots = [number for number, record in enumerate(history) if str(record.get("command", "")).endswith(" boot")]
    if boots and not mapping(history[boots[-1]].get("boot")):
        history[boots[-1]] = {**history[boots[-1]], "boot": clean(_document(directory / "boot" / "boot.json"))}
    return history


def _telling(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record that tells most of the guest: the last with findings, else the last that read its disks."""
    telling: Iterator[dict[str, Any]] = (r for wanted in ("findings", "guest") for r in reversed(history) if r.get(wanted))
    return next(telling, history[-1])


def _checks_after(history: Sequence[dict[str, Any]], record: dict[str, Any]) -> list[dict[str, Any]]:
    """What the last boot after a record showed."""
    later = history[[r is record for r in history].index(True) :]
    boots = [mapping(r.get("boot")) for r in later if mapping(r.get("boot"))]
    return objects(boots[-1].get("checks")) if boots else []


def _changed(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last record of a run that changed the guest, else of one that would."""
    changed = [r for r in history if r.get("changes")]
    return next((r for r in reversed(changed) if r.get("status") == 0), changed[-1] if changed else {})


def _can_go_back(history: Sequence[dict[str, Any]]) -> bool:
    """Whether a repair or a boot stands that rollback takes back: each command that makes one names it as a next one."""
    for record in reversed(history):
        command = str(record.get("command", ""))
        if command.endswith(" rollback") and (record.get("status") == 0 or record.get("rollback")):
            return False
        if command.endswith(" boot") or any(" rollback " in str(line) for line in record.get("next", [])):
            return True
    return False


def _by_weight(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings that stop a run first; what is in order is left out."""
    known = [f for f in findings if f.get("state") in STATES and f["state"] != "ok"]
    return sorted(known, key=lambda f: (_WEIGHT[f["state"]], str(f.get("id"))))


# What was changed


def _groups(changes: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(what is changed, its lines as (sign, text)), in the order of their first change."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for change in changes[:MAX_CHANGES]:
        line = str(change.get("diff", ""))
        groups.setdefault(_subject(line), []).append((line[:1] if line[:2] in ("+ ", "- ", "~ ") else "", line))
    if len(changes) > MAX_CHANGES:
        groups["and more"] = [("", f"{len(changes) - MAX_CHANGES} changes, in plan.json")]
    return list(groups.items())


def _subject(line: str) -> str:
    """What a change is about: the service or key, else the kind of the change."""
    parts = line.split(" ", 2)
    path = parts[1] if len(parts) > 1 else line
    keys = path.split("\\")
    if "Services" in keys and keys.index("Services") + 1 < len(keys):
        return f"service {keys[keys.index('Services') + 1].rstrip(':')}"
    return f"hive {keys[0]}" if len(keys) > 1 else "files"


# Network and disks


def _cards(network: dict[str, Any], models: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each card of the source: what it was and had, where that goes, by which evidence."""
    leaving, assignments = network.get("leaving") or [], mapping(network.get("assignments"))
    for adapter in objects(network.get("adapters")):
        if not adapter.get("hardware"):
            continue
        to = mapping(assignments.get(str(adapter.get("guid"))))
        mac = to.get("mac") if to.get("certain") else None
        if adapter.get("guid") not in leaving:
            fate = "stays as it is"
        elif to.get("certain"):
            mac = mac or next(iter(models), None) if len(models) == 1 else mac
            fate = " ".join(filter(None, (models.get(mac or "", ""), mac or "the only card")))
        else:
            fate = "not carried" if adapter.get("addresses") or adapter.get("addresses6") else "nothing to carry"
        yield {
            "name": adapter.get("name"), "what": adapter.get("description"), "mac": adapter.get("mac"),
            "addresses": [*adapter.get("addresses", []), *adapter.get("addresses6", [])],
            "gateways": [g.get("address", g) if isinstance(g, dict) else g for g in adapter.get("gateways", [])],
            "dns": [*adapter.get("dns", []), *adapter.get("dns6", [])],
            "fate": fate, "why": to.get("why", ""), "state": "warning" if fate == "not carried" else "ok",
        }  # fmt: skip


def _disks(record: dict[str, Any], bootstrap: Sequence[dict[str, str]], final: Sequence[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """A row for each disk: its bus before, in the first boot and in production, its letters, whether it comes online."""
    guest = mapping(record.get("guest"))
    old = objects(mapping(record.get("source_machine")).get("disks"))
    judged = [f for f in objects(record.get("findings")) if f.get("id") == "disks-offline-policy"]
    offline = any(f.get("state") not in ("ok", "repaired") for f in judged)
    online = guest.get("online") or []
    for number, disk in enumerate(objects(guest.get("disks"))):
        letters = [letter for letter, place in mapping(guest.get("letters")).items() if mapping(place).get("disk") == number]
        boots = guest.get("boot_disk") == number
        stays = not offline or boots
        if number < len(online) and not boots:
            # Where the owner kept one offline, the policy stays, and first boot brings the others online by name.
            stays = bool(online[number]) and (stays or not all(online))
        yield {
            "path": disk.get("path"), "format": disk.get("format"), "size": disk.get("size"), "scheme": disk.get("scheme"),
            "partitions": len(objects(disk.get("partitions"))), "letters": letters, "boots": boots,
            "old": _at(old, number).get("bus", ""), "first": _at(bootstrap, number).get("bus", ""), "new": _at(final, number).get("bus", ""),
            "online": ("online" if stays else "stays offline") if online or offline else "not judged",
            "state": ("ok" if stays else "warning") if online or offline else "",
        }  # fmt: skip


def _at(rows: Sequence[dict[str, str]], number: int) -> dict[str, str]:
    return rows[number] if number < len(rows) else {}


def _document(path: Path) -> dict[str, Any]:
    """A JSON object beside the records, {} where there is none that makes sense."""
    try:
        if path.stat().st_size > DOCUMENT_LIMIT:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# Screens


def _pictures(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """Phase → (which, the picture as a data address) of the screenshots of the boots."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in (sorted(directory.glob("*.png")) if directory.is_dir() else [])[:MAX_PICTURES]:
        data = _picture(path)
        if data is not None:
            phase, _, which = clean(path.stem).partition("-")
            found.setdefault(phase, []).append((which, "data:image/png;base64," + base64.b64encode(data).decode()))
    return found


def _picture(path: Path) -> Optional[bytes]:
    try:
        if path.is_symlink() or path.stat().st_size > PICTURE_LIMIT:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None
