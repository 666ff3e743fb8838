"""Class filters and device-install policies, on guests in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from h2k.config.driver_plan import load_plan
from h2k.disk.reader import VolumeRef
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from tests.unit.hooks import ask
from tests.unit.memory_reader import MemoryReader, apply_changes, driver, sys_files, windows_guest

DISK = "$cs\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}"
SYSTEM = "$cs\\Control\\Class\\{4D36E97D-E325-11CE-BFC1-08002BE10318}"
KEYBOARD = "$cs\\Control\\Class\\{4D36E96B-E325-11CE-BFC1-08002BE10318}"
WINDOWS = VolumeRef(0, 2)


def filters(guest: Guest, key: str, which: str, number: int = 1) -> Optional[tuple[str, ...]]:
    value = guest.system.value(key.replace("$cs", f"ControlSet{number:03d}"), which)
    return value.multi() if value is not None else None


# Class filters


def test_filters_that_can_start_stay() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["partmgr"]\n"LowerFilters"=multi:["EhStorClass"]\n'
    guest = windows_guest(text + driver("EhStorClass"), files=sys_files("ehstorclass"))
    assert ask("boot-filters", guest).findings == ()


@pytest.mark.parametrize(
    ("text", "files", "why"),
    [
        ("", {}, "no such service"),
        (driver("bad", start=4), sys_files("bad"), "disabled"),
        (driver("bad", more='[$cs\\Services\\bad\\StartOverride]\n"0"=dword:00000004\n'), sys_files("bad"), "disabled"),
        (driver("bad"), {}, "missing"),
        (driver("bad"), {"Windows/System32/drivers/bad.sys": b""}, "empty"),
        (driver("bad"), sys_files("bad", arch="x86"), "for x86"),
    ],
)
def test_a_dangling_filter_leaves_its_list_and_the_others_stay(text: str, files: dict[str, bytes], why: str) -> None:
    listed = f'[{DISK}]\n"UpperFilters"=multi:["first","bad","partmgr"]\n' + driver("first")
    guest = windows_guest(listed + text, files={**files, **sys_files("first")}, sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-dangling": {"broken"}}
    assert len(said.findings) == 2 and why in said.findings[0].evidence
    again = apply_changes(guest, said.changes)
    assert [filters(again, DISK, "UpperFilters", n) for n in (1, 2)] == [("first", "partmgr")] * 2
    assert ask("boot-filters", again).findings == ()


def test_a_filter_that_starts_later_is_not_disabled() -> None:
    later = driver("late", start=3) + driver("over", more='[$cs\\Services\\over\\StartOverride]\n"0"=dword:00000003\n')
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["late","over"]\n' + later, files=sys_files("late", "over"))
    assert ask("boot-filters", guest).findings == ()


def test_a_64_bit_filter_of_a_32_bit_windows_is_dangling() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["av"]\n' + driver("av")
    (finding,) = ask("boot-filters", windows_guest(text, files=sys_files("av"), arch="x86")).findings
    assert finding.evidence.endswith("av.sys is for amd64")
    assert ask("boot-filters", windows_guest(text, files=sys_files("av", arch="x86"), arch="x86")).findings == ()


def test_the_boot_stack_s_own_filters_are_the_storage_hook_s() -> None:
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["partmgr"]\n' + driver("partmgr", start=4))
    assert ask("boot-filters", guest).findings == ()


def test_a_list_that_gets_empty_goes_away() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["nosuch"]\n')
    again = apply_changes(guest, ask("boot-filters", guest).changes)
    assert filters(again, DISK, "LowerFilters") is None


def test_a_list_written_as_a_string() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"="nosuch"\n')
    assert ask("boot-filters", guest).states() == {"class-filter-dangling": {"broken"}}


def test_a_compressed_filter_is_there() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["wofed"]\n' + driver("wofed"), files=sys_files("wofed"))
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[WINDOWS, "/windows/system32/drivers/wofed.sys"] = "WOF-compressed"
    assert ask("boot-filters", guest).findings == ()


def test_classes_that_no_boot_waits_for_are_nobody_s_business() -> None:
    assert ask("boot-filters", windows_guest(f'[{KEYBOARD}]\n"UpperFilters"=multi:["nosuch"]\n')).findings == ()


def test_a_hypervisor_s_filter_leaves_the_list_before_it_is_disabled() -> None:
    text = f'[{SYSTEM}]\n"UpperFilters"=multi:["xenfilt","nosuch"]\n' + driver("XENFILT")
    guest = windows_guest(text, files=sys_files("xenfilt"), sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-hypervisor": {"broken"}, "class-filter-dangling": {"broken"}}
    names = [c.name for c in said.changes]  # type: ignore[union-attr]
    assert names == ["UpperFilters", "Start"] * 2
    assert [c.value.dword() for c in said.changes if isinstance(c, SetValue) and c.name == "Start"] == [4, 4]
    again = apply_changes(guest, said.changes)
    assert ask("boot-filters", again).findings == ()


def test_a_hypervisor_s_filter_without_a_service_only_leaves_its_list() -> None:
    guest = windows_guest(f'[{SYSTEM}]\n"UpperFilters"=multi:["xenfilt"]\n')
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-hypervisor": {"broken"}} and [c.name for c in said.changes] == ["UpperFilters"]  # type: ignore[union-attr]


def test_a_filter_that_is_kept_hides_no_other() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["unclear","gone","xenfilt","last"]\n' + driver("xenfilt") + driver("last")
    text += '[$cs\\Services\\unclear]\n"Start"=dword:00000000\n"ImagePath"=expand:"%ProgramFiles%\\\\x.sys"\n'
    guest = windows_guest(text, files=sys_files("xenfilt", "last"))
    said = ask("boot-filters", guest)
    assert [(f.id, f.state, f.subject.rpartition(": ")[2]) for f in said.findings] == [
        ("class-filter-dangling", "warning", "unclear"), ("class-filter-dangling", "broken", "gone"), ("class-filter-hypervisor", "broken", "xenfilt"),
    ]  # fmt: skip
    assert filters(apply_changes(guest, said.changes), DISK, "UpperFilters") == ("unclear", "last")


def test_people_add_filters_in_a_plan_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("filters:\n  - {name: acmeflt, of: the ACME hypervisor}\n")
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["acmeflt"]\n' + driver("acmeflt"), files=sys_files("acmeflt"))
    assert ask("boot-filters", guest).findings == ()
    said = ask("boot-filters", guest, plan=load_plan([own]))
    assert said.states() == {"class-filter-hypervisor": {"broken"}}
    assert "ACME" in said.findings[0].evidence
    assert {"XENFILT", "acmeflt"} <= {f.name for f in load_plan([own]).filters}


# Other drivers of other hypervisors

RHELSCSI = "ControlSet00{}\\Services\\rhelscsi"


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_hypervisor_s_own_driver_is_disabled_though_no_list_names_it(start: int) -> None:
    guest = windows_guest(driver("rhelscsi", start), files=sys_files("rhelscsi"), sets=(1, 2))
    said = ask("boot-filters", guest)
    assert [(f.id, f.state, f.subject) for f in said.findings] == [
        ("class-filter-hypervisor", "broken", RHELSCSI.format(n)) for n in (1, 2)
    ]
    assert "RHEL's Xen drivers" in said.findings[0].evidence and f"Start {start}" in said.findings[0].evidence
    fixed = apply_changes(guest, said.changes)
    assert [fixed.system.dword(RHELSCSI.format(n), "Start") for n in (1, 2)] == [4, 4]
    assert ask("boot-filters", fixed).findings == ()


def test_a_hypervisor_s_own_driver_that_does_not_start_is_left_alone() -> None:
    for text in ("", driver("rhelscsi", start=4), '[$cs\\Services\\rhelscsi]\n"Type"=dword:00000001\n'):
        assert ask("boot-filters", windows_guest(text, files=sys_files("rhelscsi"))).findings == ()


def test_a_hypervisor_s_own_driver_leaves_a_list_before_it_is_disabled() -> None:
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["rhelscsi","partmgr"]\n' + driver("rhelscsi"), files=sys_files("rhelscsi"))
    said = ask("boot-filters", guest)
    assert list(dict.fromkeys(c.name for c in said.changes if isinstance(c, SetValue))) == ["UpperFilters", "Start"]
    fixed = apply_changes(guest, said.changes)
    assert filters(fixed, DISK, "UpperFilters") == ("partmgr",) and ask("boot-filters", fixed).findings == ()


def test_people_add_drivers_in_a_plan_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("services:\n  - {name: acmescsi, of: the ACME hypervisor}\n")
    guest = windows_guest(driver("acmescsi") + driver("rhelscsi"), files=sys_files("acmescsi", "rhelscsi"))
    said = ask("boot-filters", guest, plan=load_plan([own]))
    assert {f.subject.rpartition("\\")[2] for f in said.findings} == {"acmescsi", "rhelscsi"}


# Device-install policies


@pytest.mark.parametrize("name", ["DisableCDDB", "DontStartRawDevices"])
def test_install_policies_of_windows_7(name: str) -> None:
    text = f'[$cs\\Control\\PnP]\n"{name}"=dword:00000001\n"PollBootPartitionTimeout"=dword:00007530\n'
    guest = windows_guest(text, version="6.1", build="7601", firmware="bios", sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"device-install-policy": {"broken"}} and len(said.changes) == 2
    assert ask("boot-filters", apply_changes(guest, said.changes)).findings == ()
    assert {f.evidence for f in said.findings} == {f"{name} is 1: Windows will not start a boot disk on new hardware"}
    for version, build in (("6.2", "9200"), ("10.0", "20348")):
        assert ask("boot-filters", windows_guest(text, version=version, build=build)).findings == (), "no such policy there"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ('"DenyUnspecified"=dword:00000001\n', True),
        ('"DenyDeviceClasses"=dword:00000001\n', True),
        ('"DenyUnspecified"=dword:00000000\n', False),
        ('"AllowAdminInstall"=dword:00000001\n', False),
    ],
)
def test_install_restrictions_are_reported(values: str, found: bool) -> None:
    text = f"[Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions]\n{values}"
    said = ask("boot-filters", windows_guest(software=text))
    assert said.states() == ({"device-install-restrictions": {"warning"}} if found else {}) and said.changes == ()
    assert ask("boot-filters", windows_guest(software=text, version="6.2", build="9200")).states() == said.states()


def test_all_install_restrictions_are_named() -> None:
    values = "".join(f'"{name}"=dword:00000001\n' for name in ("denyinstanceids", "DenyDeviceIDs", "AllowAdminInstall"))
    (finding,) = ask("boot-filters", windows_guest(software=f"[Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions]\n{values}")).findings
    assert finding.evidence == "DenyDeviceIDs, DenyInstanceIDs: Windows may refuse to install the VirtIO devices"


FORMS = {
    "\\\\Device\\\\HarddiskVolume3\\\\Windows\\\\System32\\\\drivers\\\\av.sys": False,
    "\\\\??\\\\%SystemRoot%\\\\System32\\\\drivers\\\\av.sys": True,
    "\\\\GLOBAL??\\\\C:\\\\Windows\\\\System32\\\\drivers\\\\av.sys": True,
    "%SystemDrive%\\\\Windows\\\\System32\\\\drivers\\\\av.sys": True,
    "D:\\\\Windows\\\\System32\\\\drivers\\\\av.sys": False,
    "\\\\??\\\\GLOBALROOT\\\\Device\\\\HarddiskVolume1\\\\Windows\\\\System32\\\\drivers\\\\av.sys": False,
}


@pytest.mark.parametrize("image", FORMS)
def test_a_filter_by_any_form_of_its_path(image: str) -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["av","partmgr"]\n'
    text += f'[$cs\\Services\\av]\n"Type"=dword:00000001\n"Start"=dword:00000000\n"ImagePath"=expand:"{image}"\n'
    assert ask("boot-filters", windows_guest(text, files=sys_files("av"))).findings == ()
    gone = ask("boot-filters", windows_guest(text))
    assert gone.states() == {"class-filter-dangling": {"broken" if FORMS[image] else "warning"}}
    assert bool(gone.changes) is FORMS[image]


def test_a_path_that_says_nothing_is_kept_and_told() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["av"]\n[$cs\\Services\\av]\n"Start"=dword:00000000\n'
    said = ask("boot-filters", windows_guest(text + '"ImagePath"=expand:"%ProgramFiles%\\\\av.sys"\n'))
    assert said.states() == {"class-filter-dangling": {"warning"}} and said.changes == ()
    assert "%ProgramFiles%" in said.findings[0].evidence


@pytest.mark.parametrize("name", ["scsifilt", "xenpci", "xenhide", "rhelscsi", "XENFILT", "prl_strg"])
def test_another_hypervisor_s_filter_goes_though_it_could_start(name: str) -> None:
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["{name}","partmgr"]\n' + driver(name), files=sys_files(name))
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-hypervisor": {"broken"}}
    fixed = apply_changes(guest, said.changes)
    assert ask("boot-filters", fixed).findings == () and filters(fixed, DISK, "UpperFilters") == ("partmgr",)


def test_windows_7_reads_no_start_override() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["av"]\n' + driver("av", more='[$cs\\Services\\av\\StartOverride]\n"0"=dword:00000004\n')
    seven = windows_guest(text, files=sys_files("av"), version="6.1", build="7601", firmware="bios")
    assert ask("boot-filters", seven).findings == ()
    assert ask("boot-filters", windows_guest(text, files=sys_files("av"))).states() == {"class-filter-dangling": {"broken"}}
