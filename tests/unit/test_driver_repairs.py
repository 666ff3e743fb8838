"""A driver's service, file and binding are put right, whatever is wrong with them; the repair then holds."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import pytest

from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.disk.reader import VolumeRef
from h2k.guest.changes import DeleteKey, DeleteValue, SetValue, WriteFile
from h2k.guest.driver_repairs import (
    binding_repairs,
    file_repairs,
    first_boot_mark,
    installed,
    moving,
    service_repairs,
    staged_first_boot,
)
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, DriverSource
from h2k.windows import first_boot
from tests.guests.pe import make_pe
from tests.unit.memory_reader import MemoryReader, apply_changes, driver, sys_files, windows_guest
from tests.unit.moved_guests import MODERN, THREE, VIRTIO
from tests.unit.test_pnp import HDC, SCSI, package

ROLE = load_plan().storage("virtio")
LEGACY, OURS = "VEN_1AF4&DEV_1001", "h2kviostor.inf"
MODERN_ID = "VEN_1AF4&DEV_1042"
SYSTEM = "{4D36E97D-E325-11CE-BFC1-08002BE10318}"  # a class behind that of storage in any order, as HDC is one before it


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
        (package("guestor.inf", f"{LEGACY}&REV_00", guid=SYSTEM), "device-class-wrong"),
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


def test_where_each_device_leads_to_is_told() -> None:
    assert ROLE is not None
    cdd = "ControlSet001\\Control\\CriticalDeviceDatabase"
    claim = f'[$cs\\Control\\CriticalDeviceDatabase\\pci#{LEGACY.lower()}]\n"Service"="viostor"\n'
    wrong = claim.replace("viostor", "other")
    for text, first, place in (
        (claim, f"{cdd}\\PCI#{LEGACY} says class none", cdd),
        (wrong, f"{cdd} leads to other", cdd),
        ("[DriverDatabase]\n" + package("oem9.inf", f"{LEGACY}&REV_00", "other"), "DriverDatabase leads to other", "DriverDatabase"),
    ):
        said = [f for f in binding_repairs(windows_guest(text), 1, ROLE) if isinstance(f, Finding)]
        assert [f.evidence for f in said] == [first, f"no entry in {place}"]
        assert said[1].subject.startswith(f"PCI\\{MODERN_ID}&SUBSYS_11001AF4&REV_01")


def test_a_device_that_is_bound_hides_no_other() -> None:
    legacy = package("guestor.inf", f"{LEGACY}&REV_00")
    assert findings(windows_guest("[DriverDatabase]\n" + legacy)) == ["device-id-unbound"]


@pytest.mark.parametrize("place", ["[DriverDatabase]\n", ""])
def test_only_ids_without_a_subsystem_and_without_a_class_are_bound(place: str) -> None:
    assert ROLE is not None
    changes = [c for c in binding_repairs(windows_guest(place), 1, ROLE) if isinstance(c, SetValue)]
    bound = {part.rpartition("#")[2] for c in changes for part in c.key.split("\\") if "VEN_1AF4" in part.upper()}
    assert {name.upper() for name in bound} == {LEGACY, f"{LEGACY}&REV_00", MODERN_ID, f"{MODERN_ID}&REV_01"}


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


# The service

KEY = "ControlSet001\\Services\\viostor"
FILE = "Windows/System32/drivers/viostor.sys"


def asked(guest: Guest, start: int = 0, package: Optional[DriverPackage] = None) -> tuple[list[tuple[str, str]], list[Any]]:
    """(id and evidence of each finding, the changes) for the service of the first control set."""
    assert ROLE is not None
    items = list(service_repairs(guest, 1, ROLE, package, start))
    found = [(f.id, f.evidence) for f in items if isinstance(f, Finding)]
    return found, [c for c in items if not isinstance(c, Finding)]


@pytest.mark.parametrize("wanted", [0, 1, 3])
@pytest.mark.parametrize("has", [0, 1, 2, 3, 4])
def test_the_service_starts_when_it_is_wanted(has: int, wanted: int) -> None:
    guest = windows_guest(driver("viostor", has))
    found, changes = asked(guest, wanted)
    assert found == ([] if has == wanted else [("driver-not-boot-start", f"Type 1, Start {has}")])
    after = apply_changes(guest, changes)
    service = after.service(1, "viostor")
    assert service is not None and (service.type, service.start) == (1, wanted)
    assert asked(after, wanted) == ([], [])


@pytest.mark.parametrize("kind", [0, 2, 16, 32])
def test_the_service_is_a_kernel_driver(kind: int) -> None:
    guest = windows_guest(driver("viostor") + f'[$cs\\Services\\viostor]\n"Type"=dword:{kind:08x}\n')
    found, changes = asked(guest)
    assert found == [("driver-not-boot-start", f"Type {kind}, Start 0")]
    assert asked(apply_changes(guest, changes)) == ([], [])


def test_a_service_that_is_missing_is_made() -> None:
    guest = windows_guest("[$cs\\Services]\n")
    found, changes = asked(guest)
    assert found == [("driver-not-boot-start", "missing")]
    service = apply_changes(guest, changes).service(1, "viostor")
    assert service is not None and (service.type, service.start) == (1, 0)
    assert service.image_path == r"system32\drivers\viostor.sys"


@pytest.mark.parametrize("path", ["", " "])
def test_a_service_without_a_path_gets_one(path: str) -> None:
    guest = windows_guest(driver("viostor") + f'[$cs\\Services\\viostor]\n"ImagePath"=expand:"{path}"\n')
    service = apply_changes(guest, asked(guest)[1]).service(1, "viostor")
    assert service is not None and service.image_path == r"system32\drivers\viostor.sys"


@pytest.mark.parametrize(("start", "value", "demotes"), [(0, 0, False), (0, 1, True), (0, 3, True), (1, 1, False), (1, 2, True), (3, 0, False), (3, 3, False), (3, 4, True)])
def test_start_override(start: int, value: int, demotes: bool) -> None:
    guest = windows_guest(driver("viostor", start, f'[$cs\\Services\\viostor\\StartOverride]\n"0"=dword:{value:08x}\n'))
    found, changes = asked(guest, start)
    assert found == ([("driver-start-override", f"StartOverride 0={value} keeps the loader from loading it")] if demotes else [])
    assert changes == ([DeleteKey("SYSTEM", f"{KEY}\\StartOverride")] if demotes else [])


# GroupOrderList: a count, then the tags in their order.
ORDER = '[$cs\\Control\\GroupOrderList]\n"SCSI miniport"=hex:02,00,00,00,21,00,00,00,05,00,00,00\n'


@pytest.mark.parametrize(("tag", "order", "wrong"), [(5, ORDER, False), (0x21, ORDER, False), (6, ORDER, True), (2, ORDER, True), (6, "", False), (None, ORDER, False)])
def test_a_tag_that_its_group_does_not_know(tag: Optional[int], order: str, wrong: bool, drivers: DriverSource) -> None:
    assert ROLE is not None
    bare = windows_guest(driver("viostor"))
    package = drivers.find(load_plan(), ROLE, bare.windows)
    found, changes = asked(bare, 0, package)
    names = "ErrorControl, Group, Parameters\\BusType, Parameters\\DmaRemappingCompatible, Parameters\\PnpInterface\\5"
    assert found == [("driver-parameters-missing", f"not as the INF says: {names}")] and all(isinstance(c, SetValue) for c in changes)
    text = driver("viostor") + (f'[$cs\\Services\\viostor]\n"Tag"=dword:{tag:08x}\n' if tag is not None else "") + order
    guest = windows_guest(text)
    ready = apply_changes(guest, [c for c in asked(guest, 0, package)[1] if isinstance(c, SetValue)])
    found, changes = asked(ready, 0, package)
    assert found == ([("driver-parameters-missing", f"Tag {tag} is not in GroupOrderList\\SCSI miniport")] if wrong else [])
    assert changes == ([DeleteValue("SYSTEM", KEY, "Tag")] if wrong else [])


@pytest.mark.parametrize(("keep", "value"), [(False, 1), (True, 9)])
def test_a_parameter_is_as_the_inf_says_unless_it_is_to_be_kept(keep: bool, value: int, drivers: DriverSource) -> None:
    assert ROLE is not None
    guest = windows_guest(driver("viostor") + '[$cs\\Services\\viostor\\Parameters]\n"BusType"=dword:00000009\n')
    found = drivers.find(load_plan(), ROLE, guest.windows)
    values = tuple(dataclasses.replace(entry, keep=keep) for entry in found.driver.service.values)
    inf = dataclasses.replace(found.driver, service=dataclasses.replace(found.driver.service, values=values))
    package = dataclasses.replace(found, driver=inf)
    changes = asked(guest, 0, package)[1]
    after = apply_changes(guest, changes)
    assert after.system.dword(f"{KEY}\\Parameters", "BusType") == value
    assert after.system.dword(f"{KEY}\\Parameters", "DmaRemappingCompatible") == 0, "what is not there is set either way"
    assert after.system.text(KEY, "Group") == "SCSI miniport" and asked(after, 0, package) == ([], [])


# The file


def file_findings(guest: Guest, package: Optional[DriverPackage] = None) -> list[tuple[str, str]]:
    assert ROLE is not None
    return [(f.id, f.subject) for f in file_repairs(guest, ROLE, package) if isinstance(f, Finding)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (make_pe("amd64", b"viostor"), ""),
        (make_pe("x86", b"viostor"), "driver-file-invalid"),
        (b"", "driver-file-invalid"),
        (b"no program", "driver-file-invalid"),
        (None, "driver-file-missing"),
    ],
    ids=["right", "x86", "empty", "no program", "missing"],
)
def test_the_file_is_a_program_for_this_machine(content: Optional[bytes], found: str, drivers: DriverSource) -> None:
    guest = windows_guest(driver("viostor"), files={FILE: content} if content is not None else {})
    assert [i for i, _ in file_findings(guest)] == ([found] if found else [])
    assert ROLE is not None
    package = drivers.find(load_plan(), ROLE, guest.windows)
    changes = [c for c in file_repairs(guest, ROLE, package) if not isinstance(c, Finding)]
    assert [c.path for c in changes if isinstance(c, WriteFile)] == ([f"/{FILE}"] if found else [])
    assert file_findings(apply_changes(guest, changes), package) == []


@pytest.mark.parametrize(("machine", "arch"), [("amd64", "x86"), ("x86", "amd64"), ("arm64", "amd64"), ("amd64", "arm64")])
def test_the_file_is_for_the_guest_s_own_machine_type(machine: str, arch: str) -> None:
    assert ROLE is not None
    guest = windows_guest(driver("viostor"), files=sys_files("viostor", arch=machine), arch=arch)
    said = [f.evidence for f in file_repairs(guest, ROLE, None) if isinstance(f, Finding)]
    assert said == [f"is for {machine}, Windows is {arch}"]
    assert file_findings(windows_guest(driver("viostor"), files=sys_files("viostor", arch=arch), arch=arch)) == []


def test_a_file_that_can_t_be_read_is_not_missing() -> None:
    guest = windows_guest(driver("viostor"), files=sys_files("viostor"))
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[VolumeRef(0, 2), f"/{FILE}".lower()] = "WOF-compressed"
    assert [i for i, _ in file_findings(guest)] == ["driver-file-invalid"]


def test_a_path_that_names_no_file_is_put_right() -> None:
    text = driver("viostor") + '[$cs\\Services\\viostor]\n"ImagePath"=expand:"%ProgramFiles%\\\\viostor.sys"\n'
    guest = windows_guest(text, files=sys_files("viostor"))
    assert file_findings(guest) == [("driver-file-missing", KEY)]
    assert ROLE is not None
    after = apply_changes(guest, [c for c in file_repairs(guest, ROLE, None) if not isinstance(c, Finding)])
    assert file_findings(after) == []


def test_each_control_set_s_own_file() -> None:
    text = driver("viostor") + '[ControlSet002\\Services\\viostor]\n"ImagePath"=expand:"System32\\\\drivers\\\\other.sys"\n'
    guest = windows_guest(text, files=sys_files("viostor"), sets=(1, 2))
    assert file_findings(guest) == [("driver-file-missing", "/Windows/System32/drivers/other.sys")]


def test_a_control_set_without_the_service_and_a_sound_file_hide_no_other() -> None:
    text = driver("viostor").replace("$cs", "ControlSet002").replace("viostor.sys", "zother.sys")
    guest = windows_guest(text, files=sys_files("viostor"), sets=(1, 2))
    assert file_findings(guest) == [("driver-file-missing", "/Windows/System32/drivers/zother.sys")]


# How far the guest has come


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VIRTIO, True),
        (VIRTIO.replace("oem3.inf", "guestor.inf"), False),
        (VIRTIO.replace("oem3.inf", OURS), False),
        (VIRTIO.replace('"Service"="viostor"', '"Service"="other"'), False),
        (VIRTIO.replace("VEN_1AF4&DEV_1042", "VEN_1AF4&DEV_1048"), False),
        ("", False),
    ],
    ids=["Windows' own", "virt-v2v's placeholder", "ours", "another service", "another device", "nothing"],
)
def test_what_windows_has_installed(text: str, expected: bool) -> None:
    assert ROLE is not None
    assert installed(windows_guest(MODERN + text), ROLE) is expected
    assert moving(windows_guest(MODERN + text), load_plan(), "virtio") is not expected
    assert moving(windows_guest(MODERN + text), load_plan(), "sata") is False, "no driver of ours is needed there"


def test_a_guest_with_another_hypervisor_s_cards_is_moving() -> None:
    assert moving(windows_guest(MODERN + VIRTIO + THREE), load_plan(), "virtio")
    assert moving(windows_guest(MODERN + THREE), load_plan(), "sata")


@pytest.mark.parametrize(("value", "over"), [('"FirstBoot"="done"', True), ('"FirstBoot"="begun"', False), ('"Other"="done"', False)])
def test_the_mark_of_a_first_boot(value: str, over: bool) -> None:
    assert first_boot_mark(windows_guest("", f"[h2k]\n{value}\n")) is over


SERVICE = f'[$cs\\Services\\{first_boot.SERVICE}]\n"Start"=dword:00000002\n'
SETTINGS = first_boot.settings_text(first_boot.FirstBoot("virtio", retries=7))


@pytest.mark.parametrize("place", [first_boot.SETTINGS, first_boot.OLD_SETTINGS])
def test_the_first_boot_that_is_staged(place: str) -> None:
    staged = staged_first_boot(windows_guest(SERVICE, files={place.lstrip("/"): SETTINGS}))
    assert staged is not None and staged.retries == 7
    assert staged_first_boot(windows_guest("", files={place.lstrip("/"): SETTINGS})) is None, "without its service it never runs"
    assert staged_first_boot(windows_guest(SERVICE)) is None
    assert staged_first_boot(windows_guest(SERVICE, files={place.lstrip("/"): b"junk"})) is None


@pytest.mark.parametrize(("more", "there"), [(0, True), (-1, False)])
def test_settings_that_are_too_large_are_not_ours(more: int, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_boot, "MAX_SETTINGS", len(SETTINGS) + more)
    assert (staged_first_boot(windows_guest(SERVICE, files={first_boot.SETTINGS.lstrip("/"): SETTINGS})) is not None) is there
