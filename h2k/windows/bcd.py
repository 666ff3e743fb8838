"""The boot configuration data: boot manager, Windows loaders, and the partitions that their device elements name.

Element numbers and the layout of a device element: docs/facts.md, section BCD.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Sequence
from typing import Optional

from h2k.errors import BadData
from h2k.windows.regf import Hive, Key

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
WINDOWS_LOADER = 0x10200003
APPLICATION_DEVICE, APPLICATION_PATH, INHERIT = "11000001", "12000002", "14000006"
OS_DEVICE, SYSTEM_ROOT = "21000001", "22000002"
DEFAULT_OBJECT, DISPLAY_ORDER = "23000003", "24000001"
MAX_OBJECTS = 4096
MAX_INHERITED = 16
_DEVICE_SIZE = 88
_TYPE_PARTITION, _TYPE_BOOT, _TYPE_LOCATE = 6, 5, 8


@dataclasses.dataclass(frozen=True)
class BcdDevice:
    """A device element. kind "partition", "boot", "locate" or "unknown" (ramdisk, vhd, …); for a partition the
    style ("gpt" or "mbr"), the disk (GUID, or "0x…" signature) and the partition (GUID, or offset in bytes)."""

    kind: str
    style: str = ""
    disk: str = ""
    partition: str = ""


@dataclasses.dataclass(frozen=True)
class BcdObject:
    """One object: a boot manager, a loader, …; elements that it inherits count as its own."""

    id: str
    type: int
    path: Optional[str]
    system_root: Optional[str]
    device: Optional[BcdDevice]
    os_device: Optional[BcdDevice]


@dataclasses.dataclass(frozen=True)
class BcdStore:
    """The store: what the boot manager would start."""

    boot_manager: BcdObject
    default: Optional[str]
    display_order: tuple[str, ...]
    loaders: tuple[BcdObject, ...]

    def default_loader(self) -> Optional[BcdObject]:
        """The Windows loader that starts unasked: the default, or with none the first of the display order."""
        first = self.default or (self.display_order[0] if self.display_order else None)
        return next((entry for entry in self.loaders if first is not None and entry.id == first.lower()), None)


def read_bcd(hive: Hive) -> BcdStore:
    """The store of a BCD hive; BadData when it has no boot manager object."""
    objects = hive.key("Objects")
    if objects is None:
        raise BadData(f"{hive.name}: no key Objects: not a BCD store")
    keys = {key.name.lower(): key for key in objects.subkeys()[:MAX_OBJECTS]}
    if BOOT_MANAGER not in keys:
        raise BadData(f"{hive.name}: no boot manager object {BOOT_MANAGER}")
    manager = keys[BOOT_MANAGER]
    parsed = [_object(name, key, keys) for name, key in keys.items()]
    order = _element(manager, DISPLAY_ORDER)
    return BcdStore(
        boot_manager=next(entry for entry in parsed if entry.id == BOOT_MANAGER),
        default=_text(manager, DEFAULT_OBJECT),
        display_order=tuple(i.lower() for i in order[1]) if order is not None and order[1] is not None else (),
        loaders=tuple(entry for entry in parsed if entry.type == WINDOWS_LOADER),
    )


def _element(key: Key, number: str) -> Optional[tuple[bytes, Optional[tuple[str, ...]], Optional[str]]]:
    below = key.subkey(f"Elements\\{number}")
    value = below.value("Element") if below is not None else None
    return (value.raw, value.multi(), value.text()) if value is not None else None


def _text(key: Key, number: str) -> Optional[str]:
    element = _element(key, number)
    return element[2] if element is not None else None


def _lineage(key: Key, keys: dict[str, Key]) -> list[Key]:
    """The object and those it inherits from, nearest first; loops and long chains end."""
    found, waiting = [key], [key]
    while waiting and len(found) < MAX_INHERITED:
        element = _element(waiting.pop(0), INHERIT)
        for name in (element[1] or ()) if element is not None else ():
            parent = keys.get(name.lower())
            if parent is not None and parent not in found:
                found.append(parent)
                waiting.append(parent)
    return found


def _object(name: str, key: Key, keys: dict[str, Key]) -> BcdObject:
    description = key.subkey("Description")
    value = description.value("Type") if description is not None else None
    lineage = _lineage(key, keys)

    def first_text(number: str) -> Optional[str]:
        return next((text for k in lineage for text in [_text(k, number)] if text is not None), None)

    def first_device(number: str) -> Optional[BcdDevice]:
        elements = (_element(k, number) for k in lineage)
        return next((decode_device(e[0]) for e in elements if e is not None), None)

    return BcdObject(
        id=name,
        type=(value.dword() if value is not None else None) or 0,
        path=first_text(APPLICATION_PATH),
        system_root=first_text(SYSTEM_ROOT),
        device=first_device(APPLICATION_DEVICE),
        os_device=first_device(OS_DEVICE),
    )


def decode_device(raw: bytes) -> BcdDevice:
    """A device element; everything but a plain partition is named by its kind and not looked into."""
    if len(raw) < 32:
        return BcdDevice("unknown")
    (kind,) = struct.unpack_from("<I", raw, 16)
    if kind == _TYPE_BOOT:
        return BcdDevice("boot")
    if kind == _TYPE_LOCATE:
        return BcdDevice("locate")
    if kind != _TYPE_PARTITION or len(raw) < 72:
        return BcdDevice("unknown")
    (style,) = struct.unpack_from("<I", raw, 52)
    if style == 0:
        return BcdDevice("partition", "gpt", _guid(raw[56:72]), _guid(raw[32:48]))
    if style == 1:
        offset, signature = struct.unpack_from("<Q", raw, 32)[0], struct.unpack_from("<I", raw, 56)[0]
        return BcdDevice("partition", "mbr", f"0x{signature:08x}", str(offset))
    return BcdDevice("unknown")


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw)).upper()


def encode_partition(style: str, disk: str, partition: str) -> bytes:
    """The 88 bytes of a device element that names a partition: what decode_device reads."""
    raw = bytearray(_DEVICE_SIZE)
    struct.pack_into("<I", raw, 16, _TYPE_PARTITION)
    struct.pack_into("<I", raw, 24, _DEVICE_SIZE - 16)
    if style == "gpt":
        raw[32:48], raw[56:72] = uuid.UUID(partition).bytes_le, uuid.UUID(disk).bytes_le
    else:
        struct.pack_into("<Q", raw, 32, int(partition))
        struct.pack_into("<I", raw, 52, 1)
        struct.pack_into("<I", raw, 56, int(disk, 16))
    return bytes(raw)


Partitions = Sequence[tuple[int, int, Optional[str]]]


def resolve(device: BcdDevice, disks: Sequence[tuple[int, str, str, Partitions]]) -> Optional[tuple[int, int]]:
    """The (disk index, partition number) that a partition device names, among (index, scheme, id, [(number,
    start in bytes, GUID)]); None when it is on none of these disks."""
    for index, scheme, name, partitions in disks:
        if scheme != device.style or name.lower() != device.disk.lower():
            continue
        for number, start, guid in partitions:
            if (guid or "").upper() == device.partition if scheme == "gpt" else str(start) == device.partition:
                return index, number
    return None
