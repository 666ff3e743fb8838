"""The same disks and letters as on the source: no SAN policy takes data disks offline when their bus changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Optional

from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import SetValue
from h2k.guest.driver_repairs import moving
from h2k.guest.guest import Guest
from h2k.guest.san_policy import ONLINE, cluster_member, offline_sets, policy_key, shown
from h2k.windows.values import dword

META = {
    "name": "disks",
    "summary": "Keeps data disks online through the change of their bus, and checks the drive letters",
    "answers": ["disks-offline-policy", "drive-letter-unresolved", "cluster-member"],
}

MAX_LETTERS = 1024


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    yield from _san_policy(guest, options)
    yield from _letters(guest)


def _san_policy(guest: Guest, options: Options) -> Iterator[Proposed]:
    member = cluster_member(guest)
    if member is not None:
        evidence = "a node of a failover cluster: its disks may be shared, and must not all come online"
        repair = "no SAN policy is changed; take the node out of the cluster, or move the whole cluster"
        yield Finding("cluster-member", "warning", member, evidence, repair)
        return
    for number, policy in offline_sets(guest) if moving(guest, options.plan, options.bus) else ():
        subject = f"{policy_key(number)} SanPolicy"
        evidence = f"{shown(policy)}: {len(guest.disks) - 1} data disks would come up offline on their new bus"
        if options.policy.san == "keep":
            yield Finding("disks-offline-policy", "warning", subject, evidence, "kept, as the policy says")
            continue
        repair = "1, online all; first boot brings them online and restores it"
        yield Finding("disks-offline-policy", "broken", subject, evidence, repair)
        yield SetValue("SYSTEM", policy_key(number), "SanPolicy", dword(ONLINE))


def _letters(guest: Guest) -> Iterator[Finding]:
    """MountedDevices: an MBR signature with an offset, or a GPT partition's GUID; both stay with the disk."""
    key = guest.system.key("MountedDevices")
    for value in (key.values() if key is not None else ())[:MAX_LETTERS]:
        letter = value.name.rpartition("\\")[2]
        if not value.name.lower().startswith("\\dosdevices\\") or len(letter) != 2 or letter[1] != ":":
            continue
        missing = _unresolved(guest, value.raw)
        if missing is not None:
            repair = "a removed disk or a dynamic volume needs nothing; else give h2k all disks of the guest"
            yield Finding("drive-letter-unresolved", "warning", letter, missing, repair)


def _unresolved(guest: Guest, raw: bytes) -> Optional[str]:
    """What the letter names and none of the disks has; None when it resolves, or names no partition (a CD-ROM)."""
    if len(raw) == 12:
        signature, start = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
        for disk in guest.disks:
            ours = disk.table.scheme == "mbr" and int(disk.table.id, 16) == signature
            if ours and any(p.start == start for p in disk.table.partitions):
                return None
        return f"no partition at {start} on a disk with signature {signature:#010x}"
    if len(raw) == 24 and raw[:8] == b"DMIO:ID:":
        guid = str(uuid.UUID(bytes_le=raw[8:])).upper()
        for disk in guest.disks:
            if any((p.guid or "").upper() == guid for p in disk.table.partitions):
                return None
        return f"no partition with the GUID {guid}"
    return None
