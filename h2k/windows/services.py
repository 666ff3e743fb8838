"""Services and control sets, as the boot loader reads them from the SYSTEM hive."""

from __future__ import annotations

import dataclasses
import re
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


@dataclasses.dataclass(frozen=True)
class ImagePath:
    """A service's file: its path on the system volume, '/'-separated ('' where the value says none), and whether that
    place is `certain`. Where it is not, a file that is not there may still be somewhere else."""

    path: str
    certain: bool


_PREFIXES = ("/??/", "//?/", "//./", "/dosdevices/", "/global??/", "globalroot/")
_ROOTS = ("/systemroot/", "systemroot/", "%systemroot%/", "%windir%/")
_SYSTEM_DRIVE = "%systemdrive%/"
# A volume by a name that the object manager gives it at boot, or by its GUID: on these disks it is, with some luck, ours.
_SOME_VOLUME = re.compile(
    r"(/device/(harddiskvolume[0-9]+|harddisk[0-9]+/partition[0-9]+|bootdevice)|/arcname/[^/]+|volume\{[0-9a-f-]+\})/",
    re.IGNORECASE,
)
_DRIVE = re.compile(r"([a-z]):/*", re.IGNORECASE)


def image_path(service: Service, system_root: str = "/Windows") -> ImagePath:
    r"""The driver's file.

    Real hives hold `system32\…`, `\SystemRoot\…`, `%SystemRoot%\…`, `\??\C:\Windows\…`, `\Device\HarddiskVolume3\…`, and
    none at all, which means `System32\drivers\<name>.sys`. The drive C: is taken for the system volume's.
    """
    text = (service.image_path or "").strip().strip('"').replace("\\", "/")
    if not text:
        return ImagePath(f"{system_root}/System32/drivers/{service.name}.sys", True)
    for prefix in _PREFIXES:  # in the order in which they are put before one another
        if text.lower().startswith(prefix):
            text = text[len(prefix) :]
            text = f"/{text}" if text.lower().startswith(("device/", "arcname/")) else text
    for prefix in _ROOTS:
        if text.lower().startswith(prefix):
            return ImagePath(f"{system_root}/{text[len(prefix) :].lstrip('/')}", True)
    if text.lower().startswith(_SYSTEM_DRIVE):
        return ImagePath("/" + text[len(_SYSTEM_DRIVE) :].lstrip("/"), True)
    volume = _SOME_VOLUME.match(text)
    if volume is not None:
        return ImagePath("/" + text[volume.end() :].lstrip("/"), False)
    drive = _DRIVE.match(text)
    if drive is not None:
        return ImagePath("/" + text[drive.end() :], drive[1].lower() == "c")
    if "%" in text or text.startswith("//") or text.lower().startswith("/device/"):
        return ImagePath("", False)
    if text.lower().startswith(f"{system_root.lower()}/"):
        return ImagePath(text, True)
    return ImagePath(f"{system_root}/{text.lstrip('/')}", True)


def driver_path(service: Service, system_root: str = "/Windows") -> str:
    """The path of image_path, whether it is certain or not."""
    return image_path(service, system_root).path


def group_order(system: Hive, control_set: int, group: str) -> Optional[tuple[int, ...]]:
    """The tags of a load-order group, in order; None when the group has no list or it can't be read."""
    raw = system.raw(f"{control_set_name(control_set)}\\Control\\GroupOrderList", group)
    if len(raw) < 4:
        return None
    (count,) = struct.unpack_from("<I", raw)
    if len(raw) < 4 + 4 * count:
        return None
    return struct.unpack_from(f"<{count}I", raw, 4)
