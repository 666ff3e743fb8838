"""The boot loader's chain: boot manager, BCD where the firmware looks, default loader, its devices, its file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from h2k.change import WriteFile
from h2k.errors import BadData
from h2k.finding import Finding
from h2k.guest import FILE_LIMIT, Guest
from h2k.hook import Options, Proposed
from h2k.windows import bcd

META = {
    "name": "boot-loader",
    "summary": "Follows firmware, boot manager and BCD to the loader's file; rewrites nothing blindly",
    "answers": [
        "boot-manager-missing",
        "boot-partition-inactive",
        "uefi-fallback-missing",
        "bcd-missing",
        "bcd-corrupt",
        "bcd-default-missing",
        "bcd-device-unresolved",
        "bcd-loader-missing",
        "file-unreadable",
    ],
}

FALLBACK = {"amd64": "BOOTX64.EFI", "x86": "BOOTIA32.EFI", "arm64": "BOOTAA64.EFI"}
BOOT_MANAGER = "/EFI/Microsoft/Boot/bootmgfw.efi"
BCDBOOT = "boot Windows' setup media and run: bcdboot C:\\Windows /s S: /f {0}"


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    firmware = guest.firmware.upper()
    if guest.boot_volume is None:
        evidence = "no active partition on an MBR disk" if guest.firmware == "bios" else "no EFI system partition"
        repair = "mark the partition that holds bootmgr active (diskpart: select partition N, active)"
        yield Finding("boot-partition-inactive", "refused", f"disk {guest.volume.disk}", evidence, repair)
        return
    yield from _boot_manager(guest, firmware)
    if not guest.has_hive("BCD"):
        where = "\\EFI\\Microsoft\\Boot\\BCD" if guest.firmware == "uefi" else "\\Boot\\BCD"
        yield Finding("bcd-missing", "refused", where, "no store where the firmware looks", BCDBOOT.format(firmware))
        return
    try:
        store = bcd.read_bcd(guest.hive("BCD"))
    except BadData as bad:
        yield Finding("bcd-corrupt", "refused", "BCD", str(bad), BCDBOOT.format(firmware))
        return
    yield from _store(guest, store, firmware)


def _boot_manager(guest: Guest, firmware: str) -> Iterator[Proposed]:
    assert guest.boot_volume is not None
    volume = guest.boot_volume.ref
    path = BOOT_MANAGER if guest.firmware == "uefi" else "/bootmgr"
    manager = guest.reader.stat(volume, path)
    if manager is None or manager.size == 0:
        evidence = "missing" if manager is None else "empty"
        yield Finding("boot-manager-missing", "refused", path, evidence, BCDBOOT.format(firmware))
        return
    if guest.firmware != "uefi":
        return
    facts, why = guest.pe(path, volume)
    if facts is None:
        yield Finding("boot-manager-missing", "refused", path, why, BCDBOOT.format(firmware))
        return
    fallback = f"/EFI/BOOT/{FALLBACK.get(facts.machine, FALLBACK['amd64'])}"
    data = guest.reader.read(volume, path, FILE_LIMIT)
    there = guest.reader.stat(volume, fallback)
    if there is None or there.size != len(data) or guest.reader.read(volume, fallback, FILE_LIMIT) != data:
        evidence = "missing" if there is None else "not the boot manager"
        yield Finding(
            "uefi-fallback-missing",
            "broken",
            fallback,
            f"{evidence}; firmware variables do not travel with a disk, so the firmware will look here",
            f"copy {path} there",
        )
        yield WriteFile(volume, fallback, data, f"the guest's own {path}")


def _store(guest: Guest, store: bcd.BcdStore, firmware: str) -> Iterator[Proposed]:
    loader = store.default_loader()
    if loader is None:
        known = ", ".join(entry.id for entry in store.loaders) or "none"
        yield Finding(
            "bcd-default-missing",
            "refused",
            "BCD",
            f"neither the default nor the display order points to a Windows loader (loaders: {known})",
            BCDBOOT.format(firmware),
        )
        return
    devices = (("boot manager device", store.boot_manager.device), *_devices(loader))
    for name, device in devices:
        if device is not None and device.kind == "partition" and _resolve(guest, device) is None:
            yield Finding(
                "bcd-device-unresolved",
                "refused",
                f"BCD {name}",
                f"{device.style} disk {device.disk} partition {device.partition} is not on these disks",
                BCDBOOT.format(firmware),
            )
    yield from _loader_file(guest, loader, firmware)


def _devices(loader: bcd.BcdObject) -> tuple[tuple[str, Optional[bcd.BcdDevice]], ...]:
    return (f"{loader.id} device", loader.device), (f"{loader.id} osdevice", loader.os_device)


def _resolve(guest: Guest, device: bcd.BcdDevice) -> Optional[tuple[int, int]]:
    disks = [
        (d.index, d.table.scheme, d.table.id, [(p.number, p.start, p.guid) for p in d.table.partitions])
        for d in guest.disks
    ]
    return bcd.resolve(device, disks)


def _loader_file(guest: Guest, loader: bcd.BcdObject, firmware: str) -> Iterator[Proposed]:
    extension = ".efi" if guest.firmware == "uefi" else ".exe"
    path = (loader.path or f"{guest.system_root}/System32/winload{extension}").replace("\\", "/")
    if not path.lower().endswith(extension):
        evidence = f"the default loader is {path}, which {firmware} firmware can't start"
        yield Finding("bcd-loader-missing", "refused", path, evidence, BCDBOOT.format(firmware))
        return
    facts, why = guest.pe(path)
    if facts is None:
        found = "file-unreadable" if why.startswith("unreadable") else "bcd-loader-missing"
        yield Finding(found, "refused", path, why, BCDBOOT.format(firmware))
