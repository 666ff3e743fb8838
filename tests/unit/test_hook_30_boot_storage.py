"""The boot stack, on guests in memory; bindings are in test_driver_repairs.py."""

from __future__ import annotations

from typing import Optional

import pytest

from h2k.disk.reader import VolumeRef
from tests.guests.pe import make_pe
from tests.unit.hooks import ask, options
from tests.unit.memory_reader import MemoryReader, driver, sys_files, windows_guest

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
