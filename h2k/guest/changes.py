"""Typed changes to a guest: data, printable as a diff, and dropped when they already hold."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any, Union

from h2k.base.text import shown
from h2k.disk.partition import retyped
from h2k.disk.reader import VolumeRef
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.windows import hive_edit, values
from h2k.windows.bcd import decode_device
from h2k.windows.values import Value


@dataclasses.dataclass(frozen=True)
class SetValue:
    """Registry value `name` of `key` (below the hive's root) becomes `value`; missing keys are made."""

    hive: str
    key: str
    name: str
    value: Value

    def holds(self, guest: Guest) -> bool:
        return guest.hive(self.hive).value(self.key, self.name) == self.value

    def diff(self, guest: Guest) -> str:
        old = guest.hive(self.hive).value(self.key, self.name)
        show = _show_element if self.hive == "BCD" else _show
        new = show(self.value)
        where = f"{self.hive}\\{self.key} {self.name or '(default)'}"
        return f"+ {where}: {new}" if old is None else f"~ {where}: {show(old)} → {new}"

    def edit(self) -> hive_edit.HiveEdit:
        return hive_edit.SetValue(self.key, self.name, self.value.type, self.value.raw)


@dataclasses.dataclass(frozen=True)
class DeleteValue:
    """Registry value `name` of `key` is gone."""

    hive: str
    key: str
    name: str

    def holds(self, guest: Guest) -> bool:
        return guest.hive(self.hive).value(self.key, self.name) is None

    def diff(self, guest: Guest) -> str:
        old = guest.hive(self.hive).value(self.key, self.name)
        return f"- {self.hive}\\{self.key} {self.name}" + (f": {_show(old)}" if old else "")

    def edit(self) -> hive_edit.HiveEdit:
        return hive_edit.DeleteValue(self.key, self.name)


@dataclasses.dataclass(frozen=True)
class DeleteKey:
    """Registry key `key` and everything below it is gone."""

    hive: str
    key: str

    def holds(self, guest: Guest) -> bool:
        return guest.hive(self.hive).key(self.key) is None

    def diff(self, guest: Guest) -> str:
        key = guest.hive(self.hive).key(self.key)
        values = ", ".join(f"{v.name}={_show(v)}" for v in key.values()[:4]) if key else ""
        return f"- {self.hive}\\{self.key}\\" + (f" ({values})" if values else "")

    def edit(self) -> hive_edit.HiveEdit:
        return hive_edit.DeleteKey(self.key)


@dataclasses.dataclass(frozen=True)
class WriteFile:
    """File `path` of `volume` holds exactly `data`; `source` says for people where the bytes come from."""

    volume: VolumeRef
    path: str
    data: bytes = dataclasses.field(repr=False)
    source: str

    def holds(self, guest: Guest) -> bool:
        stat = guest.reader.stat(self.volume, self.path)
        if stat is None or not stat.readable or stat.size != len(self.data):
            return False
        return guest.reader.read(self.volume, self.path, FILE_LIMIT) == self.data

    def diff(self, guest: Guest) -> str:
        old = guest.reader.stat(self.volume, self.path)
        was = f"{old.size} bytes → " if old else ""
        digest = hashlib.sha256(self.data).hexdigest()[:12]
        return f"{'~' if old else '+'} {self.path}: {was}{len(self.data)} bytes, sha256 {digest}…, from {self.source}"


@dataclasses.dataclass(frozen=True)
class ReplayLogs:
    """The transaction logs of a dirty hive are applied, and the hive is left clean; `applied` says what they held."""

    hive: str
    applied: str

    def holds(self, guest: Guest) -> bool:
        return guest.hive_state(self.hive).state == "clean"

    def diff(self, guest: Guest) -> str:
        return f"~ {self.hive}: transaction logs replayed ({self.applied})"


@dataclasses.dataclass(frozen=True)
class SetActive:
    """Partition `partition` (1 to 4) is the only active one of the MBR disk `disk`."""

    disk: int
    partition: int

    def holds(self, guest: Guest) -> bool:
        return self._active(guest) == [self.partition]

    def diff(self, guest: Guest) -> str:
        old = ", ".join(map(str, self._active(guest))) or "none"
        return f"~ disk {self.disk}: active partition {old} → {self.partition}"

    def _active(self, guest: Guest) -> list[int]:
        return [p.number for p in guest.disks[self.disk].table.partitions if p.active]


@dataclasses.dataclass(frozen=True)
class SetPartitionType:
    """Partition `partition` of the GPT disk `disk` has the type `type` (a GUID, upper case)."""

    disk: int
    partition: int
    type: str

    def holds(self, guest: Guest) -> bool:
        return self._type(guest) == self.type

    def diff(self, guest: Guest) -> str:
        return f"~ disk {self.disk} partition {self.partition}: type {self._type(guest)} → {self.type}"

    def writes(self, guest: Guest) -> list[tuple[int, bytes]]:
        """(offset, bytes) on the disk: both copies of the partition table, with their checksums."""
        disk = guest.disks[self.disk]
        return retyped(lambda at, n: guest.reader.read_at(self.disk, at, n), disk.info.size, disk.table, self.partition, self.type)

    def _type(self, guest: Guest) -> str:
        partitions = guest.disks[self.disk].table.partitions
        return next((p.type.upper() for p in partitions if p.number == self.partition), "none")


Change = Union[SetValue, DeleteValue, DeleteKey, WriteFile, ReplayLogs, SetActive, SetPartitionType]


def _show(value: Value) -> str:
    number = value.dword()
    if number is not None:
        return str(number)
    if value.type in (values.REG_SZ, values.REG_EXPAND_SZ, values.REG_MULTI_SZ):
        text = value.raw.decode("utf-16-le", "replace").rstrip("\0").replace("\0", ", ")
        return repr(text[:120])
    kind = "DWORD" if value.type == values.REG_DWORD else f"type {value.type}"  # one of another size than four bytes
    return f"{kind} {value.raw[:24].hex()}{'…' if len(value.raw) > 24 else ''}"


def _show_element(value: Value) -> str:
    """A BCD element: a device by what it names."""
    if value.type != values.REG_BINARY:
        return _show(value)
    device = decode_device(value.raw)
    if device.kind != "partition":
        return f"{device.kind} device, {_show(value)}"
    return f"partition {device.partition} of {device.style} disk {device.disk}"


def as_json(change: Change, guest: Guest) -> dict[str, Any]:
    """One change as plan.json and report.json have it: its kind, its place, its readable diff."""
    where: dict[str, Any] = {}
    if isinstance(change, WriteFile):
        where = {"volume": dataclasses.astuple(change.volume), "path": change.path}
    elif isinstance(change, (SetActive, SetPartitionType)):
        where = dataclasses.asdict(change)
    else:
        where = {"hive": change.hive, "key": getattr(change, "key", ""), "name": getattr(change, "name", None)}
    return {"change": type(change).__name__, **where, "diff": shown(change.diff(guest))}


def pending(changes: Iterable[Change], guest: Guest) -> tuple[Change, ...]:
    """The changes that do not hold yet, each once, in order."""
    seen: dict[Change, None] = {}
    for change in changes:
        if change not in seen and not change.holds(guest):
            seen[change] = None
    return tuple(seen)
