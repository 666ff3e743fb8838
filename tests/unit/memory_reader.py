"""A Reader over files in memory, and made guests on top of it: unit tests of hooks need no disk and no process."""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Optional

from h2k.base.errors import BadData
from h2k.disk.image import ImageInfo
from h2k.disk.ntfs import NtfsVolumeState
from h2k.disk.partition import Partition, PartitionTable
from h2k.disk.reader import Disk, FileStat, Volume, VolumeRef, components
from h2k.guest.boot_files import ESP_TYPE
from h2k.guest.guest import Guest
from tests.guests.pe import make_pe
from tests.guests.regfile import build_hive

MIB = 1024 * 1024
DATA_TYPE = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
WINDOWS_GUID = "6C1F5C5E-8A43-4D18-9E0B-1D3A5C7E9F10"
SIGNATURE = 0x1234ABCD
SOFTWARE = """
[Microsoft\\Windows NT\\CurrentVersion]
"ProductName"="{product}"
"CurrentVersion"="{nt}"
"CurrentBuildNumber"="{build}"
"InstallationType"="{installation}"
"EditionID"="Professional"
"""
NT10 = '"CurrentMajorVersionNumber"=dword:0000000a\n"CurrentMinorVersionNumber"=dword:00000000\n'


class MemoryReader:
    """Files of volumes as {ref: {path: bytes}}; a path that ends in '/' is an empty directory.

    `unreadable` maps (ref, path in lower case) to the reason, as the direct reader gives it for compressed files.
    """

    how, failure = "memory", ""

    def __init__(
        self,
        disks: Sequence[Disk],
        files: Mapping[VolumeRef, Mapping[str, bytes]],
        states: Optional[Mapping[VolumeRef, NtfsVolumeState]] = None,
        unreadable: Optional[Mapping[tuple[VolumeRef, str], str]] = None,
        raw: Optional[Mapping[int, bytes]] = None,
    ) -> None:
        self.disks = tuple(disks)
        self.files = {ref: {"/" + p.lstrip("/"): data for p, data in tree.items()} for ref, tree in files.items()}
        self.states, self.unreadable, self.raw = dict(states or {}), dict(unreadable or {}), dict(raw or {})

    def _find(self, ref: VolumeRef, path: str) -> Optional[tuple[str, bool]]:
        """(path as spelt, whether it is a directory)."""
        wanted = components(path)
        if not wanted:
            return "/", True
        for name in self.files.get(ref, {}):
            parts = components(name)
            if [p.lower() for p in parts[: len(wanted)]] == [w.lower() for w in wanted]:
                return "/" + "/".join(parts[: len(wanted)]), len(parts) > len(wanted) or name.endswith("/")
        return None

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        found = self._find(ref, path)
        if found is None:
            return None
        spelt, directory = found
        why = self.unreadable.get((ref, spelt.lower()), "")
        size = 0 if directory else len(self.files[ref][spelt])
        return FileStat(spelt, size, directory, readable=not why, why=why)

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        stat = self.stat(ref, path)
        if stat is None or stat.directory:
            raise BadData(f"{path}: no such file")
        if not stat.readable or stat.size > limit:
            raise BadData(f"{path}: {stat.why or f'larger than {limit} bytes'}")
        return self.files[ref][stat.path]

    def read_range(self, ref: VolumeRef, path: str, offset: int, length: int) -> bytes:
        return self.read(ref, path, 1 << 40)[offset : offset + length]

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        return self.read(ref, path, 1 << 40)[:length]

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        stat = self.stat(ref, path)
        if stat is None or not stat.directory:
            raise BadData(f"{path}: no such directory")
        depth = len(components(path))
        names: dict[str, str] = {}
        for name in self.files.get(ref, {}):
            parts = components(name)
            if len(parts) > depth and [p.lower() for p in parts[:depth]] == [p.lower() for p in components(path)]:
                names.setdefault(parts[depth].lower(), "/" + "/".join(parts[: depth + 1]))
        found = [self.stat(ref, spelt) for spelt in names.values()]
        return tuple(f for f in found if f is not None)

    def ntfs_state(self, ref: VolumeRef) -> NtfsVolumeState:
        return self.states.get(ref, NtfsVolumeState(False, False, "3.1"))

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        return self.raw.get(disk, b"")[offset : offset + length].ljust(length, b"\0")

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def make_disk(index: int, kinds: Sequence[str], scheme: str = "gpt") -> Disk:
    """A disk with one 64 MiB partition a kind ("fat" is the EFI system partition), the first of an MBR active."""
    partitions, volumes = [], []
    for number, kind in enumerate(kinds, 1):
        start = number * 64 * MIB
        guid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{index}/{number}")).upper() if (index, kind) != (0, "ntfs") else WINDOWS_GUID
        gpt_type = ESP_TYPE if kind == "fat" else DATA_TYPE
        entry = (gpt_type, guid, False) if scheme == "gpt" else ("0x07", None, number == 1)
        partitions.append(Partition(number, start, 64 * MIB, *entry))
        volumes.append(Volume(VolumeRef(index, number), start, 64 * MIB, kind, f"{index}-{number}"))
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"disk {index}")).upper() if scheme == "gpt" else f"0x{SIGNATURE + index:08x}"
    info = ImageInfo(Path(f"/made/disk{index}.qcow2"), "qcow2", 1024 * MIB, ())
    return Disk(index, info, PartitionTable(scheme, identity, tuple(partitions)), tuple(volumes))


