"""What `h2k inspect` shows to people: the facts of a guest as aligned lines, sizes as people read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from h2k.base.text import shown

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_PLAIN = ("name", "product", "edition", "version", "build", "arch", "firmware", "system", "system_root")
# GPT types (Microsoft's PARTITION_INFORMATION_GPT, UEFI) and MBR types (Microsoft's PARTITION_INFORMATION_MBR).
_TYPES = {
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Microsoft reserved",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "basic data",
    "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "recovery",
    "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": "LDM metadata",
    "AF9B60A0-1431-4F62-BC68-3311714A69AD": "LDM data",
    "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D": "storage spaces",
    "0x07": "NTFS",
    "0x27": "recovery",
    "0x42": "LDM",
    "0xef": "EFI system",
}


def inspect_table(facts: dict[str, Any]) -> Iterator[str]:
    """The lines, top to bottom: what it is, disks with their partitions, hives."""
    yield _line("Windows", "yes" if facts["windows"] else "no")
    yield from (_line(key.replace("_", " "), str(facts[key])) for key in _PLAIN if facts.get(key) not in (None, ""))
    if "control_sets" in facts:
        yield _line("control sets", ", ".join(f"{k.replace('_', ' ')} {_numbers(v)}" for k, v in facts["control_sets"].items()))
    for index, disk in enumerate(facts["disks"]):
        boots = ", boots" if facts.get("boot_disk") == index else ""
        yield _line(f"disk {index}", f"{disk['path']}: {disk['format']}, {size(disk['size'])}, {disk['scheme']}{boots}")
        yield from _partitions(facts, index)
    yield from (_line(f"{name} hive", path) for name, path in facts.get("hives", {}).items())
    yield _line("read by", str(facts["read"]))


def _partitions(facts: dict[str, Any], index: int) -> Iterator[str]:
    """A line for each partition of a disk: its number, its size, its letter, and what it is."""
    letters = {(place["disk"], place["partition"]): letter for letter, place in facts.get("letters", {}).items()}
    volume = facts.get("system_volume")
    for part in facts["disks"][index]["partitions"]:
        here = volume is not None and (volume["disk"], volume["partition"]) == (index, part["number"])
        marks = [m for m, on in (("active", part["active"]), ("Windows", here)) if on]
        what = ", ".join([_TYPES.get(part["type"], f"type {part['type']}"), *marks])
        letter = letters.get((index, part["number"]), "")
        yield _line("", f"{part['number']:>3}  {size(part['size']):>9}  {letter:<2}  {what}")


def _numbers(value: Any) -> str:
    """One number, or several joined by blanks."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def size(number: float) -> str:
    """Bytes as people read them: 1.5 GiB."""
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {_UNITS[unit]}"


def _line(name: str, text: str) -> str:
    """Aligned below each other; `text` keeps its blanks."""
    return f"{name + ':' if name else '':<15} {shown(text)}".rstrip()
