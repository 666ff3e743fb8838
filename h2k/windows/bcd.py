"""The boot configuration data: boot manager, Windows loaders, and the partitions that their device elements name.

Element numbers: Microsoft's BCD WMI reference. The layout of a device element was measured on a real store: options
GUID at 0, type at 16, size of the rest at 24; for a partition its GUID or byte offset at 32, the kind of disk that it
lies on at 48 (0 is a plain one), the disk's style at 52, its GUID or signature at 56.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Sequence
from typing import Optional

from h2k.base.errors import BadData
from h2k.windows.regf import Hive, Key
from h2k.windows.values import Value

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
WINDOWS_LOADER = 0x10200003
APPLICATION_DEVICE, APPLICATION_PATH, INHERIT = "11000001", "12000002", "14000006"
OS_DEVICE, SYSTEM_ROOT = "21000001", "22000002"
DESCRIPTION = "12000004"
DEFAULT_OBJECT, DISPLAY_ORDER, BOOT_SEQUENCE = "23000003", "24000001", "24000002"
# Booleans and numbers that change what a loader does: Microsoft's lists of BcdLibrary… and BcdOSLoader… element types.
TEST_SIGNING, SAFE_BOOT = "16000049", "25000080"
# Not 16000020 (bootems): that is EMS for boot applications alone, which are gone when Windows runs, and the stores that
# Windows 7 to 2012 make have it on in {emssettings}, from which every loader inherits.
KERNEL_EMS, EMS_PORT = "260000b0", "15000022"
BOOT_DEBUG, KERNEL_DEBUG, DEBUG_TYPE, DEBUG_PORT = "16000010", "260000a0", "15000011", "15000013"
NUMBERS = (
    TEST_SIGNING, SAFE_BOOT, KERNEL_EMS, EMS_PORT, BOOT_DEBUG, KERNEL_DEBUG, DEBUG_TYPE, DEBUG_PORT
)  # fmt: skip
MAX_OBJECTS = 1024  # real stores have 10 to 40
MAX_INHERITED = 16
MAX_ELEMENT_VALUES = 100_000  # values looked at in one store, where a sound element key has one
_DEVICE_SIZE = 88
_TYPE_PARTITION, _TYPE_BOOT, _TYPE_LOCATE = 6, 5, 8
_PLAIN_DISK = 0


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
    numbers: tuple[tuple[str, int], ...] = ()
    description: str = ""

    def number(self, element: str) -> Optional[int]:
        """One of NUMBERS, a boolean as 0 or 1; None when neither the object nor its ancestors have it."""
        return dict(self.numbers).get(element)


@dataclasses.dataclass(frozen=True)
class BcdStore:
    """The store: what the boot manager would start. `boot_sequence` is what it starts first, at its next start alone:
    objects of the store, each once."""

    boot_manager: BcdObject
    default: Optional[str]
    display_order: tuple[str, ...]
    loaders: tuple[BcdObject, ...]
    boot_sequence: tuple[BcdObject, ...] = ()

    def default_loader(self) -> Optional[BcdObject]:
        """The Windows loader that starts unasked: the default, or with none the first of the display order."""
        first = self.default or (self.display_order[0] if self.display_order else None)
        return next((entry for entry in self.loaders if first is not None and entry.id == first.strip().lower()), None)


def read_bcd(hive: Hive) -> BcdStore:
    """The store of a BCD hive; BadData when it has no boot manager object."""
    objects = _Objects(hive)
    manager = objects.read(BOOT_MANAGER)
    return BcdStore(
        boot_manager=manager,
        default=objects.text(BOOT_MANAGER, DEFAULT_OBJECT),
        display_order=objects.ids(BOOT_MANAGER, DISPLAY_ORDER),
        loaders=tuple(objects.read(name) for name in objects.keys if objects.type(name) == WINDOWS_LOADER),
        # The boot manager passes over what is no object, as ReactOS's does (BmpPopulateBootEntryList).
        boot_sequence=tuple(objects.read(i) for i in dict.fromkeys(objects.ids(BOOT_MANAGER, BOOT_SEQUENCE)) if i in objects.keys),
    )


class _Objects:
    """The keys below Objects by lower-case name, and what their elements hold, each read once."""

    def __init__(self, hive: Hive) -> None:
        self.hive = hive
        objects = hive.key("Objects")
        if objects is None:
            raise BadData(f"{hive.name}: no key Objects: not a BCD store")
        keys = objects.subkeys()
        if len(keys) > MAX_OBJECTS:
            raise BadData(f"{hive.name}: {len(keys)} objects are too many for a BCD store")
        self.keys = {key.name.lower(): key for key in keys}
        if BOOT_MANAGER not in self.keys:
            raise BadData(f"{hive.name}: no boot manager object {BOOT_MANAGER}")
        self._known: dict[tuple[str, str], Optional[Value]] = {}
        self._values = 0

    def element(self, name: str, number: str) -> Optional[Value]:
        """The object's own element, or None."""
        if (name, number) not in self._known:
            self._known[name, number] = self._value(self.keys[name], f"Elements\\{number}", "Element")
        return self._known[name, number]

    def _value(self, key: Key, path: str, name: str) -> Optional[Value]:
        below = key.subkey(path)
        values = below.values() if below is not None else ()
        self._values += len(values)
        if self._values > MAX_ELEMENT_VALUES:  # lists that many keys share would be read again and again
            raise BadData(f"{self.hive.name}: too many values for a BCD store")
        return next((v for v in values if v.name.lower() == name.lower()), None)

    def text(self, name: str, number: str) -> Optional[str]:
        value = self.element(name, number)
        return value.text() if value is not None else None

    def ids(self, name: str, number: str) -> tuple[str, ...]:
        """The ids of an object list, in lower case; none for an element that is missing or no list."""
        value = self.element(name, number)
        return tuple(i.lower() for i in value.multi() or ()) if value is not None else ()

    def type(self, name: str) -> int:
        """The object's type; 0 when it has no description."""
        value = self._value(self.keys[name], "Description", "Type")
        return (value.dword() if value is not None else None) or 0

    def lineage(self, name: str) -> list[str]:
        """The object and those that it inherits from, nearest first; loops and long chains end."""
        found = [name]
        for heir in found:  # grows while it is walked
            for parent in self.ids(heir, INHERIT):
                if parent in self.keys and parent not in found and len(found) < MAX_INHERITED:
                    found.append(parent)
        return found

    def read(self, name: str) -> BcdObject:
        lineage = self.lineage(name)

        def first(number: str) -> Optional[Value]:
            return next((e for e in (self.element(n, number) for n in lineage) if e is not None), None)

        def text(number: str) -> Optional[str]:
            value = first(number)
            return value.text() if value is not None else None

        def device(number: str) -> Optional[BcdDevice]:
            value = first(number)
            return decode_device(value.raw) if value is not None else None

        return BcdObject(
            id=name,
            type=self.type(name),
            path=text(APPLICATION_PATH),
            system_root=text(SYSTEM_ROOT),
            device=device(APPLICATION_DEVICE),
            os_device=device(OS_DEVICE),
            numbers=tuple((n, int.from_bytes(v.raw[:8], "little")) for n, v in zip(NUMBERS, map(first, NUMBERS)) if v is not None),
            description=text(DESCRIPTION) or "",
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
    lies_on, style = struct.unpack_from("<II", raw, 48)
    if lies_on != _PLAIN_DISK:  # a partition in a file, a virtual disk or a ramdisk
        return BcdDevice("unknown")
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
