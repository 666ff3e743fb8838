"""The boot chain of a guest as a picture: firmware, boot manager, BCD, loader, hives, drivers, controller; each link by its findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

# The links in the order in which a boot takes them, and the findings that speak of each (facts: docs/facts.md).
LINKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Firmware", ("firmware-mismatch", "secure-boot-db-mismatch", "sector-size-mismatch")),
    ("Partition", ("boot-partition-inactive", "boot-disk-ambiguous", "esp-type-wrong", "disk-dynamic", "disk-table-damaged")),
    ("Boot manager", ("boot-manager-missing", "uefi-fallback-missing")),
    ("BCD", ("bcd-missing", "bcd-corrupt", "bcd-default-missing", "bcd-device-unresolved")),
    ("Loader", ("bcd-loader-missing", "system-files-compressed")),
    ("Registry", ("hive-dirty", "hive-unrecoverable", "hive-corrupt", "control-set-differs")),
    (
        "Boot drivers",
        (
            "driver-file-missing", "driver-file-invalid", "driver-not-boot-start", "driver-start-override",
            "driver-parameters-missing", "driver-unsigned", "driver-test-signed", "driver-sha2-unsupported",
            "driver-package-missing", "boot-stack-driver-disabled", "class-filter-dangling", "class-filter-hypervisor",
        ),
    ),
    ("Controller", ("device-id-unbound", "device-class-wrong", "bootstrap-controller-not-boot-start", "device-install-policy")),
)  # fmt: skip
_WIDTH, _HEIGHT, _GAP = 104, 56, 18  # of a box, in the picture's units
_WORST = ("refused", "broken", "repaired", "warning", "ok")


@dataclasses.dataclass(frozen=True)
class Link:
    """One link: its name, how it stands now and stood before, and the evidence, a sentence for each finding."""

    name: str
    before: str
    after: str
    evidence: tuple[str, ...]


def chain_of(record: dict[str, Any]) -> tuple[Link, ...]:
    """The links of a record's guest. A link without a finding holds: h2k looked, and found nothing wrong."""
    findings = [f for f in record.get("findings", []) if isinstance(f, dict)]
    known = bool(record.get("guest", {}).get("windows"))
    return tuple(_link(name, [f for f in findings if f.get("id") in ids], known) for name, ids in LINKS)


def _link(name: str, findings: Sequence[dict[str, Any]], known: bool) -> Link:
    states = [str(f.get("state")) for f in findings]
    worst = next((s for s in _WORST if s in states), "ok")
    after = {"refused": "stops", "broken": "stops", "warning": "look"}.get(worst, "holds")
    before = "stops" if worst in ("refused", "broken", "repaired") else after
    evidence = tuple(f"{f.get('id')}: {f.get('subject')}: {f.get('evidence')}" for f in findings)
    return Link(name, before, after, evidence) if known else Link(name, "unknown", "unknown", evidence)


def boxes(links: Iterable[Link], row: int = 4) -> list[dict[str, Any]]:
    """Where each link's box stands in the picture, `row` in a row; arrows follow the order."""
    found = []
    for number, link in enumerate(links):
        line, place = divmod(number, row)
        found.append(
            {
                "link": link,
                "x": place * (_WIDTH + _GAP),
                "y": line * (_HEIGHT + _GAP + 10),
                "width": _WIDTH,
                "height": _HEIGHT,
                "last_in_row": place == row - 1,
                "last": number == len(LINKS) - 1,
            }
        )
    return found
