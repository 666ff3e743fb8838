"""Builds made guests: hives from text, files as small PEs, disks that virt-v2v and virt-inspector take for Windows."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any, Optional

import yaml

from h2k.base.host import guestfs_settings
from tests.corpus import corpus, find
from tests.guests.pe import make_pe
from tests.guests.regfile import build_hive, empty_hive, fix_dirty

HERE = Path(__file__).resolve().parent
MIB = 1024 * 1024
SIZE = 512  # MiB, where the description says nothing else
BOOT_SIZE = 64 * MIB
NAMESPACE = uuid.UUID("0c3d9c62-6d2c-4b3a-8a53-7f1d6c2f9f10")
ESP, MSR, DATA = (
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
)
BOOT_KIND = {"uefi": "vfat", "bios": "ntfs"}  # the file system of the boot partition
BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
FALLBACK = {"amd64": "bootx64.efi", "x86": "bootia32.efi"}
INBOX = (
    "acpi pci disk partmgr volmgr mountmgr volsnap fltmgr ntfs lsi_sas atapi intelide pciide storahci msahci stornvme "
    "vmbus storvsc netvsc volume wof vmxnet3 e1g6032e tcpip ndis ehstorclass fvevol iorate rdyboost"
).split()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the boot partition and Windows lie, and how their disk names them."""

    style: str
    disk: str
    boot: tuple[int, int, str]
    windows: tuple[int, int, str]


@dataclasses.dataclass(frozen=True)
class BuiltGuest:
    """A made guest's disks, the first of which boots."""

    name: str
    firmware: str
    disks: tuple[Path, ...]


def descriptions() -> dict[str, Any]:
    """The guests of guests.yaml."""
    content: dict[str, Any] = yaml.safe_load((HERE / "guests.yaml").read_text(encoding="utf-8"))
    return content


