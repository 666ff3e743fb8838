"""`h2k inspect` for people: a line for each partition with its size, its letter and what it is."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.cli.inspect_table import inspect_table, size
from h2k.engine.report import guest_facts, windows_facts
from tests.unit.memory_reader import gpt_letter, make_disk, windows_guest


def table(**more: Any) -> list[str]:
    disk = make_disk(0, ["fat", "ntfs"])
    letter = gpt_letter(disk.table.partitions[-1])
    guest = windows_guest(f'[MountedDevices]\n"\\\\DosDevices\\\\C:"=hex:{letter.hex(",")}\n')
    facts = {**guest_facts(guest), **windows_facts(guest), **more}
    return list(inspect_table(facts))


def test_a_partition_has_its_size_its_letter_and_its_use() -> None:
    (line,) = [line for line in table() if line.endswith(", Windows")]
    words = line.split()
    assert words[0].isdigit() and words[2] in ("KiB", "MiB", "GiB") and words[3] == "C:" and words[4:6] == ["basic", "data,"]


def test_control_sets_are_numbers() -> None:
    (line,) = [line for line in table() if line.startswith("control sets:")]
    assert "boot 1" in line and "last known good" in line and not set("()[],'") & set(line.replace(", ", " "))


def test_a_type_that_is_not_known_is_shown_as_it_is() -> None:
    disk = {"path": "a\x1b[31m", "format": "raw", "size": 1, "scheme": "mbr", "partitions": [
        {"number": 1, "size": 512, "type": "0x83", "active": True}]}  # fmt: skip
    told = table(disks=[disk], boot_disk=0)
    assert any("type 0x83, active" in line for line in told) and not any("\x1b" in line for line in told)


@pytest.mark.parametrize(("number", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"), (1 << 60, "1024 PiB")])
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text
