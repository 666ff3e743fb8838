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
from h2k.windows.services import control_set_name
from h2k.windows.values import dword

META = {
    "name": "disks",
    "summary": "Keeps data disks online through the change of their bus, and checks the drive letters",
    "answers": ["disks-offline-policy", "drive-letter-unresolved", "cluster-member", "page-file-misplaced"],
}

MAX_LETTERS = 1024


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    yield from _san_policy(guest, options)
    yield from _letters(guest)
    yield from _page_files(guest)


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


def _page_files(guest: Guest) -> Iterator[Finding]:
    """Page files on a drive that will not be there: Azure's temporary disk, D:, is none of the guest's own."""
    key = f"{control_set_name(guest.control_sets.default)}\\Control\\Session Manager\\Memory Management"
    drives = _drives(guest)
    for entry in guest.system.multi(key, "PagingFiles", ())[:MAX_LETTERS]:
        letter = entry.strip()[:2].upper()
        own = letter == guest.hive("SOFTWARE").text("Microsoft\\Windows NT\\CurrentVersion", "SystemRoot", "C:")[:2].upper()
        if letter[1:] == ":" and letter[0].isalpha() and not own and drives and not drives.get(letter, False):
            evidence = f"the page file {entry.strip()[:80]!r} lies on {letter}, which is on none of these disks"
            repair = "Windows makes a small one on C:; set it there on the source, or afterwards"
            yield Finding("page-file-misplaced", "warning", f"SYSTEM\\{key} PagingFiles", evidence, repair)


def _drives(guest: Guest) -> dict[str, bool]:
    """Each drive letter of MountedDevices, and whether it is on these disks, or nothing that h2k could tell."""
    key = guest.system.key("MountedDevices")
    letters = {}
    for value in (key.values() if key is not None else ())[:MAX_LETTERS]:
        letter = value.name.rpartition("\\")[2].upper()
        if value.name.lower().startswith("\\dosdevices\\") and len(letter) == 2:
            letters[letter] = _unresolved(guest, value.raw) is None
    return letters
