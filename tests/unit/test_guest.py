"""The facts of a guest: which Windows is meant, how large its hives may be, and what its services are."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Optional

import pytest

from h2k.base.errors import BadData, Refused, UsageError
from h2k.disk.reader import FileStat, VolumeRef
from h2k.guest.guest import OTHER, Guest, NotWindows, device
from tests.guests.pe import make_pe
from tests.unit.memory_reader import MemoryReader, driver, make_disk, windows_guest

WINDOWS = VolumeRef(0, 2)


@pytest.mark.parametrize(
    ("disk", "partition", "name"),
    [(0, 1, "/dev/sda1"), (0, 2, "/dev/sda2"), (1, 1, "/dev/sdb1"), (25, 3, "/dev/sdz3"), (26, 1, "/dev/sdaa1"), (51, 1, "/dev/sdaz1"), (52, 1, "/dev/sdba1"),
     (1, 0, "/dev/sdb")],
)  # fmt: skip
def test_the_names_of_devices(disk: int, partition: int, name: str) -> None:
    assert device(VolumeRef(disk, partition)) == name


# Which of several systems


def two_systems(root: Optional[str], encrypted: bool = False) -> Guest:
    reader = windows_guest().reader
    assert isinstance(reader, MemoryReader)
    disks = [make_disk(0, ["fat", "ntfs"]), make_disk(1, ["ntfs", "bitlocker" if encrypted else "ntfs"])]
    content = reader.files[WINDOWS]
    return Guest(MemoryReader(disks, {WINDOWS: content, VolumeRef(1, 1): content}), root)


@pytest.mark.parametrize(
    ("root", "found"),
    [("first", [(0, 2)]), ("/dev/sda2", [(0, 2)]), ("/dev/sdb1", [(1, 1)]), ("/dev/sdb2", []), (OTHER, []), (None, [(0, 2), (1, 1)])],
)
def test_the_system_that_is_meant(root: Optional[str], found: list[tuple[int, int]]) -> None:
    guest = two_systems(root)
    assert guest.system_roots == tuple((VolumeRef(*place), "/Windows") for place in found)
    assert guest.is_windows is bool(found) and guest.is_other is (not found)
    if len(found) == 1:
        assert guest.volume == VolumeRef(*found[0])
    elif found:
        with pytest.raises(Refused, match="several Windows systems: /dev/sda2, /dev/sdb1"):
            guest.volume  # noqa: B018
    else:
        with pytest.raises(NotWindows, match=r"/made/disk0\.qcow2, /made/disk1\.qcow2: no Windows system root"):
            guest.volume  # noqa: B018


def test_an_encrypted_system_that_is_meant_is_no_other() -> None:
    assert two_systems("/dev/sdb2").is_other and not two_systems("/dev/sdb2", encrypted=True).is_other


def test_a_directory_is_no_hive() -> None:
    files = {WINDOWS: {"Windows/System32/config/SYSTEM/": b""}}
    assert not Guest(MemoryReader([make_disk(0, ["fat", "ntfs"])], files)).is_windows


# Hives


class Large(MemoryReader):
    """A reader that gives one file another size: the hive that it holds, and nothing behind it."""

    size = 0

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        found = super().stat(ref, path)
        return dataclasses.replace(found, size=self.size) if found is not None and found.path.endswith("/SOFTWARE") else found


@pytest.mark.parametrize(("more", "sound"), [(0, True), (1, False)])
def test_a_hive_of_the_largest_size_is_read_and_no_larger_one(more: int, sound: bool) -> None:
    reader: Any = windows_guest().reader
    large = Large(reader.disks, reader.files)
    large.size = 512 * 1024 * 1024 + more
    guest = Guest(large)
    if sound:
        assert guest.hive_state("SOFTWARE").state == "clean" and guest.windows.build == 20348
    else:
        with pytest.raises(BadData, match="larger than 536870912 bytes"):
            guest.hive_state("SOFTWARE")


def test_a_hive_that_is_missing() -> None:
    guest = windows_guest()
    assert guest.has_hive("SYSTEM") and not guest.has_hive("DRIVERS") and not guest.has_hive("BCD")
    with pytest.raises(BadData, match="the DRIVERS hive is missing"):
        guest.hive_bytes("DRIVERS")
    assert guest.hive_logs("DRIVERS") == {}


def test_what_a_guest_holds_is_not_in_the_text_of_its_facts() -> None:
    state = windows_guest().hive_state("SYSTEM")
    assert len(state.data) > 4096 and len(repr(state)) < 100


def test_a_hive_is_read_once() -> None:
    guest = windows_guest()
    assert guest.hive_state("SYSTEM") is guest.hive_state("SYSTEM") and guest.hive("SYSTEM") is guest.system
    assert guest.complete_hive("SYSTEM") == guest.hive_bytes("SYSTEM")


def test_logs_that_hold_nothing_are_none() -> None:
    files = {f"Windows/System32/config/SYSTEM.{name}": data for name, data in (("LOG1", b"x"), ("LOG2", b""), ("LOG", b"y"), ("LOG3", b"z"))}
    assert windows_guest(files=files).hive_logs("SYSTEM") == {"LOG1": b"x", "LOG": b"y"}


# Services and programs


@pytest.mark.parametrize(("version", "counts"), [("6.0", False), ("6.1", False), ("6.2", True), ("10.0", True)])
def test_start_override_is_a_thing_of_windows_8(version: str, counts: bool) -> None:
    text = driver("viostor", more='[$cs\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n')
    service = windows_guest(text, version=version, build="9200").service(1, "viostor")
    assert service is not None and service.start_overrides == ((("0", 3),) if counts else ())


def test_why_a_file_is_no_program() -> None:
    guest = windows_guest(files={"Windows/a.sys": make_pe("x86", b"a"), "Windows/b.sys": b"text", "Windows/c.sys": b"x", "Windows/d.sys/": b""})
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[WINDOWS, "/windows/c.sys"] = "WOF-compressed"
    facts, why = guest.pe("/windows/A.SYS")
    assert facts is not None and (facts.machine, why) == ("x86", "")
    assert guest.pe("/Windows/none.sys") == guest.pe("/Windows/d.sys") == (None, "missing")
    assert guest.pe("/Windows/c.sys") == (None, "unreadable: WOF-compressed")
    facts, why = guest.pe("/Windows/b.sys")
    assert facts is None and "b.sys" in why


@pytest.mark.parametrize("name", ["winload.exe", "winload.efi", "cmd.exe"])
def test_the_machine_type_without_a_kernel_that_can_be_read(name: str) -> None:
    files = {"Windows/System32/ntoskrnl.exe": b"WOF", f"Windows/System32/{name}": make_pe("arm64", b"x")}
    assert windows_guest(files=files).machine == "arm64"
    with pytest.raises(BadData, match=r"no ntoskrnl\.exe, winload or cmd\.exe that is a valid PE"):
        windows_guest(files={"Windows/System32/ntoskrnl.exe": b"WOF"}).machine  # noqa: B018


@pytest.mark.parametrize(("root", "hint"), [("/dev/sdz9", "Windows is on /dev/sda2"), ("/dev/vda2", "Windows is on"), ("/dev/sda7", "Windows is on")])
def test_a_root_that_is_no_partition_is_a_slip_and_no_other_system(root: str, hint: str) -> None:
    guest = windows_guest()
    guest.root = root
    with pytest.raises(UsageError, match=re.escape(root)) as caught:
        assert guest.is_other
    assert hint in caught.value.hint


@pytest.mark.parametrize(("root", "other"), [("/dev/sda1", True), ("/dev/sda2", False), ("/dev/VG/root", True), ("first", False), (None, False), (OTHER, True)])
def test_a_root_that_may_be_another_system(root: Optional[str], other: bool) -> None:
    guest = windows_guest()
    guest.root = root
    assert guest.is_other is other
