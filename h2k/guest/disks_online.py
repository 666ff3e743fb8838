"""Which disks the first boot may bring online: this guest's own that were online before, each by what tells it apart."""

from __future__ import annotations

import struct
import uuid
from typing import Optional

from h2k.disk.reader import Disk
from h2k.guest.guest import Guest
from h2k.windows.regf import Hive
from h2k.windows.services import control_set_name

BUSES = ("SCSI", "IDE", "STORAGE", "XENVBD", "PCISTOR")
MAX_INSTANCES = 1024
# DISK_ATTRIBUTE_OFFLINE (1) and _READ_ONLY (2) of winioctl.h, as partmgr keeps them for each disk that it has met.
KEPT_BACK = 0x3
# PartitionTableCache is a DRIVE_LAYOUT_INFORMATION_EX: style and count (DWORDs), then the signature or the GUID.
MBR, GPT = 0, 1


def identity(disk: Disk) -> Optional[str]:
    """How diskpart's `uniqueid disk` shows a disk: "1234abcd" (MBR signature) or "{GUID}"; None for one without."""
    if disk.table.scheme == "mbr":
        signature = int(disk.table.id, 16)
        return f"{signature:08x}" if signature else None
    return f"{{{disk.table.id.lower()}}}" if disk.table.scheme == "gpt" else None


def to_bring_online(guest: Guest) -> tuple[str, ...]:
    """The identities of the guest's disks that are to be online. None at all where two disks are alike, for Windows
    would give one of them a new signature when both come online; and none that the owner kept offline or read-only."""
    ids = [found for disk in guest.disks if (found := identity(disk)) is not None]
    if len(set(ids)) < len(ids):
        return ()
    kept = kept_back(guest)
    return tuple(found for found in ids if found not in kept)


def kept_back(guest: Guest) -> tuple[str, ...]:
    """The identities of the guest's disks that the owner kept offline or read-only."""
    noted = _kept_back(guest.system, control_set_name(guest.control_sets.default))
    return tuple(found for disk in guest.disks if (found := identity(disk)) in noted and found is not None)


def _kept_back(system: Hive, base: str) -> set[str]:
    """The disks that Windows was told to keep offline or read-only, where it noted which they are (8 and later)."""
    found = set()
    for bus in BUSES:
        enumerator = system.key(f"{base}\\Enum\\{bus}")
        instances = [i for d in (enumerator.subkeys() if enumerator is not None else ()) for i in d.subkeys()]
        for instance in instances[:MAX_INSTANCES]:
            place = f"{base}\\Enum\\{bus}\\{instance.path.rsplit(chr(92), 2)[-2]}\\{instance.name}\\Device Parameters\\Partmgr"
            if (system.dword(place, "Attributes", 0) & KEPT_BACK) and (which := _which(system.raw(place, "PartitionTableCache"))):
                found.add(which)
    return found


def _which(cache: bytes) -> Optional[str]:
    if len(cache) < 24:
        return None
    (style,) = struct.unpack_from("<I", cache)
    if style == MBR:
        return f"{struct.unpack_from('<I', cache, 8)[0]:08x}"
    return f"{{{uuid.UUID(bytes_le=cache[8:24])}}}" if style == GPT else None
