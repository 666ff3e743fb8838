"""Control sets, services, driver paths and load-order groups, as the boot loader reads them."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import services
from h2k.windows.regf import Hive
from h2k.windows.services import Service, control_sets, driver_path, group_order, image_path, read_service
from tests.guests.regfile import build_hive
from tests.unit.helpers import corpus_hive, damaged, hive, many

SELECT = '[Select]\n"Current"=dword:{0:08x}\n"Default"=dword:{1:08x}\n"LastKnownGood"=dword:{2:08x}\n"Failed"=dword:00000000\n'
VIOSTOR = """[ControlSet001\\Services\\viostor]
"Type"=dword:00000001
"Start"=dword:00000000
"ErrorControl"=dword:00000001
"Group"="SCSI miniport"
"Tag"=dword:00000021
"ImagePath"=expand:"system32\\\\drivers\\\\viostor.sys"
"""
BOTH = "[ControlSet001]\n[ControlSet002]\n"


def select(current: int, default: int, last: int, sets: str = BOTH) -> Hive:
    return hive(SELECT.format(current, default, last) + sets)


@pytest.mark.parametrize(
    ("numbers", "boot"),
    [((1, 1, 1), (1,)), ((1, 2, 1), (1, 2)), ((2, 2, 2), (2,)), ((1, 1, 2), (1, 2)), ((1, 1, 3), (1,)), ((1, 1, 0), (1,))],
)
def test_the_sets_that_a_boot_may_use(numbers: tuple[int, int, int], boot: tuple[int, ...]) -> None:
    found = control_sets(select(*numbers))
    assert (found.current, found.default, found.last_known_good, found.failed) == (*numbers, 0)
    assert (found.present, found.boot) == ((1, 2), boot)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SELECT.format(3, 1, 1) + BOTH, r"SYSTEM: Select\\Current is 3, and there is no such control set"),
        (SELECT.format(1, 3, 1) + BOTH, r"SYSTEM: Select\\Default is 3"),
        (SELECT.format(1, 1, 1), r"Select\\Current is 1, and there is no such"),
        (BOTH, r"Select\\Current is 0"),
        (BOTH + '[Select]\n"Current"="1"\n"Default"="1"\n', r"Select\\Current is 0"),
        (SELECT.format(1000, 1, 1) + BOTH + "[ControlSet1000]\n", r"Select\\Current is 1000"),
    ],
)
def test_sets_that_do_not_boot(text: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        control_sets(hive(text))


def test_a_service_by_any_case() -> None:
    found = read_service(hive(VIOSTOR), 1, "VIOSTOR")
    assert found == Service(
        "viostor", "ControlSet001\\Services\\VIOSTOR", 1, 0, 1, "SCSI miniport", 0x21, "system32\\drivers\\viostor.sys", ()
    )
    assert read_service(hive(VIOSTOR), 2, "viostor") is None
    assert read_service(hive(VIOSTOR), 1, "vioscsi") is None


def test_values_of_another_type_are_none() -> None:
    text = VIOSTOR.replace("dword:00000000", '"0"').replace('"SCSI miniport"', "dword:00000001").replace("dword:00000021", "hex:01")
    found = read_service(hive(text), 1, "viostor")
    assert found is not None and (found.start, found.group, found.tag) == (None, None, None)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("", ()),
        ('"0"=dword:00000003', (("0", 3),)),
        ('"0"=dword:00000000\n"1"=dword:00000003', (("0", 0), ("1", 3))),
        ('"{ab}"=qword:0000000000000003', (("{ab}", 3),)),  # of another type, and it may still demote
        ('"0"=hex:04', (("0", 4),)),
        ('@=dword:00000003', (("", 3),)),
    ],
)
def test_start_overrides_whatever_their_names(values: str, found: tuple[tuple[str, int], ...]) -> None:
    service = read_service(hive(VIOSTOR + f"[ControlSet001\\Services\\viostor\\StartOverride]\n{values}\n"), 1, "viostor")
    assert service is not None and service.start_overrides == found


def test_too_many_start_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_OVERRIDES", 1)
    text = VIOSTOR + '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n"1"=dword:00000003\n'
    with pytest.raises(BadData, match=r"StartOverride has 2 values"):
        read_service(hive(text), 1, "viostor")


@pytest.mark.parametrize(
    ("image", "path"),
    [
        (None, "/Windows/System32/drivers/disk.sys"),
        ("", "/Windows/System32/drivers/disk.sys"),
        ("system32\\drivers\\Disk.sys", "/Windows/system32/drivers/Disk.sys"),
        ("System32/drivers/disk.sys", "/Windows/System32/drivers/disk.sys"),
        ("\\SystemRoot\\System32\\drivers\\disk.sys", "/Windows/System32/drivers/disk.sys"),
        ("\\systemroot\\disk.sys", "/Windows/disk.sys"),
        ("%SystemRoot%\\System32\\drivers\\disk.sys", "/Windows/System32/drivers/disk.sys"),
        ("%windir%\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\C:\\Windows\\System32\\drivers\\disk.sys", "/Windows/System32/drivers/disk.sys"),
        ("\\DosDevices\\C:\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\\\?\\C:\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("C:\\WINDOWS\\disk.sys", "/WINDOWS/disk.sys"),
        ("\\Windows\\System32\\disk.sys", "/Windows/System32/disk.sys"),
        ("\\windows\\System32\\disk.sys", "/windows/System32/disk.sys"),
        ("\\Drivers\\disk.sys", "/Windows/Drivers/disk.sys"),
        ('"system32\\drivers\\disk.sys"', "/Windows/system32/drivers/disk.sys"),
        ("  system32\\drivers\\disk.sys  ", "/Windows/system32/drivers/disk.sys"),
        ("%SystemDrive%\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\%SystemRoot%\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\%SystemDrive%\\Drivers\\disk.sys", "/Drivers/disk.sys"),
        ("\\GLOBAL??\\C:\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\SystemRoot\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\GLOBALROOT\\SystemRoot\\disk.sys", "/Windows/disk.sys"),
    ],
)
def test_driver_paths(image: Optional[str], path: str) -> None:
    service = Service("disk", "", 1, 0, 1, None, None, image, ())
    assert driver_path(service) == path and image_path(service).certain


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ("\\Device\\HarddiskVolume3\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\device\\harddiskvolume12\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\Device\\Harddisk0\\Partition2\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\Device\\BootDevice\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\ArcName\\multi(0)disk(0)rdisk(0)partition(2)\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\??\\GLOBALROOT\\Device\\HarddiskVolume3\\Windows\\disk.sys", "/Windows/disk.sys"),
        ("\\\\?\\Volume{12345678-1234-1234-1234-123456789abc}\\disk.sys", "/disk.sys"),
        ("D:\\Drivers\\disk.sys", "/Drivers/disk.sys"),
        ("\\??\\e:\\disk.sys", "/disk.sys"),
        ("\\Device\\Mup\\server\\share\\disk.sys", ""),
        ("\\\\server\\share\\disk.sys", ""),
        ("%ProgramFiles%\\Acme\\disk.sys", ""),
    ],
)
def test_places_that_are_not_certain(image: str, path: str) -> None:
    found = image_path(Service("disk", "", 1, 0, 1, None, None, image, ()))
    assert (found.path, found.certain) == (path, False)


def test_another_system_root() -> None:
    service = Service("disk", "", 1, 0, 1, None, None, "\\SystemRoot\\disk.sys", ())
    assert driver_path(service, "/WINNT") == "/WINNT/disk.sys"


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("hex:02,00,00,00,19,00,00,00,21,00,00,00", (0x19, 0x21)),
        ("hex:01,00,00,00,19,00,00,00,21,00,00,00", (0x19,)),
        ("hex:00,00,00,00", ()),
        ("hex:02,00,00,00,19,00,00,00", None),
        ("hex:ff,ff,ff,ff", None),
        ("hex:01", None),
    ],
)
def test_group_order(value: str, tags: Optional[tuple[int, ...]]) -> None:
    made = hive(f'[ControlSet001\\Control\\GroupOrderList]\n"SCSI Miniport"={value}\n')
    assert group_order(made, 1, "SCSI miniport") == tags
    assert group_order(made, 1, "NDIS") is None


@pytest.mark.parametrize("name", ["win10-1903-vmware.SYSTEM", "win8.1-virtualbox.SYSTEM", "made-win10.SYSTEM"])
def test_real_services(name: str) -> None:
    system = corpus_hive(name)
    sets = control_sets(system)
    assert sets.boot == sets.present == (1,)
    for driver in ("disk", "partmgr", "volmgr", "mountmgr", "pci", "ACPI"):
        service = read_service(system, 1, driver)
        assert service is not None and (service.start, service.type) == (0, 1)
        assert driver_path(service).lower() == f"/windows/system32/drivers/{driver.lower()}.sys"
    storvsc = read_service(system, 1, "storvsc")
    assert storvsc is not None and storvsc.start_overrides == (("0", 3),)


@many
@given(damaged(build_hive(SELECT.format(1, 1, 1) + VIOSTOR + '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:3\n')))
def test_damaged_hives(data: bytes) -> None:
    try:
        system = Hive.parse(data, "SYSTEM")
        control_sets(system)
        service = read_service(system, 1, "viostor")
        if service is not None:
            driver_path(service)
    except BadData as bad:
        assert bad.message.startswith("SYSTEM")


@many
@given(st.text(max_size=60))
def test_any_image_path_is_absolute(image: str) -> None:
    assert image_path(Service("x", "", 1, 0, 1, None, None, image, ())).path.startswith("/") or not image_path(Service("x", "", 1, 0, 1, None, None, image, ())).certain
