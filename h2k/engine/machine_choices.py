"""What hooks and the guest's facts say of the machine that both phases are: Windows' version, small devices, sectors, clock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from h2k.domain.facts import DomainFacts
from h2k.engine.hooks import Proposal

SECTORS = (512, 4096)
_SECTOR = re.compile(r"(?:([0-9]{1,3})[:=])?([0-9]{3,5})")


def machine_choices(proposal: Proposal, guest: Mapping[str, Any], domain: DomainFacts) -> dict[str, Any]:
    """Fields of libvirt_writer.Choices, by name; `guest` is the report's object of that name.

    The setting "sector-size" is "DISK:BYTES", the disk counted from 0 as the guest's images are, or "BYTES" for the
    boot disk; each setting of that name and each entry of a list with commas is one disk.
    """
    places = [number for number, disk in enumerate(domain.disks) if disk.path is not None]
    boot = int(proposal.setting("boot-disk", str(guest.get("boot_disk", 0))))
    offset = proposal.setting("utc-offset", "")
    return {
        "version": _version(str(guest.get("version", ""))),
        "rng": proposal.setting("rng", "no") == "yes",
        "pvpanic": proposal.setting("pvpanic", "no") == "yes",
        "sectors": {places[image]: size for image, size in _sectors(proposal, boot) if image < len(places)},
        "utc_offset": int(offset) if re.fullmatch("-?[0-9]{1,5}", offset) else None,
    }


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", text)
    return (int(match.group(1)), int(match.group(2))) if match is not None else (6, 1)


def _sectors(proposal: Proposal, boot: int) -> Iterator[tuple[int, int]]:
    for setting in proposal.settings:
        for part in setting.value.split(",") if setting.name == "sector-size" else ():
            match = _SECTOR.fullmatch(part.strip())
            if match is not None and int(match.group(2)) in SECTORS:
                yield int(match.group(1) or boot), int(match.group(2))
