"""The boot stack, on guests in memory; bindings are in test_driver_repairs.py."""

from __future__ import annotations

from typing import Optional

import pytest

from h2k.disk.reader import VolumeRef
from h2k.guest.guest import Guest
from tests.guests.pe import make_pe
from tests.unit.hooks import ask, options
from tests.unit.memory_reader import MemoryReader, apply_changes, driver, sys_files, windows_guest

WINDOWS = VolumeRef(0, 2)


@pytest.mark.parametrize(
    ("content", "found"),
    [(make_pe("amd64", b"made pci.sys"), set()), (make_pe("x86", b"made pci.sys"), {"boot-stack-driver-disabled"}), (None, {"file-unreadable"})],
)  # fmt: skip
def test_the_boot_stack_s_files_are_programs_for_this_machine(content: Optional[bytes], found: set[str]) -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack)
    guest = windows_guest(text, files=sys_files(*stack))
    assert isinstance(guest.reader, MemoryReader)
    path = "/Windows/System32/drivers/pci.sys"
    if content is None:
        guest.reader.unreadable[WINDOWS, path.lower()] = "WOF-compressed"
    else:
        guest.reader.files[WINDOWS][path] = content
    states = ask("boot-storage", guest, bus="sata").states()
    assert {i for i in states if i != "bootstrap-controller-not-boot-start"} == found


OVERRIDE = '"0"=dword:00000003'
MSAHCI = (
    '[$cs\\Control\\CriticalDeviceDatabase\\PCI#CC_0106]\n"Service"="msahci"\n"ClassGUID"="{4D36E96A-E325-11CE-BFC1-08002BE10318}"\n'
)


def bootstrap(guest: Guest) -> set[tuple[str, str]]:
    said = ask("boot-storage", guest, bus="sata")
    return {(f.subject, f.evidence) for f in said.findings if f.id == "bootstrap-controller-not-boot-start"}


def seven(text: str, *names: str) -> Guest:
    return windows_guest(MSAHCI + text, files=sys_files(*names), version="6.1", build="7601", firmware="bios")


def test_sata_of_windows_7_needs_the_driver_of_its_channels() -> None:
    msahci = driver("msahci")
    assert bootstrap(seven(msahci + driver("atapi"), "msahci", "atapi")) == set()
    assert bootstrap(seven(msahci, "msahci")) == set()
    late = seven(msahci + driver("atapi", start=3), "msahci", "atapi")
    assert bootstrap(late) == {("ControlSet001\\Services\\atapi", "Start 3")}
    assert bootstrap(apply_changes(late, ask("boot-storage", late, bus="sata").changes)) == set()


def test_sata_of_later_windows_does_not() -> None:
    ahci = MSAHCI.replace("msahci", "storahci") + driver("storahci") + driver("atapi", start=3)
    assert bootstrap(windows_guest(ahci, files=sys_files("storahci", "atapi"))) == set()


def test_start_override_counts_from_windows_8_on() -> None:
    text = driver("msahci", more=f"[$cs\\Services\\msahci\\StartOverride]\n{OVERRIDE}\n")
    assert bootstrap(seven(text, "msahci")) == set()
    assert len(bootstrap(windows_guest(MSAHCI + text, files=sys_files("msahci")))) == 1


@pytest.mark.parametrize("image", ["\\\\Device\\\\HarddiskVolume2\\\\Windows\\\\System32\\\\drivers\\\\pci.sys", "%ProgramFiles%\\\\pci.sys"])
def test_a_boot_stack_file_that_may_be_elsewhere_is_no_refusal(image: str) -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack) + f'[$cs\\Services\\pci]\n"ImagePath"=expand:"{image}"\n'
    states = ask("boot-storage", windows_guest(text, files=sys_files(*(n for n in stack if n != "pci"))), bus="sata").states()
    assert states.get("boot-stack-driver-disabled") == {"warning"}
    if "Harddisk" in image:
        there = windows_guest(text, files=sys_files(*stack))
        assert "boot-stack-driver-disabled" not in ask("boot-storage", there, bus="sata").states()