def layout(name: str, firmware: str) -> Layout:
    """Fixed places and ids, the same at every build."""

    def guid(what: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{name} {what}")).upper()

    boot, start = MIB, MIB + BOOT_SIZE + (16 * MIB if firmware == "uefi" else 0)
    if firmware == "uefi":
        return Layout("gpt", guid("disk"), (1, boot, guid("esp")), (3, start, guid("windows")))
    signature = f"0x{int(guid('disk')[:8], 16) | 1:08x}"
    return Layout("mbr", signature, (1, boot, str(boot)), (2, start, str(start)))


def _hex(data: bytes) -> str:
    return ",".join(f"{b:02x}" for b in data)


def _device(place: Layout, partition: str) -> bytes:
    """An 88-byte BCD device element, written here without h2k's own encoder."""
    raw = bytearray(88)
    raw[16], raw[24] = 6, 0x48
    if place.style == "gpt":
        raw[32:48], raw[56:72] = uuid.UUID(partition).bytes_le, uuid.UUID(place.disk).bytes_le
    else:
        struct.pack_into("<Q", raw, 32, int(partition))
        raw[52] = 1
        struct.pack_into("<I", raw, 56, int(place.disk, 16))
    return bytes(raw)


BOOT_DEVICE, LOCATE_DEVICE = (bytes(16) + bytes([kind]) + bytes(7) + bytes([0x48]) + bytes(63) for kind in (5, 8))


def bcd_text(name: str, firmware: str, generalized: bool = False) -> str:
    """The BCD: boot manager, one Windows loader, its resume object, and WinRE's ramdisk options. In a generalized
    image (sysprep, most cloud images) the devices name no partition: "boot" and "locate" find them at boot."""
    place = layout(name, firmware)
    loader, resume = (f"{{{uuid.uuid5(NAMESPACE, name + ' ' + what)}}}" for what in ("loader", "resume"))
    suffix = "efi" if firmware == "uefi" else "exe"
    manager_path = '"\\\\EFI\\\\Microsoft\\\\Boot\\\\bootmgfw.efi"' if firmware == "uefi" else '"\\\\bootmgr"'
    boot, windows = _hex(_device(place, place.boot[2])), _hex(_device(place, place.windows[2]))
    if generalized:
        boot, windows = _hex(BOOT_DEVICE), _hex(LOCATE_DEVICE)
    lines = ["[Description]", '"KeyName"="BCD00000000"', '"System"=dword:00000001', '"TreatAsSystem"=dword:00000001']

    def entry(object_id: str, kind: int, elements: dict[str, str]) -> None:
        lines.extend([f"[Objects\\{object_id}\\Description]", f'"Type"=dword:{kind:08x}'])
        for number, value in elements.items():
            lines.extend([f"[Objects\\{object_id}\\Elements\\{number}]", f'"Element"={value}'])

    entry(
        BOOT_MANAGER,
        0x10100002,
        {"11000001": f"hex:{boot}", "12000002": manager_path, "23000003": f'"{loader}"', "24000001": f'multi:["{loader}"]'},
    )
    entry(
        loader,
        0x10200003,
        {
            "11000001": f"hex:{windows}",
            "12000002": f'"\\\\Windows\\\\system32\\\\winload.{suffix}"',
            "12000004": '"Windows"',
            "21000001": f"hex:{windows}",
            "22000002": '"\\\\Windows"',
            "23000003": f'"{resume}"',
        },
    )
    entry(resume, 0x10200004, {"11000001": f"hex:{windows}", "12000002": f'"\\\\Windows\\\\system32\\\\winresume.{suffix}"'})
    entry("{ae5534e0-a924-466c-b836-758539a3ee3a}", 0x30000000, {"31000003": f"hex:{windows}"})
    return "\n".join(lines) + "\n"


def grown(hive: bytes, size: int) -> bytes:
    """The hive with keys and values added until it has about `size` bytes, 250 keys of 700 bytes to a parent.

    What one such parent takes is measured: hivex leaves old key lists behind as free cells.
    """
    one = len(build_hive(_padding(0), hive)) - len(hive)
    return build_hive("\n".join(map(_padding, range(max(0, size - len(hive)) // one))), hive)


def _padding(parent: int) -> str:
    lines = []
    for number in range(parent * 250, parent * 250 + 250):
        lines.append(f"[Made\\Padding{parent:04d}\\{{{uuid.uuid5(NAMESPACE, str(number))}}}]")
        lines.append(f'"Data"=hex:{_hex(number.to_bytes(4, "little") * 175)}')
    return "\n".join(lines)


def hives(name: str, guest: dict[str, Any]) -> dict[str, bytes]:
    """SYSTEM, SOFTWARE and BCD of a guest."""
    place = layout(name, guest["firmware"])
    words = {
        "product": guest["product"],
        "build": guest["build"],
        "nt": "6.3" if guest["version"] == "10.0" else guest["version"],
        "installation": "Server" if guest["server"] else "Client",
        "edition": "ServerStandard" if guest["server"] else "Professional",
        "product_type": "ServerNT" if guest["server"] else "WinNT",
        "processor": "AMD64" if guest["arch"] == "amd64" else "x86",
        "arch": guest["arch"],
    }

    def text(file: str, **more: str) -> str:
        return Template((HERE / file).read_text(encoding="utf-8")).substitute({**words, **more})

    modern = guest["version"] not in ("6.0", "6.1")
    software = text("software.reg")
    if guest["version"] == "10.0":
        software += '[Microsoft\\Windows NT\\CurrentVersion]\n"CurrentMajorVersionNumber"=dword:0000000a\n'
        software += '"CurrentMinorVersionNumber"=dword:00000000\n'
    if "tools" in guest:
        software += "[Microsoft\\Windows\\CurrentVersion\\Uninstall\\{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}]\n"
        software += f'"DisplayName"="{guest["tools"]}"\n"DisplayVersion"="12.3.0"\n"UninstallString"="MsiExec.exe /I"\n'
    if find(guest.get("corpus", "")) is not None:
        system = fix_dirty(corpus(guest["corpus"]))
    else:
        system = build_hive("".join(text("system.reg", cs=f"ControlSet{n:03d}") for n in guest["sets"]))
        for extra in ("ddb.reg" if modern else "cdd.reg", f"{guest.get('hypervisor', 'vmware')}.reg"):
            system = build_hive("".join(text(extra, cs=f"ControlSet{n:03d}") for n in guest["sets"]), system)
        select = '[Select]\n"Current"=dword:00000001\n"Default"=dword:00000001\n"Failed"=dword:00000000\n'
        last = guest["sets"][-1]
        system = build_hive(f'{select}"LastKnownGood"=dword:{last:08x}\n', system)
    if place.style == "gpt":
        letter = b"DMIO:ID:" + uuid.UUID(place.windows[2]).bytes_le
    else:
        letter = struct.pack("<IQ", int(place.disk, 16), place.windows[1])
    system = build_hive(f'[MountedDevices]\n"\\\\DosDevices\\\\C:"=hex:{_hex(letter)}\n', system)
    bcd = bcd_text(name, guest["firmware"], guest.get("bcd") == "generalized")
    hives = {"SYSTEM": system, "SOFTWARE": build_hive(software), "BCD": build_hive(bcd)}
    for hive, size in guest.get("hive_sizes", {}).items():
        hives[hive] = grown(hives[hive], size * MIB)
    return hives


def windows_files(guest: dict[str, Any], made: dict[str, bytes]) -> dict[str, bytes]:
    """The Windows volume: path → bytes."""
    arch = guest["arch"]
    suffix = "efi" if guest["firmware"] == "uefi" else "exe"
    files = {f"Windows/System32/config/{n}": made[n] for n in ("SYSTEM", "SOFTWARE")}
    files.update({f"Windows/System32/config/{n}": empty_hive() for n in ("SAM", "SECURITY", "DEFAULT")})
    for program in ("ntoskrnl.exe", "hal.dll", "cmd.exe", "smss.exe", f"winload.{suffix}"):
        files[f"Windows/System32/{program}"] = make_pe(arch, f"made {program}".encode(), signed=True, by="windows")
    files["Windows/explorer.exe"] = make_pe(arch, b"made explorer.exe")
    for driver in INBOX:
        files[f"Windows/System32/drivers/{driver}.sys"] = make_pe(arch, f"made {driver}.sys".encode(), signed=True, by="windows")
    # The last two are what virt-v2v leaves, empty: the tools that put faults into a volume make files, not directories.
    for place in (
        "Windows/INF", "Windows/Temp", "Windows/System32/DriverStore", "Program Files/Common Files", "Users/Public",
        "Windows/Drivers/VirtIO", "Program Files/Guestfs/Firstboot/scripts",
    ):  # fmt: skip
        files[f"{place}/.keep"] = b""
    return files


def boot_files(guest: dict[str, Any], made: dict[str, bytes]) -> dict[str, bytes]:
    """The boot partition: path → bytes."""
    if guest["firmware"] == "bios":
        return {"bootmgr": b"made bootmgr" + bytes(500), "Boot/BCD": made["BCD"]}
    manager = make_pe(guest["arch"], b"made bootmgfw.efi", signed=True, by="windows")
    return {
        "EFI/Microsoft/Boot/bootmgfw.efi": manager,
        f"EFI/Boot/{FALLBACK[guest['arch']]}": manager,
        "EFI/Microsoft/Boot/BCD": made["BCD"],
    }


def cached() -> dict[str, BuiltGuest]:
    """All made guests, built once for this text and kept below .cache/; copy them, never write to them."""
    digest = hashlib.sha256()
    for path in sorted([*(HERE / n for n in ("build.py", "pe.py", "signing.py", "regfile.py", "guests.yaml")), *HERE.glob("*.reg")]):
        digest.update(path.read_bytes())
    real = [guest["corpus"] for guest in descriptions().values() if find(guest.get("corpus", "")) is not None]
    digest.update(repr(real).encode())
    place = HERE.parents[1] / ".cache" / "guests" / digest.hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    known = descriptions()
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            build(known, place)
            (place / "complete").touch()
    return {n: BuiltGuest(n, g["firmware"], (place / f"{n}.qcow2",)) for n, g in known.items()}


def build(names: Iterable[str], directory: Path, known: Optional[dict[str, Any]] = None) -> dict[str, BuiltGuest]:
    """Build guests as qcow2 disks NAME.qcow2, all in one libguestfs session; `known` are other descriptions than those
    of guests.yaml."""
    import guestfs

    guestfs_settings()
    known, built = known or descriptions(), {}
    directory.mkdir(parents=True, exist_ok=True)
    appliance = guestfs.GuestFS(python_return_dict=True)
    for name in names:
        path = directory / f"{name}.qcow2"
        _partitioned(path, layout(name, known[name]["firmware"]), known[name].get("size", SIZE) * MIB)
        appliance.add_drive_opts(str(path), format="qcow2", cachemode="unsafe", discard="besteffort")
        built[name] = BuiltGuest(name, known[name]["firmware"], (path,))
    appliance.launch()
    for device, name in zip(appliance.list_devices(), built):
        guest = known[name]
        made = hives(name, guest)
        place = layout(name, guest["firmware"])
        boot, windows = f"{device}{place.boot[0]}", f"{device}{place.windows[0]}"
        appliance.mkfs(BOOT_KIND[guest["firmware"]], boot)
        appliance.mkfs("ntfs", windows)
        _fill(appliance, BOOT_KIND[guest["firmware"]], boot, boot_files(guest, made))
        _fill(appliance, "ntfs", windows, windows_files(guest, made))
    appliance.shutdown()
    appliance.close()
    return built


def _partitioned(path: Path, place: Layout, size: int) -> None:
    """An empty qcow2 disk with its partition table, which sfdisk writes without root or appliance."""
    first, windows, sectors = MIB // 512, place.windows[1] // 512, size // 512
    if place.style == "gpt":
        msr = (MIB + BOOT_SIZE) // 512
        rows = [
            f"start={first}, size={msr - first}, type={ESP}, uuid={place.boot[2]}",
            f"start={msr}, size={windows - msr}, type={MSR}",
            f"start={windows}, size={sectors - windows - 2048}, type={DATA}, uuid={place.windows[2]}",
        ]
    else:
        rows = [
            f"start={first}, size={windows - first}, type=7, bootable",
            f"start={windows}, size={sectors - windows - 2048}, type=7",
        ]
    label = "gpt" if place.style == "gpt" else "dos"
    script = "\n".join([f"label: {label}", f"label-id: {place.disk}", "", *rows, ""])
    raw = path.with_suffix(".raw")
    with open(raw, "wb") as image:
        image.truncate(size)
    subprocess.run(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(raw)], input=script.encode(), check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    raw.unlink()


def _fill(appliance: Any, kind: str, device: str, files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "root"
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        archive = shutil.make_archive(str(Path(work) / "files"), "tar", root)
        appliance.mount_vfs("", kind, device, "/")  # by its kind: the mount of util-linux 2.42 does not know some FAT volumes
        appliance.tar_in(archive, "/")
        appliance.umount("/")


Edit = Callable[[Any], None]


def edit_guest(guest: BuiltGuest, hive_texts: dict[str, str], edit: Optional[Edit] = None) -> None:
    """Change a built guest in one libguestfs session: registry text merged into its hives, then `edit`, which
    gets the appliance with the Windows volume on / and the boot partition on /boot-partition."""
    import guestfs

    guestfs_settings()
    place = layout(guest.name, guest.firmware)
    appliance = guestfs.GuestFS(python_return_dict=True)
    for disk in guest.disks:
        appliance.add_drive_opts(str(disk), format="qcow2", cachemode="unsafe")
    appliance.launch()
    appliance.mount_vfs("", "ntfs", f"/dev/sda{place.windows[0]}", "/")
    appliance.mkdir_p("/boot-partition")
    appliance.mount_vfs("", BOOT_KIND[guest.firmware], f"/dev/sda{place.boot[0]}", "/boot-partition")
    boot = "/boot-partition/EFI/Microsoft/Boot" if guest.firmware == "uefi" else "/boot-partition/Boot"
    for name, text in hive_texts.items():
        path = f"{boot}/BCD" if name == "BCD" else f"/Windows/System32/config/{name}"
        appliance.write(path, build_hive(text, appliance.read_file(path)))
    if edit is not None:
        edit(appliance)
    appliance.umount("/boot-partition")
    appliance.rmdir("/boot-partition")
    appliance.umount("/")
    appliance.shutdown()
    appliance.close()


def write_vmx(guest: BuiltGuest, directory: Path) -> Path:
    """The guest as VMware hands it over: a .vmx and one sparse .vmdk a disk."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        '.encoding = "UTF-8"', 'config.version = "8"', 'virtualHW.version = "19"', f'displayName = "{guest.name}"',
        'guestOS = "windows2019srvnext-64"', 'memsize = "2048"', 'numvcpus = "2"', 'scsi0.present = "TRUE"',
        'scsi0.virtualDev = "lsisas1068"', 'ethernet0.present = "TRUE"', 'ethernet0.virtualDev = "vmxnet3"',
        'ethernet0.networkName = "VM Network"', 'ethernet0.addressType = "generated"',
        'ethernet0.generatedAddress = "00:0c:29:4a:5b:6c"', 'ethernet0.pciSlotNumber = "192"',
    ]  # fmt: skip
    if guest.firmware == "uefi":
        lines.append('firmware = "efi"')
    for index, disk in enumerate(guest.disks):
        name = f"{guest.name}{'-' + str(index) if index else ''}.vmdk"
        subprocess.run(
            ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicSparse", str(disk), str(directory / name)],
            check=True,
        )
        lines += [f'scsi0:{index}.present = "TRUE"', f'scsi0:{index}.fileName = "{name}"']
    vmx = directory / f"{guest.name}.vmx"
    vmx.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vmx


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.guests.build list | NAME OUT [--vmx]"""
    if not argv or argv[0] == "list":
        print("\n".join(descriptions()))
        return 0
    guest = build([argv[0]], Path(argv[1]))[argv[0]]
    print(write_vmx(guest, Path(argv[1])) if "--vmx" in argv else guest.disks[0])
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
