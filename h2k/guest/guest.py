"""The facts of one guest, read lazily through a Reader: firmware, boot disk, Windows, its hives and control sets."""

from __future__ import annotations

import dataclasses
import re
from functools import cached_property
from string import ascii_lowercase
from typing import Optional

from h2k.base.errors import BadData, Refused, UsageError
from h2k.disk.partition import volume_manager
from h2k.disk.reader import Disk, FileStat, Reader, Volume, VolumeRef
from h2k.guest.boot_files import STORE, BootPlace, find_boot_place
from h2k.windows import paged, regf, regf_log
from h2k.windows.pe import PeFacts, read_pe
from h2k.windows.services import ControlSets, Service, control_sets, read_service
from h2k.windows.version import WindowsVersion, read_version

HIVE_LIMIT = 512 * 1024 * 1024  # bytes; real SOFTWARE hives stay below 200 MiB
PAGED_FROM = 1024 * 1024  # bytes; smaller hives are read whole, and all their bins are checked
FILE_LIMIT = 64 * 1024 * 1024  # bytes; the largest file that a proof reads is ntoskrnl.exe, about 12 MiB
LOG_LIMIT = 256 * 1024 * 1024  # bytes; logs are smaller than their hive
LOGS = ("LOG1", "LOG2", "LOG")
SYSTEM_ROOTS = ("/Windows", "/WINNT")


OTHER = "other"  # as `root`: the system that is meant is none of the Windows systems


class NotWindows(Refused):
    """None of the volumes holds a Windows system root."""


@dataclasses.dataclass(frozen=True)
class HiveFile:
    """Where a hive lies: the volume, its path there in the case that the disk has."""

    name: str
    volume: VolumeRef
    path: str


@dataclasses.dataclass(frozen=True)
class HiveState:
    """A hive as it lies on the disk. `state`: "clean"; "dirty", its logs usable; "unrecoverable", dirty without usable
    logs; "corrupt". `data` are its bytes with the logs applied, `why` the reason for anything but "clean".

    A large hive that is clean has no `data`: `hive` reads it in pages."""

    state: str
    data: bytes = dataclasses.field(repr=False)
    why: str = ""
    replay: Optional[regf_log.Replay] = None
    hive: Optional[regf.Hive] = dataclasses.field(default=None, repr=False)


