"""Services and control sets, as the boot loader reads them from the SYSTEM hive."""

from __future__ import annotations

import dataclasses
import struct
from typing import Optional

from h2k.base.errors import BadData
from h2k.windows.regf import Hive, Key

MAX_OVERRIDES = 1024


@dataclasses.dataclass(frozen=True)
class ControlSets:
    """Select's four numbers, the sets that exist, and those that a boot may use (`boot`, ascending)."""

    current: int
    default: int
    last_known_good: int
    failed: int
    present: tuple[int, ...]
    boot: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Service:
    """A service as its key has it; None for a value that is missing or of another type."""

    name: str
    key: str
    type: Optional[int]
    start: Optional[int]
    error_control: Optional[int]
    group: Optional[str]
    tag: Optional[int]
    image_path: Optional[str]
    start_overrides: tuple[tuple[str, int], ...]


def control_set_name(number: int) -> str:
    """ControlSet001 for 1."""
    return f"ControlSet{number:03d}"


def control_sets(system: Hive) -> ControlSets:
    """Select and the control sets; BadData when Select, or the set that would boot, is missing."""
    numbers = {}
    for name in ("Current", "Default", "LastKnownGood", "Failed"):
        numbers[name] = system.dword("Select", name, 0)
    names = {key.name.lower() for key in system.root.subkeys()}
    present = tuple(n for n in range(1, 1000) if control_set_name(n).lower() in names)
    wanted = {numbers["Current"], numbers["Default"], numbers["LastKnownGood"]}
    boot = tuple(sorted(wanted & set(present)))
    for name in ("Current", "Default"):
        if numbers[name] not in present:
            raise BadData(
                f"{system.name}: Select\\{name} is {numbers[name]}, and there is no such control set",
                hint="restore the SYSTEM hive from a backup",
            )
    return ControlSets(
        numbers["Current"], numbers["Default"], numbers["LastKnownGood"], numbers["Failed"], present, boot
    )


def read_service(system: Hive, control_set: int, name: str) -> Optional[Service]:
    """One service of one control set, or None when it has no key."""
    path = f"{control_set_name(control_set)}\\Services\\{name}"
    key = system.key(path)
    if key is None:
        return None
    return Service(
        name=key.name,
        key=path,
        type=key.dword("Type"),
        start=key.dword("Start"),
        error_control=key.dword("ErrorControl"),
        group=key.text("Group"),
        tag=key.dword("Tag"),
        image_path=key.text("ImagePath"),
        start_overrides=_overrides(key),
    )


def _overrides(key: Key) -> tuple[tuple[str, int], ...]:
    """Every value of StartOverride: its name is the id of a hardware configuration, mostly "0"."""
    below = key.subkey("StartOverride")
    if below is None:
        return ()
    values = below.values()
    if len(values) > MAX_OVERRIDES:
        raise BadData(f"{key.hive.name}: {key.path}\\StartOverride has {len(values)} values")
    return tuple((v.name, int.from_bytes(v.raw[:4], "little")) for v in values)


def driver_path(service: Service, system_root: str = "/Windows") -> str:
    r"""The driver's file on the system volume, '/'-separated.

    Real hives hold `system32\…`, `\SystemRoot\…`, `%SystemRoot%\…`, `\??\C:\Windows\…`, and none at all, which
    means `System32\drivers\<name>.sys`. A drive letter is taken for the system volume's.
    """
    text = (service.image_path or "").strip().strip('"').replace("\\", "/")
    if not text:
        return f"{system_root}/System32/drivers/{service.name}.sys"
    lower = text.lower()
    for prefix in ("/systemroot/", "%systemroot%/", "%windir%/"):
        if lower.startswith(prefix):
            return f"{system_root}/{text[len(prefix) :]}"
    for prefix in ("/??/", "//?/", "/dosdevices/"):
        if lower.startswith(prefix):
            text = text[len(prefix) :]
    if len(text) > 2 and text[1] == ":":
        return "/" + text[2:].lstrip("/")
    if text.lower().startswith(f"{system_root.lower()}/"):
        return text
    return f"{system_root}/{text.lstrip('/')}"


def group_order(system: Hive, control_set: int, group: str) -> Optional[tuple[int, ...]]:
    """The tags of a load-order group, in order; None when the group has no list or it can't be read."""
    raw = system.raw(f"{control_set_name(control_set)}\\Control\\GroupOrderList", group)
    if len(raw) < 4:
        return None
    (count,) = struct.unpack_from("<I", raw)
    if len(raw) < 4 + 4 * count:
        return None
    return struct.unpack_from(f"<{count}I", raw, 4)
