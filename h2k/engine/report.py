"""What a run found and did, collected while it goes on; engine/ending.py makes the record of it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from h2k.base.finding import Finding
from h2k.base.option_table import spelled
from h2k.base.text import shown
from h2k.guest.changes import Change, WriteFile
from h2k.guest.disks_online import identity, to_bring_online
from h2k.guest.drive_letters import drive_letters
from h2k.guest.guest import Guest


@dataclasses.dataclass
class Report:
    """Findings, changes and facts of one run; how it ended is its Outcome, and no business of this."""

    guest: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    settings: list[dict[str, str]] = dataclasses.field(default_factory=list)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self, command: str = "") -> dict[str, Any]:
        """These parts of the record (docs/schemas/record.json), in which options are spelled as `command` spells them."""
        return {
            "guest": self.guest,
            "findings": [f.as_json(command) for f in self.findings],
            "changes": self.changes,
            "settings": [{**setting, "why": spelled(setting["why"], command)} for setting in self.settings],
            "files": self.files,
            "digests": self.digests,
            **self.more,
        }


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
    """Version, edition, control sets and drive letters; BadData when the hives can't be parsed. `online`: whether the
    first boot may bring the disk online, if it is not (the owner kept none of them back)."""
    online = set(to_bring_online(guest))
    return {
        **dataclasses.asdict(guest.windows),
        "version": ".".join(map(str, guest.windows.version)),
        "control_sets": dataclasses.asdict(guest.control_sets),
        "letters": {
            letter.name: {"disk": letter.disk, "partition": letter.partition}
            for letter in drive_letters(guest)
            if letter.disk is not None
        },
        "online": [identity(disk) in online for disk in guest.disks],
    }


def digests_of(changes: Sequence[Change]) -> dict[str, str]:
    """SHA-256 of every file that is written into the guest, by its path there: for an auditor."""
    return {c.path: hashlib.sha256(c.data).hexdigest() for c in changes if isinstance(c, WriteFile)}


def installed_drivers(changes: Sequence[Change]) -> tuple[str, ...]:
    """The drivers whose files would be written into System32\\drivers, by name: viostor, netkvm."""
    paths = [c.path.replace("\\", "/").lower() for c in changes if isinstance(c, WriteFile)]
    names = [p.rpartition("/")[2][: -len(".sys")] for p in paths if "/system32/drivers/" in p and p.endswith(".sys")]
    return tuple(dict.fromkeys(names))


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that stop a run first, then what was wrong, then the rest."""
    order = ("refused", "broken", "repaired", "warning", "ok")
    return sorted(findings, key=lambda f: (order.index(f.state), f.id))


def diff(changes: Iterable[dict[str, Any]]) -> str:
    """The plan as a readable diff, a line a change."""
    return "\n".join(f"  {shown(str(c['diff']))}" for c in changes)