class Guest:
    """Facts only: nothing here writes, and each fact is read when it is first asked for."""

    def __init__(self, reader: Reader, root: Optional[str] = None) -> None:
        """`root` chooses among several systems as virt-v2v's --root does: "first", or a device ("/dev/sdb2")."""
        self.reader = reader
        self.root = root
        self._hives: dict[str, regf.Hive] = {}
        self._states: dict[str, HiveState] = {}

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks, in the domain's order."""
        return self.reader.disks

    def volumes(self, kind: str) -> list[Volume]:
        """All volumes of one kind ("ntfs", "fat", "bitlocker"), in disk and partition order."""
        return [v for disk in self.disks for v in disk.volumes if v.kind == kind]

    @cached_property
    def system_roots(self) -> tuple[tuple[VolumeRef, str], ...]:
        """Every (volume, system root) with a SYSTEM hive in it that may be the one that is meant."""
        found: list[tuple[VolumeRef, str]] = []
        for volume in self.volumes("ntfs"):
            for root in SYSTEM_ROOTS:
                hive = self.reader.stat(volume.ref, f"{root}/System32/config/SYSTEM")
                if hive is not None and not hive.directory:
                    found.append((volume.ref, "/" + hive.path.strip("/").split("/")[0]))
        if self.root == "first":
            return tuple(found[:1])
        if self.root == OTHER or (self.root or "").startswith("/dev/"):
            return tuple((ref, path) for ref, path in found if device(ref) == self.root)
        return tuple(found)

    @cached_property
    def _root(self) -> tuple[VolumeRef, str]:
        roots = self.system_roots
        if not roots:
            images = ", ".join(str(d.info.path) for d in self.disks)
            raise NotWindows(f"{images}: no Windows system root on any NTFS volume")
        if len(roots) > 1:
            places = ", ".join(device(ref) for ref, _ in roots)
            raise Refused(f"several Windows systems: {places}", hint="choose one with --h2k-root /dev/sdXN")
        return roots[0]

    @property
    def managed_disks(self) -> dict[int, str]:
        """The disks on which a volume manager of Windows lays its volumes, and which one: "LDM" or "Storage Spaces"."""
        found = {disk.index: volume_manager(disk.table) for disk in self.disks}
        return {index: manager for index, manager in found.items() if manager}

    @property
    def is_windows(self) -> bool:
        """Whether any NTFS volume holds a Windows system root."""
        return bool(self.system_roots)

    @property
    def is_other(self) -> bool:
        """Whether the system that is meant is none of Windows, encrypted or not."""
        if self.root == OTHER:
            return True
        self._require_root()
        named = (self.root or "").startswith("/dev/")
        return named and not self.system_roots and self.root not in [device(v.ref) for v in self.volumes("bitlocker")]

    def _require_root(self) -> None:
        """UsageError for a partition (/dev/sdXN) that none of the disks has: a slip of the pen is no other system."""
        if re.fullmatch(r"/dev/[hsv]d[a-z]{1,2}\d*", self.root or "") is None:
            return  # "first", or a volume that a manager of Linux makes
        there = {device(VolumeRef(disk.index, p.number)) for disk in self.disks for p in disk.table.partitions}
        there |= {device(VolumeRef(disk.index, 0)) for disk in self.disks}
        if self.root not in there:
            windows = [device(v.ref) for v in self.volumes("ntfs") for root in SYSTEM_ROOTS if self.reader.stat(v.ref, root) is not None]
            hint = f"Windows is on {', '.join(windows)}" if windows else f"there are {', '.join(sorted(there)[:16])}"
            raise UsageError(f"--root {self.root}: no such partition on these disks", hint=hint)

    @property
    def volume(self) -> VolumeRef:
        """The volume of the system root (drive C: as a rule)."""
        return self._root[0]

    @property
    def system_root(self) -> str:
        """The system root's path on its volume, as the disk spells it ("/Windows")."""
        return self._root[1]

    @cached_property
    def boot_place(self) -> BootPlace:
        """Firmware mode, and where the boot manager and the BCD lie."""
        return find_boot_place(self.reader, self.volume)

    @property
    def firmware(self) -> str:
        """ "uefi" or "bios", by the layout of the disks."""
        return self.boot_place.firmware

    @property
    def boot_volume(self) -> Optional[Volume]:
        """The EFI system partition, or the partition that is, or should be, active."""
        return self.boot_place.volume

    @property
    def boot_disk(self) -> int:
        """The index of the disk that the firmware starts."""
        return self.boot_volume.ref.disk if self.boot_volume else self.volume.disk

    def hive_file(self, name: str) -> Optional[HiveFile]:
        """Where the hive "SYSTEM", "SOFTWARE", "DRIVERS" or "BCD" lies, or None when it is not there."""
        if name == "BCD":
            if self.boot_volume is None:
                return None
            volume = self.boot_volume.ref
            path = STORE[self.firmware]
        else:
            volume, path = self.volume, f"{self.system_root}/System32/config/{name}"
        stat = self.reader.stat(volume, path)
        return HiveFile(name, volume, stat.path) if stat is not None and not stat.directory else None

    def hive_bytes(self, name: str) -> bytes:
        """The hive's file as it is; BadData when it is missing, unreadable or above HIVE_LIMIT."""
        where = self.hive_file(name)
        if where is None:
            raise BadData(f"the {name} hive is missing")
        return self.reader.read(where.volume, where.path, HIVE_LIMIT)

    def hive_logs(self, name: str) -> dict[str, bytes]:
        """The hive's transaction logs that hold anything, by suffix ("LOG1", "LOG2", "LOG")."""
        where = self.hive_file(name)
        logs: dict[str, bytes] = {}
        if where is None:
            return logs
        for suffix in LOGS:
            stat = self.reader.stat(where.volume, f"{where.path}.{suffix}")
            if stat is not None and stat.readable and stat.size:
                logs[suffix] = self.reader.read(where.volume, stat.path, LOG_LIMIT)
        return logs

    def hive_state(self, name: str) -> HiveState:
        """Clean, dirty, unrecoverable or corrupt; read once. BadData when the hive can't be read at all."""
        if name not in self._states:
            self._states[name] = self._hive_state(name)
        return self._states[name]

    def _hive_state(self, name: str) -> HiveState:
        large = self._paged(name)
        if large is not None:
            return large
        data = self.hive_bytes(name)
        if data[:4] != b"regf" and not self.hive_logs(name):
            return HiveState("corrupt", data, f"{name}: no regf signature at offset 0")
        replay = None
        if regf.state(data) == "dirty":
            try:
                replay = regf_log.replay(data, self.hive_logs(name), name)
            except BadData as bad:
                return HiveState("unrecoverable", data, bad.message)
            data = replay.data
        problems = regf.check(data, name)
        if problems:
            return HiveState("corrupt", data, problems[0])
        return HiveState("dirty" if replay else "clean", data, _applied(replay) if replay else "", replay)

    def _paged(self, name: str) -> Optional[HiveState]:
        """The state of a large hive that is clean: its base block, its root key and, later, the bins of what is read. None
        for any other hive, which is read whole."""
        where = self.hive_file(name)
        found = self.reader.stat(where.volume, where.path) if where is not None else None
        if where is None or found is None or not found.readable or not PAGED_FROM <= found.size <= HIVE_LIMIT:
            return None
        volume, path = where.volume, where.path
        pages = paged.Pages(lambda at, n: self.reader.read_range(volume, path, at, n), found.size)
        if regf.state(pages[: regf.BASE_BLOCK]) != "clean":
            return None
        try:
            hive = paged.PagedHive(pages, name)
            hive.key("")
        except BadData as bad:
            return HiveState("corrupt", b"", bad.message)
        return HiveState("clean", b"", hive=hive)

    def complete_hive(self, name: str) -> bytes:
        """All bytes of the hive, with its logs applied."""
        return self.hive_state(name).data or self.hive_bytes(name)

    def hive(self, name: str) -> regf.Hive:
        """The parsed hive with its logs applied, as Windows would see it; read once. BadData for an unsound one."""
        if name not in self._hives:
            state = self.hive_state(name)
            if state.state in ("corrupt", "unrecoverable"):
                raise BadData(state.why)
            self._hives[name] = state.hive or regf.Hive.parse(state.data, name)
        return self._hives[name]

    def has_hive(self, name: str) -> bool:
        """Whether the hive's file exists."""
        return self.hive_file(name) is not None

    @property
    def system(self) -> regf.Hive:
        """The SYSTEM hive."""
        return self.hive("SYSTEM")

    @cached_property
    def control_sets(self) -> ControlSets:
        """Select, and the control sets that a boot may use."""
        return control_sets(self.system)

    @cached_property
    def machine(self) -> str:
        """The guest's machine type, from its own kernel or loader ("amd64", "x86", "arm64")."""
        for name in ("ntoskrnl.exe", "winload.exe", "winload.efi", "cmd.exe"):
            facts, _ = self.pe(f"{self.system_root}/System32/{name}")
            if facts is not None:
                return facts.machine
        raise BadData(f"{self.system_root}/System32 holds no ntoskrnl.exe, winload or cmd.exe that is a valid PE")

    @cached_property
    def windows(self) -> WindowsVersion:
        """Version, build, architecture and edition."""
        return read_version(self.hive("SOFTWARE"), self.system, self.control_sets.current, self.machine)

    def service(self, control_set: int, name: str) -> Optional[Service]:
        """A service of one control set, or None. StartOverride is a thing of Windows 8 and later, and no other reads it."""
        service = read_service(self.system, control_set, name)
        if service is not None and service.start_overrides and self.windows.version <= (6, 1):
            return dataclasses.replace(service, start_overrides=())
        return service

    def stat(self, path: str) -> Optional[FileStat]:
        """A file of the system volume, by case-insensitive path."""
        return self.reader.stat(self.volume, path)

    def pe(self, path: str, volume: Optional[VolumeRef] = None) -> tuple[Optional[PeFacts], str]:
        """(facts, "") of a PE file of the guest, or (None, why not): missing, unreadable, or not a PE."""
        ref = volume or self.volume
        stat = self.reader.stat(ref, path)
        if stat is None or stat.directory:
            return None, "missing"
        if not stat.readable:
            return None, f"unreadable: {stat.why}"
        try:
            return read_pe(self.reader.read(ref, path, FILE_LIMIT), path), ""
        except BadData as bad:
            return None, str(bad)


def _applied(replay: regf_log.Replay) -> str:
    """What the logs hold, for people: "LOG1 1622-1625, LOG2 1626: 14 pages, 73728 bytes"."""
    spans: dict[str, list[int]] = {}
    for entry in replay.applied:
        spans.setdefault(entry.log, []).append(entry.sequence)
    shown = ", ".join(f"{log} {s[0]}" + (f"-{s[-1]}" if len(s) > 1 else "") for log, s in spans.items())
    left = f"; then {replay.stopped}" if replay.stopped else ""
    return f"{shown}: {replay.size} bytes that only the logs hold{left}"


def device(volume: VolumeRef) -> str:
    """libguestfs' name of a volume: /dev/sda2 for partition 2 of the first disk (its documented, stable names)."""
    letters = ascii_lowercase[volume.disk // 26 - 1] if volume.disk >= 26 else ""
    return f"/dev/sd{letters}{ascii_lowercase[volume.disk % 26]}{volume.partition or ''}"