def windows_guest(
    system: str = "",
    software: str = "",
    files: Optional[Mapping[str, bytes]] = None,
    *,
    base: Optional[bytes] = None,
    bcd: Optional[bytes] = None,
    drivers: Optional[bytes] = None,
    version: str = "10.0",
    build: str = "20348",
    arch: str = "amd64",
    server: bool = True,
    firmware: str = "uefi",
    data_disks: int = 0,
    sets: Sequence[int] = (1,),
) -> Guest:
    """A Guest of the given registry text: `$cs` stands for each control set of `sets`, the first of which boots.

    `base` is a SYSTEM hive (bytes) to start from; `files` are files of the Windows volume. `drivers` is the
    DRIVERS hive. The same text gives the same bytes: a test may apply changes with apply_changes.
    """
    wanted = "".join(system.replace("$cs", f"ControlSet{n:03d}") for n in sets)
    select = ""
    if base is None:
        select = "[Select]\n" + "".join(
            f'"{n}"=dword:{v:08x}\n' for n, v in (("Current", sets[0]), ("Default", sets[0]), ("Failed", 0), ("LastKnownGood", sets[-1]))
        )
        for number in sets:
            product = "ServerNT" if server else "WinNT"
            select += f'[ControlSet{number:03d}\\Control\\ProductOptions]\n"ProductType"="{product}"\n'
    nt = "6.3" if version == "10.0" else version
    kind = "Server" if server else "Client"
    text = SOFTWARE.format(product="Windows", nt=nt, build=build, installation=kind) + (NT10 if version == "10.0" else "")
    content = {
        "Windows/System32/config/SYSTEM": build_hive(select + wanted, base),
        "Windows/System32/config/SOFTWARE": build_hive(text + software),
        "Windows/System32/ntoskrnl.exe": make_pe(arch, b"made ntoskrnl.exe"),
        **({"Windows/System32/config/DRIVERS": drivers} if drivers is not None else {}),
        **(files or {}),
    }
    scheme = "gpt" if firmware == "uefi" else "mbr"
    disks = [make_disk(0, ["fat" if firmware == "uefi" else "ntfs", "ntfs"], scheme)]
    disks += [make_disk(n, ["ntfs"], scheme) for n in range(1, data_disks + 1)]
    boot = {"EFI/Microsoft/Boot/BCD" if firmware == "uefi" else "Boot/BCD": bcd} if bcd is not None else {}
    return Guest(MemoryReader(disks, {VolumeRef(0, 1): boot, VolumeRef(0, 2): content}))


def driver(name: str, start: int = 0, more: str = "") -> str:
    """The service of a kernel driver, as text for windows_guest."""
    path = f'"ImagePath"=expand:"System32\\\\drivers\\\\{name}.sys"'
    return f'[$cs\\Services\\{name}]\n"Type"=dword:00000001\n"Start"=dword:{start:08x}\n{path}\n{more}'


def sys_files(*names: str, arch: str = "amd64") -> dict[str, bytes]:
    """The files of those drivers, for windows_guest."""
    return {f"Windows/System32/drivers/{n}.sys": make_pe(arch, n.encode()) for n in names}


def apply_changes(guest: Guest, changes: Sequence[object]) -> Guest:
    """A new Guest with the changes carried out as h2k.engine.apply does, on copies in memory."""
    import tempfile

    from h2k.guest.changes import SetActive, SetPartitionType, WriteFile
    from h2k.windows.hive_edit import edit_hive

    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    files = {ref: dict(tree) for ref, tree in reader.files.items()}
    registry: dict[str, list[object]] = {}
    disks = list(reader.disks)
    for change in changes:
        if isinstance(change, SetActive):
            table = disks[change.disk].table
            parts = tuple(dataclasses.replace(p, active=p.number == change.partition) for p in table.partitions)
            table = dataclasses.replace(table, partitions=parts)
            disks[change.disk] = dataclasses.replace(disks[change.disk], table=table)
        elif isinstance(change, SetPartitionType):
            table = disks[change.disk].table
            parts = tuple(dataclasses.replace(p, type=change.type) if p.number == change.partition else p for p in table.partitions)
            disks[change.disk] = dataclasses.replace(disks[change.disk], table=dataclasses.replace(table, partitions=parts))
        elif isinstance(change, WriteFile):
            stat = reader.stat(change.volume, change.path)
            files[change.volume][stat.path if stat is not None else change.path] = change.data
        else:
            registry.setdefault(change.hive, []).append(change.edit())  # type: ignore[attr-defined]
    for name, edits in registry.items():
        where = guest.hive_file(name)
        assert where is not None
        with tempfile.TemporaryDirectory() as work:
            copy = Path(work) / name
            copy.write_bytes(guest.hive_bytes(name))
            edit_hive(copy, edits)  # type: ignore[arg-type]
            files[where.volume][where.path] = copy.read_bytes()
    return Guest(MemoryReader(disks, files, reader.states, reader.unreadable, reader.raw))


def mbr_letter(partition: Partition, disk: int = 0) -> bytes:
    """What MountedDevices holds for a letter on an MBR disk that make_disk made."""
    return struct.pack("<IQ", SIGNATURE + disk, partition.start)


def gpt_letter(partition: Partition) -> bytes:
    """What MountedDevices holds for a letter on a GPT disk."""
    assert partition.guid is not None
    return b"DMIO:ID:" + uuid.UUID(partition.guid).bytes_le


__all__ = ["MemoryReader", "apply_changes", "driver", "gpt_letter", "make_disk", "mbr_letter", "sys_files", "windows_guest"]
