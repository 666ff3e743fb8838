"""A device that leads to the wrong driver is bound to the right one, whatever else claims it; the repair then holds."""

from __future__ import annotations

import pytest

from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.guest.driver_repairs import binding_repairs
from h2k.guest.guest import Guest
from tests.unit.memory_reader import apply_changes, windows_guest
from tests.unit.test_pnp import HDC, SCSI, package

ROLE = load_plan().storage("virtio")
LEGACY, OURS = "VEN_1AF4&DEV_1001", "h2kviostor.inf"


def findings(guest: Guest) -> list[str]:
    assert ROLE is not None
    return [item.id for item in binding_repairs(guest, 1, ROLE) if isinstance(item, Finding)]


def repaired(guest: Guest) -> Guest:
    assert ROLE is not None
    return apply_changes(guest, [item for item in binding_repairs(guest, 1, ROLE) if not isinstance(item, Finding)])


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        ("", "device-id-unbound"),
        (package("oem9.inf", f"{LEGACY}&REV_00", "other"), "device-id-unbound"),
        (package("oem9.inf", f"{LEGACY}&REV_00", "other", date=5, version=7), "device-id-unbound"),
        (package("oem9.inf", f"{LEGACY}&SUBSYS_00021AF4&REV_00", "other", date=5), "device-id-unbound"),
        (package("oem9.inf", f"{LEGACY}&SUBSYS_00021AF4", "other"), "device-id-unbound"),
        (package("oem9.inf", f"{LEGACY}&CC_0100", "other"), "device-id-unbound"),
        (package("oem9.inf", LEGACY, "other", data="01,80,00,00"), "device-id-unbound"),
        (package("guestor.inf", f"{LEGACY}&REV_00", guid=HDC), "device-class-wrong"),
        (package("a.inf", LEGACY, "other") + package("b.inf", LEGACY, "another"), "device-id-unbound"),
    ],
)
def test_from_windows_8_on(claim: str, found: str) -> None:
    guest = windows_guest("[DriverDatabase]\n" + claim)
    assert findings(guest) == [found, "device-id-unbound"]
    assert findings(repaired(guest)) == []


@pytest.mark.parametrize(
    "device_id", [LEGACY, f"{LEGACY}&REV_00", f"{LEGACY}&SUBSYS_00021AF4&REV_00", f"{LEGACY}&CC_0100"]
)
@pytest.mark.parametrize(("service", "guid"), [("other", SCSI), ("viostor", HDC)])
def test_up_to_windows_7(device_id: str, service: str, guid: str) -> None:
    claim = f'[$cs\\Control\\CriticalDeviceDatabase\\pci#{device_id.lower()}]\n"Service"="{service}"\n"ClassGUID"="{guid}"\n'
    guest = windows_guest(claim, version="6.1", build="7601", firmware="bios")
    assert len(findings(guest)) == 2
    assert findings(repaired(guest)) == []


def test_what_serves_a_whole_class_stays() -> None:
    generic = package("generic.inf", "CC_0100", "generic")
    after = repaired(windows_guest("[DriverDatabase]\n" + generic))
    assert findings(after) == []
    assert after.system.value("DriverDatabase\\DeviceIds\\PCI\\CC_0100", "generic.inf") is not None


@pytest.mark.parametrize(
    ("legacy", "modern"),
    [
        (f"{LEGACY}&REV_00", "VEN_1AF4&DEV_1042&REV_01"),
        (f"{LEGACY}&SUBSYS_00021AF4&REV_00", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"),
    ],
    ids=["2.12", "2.2"],
)
def test_what_virt_v2v_has_bound_is_left_alone(legacy: str, modern: str) -> None:
    guest = windows_guest(package("guestor.inf", legacy) + package("guestor.inf", modern))
    assert findings(guest) == []
    assert ROLE is not None and list(binding_repairs(guest, 1, ROLE)) == []
