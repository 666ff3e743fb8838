"""Volumes that must not be touched: encrypted, hibernated or dirty ones, and disks that can't be told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.disk.reader import VolumeRef
from h2k.engine.hooks import Options, Proposed
from h2k.guest.guest import Guest, device

META = {
    "name": "volumes",
    "summary": "Refuses encrypted, hibernated and dirty volumes before anything is written",
    "gate": True,
    "answers": [
        "volume-encrypted",
        "volume-hibernated",
        "volume-dirty",
        "volume-log-unclean",
        "file-unreadable",
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
        yield from _ntfs(guest, volume.ref, options)
    roots = guest.system_roots
    if len(roots) > 1:
        places = ", ".join(device(ref) for ref, _ in roots)
        repair = "give the disks of one system only, or choose with --root /dev/sdXN"
        yield Finding("boot-disk-ambiguous", "refused", places, "several Windows systems", repair)
    yield from _duplicates(guest)


def _ntfs(guest: Guest, ref: VolumeRef, options: Options) -> Iterator[Finding]:
    try:
        hibernation = guest.reader.stat(ref, "/hiberfil.sys")
        magic = guest.reader.head(ref, "/hiberfil.sys", 4) if hibernation is not None and hibernation.size >= 4 else b""
        state = guest.reader.ntfs_state(ref)
    except BadData as bad:
        needed = _needed(guest, ref)
        repair = "run chkdsk /f on the source" if needed else "Windows does not start from it; run chkdsk /f on the source"
        yield Finding("file-unreadable", "refused" if needed else "warning", _name(ref), bad.message, repair)
        return
    if magic in HIBERNATED:
        evidence = f"hiberfil.sys begins with {magic.decode('ascii')}"
        yield Finding("volume-hibernated", "refused", _name(ref), evidence, SHUT_DOWN)
    if state.dirty:
        yield _dirty(guest, ref)
    elif state.log_unclean:
        yield Finding(
            "volume-log-unclean",
            "refused" if options.policy.log_unclean == "refuse" else "warning",
            _name(ref),
            "open transactions in $LogFile, which ntfs-3g (and so virt-v2v) clears instead of replaying",
            SHUT_DOWN,
        )


def _dirty(guest: Guest, ref: VolumeRef) -> Finding:
    evidence = "the NTFS dirty flag is set: Windows wants chkdsk"
    if _needed(guest, ref):
        repair = f"{SHUT_DOWN}; or go on with --h2k-accept volume-dirty"
        return Finding("volume-dirty", "refused", _name(ref), evidence, repair)
    return Finding("volume-dirty", "warning", _name(ref), evidence, "nothing is written to it; Windows checks it at its start")


def _needed(guest: Guest, ref: VolumeRef) -> bool:
    """Whether the volume is one that Windows starts from, and that virt-v2v and h2k write to."""
    if len(guest.system_roots) != 1:
        return True
    boot = guest.boot_volume
    return ref == guest.volume or (boot is not None and ref == boot.ref)


def _duplicates(guest: Guest) -> Iterator[Finding]:
    disks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for disk in guest.disks:
        # A disk that nobody has initialised has the signature 0, and Windows gives it one.
        if disk.table.scheme != "none" and disk.table.id.strip("0x-"):
            disks[disk.table.scheme, disk.table.id.lower()].append(disk.index)
    for (scheme, name), indexes in disks.items():
        if len(indexes) > 1:
            what = "MBR signature" if scheme == "mbr" else "GPT disk GUID"
            yield Finding(
                "disk-signature-duplicate",
                "warning",
                ", ".join(f"disk {i}" for i in indexes),
                f"{what} {name} on each: Windows takes all but one offline",
                "give the copies new ones (diskpart: uniqueid disk)",
            )


def _name(ref: VolumeRef) -> str:
    return f"disk {ref.disk} partition {ref.partition}"
