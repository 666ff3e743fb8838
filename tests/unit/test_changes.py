"""Typed changes: what already holds is dropped, and each is shown as a person would write it."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from h2k.disk.reader import VolumeRef
from h2k.guest.boot_files import ESP_TYPE
from h2k.guest.changes import (
    DeleteKey,
    DeleteValue,
    ReplayLogs,
    SetActive,
    SetPartitionType,
    SetValue,
    WriteFile,
    as_json,
    pending,
)
from h2k.guest.guest import Guest
from h2k.windows.bcd import encode_partition
from h2k.windows.values import REG_DWORD, Value, binary, dword, expand, multi, text
from tests.guests.regfile import build_hive, make_dirty
from tests.unit.memory_reader import DATA_TYPE, MemoryReader, apply_changes, windows_guest

KEY = "ControlSet001\\Services\\viostor"
SYSTEM = f"""[{KEY}]
"Type"=dword:00000001
"Start"=dword:00000003
"ImagePath"=expand:"system32\\\\drivers\\\\viostor.sys"
"Blob"=hex:{",".join(["ab"] * 30)}
[{KEY}\\StartOverride]
"0"=dword:00000003
[Empty]
[Five]
"a"=dword:00000001
"b"=dword:00000002
"c"=dword:00000003
"d"=dword:00000004
"e"=dword:00000005
"""
WINDOWS = VolumeRef(0, 2)


def start(value: int, name: str = "Start") -> SetValue:
    return SetValue("SYSTEM", KEY, name, dword(value))


@pytest.fixture(scope="module")
def guest() -> Guest:
    return windows_guest(SYSTEM, files={"Windows/System32/drivers/viostor.sys": b"old driver"})


CHANGES: list[tuple[Any, bool, str]] = [
    (start(3), True, ""),
    (start(3, "START"), True, ""),
    (start(0), False, f"~ SYSTEM\\{KEY} Start: 3 → 0"),
    (start(0, "Tag"), False, f"+ SYSTEM\\{KEY} Tag: 0"),
    (SetValue("SYSTEM", KEY, "Start", binary(b"\3\0\0\0")), False, f"~ SYSTEM\\{KEY} Start: 3 → type 3 03000000"),
    (SetValue("SYSTEM", "New\\Key", "", text("x")), False, "+ SYSTEM\\New\\Key (default): 'x'"),
    (
        SetValue("SYSTEM", KEY, "Groups", multi(["a", "b"])),
        False,
        f"+ SYSTEM\\{KEY} Groups: 'a, b'",
    ),
    (
        SetValue("SYSTEM", KEY, "ImagePath", expand("x.sys")),
        False,
        f"~ SYSTEM\\{KEY} ImagePath: 'system32\\\\drivers\\\\viostor.sys' → 'x.sys'",
    ),
    (SetValue("SYSTEM", KEY, "Blob", binary(b"")), False, f"~ SYSTEM\\{KEY} Blob: type 3 {'ab' * 24}… → type 3 "),
    (DeleteValue("SYSTEM", KEY, "Start"), False, f"- SYSTEM\\{KEY} Start: 3"),
    (DeleteValue("SYSTEM", KEY, "Tag"), True, ""),
    (DeleteValue("SYSTEM", "No\\Key", "Tag"), True, ""),
    (DeleteKey("SYSTEM", f"{KEY}\\StartOverride"), False, f"- SYSTEM\\{KEY}\\StartOverride\\ (0=3)"),
    (DeleteKey("SYSTEM", f"{KEY}\\Gone"), True, ""),
    (WriteFile(WINDOWS, "/windows/system32/drivers/VIOSTOR.SYS", b"old driver", "x"), True, ""),
    (
        WriteFile(WINDOWS, "/Windows/System32/drivers/viostor.sys", b"new driver", "viostor/2k22/amd64/viostor.sys"),
        False,
        "~ /Windows/System32/drivers/viostor.sys: 10 bytes → 10 bytes, sha256 "
        f"{hashlib.sha256(b'new driver').hexdigest()[:12]}…, from viostor/2k22/amd64/viostor.sys",
    ),
    (WriteFile(WINDOWS, "/Windows/x", b"", "nowhere"), False, "+ /Windows/x: 0 bytes, sha256 e3b0c44298fc…, from nowhere"),
    (SetValue("SYSTEM", KEY, "Long", text("x" * 121)), False, f"+ SYSTEM\\{KEY} Long: '{'x' * 120}'"),
    (SetValue("SYSTEM", KEY, "Full", binary(bytes(24))), False, f"+ SYSTEM\\{KEY} Full: type 3 {'00' * 24}"),
    (SetValue("SYSTEM", KEY, "Short", Value(REG_DWORD, b"ab")), False, f"+ SYSTEM\\{KEY} Short: DWORD 6162"),
    (DeleteKey("SYSTEM", "Empty"), False, "- SYSTEM\\Empty\\"),
    (DeleteKey("SYSTEM", "Five"), False, "- SYSTEM\\Five\\ (a=1, b=2, c=3, d=4)"),
]


@pytest.mark.parametrize(("change", "holds", "diff"), CHANGES, ids=lambda v: type(v).__name__)
def test_holds_and_diff(guest: Guest, change: Any, holds: bool, diff: str) -> None:
    assert change.holds(guest) is holds
    if not holds:
        assert change.diff(guest) == diff


def test_every_change_holds_once_it_is_made_and_nothing_else_has_changed(guest: Guest) -> None:
    changes = [start(0), DeleteKey("SYSTEM", f"{KEY}\\StartOverride"), CHANGES[5][0], CHANGES[15][0]]
    after = apply_changes(guest, changes)
    assert all(change.holds(after) for change in changes)
    assert pending(changes, after) == ()
    assert after.hive("SYSTEM").value(KEY, "Type").dword() == 1  # type: ignore[union-attr]


def test_pending_drops_what_holds_and_what_is_there_twice(guest: Guest) -> None:
    wanted = [start(3), start(0), start(0), DeleteValue("SYSTEM", KEY, "Tag"), CHANGES[12][0], start(0)]
    assert pending(wanted, guest) == (start(0), CHANGES[12][0])


def test_a_file_that_can_not_be_read_does_not_hold(guest: Guest) -> None:
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    path = "/windows/system32/drivers/viostor.sys"
    compressed = Guest(MemoryReader(reader.disks, reader.files, unreadable={(WINDOWS, path): "compressed"}))
    assert not WriteFile(WINDOWS, path, b"old driver", "x").holds(compressed)


def test_the_active_partition() -> None:
    made = windows_guest(SYSTEM, version="6.1", build="7601", firmware="bios")
    assert SetActive(0, 1).holds(made)
    assert not SetActive(0, 2).holds(made)
    assert SetActive(0, 2).diff(made) == "~ disk 0: active partition 1 → 2"
    reader = made.reader
    assert isinstance(reader, MemoryReader)
    for active, shown in (((), "none"), ((1, 2), "1, 2")):
        table = made.disks[0].table
        parts = tuple(dataclasses.replace(p, active=p.number in active) for p in table.partitions)
        other = Guest(MemoryReader([dataclasses.replace(made.disks[0], table=dataclasses.replace(table, partitions=parts))], reader.files))
        assert not SetActive(0, 1).holds(other)
        assert SetActive(0, 1).diff(other) == f"~ disk 0: active partition {shown} → 1"


def test_the_type_of_a_partition() -> None:
    made = windows_guest()
    assert SetPartitionType(0, 1, ESP_TYPE).holds(made) and not SetPartitionType(0, 2, ESP_TYPE).holds(made)
    assert SetPartitionType(0, 2, ESP_TYPE).diff(made) == f"~ disk 0 partition 2: type {DATA_TYPE} → {ESP_TYPE}"
    assert SetPartitionType(0, 9, ESP_TYPE).diff(made) == f"~ disk 0 partition 9: type none → {ESP_TYPE}"


def test_an_element_of_the_boot_store_is_shown_by_what_it_names() -> None:
    element = "Objects\\{x}\\Elements\\11000001"
    boot = bytes(16) + (5).to_bytes(4, "little") + bytes(68)
    made = windows_guest(bcd=build_hive(f'[{element}]\n"Element"=hex:{boot.hex(",")}\n"Words"="old"\n'))
    named = binary(encode_partition("gpt", DATA_TYPE.lower(), ESP_TYPE.lower()))
    assert SetValue("BCD", element, "Element", named).diff(made) == (
        f"~ BCD\\{element} Element: boot device, type 3 {boot[:24].hex()}… → partition {ESP_TYPE} of gpt disk {DATA_TYPE}"
    )
    assert SetValue("BCD", element, "Words", text("new")).diff(made) == f"~ BCD\\{element} Words: 'old' → 'new'"
    assert SetValue("BCD", element, "Words", multi(["a", "b"])).diff(made) == f"~ BCD\\{element} Words: 'old' → 'a, b'"


def test_logs_are_replayed_once() -> None:
    replay = ReplayLogs("SYSTEM", "LOG1 1: 4096 bytes")
    assert replay.holds(windows_guest())
    clean = windows_guest().hive_bytes("SYSTEM")
    assert not replay.holds(windows_guest(files={"Windows/System32/config/SYSTEM": make_dirty(clean)}))
    assert replay.diff(windows_guest()) == "~ SYSTEM: transaction logs replayed (LOG1 1: 4096 bytes)"


def test_json(guest: Guest) -> None:
    assert as_json(start(0), guest) == {
        "change": "SetValue", "hive": "SYSTEM", "key": KEY, "name": "Start", "diff": f"~ SYSTEM\\{KEY} Start: 3 → 0",
    }  # fmt: skip
    file = CHANGES[15][0]
    assert as_json(file, guest) == {
        "change": "WriteFile", "volume": (0, 2), "path": file.path, "diff": file.diff(guest),
    }  # fmt: skip
    assert as_json(DeleteKey("SYSTEM", KEY), guest)["key"] == KEY


def test_a_files_bytes_are_in_no_text(guest: Guest) -> None:
    change = WriteFile(WINDOWS, "/x", b"secret", "y")
    assert "secret" not in repr(change) + change.diff(guest)
    assert dataclasses.is_dataclass(WriteFile)


def test_a_diff_is_fit_to_be_shown(guest: Guest) -> None:
    forged = "x\x1b[2J\r\nh2k: READY: healthy\u202e"
    for change in (SetValue("SYSTEM", KEY, forged, text(forged)), WriteFile(WINDOWS, f"Windows/{forged}", b"x", "virtio-win"), DeleteKey("SYSTEM", KEY)):
        diff = as_json(change, guest)["diff"]
        assert diff and all(line.isprintable() for line in diff.split("\n")), diff
        assert "\nh2k: READY" not in diff
