"""Volumes that must not be touched: encrypted, hibernated or dirty ones, and disks that can't be told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.disk.reader import VolumeRef
from h2k.engine.hooks import Options, Proposed
from h2k.guest.boot_files import started_from
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
        "disk-dynamic",
        "disk-signature-duplicate",
        "disk-table-damaged",
        "system-files-compressed",
    ],
}

# What hiberfil.sys begins with while the volume's caches live in it (ntfs-3g knows the first; Windows 8+ writes RSTR).
HIBERNATED = (b"HIBR", b"hibr", b"RSTR", b"rstr")
# Programs that show whether CompactOS is on; virt-v2v asks the first two for the architecture, h2k the kernel.
NEEDED = ("cmd.exe", "ntoskrnl.exe")
PROGRAMS = ("System32/cmd.exe", "System32/ntoskrnl.exe", "explorer.exe", "System32/notepad.exe", "System32/services.exe")
SHUT_DOWN = "boot the source once and shut it down with: shutdown /s /t 0 (fast startup off)"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    for disk in guest.disks:
        if disk.table.fault:
            repair = "Windows does not start from it, and finds it as it is; see it in Disk Management"
            yield Finding("disk-table-damaged", "warning", f"disk {disk.index}", disk.table.fault, repair)
    yield from _managed(guest)
    for volume in guest.volumes("bitlocker"):
        yield _encrypted(guest, volume.ref, options)
    for volume in guest.volumes("ntfs"):
        yield from _ntfs(guest, volume.ref, options)
    roots = guest.system_roots
    if len(roots) == 1:
        yield from _compressed(guest)
    if len(roots) > 1 and not guest.managed_disks:  # halves of one mirror are no two systems
        places = ", ".join(device(ref) for ref, _ in roots)
        repair = "give the disks of one system only, or choose with --h2k-root /dev/sdXN"
        yield Finding("boot-disk-ambiguous", "refused", places, "several Windows systems", repair)
    yield from _duplicates(guest)


def _managed(guest: Guest) -> Iterator[Finding]:
    """Dynamic disks and pools: nobody but Windows knows which part of a volume lies where, or how many copies there are."""
    windows = {ref.disk for ref, _ in guest.system_roots}
    if len(guest.system_roots) == 1:
        windows.add(guest.boot_disk)
    for index, manager in guest.managed_disks.items():
        what = "a dynamic disk (LDM)" if manager == "LDM" else "part of a Storage Spaces pool"
        if windows and index not in windows:
            repair = "Windows does not start from it: give h2k and the new machine all disks of its volumes"
            yield Finding("disk-dynamic", "warning", f"disk {index}", what, repair)
            continue
        repair = "convert it to a basic disk on the source (with a backup), or move Windows to one"
        evidence = f"{what}: its volumes may span, stripe or mirror disks, and a write would reach one part alone"
        yield Finding("disk-dynamic", "refused", f"disk {index}", evidence, repair)


def _encrypted(guest: Guest, ref: VolumeRef, options: Options) -> Finding:
    evidence = "BitLocker signature in the boot sector"
    boot = guest.boot_volume if len(guest.system_roots) == 1 else None
    if not guest.is_windows or (boot is not None and started_from(guest.reader, boot, guest.firmware) == ref):
        repair = "decrypt it on the source (manage-bde -off), for a key sealed in a vTPM does not move"
        return Finding("volume-encrypted", "refused", _name(ref), evidence, repair)
    if options.phase == "source" and not options.keys:
        evidence += "; Windows does not start from it, but virt-v2v asks for its key and stops without one"
        repair = "give virt-v2v --key DEVICE:key:RECOVERY-KEY, or leave this disk out and attach it afterwards"
        return Finding("volume-encrypted", "refused", _name(ref), evidence, repair)
    repair = "Windows does not start from it, and nothing is written to it; have its recovery key at hand"
    return Finding("volume-encrypted", "warning", _name(ref), evidence, repair)


def _compressed(guest: Guest) -> Iterator[Finding]:
    """CompactOS keeps programs in a form (WOF) that neither virt-v2v's tools nor h2k's can read."""
    compressed = [path for path in map(f"{guest.system_root}/{{}}".format, PROGRAMS) if _is_wof(guest, path)]
    needed = [path for path in compressed if path.rpartition("/")[2] in NEEDED]
    if needed:
        yield Finding(
            "system-files-compressed",
            "refused",
            ", ".join(needed),
            "WOF-compressed, as CompactOS keeps them: virt-v2v and h2k can't read what they need of Windows",
            "on the source: compact.exe /CompactOS:never, then restart it once",
        )
    elif compressed:
        evidence = f"{len(compressed)} of {len(PROGRAMS)} programs that were looked at are WOF-compressed"
        repair = "nothing of them is needed here, and Windows reads them"
        yield Finding("system-files-compressed", "warning", ", ".join(compressed), evidence, repair)


def _is_wof(guest: Guest, path: str) -> bool:
    stat = guest.stat(path)
    return stat is not None and not stat.readable and "WOF" in stat.why


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
        if _needed(guest, ref):
            yield Finding("volume-hibernated", "refused", _name(ref), evidence, SHUT_DOWN)
        else:
            repair = "Windows does not start from it, and nothing is written to it: an old system disk, perhaps"
            yield Finding("volume-hibernated", "warning", _name(ref), evidence, repair)
    if state.dirty:
        yield _dirty(guest, ref)
    elif state.log_unclean:
        yield Finding(
            "volume-log-unclean",
            "refused" if options.policy.log_unclean == "refuse" and _needed(guest, ref) else "warning",
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
