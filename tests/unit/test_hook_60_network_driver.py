"""Hook network-driver: NetKVM staged offline, and the card of each phase."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from h2k.config.driver_plan import load_plan
from h2k.config.policy import Policy
from h2k.engine.hooks import Options, propose
from h2k.guest.changes import SetValue, pending
from h2k.guest.virtio_win import DriverSource, PackageBad, PackageMissing
from tests.guests.regfile import build_hive
from tests.unit.hooks import ask as plain_ask
from tests.unit.memory_reader import apply_changes, windows_guest
from tests.unit.moved_guests import MODERN, NATIVE, THREE, UNKNOWN, VIRTIO, ask, hooks, ids
from tests.unit.test_pnp import package


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


@pytest.mark.parametrize("error", [None, PackageMissing("no netkvm.inf"), PackageBad("netkvm.sys: truncated")])
def test_how_to_get_a_driver_is_told(error: Any) -> None:
    class NoPackage:
        def find(self, *_: Any) -> Any:
            raise error

    said = plain_ask("network-driver", windows_guest(MODERN), drivers=NoPackage() if error is not None else None)
    way_out = f"{error.message}: get a virtio-win that has it" if error is not None else "no virtio-win was found: give --h2k-drivers PATH"
    assert {f.repair for f in said.findings} == {f"{way_out}; until then the card has no driver"} and said.changes == ()
    why = "the network driver is missing; Windows drives this card itself"
    assert (said.reasons["bootstrap-nic"], said.reasons["final-nic"]) == (why, why)


@pytest.mark.parametrize(("policy", "bootstrap", "why"), [
    ("auto", "virtio", "the network driver can start"), ("e1000e", "e1000e", "the policy says so"), ("virtio", "virtio", "the policy says so"),
])  # fmt: skip
def test_the_card_of_each_phase(policy: str, bootstrap: str, why: str, drivers: DriverSource) -> None:
    said = plain_ask("network-driver", windows_guest(MODERN), drivers=drivers, policy=Policy(bootstrap_nic="".join(policy)))
    assert said.settings == {"bootstrap-nic": bootstrap, "final-nic": "virtio"}
    assert said.reasons == {"bootstrap-nic": why, "final-nic": "the network driver can start"}


def test_a_windows_without_drivers_of_ours_gets_the_card_that_it_drives_itself(drivers: DriverSource) -> None:
    said = plain_ask("network-driver", windows_guest(version="6.0", build="6002"), drivers=drivers)
    assert said.settings == {"bootstrap-nic": "e1000e"} and said.findings == () == said.changes
    assert said.reasons["bootstrap-nic"] == "no driver of h2k's for this Windows"


@pytest.mark.parametrize(("start", "disabled"), [(0, False), (3, False), (4, True)])
def test_a_driver_that_windows_installed_only_has_to_be_able_to_start(start: int, disabled: bool, drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + VIRTIO.replace("00000003", f"{start:08x}"), files=NATIVE, sets=(1, 2))
    said = plain_ask("network-driver", guest, drivers=drivers)
    keys = [f"ControlSet00{number}\\Services\\netkvm" for number in (1, 2)]
    assert [(f.subject, f.evidence, f.repair) for f in said.findings] == [(key, "the driver is disabled", "Start 3") for key in keys if disabled]
    assert [(c.key, c.name, c.value.dword()) for c in said.changes if isinstance(c, SetValue)] == [(key, "Start", 3) for key in keys if disabled]
    without = plain_ask("network-driver", guest)
    assert [f.state for f in without.findings] == ["warning"] * (2 * disabled) and without.changes == ()


@pytest.mark.parametrize(
    ("ids_there", "service", "needed"), [(("1000", "1041"), "netkvm", False), (("1000",), "netkvm", True), (("1000", "1041"), "other", True)]
)
def test_a_package_in_the_driver_store_needs_no_staging(ids_there: tuple[str, ...], service: str, needed: bool, drivers: DriverSource) -> None:
    """Newer builds keep the store's index in the DRIVERS hive: Windows installs the package itself when the card appears."""
    text = "[DriverDatabase]\n" + "".join(package(f"oem{n}.inf", f"VEN_1AF4&DEV_{i}", service) for n, i in enumerate(ids_there))
    said = plain_ask("network-driver", windows_guest(MODERN, drivers=build_hive(text)), drivers=drivers)
    assert bool(said.findings) is bool(said.changes) is needed
    plain = plain_ask("network-driver", windows_guest(MODERN, drivers=build_hive("[Other]\n")), drivers=drivers)
    assert plain.findings, "a DRIVERS hive that is no index"
