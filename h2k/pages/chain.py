"""The boot chain of a guest, link by link from the firmware to the controller: what each is, how it stood before, how it stands now."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from h2k.pages.rendering import mapping, objects

# The links in the order in which a boot takes them, and the findings that speak of each (facts: docs/facts.md).
LINKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Firmware", ("firmware-mismatch", "secure-boot-db-mismatch", "sector-size-mismatch")),
    (
        "Partition",
        (
            "boot-partition-inactive", "boot-disk-ambiguous", "esp-type-wrong", "disk-dynamic", "disk-table-damaged",
            "disk-signature-duplicate", "volume-encrypted", "volume-hibernated", "volume-dirty", "volume-log-unclean", "file-unreadable",
        ),
    ),
    ("Boot manager", ("boot-manager-missing", "uefi-fallback-missing")),
    ("BCD", ("bcd-missing", "bcd-corrupt", "bcd-default-missing", "bcd-device-unresolved", "safe-mode-set", "boot-sequence-set")),
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
    ("Controller", ("device-id-unbound", "device-class-wrong", "bootstrap-controller-not-boot-start", "device-install-policy", "device-install-restrictions")),
)  # fmt: skip
# What the disks said after a boot, and the link that it speaks of (h2k/boot/disk_evidence.py).
CHECKS = {"shut-down-cleanly": "Registry", "driver-starts-at-boot": "Boot drivers", "virtio-bound": "Controller", "hardware": "Controller"}
_WORST = ("refused", "broken", "repaired", "warning", "ok")
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
STOPS, LOOK, HOLDS, UNKNOWN = "stops", "look", "holds", "not judged"


@dataclasses.dataclass(frozen=True)
class Link:
    """One link: its name, what it is in this guest, how it stood before and stands now (STOPS, LOOK, HOLDS, UNKNOWN), the
    evidence as (finding, subject, what was seen), and its parts: (driver, before, after)."""

    name: str
    what: str
    before: str
    after: str
    evidence: tuple[tuple[str, str, str], ...] = ()
    parts: tuple[tuple[str, str, str], ...] = ()


def chain_of(record: dict[str, Any], new_bus: str = "", checks: Sequence[dict[str, Any]] = ()) -> tuple[Link, ...]:
    """The links of a record's guest; `checks` are those of a boot after it. A link without a finding holds where the guest
    could be read: h2k looked, and found nothing wrong. Where a refusal kept it from that, nothing is said of it."""
    findings, guest = objects(record.get("findings")), mapping(record.get("guest"))
    whats = _whats(guest, new_bus)
    judged = bool(guest.get("windows")) and guest.get("build") is not None
    found = []
    for name, ids in LINKS:
        ours = [f for f in findings if f.get("id") in ids]
        link = _link(name, whats.get(name, ""), ours, judged)
        found.append(_booted(link, [c for c in checks if CHECKS.get(str(c.get("name"))) == name]))
    return tuple(found)


def _link(name: str, what: str, findings: Sequence[dict[str, Any]], judged: bool) -> Link:
    before, after = _states(findings) if findings or judged else (UNKNOWN, UNKNOWN)
    evidence = tuple((str(f.get("id")), _short(f), str(f.get("evidence"))) for f in findings)
    drivers = dict.fromkeys(_driver(f) for f in findings) if name == "Boot drivers" else {}
    parts = tuple((driver, *_states([f for f in findings if _driver(f) == driver])) for driver in drivers)
    return Link(name, what, before, after, evidence, parts)


def _booted(link: Link, checks: Sequence[dict[str, Any]]) -> Link:
    """A link with what a boot showed of it: that outweighs what was read before it."""
    told = [c for c in checks if c.get("state") in ("passed", "failed")]
    if not told:
        return link
    after = STOPS if any(c["state"] == "failed" for c in told) else link.after if link.after == STOPS else HOLDS
    seen = [(str(c.get("name")), "the boot", str(c.get("evidence"))) for c in told]
    return dataclasses.replace(link, after=after, evidence=(*seen, *link.evidence))


def _short(finding: dict[str, Any]) -> str:
    """The last part of what a finding is about: "viostor.sys"."""
    return re.split(r"[\\/]", str(finding.get("subject")).rstrip("\\/"))[-1]


def _driver(finding: dict[str, Any]) -> str:
    """The driver that a finding is about, by its service or its file."""
    short = _short(finding).partition(" ")[0].lower()
    return short[:-4] if short.endswith(".sys") else short


def _states(findings: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """How a link stood before and stands now, by the worst of its findings."""
    states = [str(f.get("state")) for f in findings]
    worst = next((s for s in _WORST if s in states), "ok")
    after = {"refused": STOPS, "broken": STOPS, "warning": LOOK}.get(worst, HOLDS)
    return STOPS if any(s in ("refused", "broken", "repaired") for s in states) else after, after


def _whats(guest: dict[str, Any], new_bus: str) -> dict[str, str]:
    """What each link is in this guest, as far as the record tells."""
    uefi = guest.get("firmware") == "uefi"
    sets = mapping(guest.get("control_sets"))
    found = {"Partition": _partition(guest, uefi), "BCD": str(mapping(guest.get("hives")).get("BCD", "")), "Controller": new_bus}
    if guest.get("firmware"):
        found["Firmware"] = str(guest["firmware"]).upper()
        found["Boot manager"] = r"\EFI\Microsoft\Boot\bootmgfw.efi" if uefi else r"\bootmgr"
        found["Loader"] = r"\Windows\system32\winload" + (".efi" if uefi else ".exe")
    if isinstance(sets.get("default"), int):
        found["Registry"] = f"SYSTEM, ControlSet{sets['default']:03d}"
    return found


def _partition(guest: dict[str, Any], uefi: bool) -> str:
    """The partition that the firmware starts from: the EFI system partition, else the active one."""
    disks, number = objects(guest.get("disks")), guest.get("boot_disk")
    if not isinstance(number, int) or not 0 <= number < len(disks):
        return ""
    for part in objects(disks[number].get("partitions")):
        if (str(part.get("type", "")).upper() == _ESP) if uefi else part.get("active"):
            return f"disk {number}, partition {part.get('number')} ({'EFI system' if uefi else 'active'})"
    return ""
