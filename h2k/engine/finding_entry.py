"""One row of the catalogue of findings, and the words that many rows share."""

from __future__ import annotations

import dataclasses

REPAIR, REFUSE, WARN, DOMAIN, FIRST_BOOT = "repair", "refuse", "warn", "repair in the domain", "repair at first boot"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One finding. `answer` is REPAIR, REFUSE, WARN, DOMAIN (h2k's two domains are written right, the disks stay) or
    FIRST_BOOT (a step of the first boot does it); `screen` is what the owner would see without h2k, `action` and `by_hand` are sentences for people,
    `source` is where the facts behind it are known from: documents, a format's specification, a driver's INF, or a
    measurement. "Measured" means read from hives of real machines, or seen in a run of the named tool (docs/facts.md).
    `acceptable`: --h2k-accept overrides the refusal, for going on risks what the owner can judge, and never the disks'
    content."""

    id: str
    fault: str
    answer: str
    screen: str
    where: str
    action: str
    by_hand: str
    source: str
    acceptable: bool = False


STOP_7B = "stop code 0x7B, INACCESSIBLE_BOOT_DEVICE, a few seconds after the Windows logo"
SERVICE = r"`SYSTEM\ControlSetNNN\Services\<driver>`"
SHUT_DOWN = "Boot the source once and shut it down with `shutdown /s /t 0`, fast startup off."
ALL_SETS = "in every control set that a boot may use"
CHAIN = "docs/facts.md, the chain, point"
GUIDE_7B = "Microsoft's guide to stop code 0x7B (INACCESSIBLE_BOOT_DEVICE)"
