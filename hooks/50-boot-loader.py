"""The boot loader's chain: active partition, boot manager, BCD, default entry, its devices, the loader's file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.base.errors import BadData
from h2k.base.finding import Finding
from h2k.disk.reader import Volume, VolumeRef
from h2k.engine.hooks import Options, Proposed
from h2k.guest.boot_files import ESP_TYPE, FALLBACK, MANAGER, STORE, bcdboot, efi_partitions, resolve
from h2k.guest.changes import Change, SetActive, SetPartitionType, SetValue, WriteFile
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.windows import bcd
from h2k.windows.signature import read_signatures
from h2k.windows.values import binary, multi, text

META = {
    "name": "boot-loader",
    "summary": "Follows firmware, boot manager and BCD to the loader's file; repairs what has exactly one answer",
    "answers": [
        "boot-manager-missing",
        "boot-partition-inactive",
        "uefi-fallback-missing",
        "bcd-missing",
        "bcd-corrupt",
        "bcd-default-missing",
        "bcd-device-unresolved",
        "bcd-loader-missing",
        "esp-type-wrong",
        "file-unreadable",
        "safe-mode-set",
        "boot-sequence-set",
        "serial-port-taken",
    ],
}

BACKUP = ".h2k-backup"
SAFE_MODES = {0: "minimal", 1: "network", 2: "dsrepair"}
MAX_NAMED = 4  # entries of a one-time boot sequence that the finding names
MAX_DESCRIPTION = 80  # characters of an entry's name


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return  # the hives hook has said that virt-v2v's result is left as it is
    place = guest.boot_place
    if place.volume is None:
        yield _nowhere(guest)
        return
    if not place.reached:
        yield from _activate(guest, place.volume.ref)
    if guest.firmware == "uefi" and place.volume not in efi_partitions(guest.disks):
        yield from _esp_type(guest, place.volume)
    yield from _boot_manager(guest, place.volume.ref)
    yield from _store(guest, place.volume.ref)


def _nowhere(guest: Guest) -> Finding:
    """No volume that this firmware would start, and none that it could."""
    disk = f"disk {guest.volume.disk}"
    if guest.firmware == "uefi":
        evidence = "a GPT disk, and no EFI system partition on any disk"
        return Finding("boot-manager-missing", "refused", disk, evidence, bcdboot("uefi"))
    active = [f"partition {p.number}" for d in guest.disks for p in d.table.partitions if p.active]
    evidence = f"active: {', '.join(active) or 'none'}; no primary partition holds bootmgr and \\Boot\\BCD"
    return Finding("boot-partition-inactive", "refused", disk, evidence, bcdboot("bios"))


def _activate(guest: Guest, ref: VolumeRef) -> Iterator[Proposed]:
    """BIOS: the boot files are on a partition that is not active."""
    table = guest.disks[ref.disk].table
    active = ", ".join(str(p.number) for p in table.partitions if p.active) or "none"
    evidence = f"active: {active}; bootmgr and \\Boot\\BCD are on partition {ref.partition}"
    fitting = [v for v in guest.boot_place.candidates if v.ref.disk == ref.disk]
    if len(fitting) > 1:
        numbers = ", ".join(str(v.ref.partition) for v in fitting)
        evidence = f"active: {active}; bootmgr and \\Boot\\BCD are on each of the partitions {numbers}"
        repair = "mark the right one active (diskpart: select partition N, active)"
        yield Finding("boot-partition-inactive", "refused", f"disk {ref.disk}", evidence, repair)
        return
    repair = f"partition {ref.partition} active"
    yield Finding("boot-partition-inactive", "broken", f"disk {ref.disk}", evidence, repair)
    yield SetActive(ref.disk, ref.partition)


def _esp_type(guest: Guest, volume: Volume) -> Iterator[Proposed]:
    """UEFI: the boot files are on a partition of another type. OVMF starts it all the same, other firmware may not."""
    evidence = "it has the boot manager and the BCD, and its type is not that of an EFI system partition"
    if len(guest.boot_place.candidates) > 1 or efi_partitions([guest.disks[volume.ref.disk]]):
        repair = "the right one gets it by diskpart: set id=c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
        yield Finding("esp-type-wrong", "warning", _shown(volume.ref), evidence, repair)
        return
    yield Finding("esp-type-wrong", "broken", _shown(volume.ref), evidence, "the type of an EFI system partition")
    yield SetPartitionType(volume.ref.disk, volume.ref.partition, ESP_TYPE)


# The boot manager


def _boot_manager(guest: Guest, ref: VolumeRef) -> Iterator[Proposed]:
    path = MANAGER[guest.firmware]
    manager = guest.reader.stat(ref, path)
    if manager is None or manager.size == 0:
        evidence = "missing" if manager is None else "empty"
        if guest.firmware == "bios" and guest.reader.stat(ref, "/ntldr") is not None:
            evidence += "; ntldr of Windows XP or 2003 is there"
        yield Finding("boot-manager-missing", "refused", path, evidence, bcdboot(guest.firmware))
    elif not manager.readable:
        yield Finding("file-unreadable", "refused", path, manager.why, "uncompress it on the source: compact /u")
    elif guest.firmware == "uefi":
        yield from _fallback(guest, ref, path)


def _fallback(guest: Guest, ref: VolumeRef, path: str) -> Iterator[Proposed]:
    """Firmware variables do not travel with a disk, so the firmware looks at the fallback path."""
    facts, why = guest.pe(path, ref)
    if facts is None:
        yield Finding("boot-manager-missing", "refused", path, why, bcdboot("uefi"))
        return
    fallback = FALLBACK.get(facts.machine, FALLBACK["amd64"])
    data = guest.reader.read(ref, path, FILE_LIMIT)
    there = guest.reader.stat(ref, fallback)
    if there is not None and there.readable and there.size == len(data) and guest.reader.read(ref, fallback, FILE_LIMIT) == data:
        return
    other, why = guest.pe(fallback, ref)
    if other is not None and other.machine == facts.machine:
        evidence = f"it is another loader than {path}, whole, and what the firmware starts without its variables: {_signer(guest, ref, fallback)}"
        repair = "left as it is; where it does not lead to Windows, copy the boot manager there by hand"
        yield Finding("uefi-fallback-missing", "warning", fallback, evidence, repair)
    else:
        evidence = f"is for {other.machine}" if other is not None else why
        yield Finding(
            "uefi-fallback-missing",
            "broken",
            fallback,
            f"{evidence}; firmware variables do not travel with a disk, so the firmware will look here",
            f"copy {path} there",
        )
        yield WriteFile(ref, fallback, data, f"the guest's own {path}")


def _signer(guest: Guest, ref: VolumeRef, path: str) -> str:
    try:
        found = read_signatures(guest.reader.read(ref, path, FILE_LIMIT), path)
    except BadData:
        found = ()
    return f"signed by {found[0].signer}" if found else "not signed"


# The BCD store


def _store(guest: Guest, ref: VolumeRef) -> Iterator[Proposed]:
    where = STORE[guest.firmware]
    if not guest.has_hive("BCD"):
        evidence = f"no store where the firmware looks, on {_shown(ref)}"
        yield Finding("bcd-missing", "refused", where, evidence, bcdboot(guest.firmware))
        return
    try:
        store = bcd.read_bcd(guest.hive("BCD"))
        todo = list(_entries(guest, ref, store))
    except BadData as bad:
        yield Finding("bcd-corrupt", "refused", where, bad.message, bcdboot(guest.firmware))
        return
    if any(not isinstance(item, Finding) for item in todo):
        yield from _in_guest_backup(guest, ref)
    yield from todo


def _in_guest_backup(guest: Guest, ref: VolumeRef) -> Iterator[Change]:
    """The store as it was, beside itself; one that an earlier repair left is the older, and stays."""
    where = guest.hive_file("BCD")
    if where is not None and guest.reader.stat(ref, where.path + BACKUP) is None:
        yield WriteFile(ref, where.path + BACKUP, guest.hive_bytes("BCD"), "the store before its repair")


def _entries(guest: Guest, ref: VolumeRef, store: bcd.BcdStore) -> Iterator[Proposed]:
    yield from _device(guest, store.boot_manager.id, bcd.APPLICATION_DEVICE, store.boot_manager.device, ref)
    loader = store.default_loader()
    if loader is None:
        loader = _only_loader(guest, store)
        yield from _default(guest, store, loader)
        if loader is None:
            return
    yield from _loader(guest, loader)
    yield from _sequence(store, loader)
    yield from _modes(loader)


def _sequence(store: bcd.BcdStore, loader: bcd.BcdObject) -> Iterator[Finding]:
    """The next boot starts the first entry of a one-time sequence; the others are for when that fails or ends."""
    if not store.boot_sequence or store.boot_sequence[0].id == loader.id:
        return
    named = [_entry(entry) for entry in store.boot_sequence[:MAX_NAMED]]
    if len(store.boot_sequence) > MAX_NAMED:
        named.append(f"{len(store.boot_sequence) - MAX_NAMED} more")
    evidence = f"bootsequence {', then '.join(named)}: the next boot starts it, once, instead of {_entry(loader)}"
    repair = "bcdedit /deletevalue {bootmgr} bootsequence"
    yield Finding("boot-sequence-set", "warning", f"BCD {store.boot_manager.id}", evidence, repair)


def _entry(entry: bcd.BcdObject) -> str:
    """What the boot menu calls an entry, else its id."""
    name = " ".join(entry.description[:MAX_DESCRIPTION].split())
    return f'"{name}" {entry.id}' if name else entry.id


def _modes(loader: bcd.BcdObject) -> Iterator[Finding]:
    """What the loader is told that changes how the first boots go."""
    safe = loader.number(bcd.SAFE_BOOT)
    if safe is not None:
        evidence = f"safeboot {SAFE_MODES.get(safe, safe)}: Windows starts in safe mode, where no first-boot step runs"
        yield Finding("safe-mode-set", "warning", f"BCD {loader.id}", evidence, "bcdedit /deletevalue {default} safeboot")
    for user in _com1_users(loader):
        evidence = f"{user} has COM1, so no first-boot step can tell over it how far it is"
        yield Finding("serial-port-taken", "warning", f"BCD {loader.id}", evidence, "the boots go by the disks and the guest agent")


def _com1_users(loader: bcd.BcdObject) -> Iterator[str]:
    """Emergency management services and debugger, if they are on and on COM1; both default to it.

    A boot debugger counts: unlike bootems no store has it on by itself, and who sets it has a debugger at the port.
    """
    if loader.number(bcd.KERNEL_EMS) and (loader.number(bcd.EMS_PORT) or 1) == 1:
        yield "the console of the emergency management services (EMS)"
    debug = loader.number(bcd.KERNEL_DEBUG) or loader.number(bcd.BOOT_DEBUG)
    if debug and not loader.number(bcd.DEBUG_TYPE) and (loader.number(bcd.DEBUG_PORT) or 1) == 1:
        yield "the kernel debugger"


def _default(guest: Guest, store: bcd.BcdStore, only: Optional[bcd.BcdObject]) -> Iterator[Proposed]:
    """The default entry is none of the Windows loaders."""
    first = store.default or (store.display_order[0] if store.display_order else "")
    if first and guest.hive("BCD").key(f"Objects\\{first}") is not None:
        evidence = f"{first} starts first, and is no Windows loader: what it starts can't be judged"
        yield Finding("bcd-default-missing", "warning", "BCD", evidence, "bcdedit /default {identifier of Windows}")
        return
    known = ", ".join(entry.id for entry in store.loaders) or "none"
    evidence = f"the default is {first or 'not set'}, which is no object of the store (Windows loaders: {known})"
    if only is None:
        yield Finding("bcd-default-missing", "refused", "BCD", evidence, bcdboot(guest.firmware))
        return
    yield Finding("bcd-default-missing", "broken", "BCD", evidence, f"{only.id}, the only Windows loader, is the default")
    elements = f"Objects\\{store.boot_manager.id}\\Elements"
    yield SetValue("BCD", f"{elements}\\{bcd.DEFAULT_OBJECT}", "Element", text(only.id))
    order = [i for i in store.display_order if guest.hive("BCD").key(f"Objects\\{i}") is not None]
    if only.id not in order:
        order.insert(0, only.id)
    yield SetValue("BCD", f"{elements}\\{bcd.DISPLAY_ORDER}", "Element", multi(order))


def _only_loader(guest: Guest, store: bcd.BcdStore) -> Optional[bcd.BcdObject]:
    """The Windows loader, when exactly one is for this Windows; a recovery environment starts from a ramdisk."""
    systems = [entry for entry in store.loaders if entry.os_device is None or entry.os_device.kind != "unknown"]
    root = guest.system_root.lower()
    named = [e for e in systems if (e.system_root or "").replace("\\", "/").lower() == root]
    fitting = named or systems
    return fitting[0] if len(fitting) == 1 else None


# The default loader


def _loader(guest: Guest, loader: bcd.BcdObject) -> Iterator[Proposed]:
    suffix = ".efi" if guest.firmware == "uefi" else ".exe"
    path = (loader.path or "").replace("\\", "/")
    if not path.lower().endswith(suffix):
        evidence = f"the default loader is {loader.path or 'nowhere'}, which {guest.firmware.upper()} firmware can't start"
        yield Finding("bcd-loader-missing", "refused", path or loader.id, evidence, bcdboot(guest.firmware))
        return
    holds = guest.reader.stat(guest.volume, path) is not None
    only = guest.volume if holds else None
    yield from _device(guest, loader.id, bcd.APPLICATION_DEVICE, loader.device, only, path)
    yield from _device(guest, loader.id, bcd.OS_DEVICE, loader.os_device, only, path)
    facts, why = guest.pe(path)
    if facts is None:
        found = "file-unreadable" if why.startswith("unreadable") else "bcd-loader-missing"
        repair = "uncompress it on the source: compact /u" if found == "file-unreadable" else _restore(guest, path)
        yield Finding(found, "refused", path, why, repair)
    elif facts.machine != guest.windows.arch:
        evidence = f"is for {facts.machine}, Windows is {guest.windows.arch}"
        yield Finding("bcd-loader-missing", "refused", path, evidence, _restore(guest, path))


def _restore(guest: Guest, path: str) -> str:
    windows = path.replace("/", "\\")
    name = path.rpartition("/")[2]
    return rf"copy C:\Windows\System32\Boot\{name} to C:{windows} (sfc /scannow does it), then " + bcdboot(guest.firmware)


def _device(
    guest: Guest, owner: str, element: str, device: Optional[bcd.BcdDevice], only: Optional[VolumeRef], path: str = ""
) -> Iterator[Proposed]:
    """A device element that must name a volume with `path` on it (for the boot manager any); `only` is the one
    volume that fits. "boot", "locate", ramdisks and virtual disks are found at boot, and are nobody's to judge."""
    subject = f"BCD {owner} {'osdevice' if element == bcd.OS_DEVICE else 'device'}"
    if device is not None and device.kind != "partition":
        yield Finding("bcd-device-unresolved", "ok", subject, f"a device of kind {device.kind}: found at boot, not judged")
        return
    if device is None and owner == bcd.BOOT_MANAGER:
        return  # it is running by then, and finds the store without it
    named = resolve(guest.disks, device) if device is not None else None
    if named is not None and (not path or only is None or named == only or _has(guest, named, path)):
        return
    if device is None:
        evidence = "there is no such element"
    elif named is None:
        evidence = f"{device.style} disk {device.disk} partition {device.partition} is not on these disks"
    else:
        evidence = f"names {_shown(named)}, where {path} is not"
    if only is None:
        yield Finding("bcd-device-unresolved", "refused", subject, evidence, bcdboot(guest.firmware))
        return
    yield Finding("bcd-device-unresolved", "broken", subject, evidence, f"{_shown(only)}, the only one that fits")
    table = guest.disks[only.disk].table
    partition = next(p for p in table.partitions if p.number == only.partition)
    data = bcd.encode_partition(table.scheme, table.id, partition.guid or str(partition.start))
    yield SetValue("BCD", f"Objects\\{owner}\\Elements\\{element}", "Element", binary(data))


def _has(guest: Guest, ref: VolumeRef, path: str) -> bool:
    try:
        return guest.reader.stat(ref, path) is not None
    except BadData:
        return False


def _shown(ref: VolumeRef) -> str:
    return f"disk {ref.disk} partition {ref.partition}"
