"""What `h2k inspect` shows to people: the facts of a guest as aligned lines, sizes as people read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from h2k.base.text import shown

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_PLAIN = ("name", "product", "edition", "version", "build", "arch", "firmware", "system", "system_root")


def inspect_table(facts: dict[str, Any]) -> Iterator[str]:
    """The lines, top to bottom: what it is, disks with their partitions, hives."""
    yield _line("Windows", "yes" if facts["windows"] else "no")
    yield from (_line(key.replace("_", " "), str(facts[key])) for key in _PLAIN if facts.get(key) not in (None, ""))
    if "control_sets" in facts:
        yield _line("control sets", ", ".join(f"{k} {v}" for k, v in facts["control_sets"].items()))
    volume = facts.get("system_volume")
    for index, disk in enumerate(facts["disks"]):
        boots = ", boots" if facts.get("boot_disk") == index else ""
        yield _line(f"disk {index}", f"{disk['path']}: {disk['format']}, {size(disk['size'])}, {disk['scheme']}{boots}")
        for part in disk["partitions"]:
            here = volume is not None and (volume["disk"], volume["partition"]) == (index, part["number"])
            marks = [m for m, on in (("active", part["active"]), ("Windows", here)) if on]
            yield _line("", f"  {part['number']}: {size(part['size'])}, type {part['type']}" + "".join(f", {m}" for m in marks))
    yield from (_line(f"{name} hive", path) for name, path in facts.get("hives", {}).items())
    yield _line("read by", str(facts["read"]))


def size(number: float) -> str:
    """Bytes as people read them: 1.5 GiB."""
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {_UNITS[unit]}"


def _line(name: str, text: str) -> str:
    return shown(f"{name + ':' if name else '':<15} {text}").rstrip()
