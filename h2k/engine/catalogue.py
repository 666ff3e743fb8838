"""Every finding that h2k knows: what the owner sees, where it is, what h2k does, how to do it by hand (docs/findings.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from h2k.engine.finding_entry import DOMAIN, REFUSE
from h2k.engine.findings_boot import BOOT
from h2k.engine.findings_disks import DISKS
from h2k.engine.findings_drivers import DRIVERS
from h2k.engine.findings_guest import GUEST

# Findings of h2k itself, told before a hook is asked; every other one belongs to a hook.
OF_ITSELF = frozenset({"first-boot-runner-missing", "source-running"})

ENTRIES = (*DRIVERS, *DISKS, *BOOT, *GUEST)
BY_ID = {entry.id: entry for entry in ENTRIES}
ACCEPTABLE = frozenset(entry.id for entry in ENTRIES if entry.acceptable)


def never_accepted(found: str) -> bool:
    """Whether it is always a refusal: going on would lose data, or end in a guest that can't boot."""
    return found in BY_ID and BY_ID[found].answer == REFUSE and found not in ACCEPTABLE


def known_ids() -> frozenset[str]:
    """Every id of the catalogue."""
    return frozenset(BY_ID)


def explaining(text: str) -> tuple[str, ...]:
    """The commands that explain the findings which a message names."""
    named = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", text)
    return tuple(f"h2k explain {found}" for found in dict.fromkeys(named) if found in BY_ID)


def in_domain(found: str) -> bool:
    """Whether a finding with this id is repaired by the domains that h2k writes, and not on the disks."""
    return found in BY_ID and BY_ID[found].answer == DOMAIN


def page() -> Iterator[str]:
    """docs/findings.md, line by line."""
    yield "# The findings: what h2k looks for, and what it does about each"
    yield ""
    yield "<!-- Written by: python3 -m h2k.engine.catalogue > docs/findings.md -->"
    yield ""
    yield "Each has a stable id. **repair**: h2k repairs it on an overlay, reads it back through other code, and only then"
    yield "commits. **repair in the domain**: the disks stay, the two domains that h2k writes are right. **repair at first"
    yield "boot**: reported, and a step that h2k stages does it. **refuse**: nothing is written, exit status 3, and the message"
    yield "says what to do; `--h2k-accept ID` goes on in spite of a refusal that is safe to override. **warn**: reported, never"
    yield "blocks. `make faults` puts each into made guests and prints what was found and what became of it."
    yield ""
    yield "| id | the fault | what you would see | where it is | h2k | by hand |"
    yield "|---|---|---|---|---|---|"
    for e in ENTRIES:
        cells = (f"`{e.id}`", e.fault, _sentence(e.screen), _sentence(e.where), f"**{e.answer}.** {e.action}", e.by_hand)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    print("\n".join(page()))
