"""Where a guest starts from: its firmware mode, and the volume that holds its boot manager and BCD, by what is on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

from h2k.base.errors import BadData
from h2k.disk.reader import Disk, Reader, Volume, VolumeRef
from h2k.windows import bcd, regf

ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
MANAGER = {"uefi": "/EFI/Microsoft/Boot/bootmgfw.efi", "bios": "/bootmgr"}
STORE = {"uefi": "/EFI/Microsoft/Boot/BCD", "bios": "/Boot/BCD"}
STORE_LIMIT = 64 * 1024 * 1024  # bytes; real stores have 32 KiB to 1 MiB
FALLBACK = {"amd64": "/EFI/BOOT/BOOTX64.EFI", "x86": "/EFI/BOOT/BOOTIA32.EFI", "arm64": "/EFI/BOOT/BOOTAA64.EFI"}
LAST_PRIMARY = 4  # BIOS boot code starts a partition of the MBR's own four entries


@dataclasses.dataclass(frozen=True)
class BootPlace:
    """`volume` is where the boot files are, or where the firmware would look for them; `reached` is false when BIOS
    would not start it, for another partition or none is active. `candidates` are all volumes with a boot manager and
    a BCD, `fitting` those of them whose default entry starts this Windows beyond doubt."""

    firmware: str
    volume: Optional[Volume]
    reached: bool
    candidates: tuple[Volume, ...]
    fitting: tuple[Volume, ...]

    @property
    def ambiguous(self) -> bool:
        """Whether several disks could boot, and what is on them does not tell which."""
        return len({v.ref.disk for v in self.candidates}) > 1 and len({v.ref.disk for v in self.fitting}) != 1


def find_boot_place(reader: Reader, windows: VolumeRef) -> BootPlace:
    """The boot place of the Windows on that volume; nothing is written, and a bad store counts as no answer."""
    scheme = reader.disks[windows.disk].table.scheme
    efi, primary = efi_partitions(reader.disks), _primary_partitions(reader.disks)
    if scheme == "gpt" and not _complete(reader, efi, "uefi"):
        # OVMF starts a loader on any FAT volume, whatever its type says.
        efi += [v for d in reader.disks for v in _complete(reader, [v for v in d.volumes if v.kind == "fat"], "uefi") if v not in efi]
    firmware = "uefi" if scheme == "gpt" else "bios"
    if firmware == "uefi" and not efi and _complete(reader, primary, "bios"):
        firmware = "bios"  # a GPT data disk with Windows behind an MBR boot disk
    elif firmware == "bios" and _complete(reader, efi, "uefi") and not _complete(reader, primary, "bios"):
        firmware = "uefi"
    places = efi if firmware == "uefi" else primary
    candidates = _complete(reader, places, firmware)
    fitting = tuple(v for v in candidates if _starts(reader, v, firmware, windows))

    def rank(volume: Volume) -> tuple[int, ...]:
        files = sum(_is_file(reader, volume, path[firmware]) for path in (MANAGER, STORE))
        return (volume not in fitting, -files, not _active(reader, volume), volume.ref.disk != windows.disk)

    reachable = [v for v in places if firmware == "uefi" or _active(reader, v)]
    best = min([*reachable, *candidates], key=rank, default=None)
    return BootPlace(firmware, best, best in reachable, candidates, fitting)


def efi_partitions(disks: Sequence[Disk]) -> list[Volume]:
    """The FAT volumes whose partition type says EFI system partition, on GPT or MBR."""
    return [v for d in disks for v in d.volumes if v.kind == "fat" and _type(d, v).upper() in (ESP_TYPE, "0XEF")]


def _type(disk: Disk, volume: Volume) -> str:
    return next((p.type for p in disk.table.partitions if p.number == volume.ref.partition), "")


def _primary_partitions(disks: Sequence[Disk]) -> list[Volume]:
    return [
        v
        for d in disks
        if d.table.scheme == "mbr"
        for v in d.volumes
        if v.kind in ("ntfs", "fat") and 1 <= v.ref.partition <= LAST_PRIMARY
    ]


def _complete(reader: Reader, places: Sequence[Volume], firmware: str) -> tuple[Volume, ...]:
    """Those that hold both the boot manager and the BCD."""
    return tuple(v for v in places if all(_is_file(reader, v, p[firmware]) for p in (MANAGER, STORE)))


def _is_file(reader: Reader, volume: Volume, path: str) -> bool:
    try:
        stat = reader.stat(volume.ref, path)
    except BadData:  # a file system that can't be read boots nothing
        return False
    return stat is not None and not stat.directory


def _active(reader: Reader, volume: Volume) -> bool:
    """Whether BIOS starts it: two active partitions are an "Invalid partition table" to Microsoft's boot code."""
    partitions = reader.disks[volume.ref.disk].table.partitions
    return [p.number for p in partitions if p.active] == [volume.ref.partition]


def _starts(reader: Reader, volume: Volume, firmware: str, windows: VolumeRef) -> bool:
    """Whether the default loader of this volume's store names the partition of that Windows."""
    return started_from(reader, volume, firmware) == windows


def started_from(reader: Reader, volume: Volume, firmware: str) -> Optional[VolumeRef]:
    """The volume of the Windows that the default loader of this volume's store starts, None where it does not tell."""
    try:
        hive = regf.Hive.parse(reader.read(volume.ref, STORE[firmware], STORE_LIMIT), "BCD")
        loader = bcd.read_bcd(hive).default_loader()
    except BadData:
        return None
    device = loader.os_device or loader.device if loader is not None else None
    return resolve(reader.disks, device) if device is not None and device.kind == "partition" else None


def resolve(disks: Sequence[Disk], device: bcd.BcdDevice) -> Optional[VolumeRef]:
    """The volume that a partition device element names, or None when it is on none of these disks."""
    known = [
        (d.index, d.table.scheme, d.table.id, [(p.number, p.start, p.guid) for p in d.table.partitions]) for d in disks
    ]
    found = bcd.resolve(device, known)
    return VolumeRef(*found) if found is not None else None


def bcdboot(firmware: str) -> str:
    """What the owner runs where Microsoft's own tool is needed, for "uefi" or "bios"."""
    letters = "with C: for the Windows volume and S: for the boot partition"
    command = rf"bcdboot C:\Windows /s S: /f {firmware.upper()}"
    return f"start Windows' setup media, Shift+F10, and run: {command} ({letters})"
