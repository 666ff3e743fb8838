"""Hook network-driver: NetKVM staged offline, and the card of each phase."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from h2k.config.driver_plan import load_plan
from h2k.engine.hooks import Options, propose
from h2k.guest.changes import pending
from h2k.guest.virtio_win import DriverSource
from tests.unit.memory_reader import apply_changes, windows_guest
from tests.unit.moved_guests import MODERN, THREE, UNKNOWN, VIRTIO, ask, hooks, ids


def test_without_a_package_it_warns_and_never_stops() -> None:
    found = ask(windows_guest(MODERN + THREE), None)
    told = [f for f in found.findings if f.id == "nic-driver-missing"]
    assert told and all(f.state == "warning" for f in told)
    assert found.refused == () and found.setting("bootstrap-nic", "") == found.setting("final-nic", "") == "e1000e"


def test_a_plan_may_say_when_it_starts(drivers: DriverSource, tmp_path: Path) -> None:
    guest = windows_guest(MODERN)
    plan = load_plan()
    roles = tuple(dataclasses.replace(r, start=3) if r.kind == "network" else r for r in plan.roles)
    for wanted, options in ((1, plan), (3, dataclasses.replace(plan, roles=roles))):
        found = propose(hooks(), guest, Options(plan=options, drivers=drivers))
        (start,) = [c for c in found.changes if getattr(c, "key", "").endswith("Services\\netkvm") and getattr(c, "name", "") == "Start"]
        assert start.value.dword() == wanted  # type: ignore[union-attr]


def test_a_disabled_or_broken_installed_driver_is_repaired(drivers: DriverSource) -> None:
    off = VIRTIO.replace('"Start"=dword:00000003', '"Start"=dword:00000004')
    guest = windows_guest(MODERN + off, files={"Windows/System32/drivers/netkvm.sys": b""})
    found = ask(guest, drivers)
    assert ids(found, "broken") == {"nic-driver-missing"}
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert ask(fixed, drivers).findings == ()


@pytest.mark.parametrize("old", [False, True])
def test_its_ids_are_left_to_the_package(old: bool, drivers: DriverSource) -> None:
    """Service, file and start type, and no skeleton of a package: a card that starts so has no connection."""
    if old:
        guest = windows_guest(UNKNOWN, version="6.1", build="7601", arch="x86", server=False, firmware="bios")
    else:
        guest = windows_guest(MODERN)
    (hook,) = [hook for hook in hooks() if hook.name == "network-driver"]
    found = propose([hook], guest, Options(plan=load_plan(), drivers=drivers))
    keys = {getattr(c, "key", "").lower() for c in found.changes}
    assert any(key.endswith("services\\netkvm") for key in keys)
    assert not any("driverdatabase" in key or "criticaldevicedatabase" in key for key in keys)
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert propose([hook], fixed, Options(plan=load_plan(), drivers=drivers)).findings == ()
