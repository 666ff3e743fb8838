"""Volumes that must not be touched: encrypted, hibernated or dirty ones, and disks that can't be told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from h2k.disk.reader import VolumeRef
from h2k.finding import Finding
from h2k.guest import Guest
from h2k.hook import Options, Proposed

META = {
    "name": "volumes",
    "summary": "Refuses encrypted, hibernated and dirty volumes before anything is written",
    "gate": True,
    "answers": [
        "volume-encrypted",
        "volume-hibernated",
        "volume-dirty",
        "volume-log-unclean",
        "boot-disk-ambiguous",
        "disk-signature-duplicate",
    ],
}

# What hiberfil.sys begins with while the volume's caches live in it (ntfs-3g knows the first; Windows 8+ writes RSTR).
HIBERNATED = (b"HIBR", b"hibr", b"RSTR", b"rstr")
SHUT_DOWN = "boot the source once and shut it down with: shutdown /s /t 0 (fast startup off)"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    for volume in guest.volumes("bitlocker"):
        yield Finding(
            "volume-encrypted",
            "refused",
            _name(volume.ref),
            "BitLocker signature in the boot sector",
            "decrypt it on the source (manage-bde -off), for a key sealed in a vTPM does not move",
        )
    for volume in guest.volumes("ntfs"):
        yield from _ntfs(guest, volume.ref)
    roots = guest.system_roots
    if len(roots) > 1:
        places = ", ".join(_name(ref) for ref, _ in roots)
        yield Finding(
            "boot-disk-ambiguous", "refused", places, "several Windows systems", "give the disks of one system only"
        )
    yield from _duplicate_signatures(guest)


def _ntfs(guest: Guest, ref: VolumeRef) -> Iterator[Finding]:
    hibernation = guest.reader.stat(ref, "/hiberfil.sys")
    if hibernation is not None and hibernation.size >= 4:
        magic = guest.reader.head(ref, "/hiberfil.sys", 4)
        if magic in HIBERNATED:
            evidence = f"hiberfil.sys begins with {magic.decode('ascii')}"
            yield Finding("volume-hibernated", "refused", _name(ref), evidence, SHUT_DOWN)
    state = guest.reader.ntfs_state(ref)
    if state.dirty:
        yield Finding(
            "volume-dirty",
            "refused",
            _name(ref),
            "the NTFS dirty flag is set: Windows wants chkdsk",
            f"{SHUT_DOWN}; or go on with --h2k-accept volume-dirty",
        )
    elif state.log_unclean:
        yield Finding(
            "volume-log-unclean",
            "warning",
            _name(ref),
            "open transactions in $LogFile, which ntfs-3g clears instead of replaying",
            SHUT_DOWN,
        )


def _duplicate_signatures(guest: Guest) -> Iterator[Finding]:
    disks: dict[str, list[int]] = defaultdict(list)
    for disk in guest.disks:
        if disk.table.scheme == "mbr":
            disks[disk.table.id].append(disk.index)
    for signature, indexes in disks.items():
        if len(indexes) > 1:
            names = ", ".join(f"disk {i}" for i in indexes)
            yield Finding(
                "disk-signature-duplicate",
                "warning",
                names,
                f"MBR signature {signature} on each: Windows takes all but one offline",
                "give the copies new signatures (diskpart: uniqueid disk)",
            )


def _name(ref: VolumeRef) -> str:
    return f"disk {ref.disk} partition {ref.partition}"
