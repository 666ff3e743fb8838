"""What becomes of hooks' settings in the machine of the two domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.domain.facts import DiskFacts, DomainFacts
from h2k.engine.hooks import Proposal, Setting
from h2k.engine.machine_choices import machine_choices

NO_FILE = DiskFacts(None, None, "virtio", "vda")
DISKS = tuple(DiskFacts(Path(f"/{n}"), "qcow2", "virtio", f"vd{n}") for n in range(2))
FACTS = DomainFacts("g", 1 << 30, 1, (NO_FILE, *DISKS))


def chosen(guest: object = None, **settings: str) -> dict[str, object]:
    proposal = Proposal((), (), tuple(Setting(name.replace("_", "-"), value, "") for name, value in settings.items()))
    return machine_choices(proposal, guest if isinstance(guest, dict) else {}, FACTS)


def test_nothing_is_known() -> None:
    assert chosen() == {"version": (6, 1), "rng": False, "pvpanic": False, "sectors": {}, "utc_offset": None}


def test_all_is_known() -> None:
    found = chosen({"version": "10.0", "boot_disk": 0}, rng="yes", pvpanic="yes", utc_offset="-12600")
    assert found == {"version": (10, 0), "rng": True, "pvpanic": True, "sectors": {}, "utc_offset": -12600}


@pytest.mark.parametrize(
    ("value", "boot", "expected"),
    [("4096", "0", {1: 4096}), ("4096", "1", {2: 4096}), ("1:4096", "0", {2: 4096}), ("0=4096, 1=512", "0", {1: 4096, 2: 512}),
     ("7:4096", "0", {}), ("many", "0", {}), ("1024", "0", {}), ("", "0", {})],
)  # fmt: skip
def test_sectors_are_counted_as_the_images_are(value: str, boot: str, expected: dict[int, int]) -> None:
    assert chosen(boot_disk=boot, sector_size=value)["sectors"] == expected


def test_sectors_without_a_number_are_the_boot_disk_s() -> None:
    assert chosen(sector_size="4096")["sectors"] == {1: 4096} and chosen({"boot_disk": 1}, sector_size="4096")["sectors"] == {2: 4096}


@pytest.mark.parametrize(("text", "version"), [("6.3", (6, 3)), ("10.0", (10, 0)), ("x", (6, 1))])
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert chosen({"version": text})["version"] == version


def test_a_version_is_two_numbers() -> None:
    assert chosen({"version": "10.0.20348"})["version"] == (10, 0)
    assert chosen({})["version"] == chosen({"version": "ten"})["version"] == (6, 1)
