"""Faults that are put into made guests, one by one, each under the id that h2k must find it by.

    python3 -m tests.guests.faults list
    python3 -m tests.guests.faults driver-start-override DISK     into a disk of yours (a made guest's)
    python3 -m tests.guests.faults try driver-start-override      into a copy, with what h2k says about it
    python3 -m tests.guests.faults matrix [--all] [--v2v]         all of them, as a table
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Optional

from h2k.domain.facts import DiskFacts, DomainFacts
from h2k.engine.finding_entry import DOMAIN, FIRST_BOOT, REFUSE, REPAIR, WARN
from h2k.windows.regf import BASE_BLOCK, Hive
from tests.guests.build import BOOT_MANAGER
from tests.guests.hivelog import make_dirty_pair
from tests.guests.pe import make_pe
from tests.guests.regfile import build_hive, make_dirty
from tests.guests.signing import sign_pe
from tests.guests.surgery import ESP_GUID, Ntfs, Surgery

Inject = Callable[[Surgery], None]
NEW, OLD = "win2022", "win7-x86"  # DriverDatabase, UEFI, one control set; CriticalDeviceDatabase, BIOS, two of them
DRIVERS = "Windows/System32/drivers"
DISK_CLASS, HDC_CLASS, SCSI_CLASS, SYSTEM_CLASS, VOLUME_CLASS = (
    f"$cs\\Control\\Class\\{{{guid}}}"
    for guid in (
        "4D36E967-E325-11CE-BFC1-08002BE10318",
        "4D36E96A-E325-11CE-BFC1-08002BE10318",
        "4D36E97B-E325-11CE-BFC1-08002BE10318",
        "4D36E97D-E325-11CE-BFC1-08002BE10318",
        "71A27CDD-812A-11D0-BEC7-08002BE2092F",
    )
)
NET_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
GHOST = "{0b5d0f3e-52a5-4f3b-8f0b-6d1c2a9e7f41}"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One way to break a guest. `name` is the finding's id, perhaps with ":variant".

    `guests` are those on which `make test` shows it; `fits` says on which others it makes sense. `base` is "repaired"
    (h2k has been there, so that exactly this is wrong) or "plain". `also` are ids that can't but come with it.
    `domain` makes the domain, from the disks; `extra` adds disks; `drivers` names a variant of the virtio-win tree;
    `bus` is one that the guest is repaired for, with "plain" as its base: it then has to end with a card that Windows drives
    itself. `policy` is a policy file's text; a `wrapper` fault is the host's, and h2k-v2v's to find, while `during` holds.
    """

    name: str
    what: str
    answer: str
    inject: Inject
    guests: tuple[str, ...] = (NEW,)
    fits: Callable[[GuestFacts], bool] = lambda guest: True
    base: str = "repaired"
    also: frozenset[str] = frozenset()
    domain: Optional[Callable[[Sequence[Path]], DomainFacts]] = None
    extra: Optional[Callable[[Path, Path], Path]] = None
    drivers: str = ""
    bus: str = ""
    policy: str = ""
    wrapper: bool = False
    during: Callable[[Path], contextlib.AbstractContextManager[None]] = lambda disk: contextlib.nullcontext()

    @property
    def finding(self) -> str:
        """The id under which h2k must find it."""
        return self.name.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class GuestFacts:
    """What decides whether a fault makes sense on a made guest."""

    name: str
    firmware: str
    version: str
    sets: int


def uefi(guest: GuestFacts) -> bool:
    return guest.firmware == "uefi"


def bios(guest: GuestFacts) -> bool:
    return guest.firmware == "bios"


def modern(guest: GuestFacts) -> bool:
    return guest.version not in ("6.0", "6.1")


def old(guest: GuestFacts) -> bool:
    return not modern(guest)


def narrow(guest: GuestFacts) -> bool:
    return guest.name.endswith("x86")


def wide(guest: GuestFacts) -> bool:
    return not narrow(guest)


def client_of_10(guest: GuestFacts) -> bool:
    return guest.name.startswith(("win10", "win11"))


def plain_bcd(guest: GuestFacts) -> bool:
    return guest.name != "win2022-cloud"


# Ways to break things


def registry(hive: str, text: str) -> Inject:
    """Merge registry text into a hive; `$cs` is each control set."""
    return lambda disk: disk.registry(hive, text)


def together(*steps: Inject) -> Inject:
    def inject(disk: Surgery) -> None:
        for step in steps:
            step(disk)

    return inject


def service(name: str, values: str) -> Inject:
    return registry("SYSTEM", f"[$cs\\Services\\{name}]\n{values}\n")


def gone(path: str, volume: str = "windows") -> Inject:
    return lambda disk: disk.volume(volume).remove(path)


def written(path: str, data: bytes, volume: str = "windows") -> Inject:
    return lambda disk: disk.volume(volume).put(path, data)


def hive(name: str, change: Callable[[bytes], bytes]) -> Inject:
    """Change the bytes of a hive."""
    return lambda disk: disk.put_hive(name, change(disk.hive_bytes(name)))


def ntfs(disk: Surgery) -> Ntfs:
    """The Windows volume."""
    volume = disk.volume("windows")
    assert isinstance(volume, Ntfs)
    return volume


def winload(disk: Surgery) -> str:
    return f"Windows/System32/winload.{'efi' if disk.firmware == 'uefi' else 'exe'}"


def boot_manager(disk: Surgery) -> str:
    return "EFI/Microsoft/Boot/bootmgfw.efi" if disk.firmware == "uefi" else "bootmgr"


def driver(change: Callable[[bytes], bytes]) -> Inject:
    """Change the bytes of viostor.sys."""
    path = f"{DRIVERS}/viostor.sys"
    return lambda disk: disk.volume("windows").put(path, change(disk.volume("windows").get(path)))


def _unsigned(data: bytes) -> bytes:
    """The PE without its certificate table."""
    pe = struct.unpack_from("<I", data, 60)[0]
    entry = pe + 24 + (112 if struct.unpack_from("<H", data, pe + 24)[0] == 0x20B else 96) + 8 * 4
    return data[:entry] + bytes(8) + data[entry + 8 : struct.unpack_from("<I", data, entry)[0]]


def _other_machine(data: bytes) -> bytes:
    x86 = struct.unpack_from("<H", data, struct.unpack_from("<I", data, 60)[0] + 4)[0] == 0x14C
    return make_pe("amd64" if x86 else "x86", b"made for another machine type", signed=True)


def unbound(device: str) -> Inject:
    """No entry of the device database knows this VirtIO block device."""

    def inject(disk: Surgery) -> None:
        system = Hive.parse(disk.hive_bytes("SYSTEM"), "SYSTEM")
        lines = []
        places = ["DriverDatabase\\DeviceIds\\PCI"]
        places += [f"{k.name}\\Control\\CriticalDeviceDatabase" for k in system.root.subkeys() if k.name.startswith("Control")]
        for place in places:
            key = system.key(place)
            for entry in key.subkeys() if key is not None else ():
                if f"VEN_1AF4&DEV_{device}" in entry.name.upper():
                    lines.append(f"-[{place}\\{entry.name}]")
        assert lines, device
        disk.registry("SYSTEM", "\n".join(lines) + "\n")

    return inject


def wrong_class(disk: Surgery) -> None:
    """The binding of the modern VirtIO block device says that it is a disk drive."""
    system = Hive.parse(disk.hive_bytes("SYSTEM"), "SYSTEM")
    database = system.key("DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1042&REV_01")
    if database is None:
        ids = "".join(
            f'[$cs\\Control\\CriticalDeviceDatabase\\pci#{i}]\n"ClassGUID"="{{4D36E967-E325-11CE-BFC1-08002BE10318}}"\n'
            for i in ("ven_1af4&dev_1042&rev_01", "ven_1af4&dev_1042")
        )
        disk.registry("SYSTEM", ids)
        return
    inf = database.values()[0].name
    active = system.value(f"DriverDatabase\\DriverInfFiles\\{inf}", "Active")
    assert active is not None
    package = f"DriverDatabase\\DriverPackages\\{active.text()}"
    version = system.value(package, "Version")
    assert version is not None
    raw = bytearray(version.raw)
    raw[8:24] = uuid.UUID("4D36E967-E325-11CE-BFC1-08002BE10318").bytes_le
    disk.registry("SYSTEM", f'[{package}]\n"Version"=hex:{raw.hex(",")}\n')


def loader_id(disk: Surgery) -> str:
    """The default loader's object in the BCD."""
    value = Hive.parse(disk.hive_bytes("BCD"), "BCD").value(f"Objects\\{BOOT_MANAGER}\\Elements\\23000003", "Element")
    assert value is not None
    return value.text() or ""


def element(owner: str, number: str, value: str) -> Inject:
    """An element of the boot manager or, for "", of the default loader."""

    def inject(disk: Surgery) -> None:
        disk.registry("BCD", f"[Objects\\{owner or loader_id(disk)}\\Elements\\{number}]\n\"Element\"={value}\n")

    return inject


def elsewhere(number: str, owner: str = "") -> Inject:
    """A device element names a partition that is on none of the disks."""

    def inject(disk: Surgery) -> None:
        at = Hive.parse(disk.hive_bytes("BCD"), "BCD").value(f"Objects\\{owner or loader_id(disk)}\\Elements\\{number}", "Element")
        assert at is not None
        raw = bytearray(at.raw)
        raw[56:60] = b"\x5a\xa5\x11\x22"  # the disk's signature, or the beginning of its GUID
        element(owner, number, f"hex:{raw.hex(',')}")(disk)

    return inject


def wrong_partition(disk: Surgery) -> None:
    """The loader's device names the boot partition, where no loader is."""
    store = Hive.parse(disk.hive_bytes("BCD"), "BCD")
    boot = store.value(f"Objects\\{BOOT_MANAGER}\\Elements\\11000001", "Element")
    assert boot is not None
    element("", "11000001", f"hex:{boot.raw.hex(',')}")(disk)


def second_loader(disk: Surgery) -> None:
    """The boot manager has no default, and there are two Windows loaders."""
    copied_loader(disk)
    no_default(disk)


def another_first(disk: Surgery) -> None:
    """The boot manager starts another entry once: a copy of the default one, so that Windows starts all the same."""
    element(BOOT_MANAGER, "24000002", f'multi:["{copied_loader(disk)}"]')(disk)


def copied_loader(disk: Surgery) -> str:
    """A second Windows loader like the first; its id."""
    other, first = "{11111111-2222-3333-4444-555555555555}", loader_id(disk)
    old_store = Hive.parse(disk.hive_bytes("BCD"), "BCD").key(f"Objects\\{first}\\Elements")
    assert old_store is not None
    text = f'[Objects\\{other}\\Description]\n"Type"=dword:10200003\n'
    for key in old_store.subkeys():
        value = key.value("Element")
        assert value is not None
        text += f'[Objects\\{other}\\Elements\\{key.name}]\n"Element"=hex({value.type:x}):{value.raw.hex(",")}\n'
    disk.registry("BCD", text)
    return other


def no_default(disk: Surgery) -> None:
    """Neither default nor display order."""
    elements = f"Objects\\{BOOT_MANAGER}\\Elements"
    disk.registry("BCD", f"-[{elements}\\23000003]\n-[{elements}\\24000001]\n")


def no_store(disk: Surgery) -> None:
    volume, path = disk.hive("BCD")
    volume.remove(path)


def garbage_store(disk: Surgery) -> None:
    disk.put_hive("BCD", b"\x5a" * 32768)


def no_efi_partition(disk: Surgery) -> None:
    """The EFI system partition's type says basic data."""
    retype(disk, ESP_GUID, "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7")


def retype(disk: Surgery, old: str, new: str) -> None:
    """Partitions of one type get another, in both copies of the GPT."""
    import zlib

    esp, data = uuid.UUID(old).bytes_le, uuid.UUID(new).bytes_le
    size = disk.size
    for header_at in (512, size - 512):
        header = bytearray(disk.read(header_at, 512))
        first, count, width = struct.unpack_from("<QII", header, 72)
        table = disk.read(first * 512, count * width).replace(esp, data)
        disk.write(first * 512, table)
        struct.pack_into("<I", header, 88, zlib.crc32(table))
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(bytes(header[:92])))
        disk.write(header_at, bytes(header))


def native_sectors(disk: Surgery) -> None:
    """The GPT as on a disk with sectors of 4096 bytes: the same partitions, their places counted in those."""
    import zlib

    size = disk.size
    header = disk.read(512, 512)
    count, width = struct.unpack_from("<II", header, 80)
    rows = bytearray(disk.read(1024, count * width))
    for at in range(0, len(rows), width):
        first, last = struct.unpack_from("<QQ", rows, at + 32)
        if last:
            struct.pack_into("<QQ", rows, at + 32, first // 8, (last + 1) // 8 - 1)
    disk.write(512, bytes(1024 + len(rows) - 512))
    end = size // 4096 - 1
    span = -(-len(rows) // 4096)
    for here, other, entries in ((1, end, 2), (end, 1, end - span)):
        new = bytearray(header[:92])
        struct.pack_into("<QQQQ", new, 24, here, other, 2 + span, end - span - 1)
        struct.pack_into("<Q", new, 72, entries)
        struct.pack_into("<I", new, 88, zlib.crc32(rows))
        struct.pack_into("<I", new, 16, 0)
        struct.pack_into("<I", new, 16, zlib.crc32(new))
        disk.write(entries * 4096, bytes(rows))
        disk.write(here * 4096, bytes(new).ljust(4096, b"\0"))


def new_boot_manager(disk: Surgery) -> None:
    """The boot manager, and its copy at the fallback path, are signed by the CA of 2023."""
    manager = make_pe("amd64", b"made bootmgfw.efi", signed=True, by="windows-2023")
    for path in ("EFI/Microsoft/Boot/bootmgfw.efi", "EFI/Boot/bootx64.efi"):
        disk.volume("boot").put(path, manager)


def dynamic(disk: Surgery) -> None:
    """LDM has the disk: MBR partitions of type 0x42, or a GPT partition of its own for the volumes' data."""
    if disk.firmware == "bios":
        for number in range(4):
            if disk.read(446 + 16 * number + 4, 1) != b"\0":
                disk.write(446 + 16 * number + 4, b"\x42")
        return
    retype(disk, "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "AF9B60A0-1431-4F62-BC68-3311714A69AD")


def active(*numbers: int) -> Inject:
    """Exactly these partitions of the MBR are active."""

    def inject(disk: Surgery) -> None:
        for number in range(1, 5):
            disk.write(446 + 16 * (number - 1), b"\x80" if number in numbers else b"\0")

    return inject


def hibernated(magic: bytes) -> Inject:
    return written("hiberfil.sys", magic + bytes(4092))


def dirty(name: str, form: str, text: str) -> Inject:
    """The hive's newest changes are in its logs only."""

    def inject(disk: Surgery) -> None:
        clean = disk.hive_bytes(name)
        damaged, logs = make_dirty_pair(clean, build_hive(text, clean), form)
        disk.put_hive(name, damaged)
        for suffix, log in logs.items():
            disk.put_hive(name, log, f".{suffix}")

    return inject


def broken_cell(disk: Surgery) -> None:
    """The subkey list of Services in the default control set points nowhere."""
    data = bytearray(disk.hive_bytes("SYSTEM"))
    key = Hive.parse(bytes(data), "SYSTEM").key("ControlSet001\\Services")
    assert key is not None
    struct.pack_into("<I", data, BASE_BLOCK + key.offset + 4 + 28, 0x7FFFFFF8)
    disk.put_hive("SYSTEM", bytes(data))


def broken_bin(data: bytes) -> bytes:
    """The second hive bin's header, or the first's in a hive with one, says nothing."""
    at = data.find(b"hbin", BASE_BLOCK + 4)
    at = at if at > 0 else BASE_BLOCK
    return data[:at] + b"gone" + data[at + 4 :]


def ghost(static: bool) -> Inject:
    """An adapter whose card is not in the machine any more, with DHCP or a static address."""
    address = '"EnableDHCP"=dword:00000001\n'
    if static:
        address = (
            '"EnableDHCP"=dword:00000000\n"IPAddress"=multi:["198.51.100.20"]\n"SubnetMask"=multi:["255.255.255.0"]\n'
            '"DefaultGateway"=multi:["198.51.100.1"]\n"NameServer"="198.51.100.53"\n'
        )
    instance = "PCI\\VEN_8086&DEV_100F&SUBSYS_075015AD&REV_01\\4&b70f118&0&0888"
    return registry(
        "SYSTEM",
        f"[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{GHOST}]\n{address}"
        f"[$cs\\Control\\Class\\{NET_CLASS}\\0007]\n"
        f'"NetCfgInstanceId"="{GHOST}"\n"DriverDesc"="Intel(R) PRO/1000 MT Network Connection"\n'
        f'"DeviceInstanceID"="{instance.replace(chr(92), chr(92) * 2)}"\n'
        f'[$cs\\Control\\Network\\{NET_CLASS}\\{GHOST}\\Connection]\n"Name"="Ethernet1"\n'
        f'"PnPInstanceId"="{instance.replace(chr(92), chr(92) * 2)}"\n'
        f'[$cs\\Enum\\{instance}]\n"Service"="E1G60"\n"Driver"="{NET_CLASS.replace(chr(92), chr(92) * 2)}\\\\0007"\n'
        f'"ClassGUID"="{NET_CLASS}"\n"ConfigFlags"=dword:00000000\n',
    )


def stale_profile() -> Inject:
    place = "Microsoft\\Windows NT\\CurrentVersion\\NetworkList"
    profile = "{5f0c7d0a-3f57-4d0f-8a8e-0f6f6f2b9c11}"
    return registry(
        "SOFTWARE",
        f"[{place}\\Profiles\\{profile}]\n"
        '"ProfileName"="Network"\n"Description"="Network"\n"Managed"=dword:00000000\n"Category"=dword:00000001\n'
        f"[{place}\\Signatures\\Unmanaged\\010103000F0000F0080000000F0000F0C2D5A3]\n"
        f'"ProfileGuid"="{profile}"\n"Description"="Network"\n"FirstNetwork"="Network"\n'
        '"DefaultGatewayMac"=hex:00,50,56,e1,2c,77\n',
    )


@contextlib.contextmanager
def used(disk: Path) -> Iterator[None]:
    """A QEMU has it open for writing."""
    with subprocess.Popen(["qemu-io", "-f", "qcow2", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None and user.stdout is not None
        user.stdin.write(b"read 0 512\n")
        user.stdin.flush()
        user.stdout.readline()
        yield
        user.stdin.close()


GUESTOR = "guestor.inf_amd64_0000000000000000"


def guestor(disk: Surgery) -> None:
    """virt-v2v's placeholder package, beside what h2k bound; the real driver is installed."""
    disk.registry(
        "SYSTEM",
        f'[DriverDatabase\\DriverInfFiles\\guestor.inf]\n@=multi:["{GUESTOR}"]\n"Active"="{GUESTOR}"\n'
        f'"Configurations"=multi:["guestor_conf"]\n'
        '[DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1042&REV_01]\n"guestor.inf"=hex:01,ff,00,00\n'
        f"[DriverDatabase\\DriverPackages\\{GUESTOR}]\n"
        '"Version"=hex:00,ff,09,00,00,00,00,00,7b,e9,36,4d,25,e3,ce,11,bf,c1,08,00,2b,e1,03,18,'
        + ",".join(["00"] * 24)
        + f'\n[DriverDatabase\\DriverPackages\\{GUESTOR}\\Configurations\\guestor_conf]\n"ConfigFlags"=dword:00000000\n'
        '"Service"="viostor"\n'
        f"[DriverDatabase\\DriverPackages\\{GUESTOR}\\Descriptors\\PCI\\VEN_1AF4&DEV_1042&REV_01]\n"
        '"Configuration"="guestor_conf"\n',
    )


def wins_and_netbios(disk: Surgery) -> None:
    """What a card is set to beside its addresses."""
    disk.registry(
        "SYSTEM", f"[$cs\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{GHOST}]\n"
        '"NameServerList"=multi:["192.0.2.60"]\n"NetbiosOptions"=dword:00000002\n'
    )  # fmt: skip


FIRST_BOOT_DIRECTORY = "Program Files/Guestfs/Firstboot"
# As virt-v2v 2.10 stages it, in our words: a driver that fails is tried again at the next boot, without limit.
ENDLESS = """@echo off
for %%f in ("%systemroot%\\Drivers\\VirtIO\\*.inf") do (
%systemroot%\\Sysnative\\PnPutil -i -a "%%f"
if errorlevel 1 exit /b 249
)
exit /b 0
"""


def endless_script(disk: Surgery) -> None:
    """virt-v2v's first boot, waiting, with a script that may loop and a driver that is not for this Windows."""
    for path, text in (
        (f"{FIRST_BOOT_DIRECTORY}/firstboot.bat", "@echo off\nrem moves a script on unless it ends with 249\n"),
        (f"{FIRST_BOOT_DIRECTORY}/scripts/2000-0001-pnputil-install-drivers.bat", ENDLESS),
        ("Windows/Drivers/VirtIO/viogpudo.inf", "[Version]\nSignature=$WINDOWS NT$\n[Manufacturer]\n%x%=x,NTarm\n"),
    ):
        disk.volume("windows").put(path, text.replace("\n", "\r\n").encode("ascii"))
    disk.registry(
        "SYSTEM", '[$cs\\Services\\firstboot]\n"Type"=dword:00000010\n"Start"=dword:00000002\n'
        '"ImagePath"="C:\\\\Program Files\\\\Guestfs\\\\Firstboot\\\\rhsrvany.exe -s firstboot"\n'
    )  # fmt: skip


def nothing(disk: Surgery) -> None:
    """The disk stays as it is: what is wrong is beside it."""


# Disks and domains


def _facts(
    disks: Sequence[Path], firmware: str = "uefi", secure: bool = False, first: Optional[int] = None, name: str = "made",
    tpm: Optional[str] = None,
) -> DomainFacts:  # fmt: skip
    return DomainFacts(
        name=name,
        memory=2 << 30,
        vcpus=2,
        disks=tuple(
            DiskFacts(path, "qcow2", "virtio", f"vd{chr(97 + n)}", 1 if n == first else None) for n, path in enumerate(disks)
        ),
        firmware=firmware,
        secure_boot=secure,
        tpm=tpm,
    )


def empty_disk(image: Path, target: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(64 << 20)], check=True)
    return target


def same_signature(image: Path, target: Path) -> Path:
    """A data disk with an empty partition table that carries the first disk's MBR signature."""
    raw = target.with_suffix(".raw")
    with Surgery(image) as disk:
        signature = disk.read(440, 4)
    with open(raw, "wb") as new:
        new.truncate(64 << 20)
        new.seek(440)
        new.write(signature + bytes(2) + struct.pack("<B3sB3sII", 0, bytes(3), 7, bytes(3), 2048, 100000))
        new.seek(510)
        new.write(b"\x55\xaa")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(target)], check=True)
    raw.unlink()
    return target


def data_disk(mark: bytes, kind: int = 7) -> Callable[[Path, Path], Path]:
    """A disk with one MBR partition of a type, whose boot sector has this at byte 3."""

    def make(image: Path, target: Path) -> Path:
        raw = target.with_suffix(".raw")
        with open(raw, "wb") as new:
            new.truncate(64 << 20)
            new.seek(440)
            new.write(b"\x44\x41\x54\x41\0\0" + struct.pack("<B3sB3sII", 0, bytes(3), kind, bytes(3), 2048, 100000))
            new.seek(510)
            new.write(b"\x55\xaa")
            new.seek(2048 * 512 + 3)
            new.write(mark)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(target)], check=True)
        raw.unlink()
        return target

    return make


def kept_offline(disk: Surgery) -> None:
    """The SAN policy brings disks online, and partmgr noted that the disk of data_disk() is to stay offline."""
    place = "$cs\\Enum\\SCSI\\Disk&Ven_VMware_&Prod_VMware_Virtual_S\\5&1ec51bf7&0&000100\\Device Parameters\\Partmgr"
    cache = struct.pack("<II", 0, 4) + b"\x44\x41\x54\x41" + bytes(20)
    note = f'[{place}]\n"Attributes"=dword:00000001\n"PartitionTableCache"=hex:{cache.hex(",")}\n'
    together(ONLINE, registry("SYSTEM", note))(disk)


def old_system(image: Path, target: Path) -> Path:
    """A copy of the disk whose Windows is no more, but for its hibernation file."""
    shutil.copy(image, target)
    with Surgery(target) as disk:
        disk.volume("windows").remove("Windows/System32/config/SYSTEM")
        disk.volume("windows").put("hiberfil.sys", b"HIBR" + bytes(4092))
        disk.volume("boot").remove(boot_manager(disk))
    return target


def another_windows(image: Path, target: Path) -> Path:
    shutil.copy(image, target)
    return target


OVERRIDE = '"{}"=dword:00000003'
# A second disk would also want a server's SAN policy repaired.
ONLINE = registry("SYSTEM", '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000001\n')
NO_SUCH = 'multi:["partmgr","nosuchfilter"]'

FAULTS: tuple[Fault, ...] = (
    Fault("driver-file-missing", "viostor.sys is not there", REPAIR, gone(f"{DRIVERS}/viostor.sys"), (NEW, OLD)),
    Fault("driver-file-invalid:empty", "viostor.sys is empty", REPAIR, written(f"{DRIVERS}/viostor.sys", b"")),
    Fault("driver-file-invalid:truncated", "viostor.sys ends inside its section", REPAIR, driver(lambda d: d[: len(_unsigned(d)) * 3 // 4])),
    Fault("driver-file-invalid:text", "viostor.sys is no program", REPAIR, written(f"{DRIVERS}/viostor.sys", b"text" * 400)),
    Fault("driver-file-invalid:machine", "viostor.sys is for another machine type", REPAIR, driver(_other_machine), (NEW, OLD)),
    Fault(
        "driver-file-invalid:package", "viostor.sys of the virtio-win tree is empty", REFUSE, nothing, (NEW, OLD),
        base="plain", drivers="zero",
    ),
    Fault("driver-not-boot-start:start", "Start 3", REPAIR, service("viostor", '"Start"=dword:00000003'), (NEW, OLD)),
    Fault("driver-not-boot-start:type", "Type 16", REPAIR, service("viostor", '"Type"=dword:00000010')),
    Fault(
        "driver-not-boot-start:service", "no service", REPAIR, registry("SYSTEM", "-[$cs\\Services\\viostor]\n"), (NEW, OLD),
        also=frozenset({"driver-parameters-missing"}),
    ),
    Fault(
        "driver-start-override:0", "StartOverride 0=3", REPAIR,
        registry("SYSTEM", f'[$cs\\Services\\viostor\\StartOverride]\n{OVERRIDE.format("0")}\n'), (NEW,), fits=modern,
    ),
    Fault(
        "driver-start-override:other", "StartOverride of another hardware configuration", REPAIR,
        registry("SYSTEM", f'[$cs\\Services\\viostor\\StartOverride]\n"0"=dword:00000000\n{OVERRIDE.format("7")}\n'),
        fits=modern,
    ),
    Fault("driver-parameters-missing:group", "Group is another", REPAIR, service("viostor", '"Group"="Base"')),
    Fault(
        "driver-parameters-missing:bus-type", "no BusType", REPAIR,
        registry("SYSTEM", '[$cs\\Services\\viostor\\Parameters]\n"BusType"=-\n'), (NEW, OLD),
    ),
    Fault(
        "driver-parameters-missing:interface", "no PnpInterface", REPAIR,
        registry("SYSTEM", "-[$cs\\Services\\viostor\\Parameters\\PnpInterface]\n"),
    ),
    Fault("driver-parameters-missing:tag", "a Tag that its group lacks", REPAIR, service("viostor", '"Tag"=dword:000000ee')),
    Fault("device-id-unbound:modern", "1AF4:1042 leads nowhere", REPAIR, unbound("1042"), (NEW, OLD)),
    Fault("device-id-unbound:legacy", "1AF4:1001 leads nowhere", REPAIR, unbound("1001"), (NEW, OLD)),
    Fault("device-class-wrong", "the binding says DiskDrive", REPAIR, wrong_class, (NEW, OLD)),
    Fault(
        "control-set-differs", "only ControlSet002 has Start 3", REPAIR,
        registry("SYSTEM", '[ControlSet002\\Services\\viostor]\n"Start"=dword:00000003\n'), (OLD,),
        fits=lambda g: g.sets > 1, also=frozenset({"driver-not-boot-start"}),
    ),
    Fault(
        "bootstrap-controller-not-boot-start:override", "storahci has StartOverride 0=3", REPAIR,
        registry("SYSTEM", f'[$cs\\Services\\storahci\\StartOverride]\n{OVERRIDE.format("0")}\n'), (NEW,), fits=modern,
    ),
    Fault(
        "bootstrap-controller-not-boot-start:start", "msahci has Start 3", REPAIR,
        service("msahci", '"Start"=dword:00000003'), (OLD,), fits=old,
    ),
    Fault(
        "bootstrap-controller-not-boot-start:none", "no inbox storage driver has a file", REFUSE,
        together(*(gone(f"{DRIVERS}/{n}.sys") for n in ("storahci", "msahci", "intelide", "pciide", "atapi"))), (NEW, OLD),
    ),
    Fault("boot-stack-driver-disabled:start", "partmgr has Start 4", REPAIR, service("partmgr", '"Start"=dword:00000004'), (NEW, OLD)),
    Fault(
        "boot-stack-driver-disabled:override", "disk has StartOverride 0=3", REPAIR,
        registry("SYSTEM", f'[$cs\\Services\\disk\\StartOverride]\n{OVERRIDE.format("0")}\n'),
        fits=modern,
    ),
    Fault("boot-stack-driver-disabled:file", "mountmgr.sys is not there", REFUSE, gone(f"{DRIVERS}/mountmgr.sys"), (NEW, OLD)),
    Fault("boot-stack-driver-disabled:service", "volmgr has no service", REFUSE, registry("SYSTEM", "-[$cs\\Services\\volmgr]\n")),
    Fault(
        "class-filter-dangling:service", "a DiskDrive filter has no service", REPAIR,
        registry("SYSTEM", f'[{DISK_CLASS}]\n"UpperFilters"={NO_SUCH}\n'), (NEW, OLD),
    ),
    Fault(
        "class-filter-dangling:file", "a volume filter has no file", REPAIR,
        registry(
            "SYSTEM", f'[{VOLUME_CLASS}]\n"LowerFilters"=multi:["oldsnap"]\n[$cs\\Services\\oldsnap]\n"Type"=dword:00000001\n'
            '"Start"=dword:00000000\n"ImagePath"=expand:"system32\\\\drivers\\\\oldsnap.sys"\n',
        ),
    ),
    Fault(
        "class-filter-dangling:disabled", "a SCSIAdapter filter is disabled", REPAIR,
        together(
            registry(
                "SYSTEM", f'[{SCSI_CLASS}]\n"UpperFilters"=multi:["tape"]\n[$cs\\Services\\tape]\n"Type"=dword:00000001\n'
                '"Start"=dword:00000004\n"ImagePath"=expand:"system32\\\\drivers\\\\tape.sys"\n',
            ),
            written(f"{DRIVERS}/tape.sys", make_pe("amd64", b"made tape.sys")),
        ),
    ),
    Fault(
        "class-filter-hypervisor:xen", "XENFILT on System and hdc", REPAIR,
        registry(
            "SYSTEM", f'[{SYSTEM_CLASS}]\n"UpperFilters"=multi:["XENFILT"]\n[{HDC_CLASS}]\n"UpperFilters"=multi:["XENFILT"]\n'
            '[$cs\\Services\\XENFILT]\n"Type"=dword:00000001\n"Start"=dword:00000000\n'
            '"ImagePath"=expand:"\\\\SystemRoot\\\\System32\\\\drivers\\\\xenfilt.sys"\n',
        ),
        (NEW, OLD),
    ),
    Fault(
        "class-filter-hypervisor:parallels", "prl_strg on DiskDrive", REPAIR,
        registry("SYSTEM", f'[{DISK_CLASS}]\n"LowerFilters"=multi:["prl_strg"]\n[$cs\\Services\\prl_strg]\n"Start"=dword:00000000\n'),
    ),
    Fault(
        "device-install-policy:cddb", "DisableCDDB 1", REPAIR,
        registry("SYSTEM", '[$cs\\Control\\PnP]\n"DisableCDDB"=dword:00000001\n'), (OLD,), fits=old,
    ),
    Fault(
        "device-install-policy:raw", "DontStartRawDevices 1", REPAIR,
        registry("SYSTEM", '[$cs\\Control\\PnP]\n"DontStartRawDevices"=dword:00000001\n'), (OLD,), fits=old,
    ),
    Fault(
        "device-install-restrictions", "devices that no policy names are not installed", WARN,
        registry("SOFTWARE", '[Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions]\n"DenyUnspecified"=dword:00000001\n'),
        fits=modern,
    ),
    Fault(
        "driver-unsigned", "viostor.sys has no signature", REFUSE, nothing, (NEW, "win2012r2"), base="plain", drivers="none",
        fits=wide, also=frozenset({"nic-driver-missing"}),
    ),
    Fault("driver-unsigned:x86", "the guest's and the package's have none", WARN, driver(_unsigned), (OLD,), drivers="none", fits=narrow),
    Fault(
        "driver-unsigned:secure", "Secure Boot, and viostor.sys has no signature", REFUSE, nothing, base="plain", drivers="none",
        domain=lambda disks: _facts(disks, secure=True), fits=lambda g: uefi(g) and modern(g), also=frozenset({"nic-driver-missing"}),
    ),
    Fault("driver-unsigned:replaced", "the guest's viostor.sys has none, the package's has", REPAIR, driver(_unsigned), (NEW, OLD)),
    Fault(
        "driver-test-signed", "viostor.sys is test-signed", REFUSE, nothing, (NEW,), base="plain", drivers="test", fits=wide,
        also=frozenset({"nic-driver-missing"}),
    ),
    Fault(
        "driver-test-signed:x86", "the guest's and the package's are test-signed", WARN,
        driver(lambda data: sign_pe(_unsigned(data), "test")), (OLD,), drivers="test", fits=narrow,
    ),
    Fault(
        "driver-sha2-unsupported", "viostor.sys has a SHA-256 signature alone, and Windows 7 lacks the update", REFUSE, nothing,
        ("win2008r2",), base="plain", drivers="sha256", fits=lambda g: old(g) and wide(g), also=frozenset({"nic-driver-missing"}),
    ),
    Fault("driver-package-missing", "no directory for this Windows", REFUSE, nothing, (NEW, OLD), base="plain", drivers="omit"),
    Fault("hive-dirty:new", "SYSTEM is dirty, new logs", REPAIR, dirty("SYSTEM", "new", '[Setup]\n"OnlyInTheLogs"="here"\n'), fits=modern),
    Fault("hive-dirty:old", "SYSTEM is dirty, old log", REPAIR, dirty("SYSTEM", "old", '[Setup]\n"OnlyInTheLogs"="here"\n'), (OLD,), fits=old),
    Fault("hive-dirty:software", "SOFTWARE is dirty", REPAIR, dirty("SOFTWARE", "new", '[Made]\n"OnlyInTheLogs"="here"\n'), fits=modern),
    Fault("hive-unrecoverable", "SYSTEM is dirty, and has no logs", REFUSE, hive("SYSTEM", make_dirty), (NEW, OLD)),
    Fault("hive-corrupt:signature", "SYSTEM does not begin with regf", REFUSE, hive("SYSTEM", lambda d: b"gone" + d[4:])),
    Fault("hive-corrupt:bin", "a bin of SOFTWARE has no header", REFUSE, hive("SOFTWARE", broken_bin), (NEW, OLD)),
    Fault("hive-corrupt:truncated", "SYSTEM ends early", REFUSE, hive("SYSTEM", lambda d: d[: struct.unpack_from("<I", d, 40)[0]])),
    Fault("hive-corrupt:cell", "the list of services points nowhere", REFUSE, broken_cell, (NEW, OLD)),
    Fault(
        "hive-corrupt:select", "Select names a control set that is not there", REFUSE,
        registry("SYSTEM", '[Select]\n"Default"=dword:00000009\n'),
    ),
    Fault(
        "volume-encrypted", "BitLocker on the Windows volume", REFUSE,
        lambda disk: disk.write(disk.partitions()[-1][0] + 3, b"-FVE-FS-"), (NEW, OLD),
    ),
    Fault("volume-encrypted:data", "BitLocker on a data disk", WARN, ONLINE, (NEW, OLD), extra=data_disk(b"-FVE-FS-")),
    Fault("volume-hibernated:data", "an old system disk, hibernated, beside this one", WARN, ONLINE, (NEW, OLD), extra=old_system,
          also=frozenset({"disk-signature-duplicate"})),
    Fault("disk-dynamic", "the disk of Windows is a dynamic one", REFUSE, dynamic, (NEW, OLD)),
    Fault("disk-dynamic:mirror", "two halves of a mirror", REFUSE, dynamic, (OLD,), extra=another_windows, fits=bios,
          also=frozenset({"disk-signature-duplicate"})),
    Fault("disk-dynamic:data", "a data disk is a dynamic one", WARN, ONLINE, (NEW, OLD), extra=data_disk(b"", 0x42)),
    Fault("disk-table-damaged", "the partition table of a data disk is damaged", WARN, ONLINE, (NEW, OLD), extra=data_disk(b"", 0xEE)),
    Fault(
        "system-files-compressed", "CompactOS: cmd.exe is WOF-compressed", REFUSE,
        lambda disk: ntfs(disk).compress("Windows/System32/cmd.exe"), (NEW, OLD),
    ),
    Fault(
        "system-files-compressed:explorer", "explorer.exe is WOF-compressed", WARN,
        lambda disk: ntfs(disk).compress("Windows/explorer.exe"),
    ),
    Fault("volume-hibernated:hibr", "hiberfil.sys begins with HIBR", REFUSE, hibernated(b"HIBR"), (NEW, OLD)),
    Fault("volume-hibernated:rstr", "hiberfil.sys begins with RSTR", REFUSE, hibernated(b"RSTR")),
    Fault("volume-dirty", "the dirty flag of the Windows volume", REFUSE, lambda disk: ntfs(disk).set_dirty(), (NEW, OLD)),
    Fault("volume-log-unclean", "open transactions in $LogFile", WARN, lambda disk: ntfs(disk).set_unclean_log()),
    Fault(
        "volume-log-unclean:policy", "the same, and a policy that refuses it", REFUSE,
        lambda disk: ntfs(disk).set_unclean_log(), (NEW, OLD), policy="log-unclean: refuse\n",
    ),
    Fault("file-unreadable:loader", "winload is WOF-compressed", REFUSE, lambda disk: ntfs(disk).compress(winload(disk)), (NEW, OLD)),
    Fault("file-unreadable:hive", "SYSTEM is WOF-compressed", REFUSE, lambda disk: ntfs(disk).compress("Windows/System32/config/SYSTEM")),
    Fault("bcd-missing", "no BCD", REFUSE, no_store, (NEW, OLD)),
    Fault("bcd-corrupt:garbage", "the BCD is no hive", REFUSE, garbage_store, (NEW, OLD)),
    Fault("bcd-corrupt:manager", "the BCD has no boot manager", REFUSE, registry("BCD", f"-[Objects\\{BOOT_MANAGER}]\n")),
    Fault("bcd-default-missing:none", "no default, no display order", REPAIR, no_default, (NEW, OLD)),
    Fault(
        "bcd-default-missing:dangling", "the default is no object", REPAIR,
        element(BOOT_MANAGER, "23000003", '"{99999999-8888-7777-6666-555555555555}"'),
    ),
    Fault("bcd-default-missing:two", "no default, two Windows loaders", REFUSE, second_loader, (NEW, OLD), fits=plain_bcd),
    Fault("bcd-device-unresolved:device", "the loader's device is not here", REPAIR, elsewhere("11000001"), (NEW, OLD), fits=plain_bcd),
    Fault("bcd-device-unresolved:osdevice", "the OS device is not here", REPAIR, elsewhere("21000001"), fits=plain_bcd),
    Fault("bcd-device-unresolved:manager", "the boot manager's device is not here", REPAIR, elsewhere("11000001", BOOT_MANAGER), (NEW, OLD), fits=plain_bcd),
    Fault("bcd-device-unresolved:wrong", "the loader's device is the boot partition", REPAIR, wrong_partition, (NEW, OLD), fits=plain_bcd),
    Fault(
        "bcd-device-unresolved:nowhere", "device and winload are not here", REFUSE,
        together(elsewhere("11000001"), lambda disk: disk.volume("windows").remove(winload(disk))),
        also=frozenset({"bcd-loader-missing"}), fits=plain_bcd,
    ),
    Fault("bcd-loader-missing:file", "no winload", REFUSE, lambda disk: disk.volume("windows").remove(winload(disk)), (NEW, OLD)),
    Fault(
        "bcd-loader-missing:exe", "the entry starts winload.exe under UEFI", REFUSE,
        element("", "12000002", '"\\\\Windows\\\\system32\\\\winload.exe"'), fits=uefi,
    ),
    Fault(
        "boot-manager-missing:file", "no boot manager", REFUSE,
        lambda disk: disk.volume("boot").remove(boot_manager(disk)), (NEW, OLD),
    ),
    Fault(
        "boot-manager-missing:empty", "the boot manager is empty", REFUSE,
        lambda disk: disk.volume("boot").put(boot_manager(disk), b""), (NEW, OLD),
    ),
    Fault(
        "boot-manager-missing:partition", "no EFI system partition, and nothing on the FAT volume", REFUSE,
        together(lambda disk: disk.volume("boot").remove(boot_manager(disk)), lambda disk: disk.flush(), no_efi_partition), fits=uefi,
    ),
    Fault("esp-type-wrong", "the type of the EFI system partition is basic data", REPAIR, no_efi_partition, fits=uefi),
    Fault(
        "uefi-fallback-missing:file", "no BOOTX64.EFI", REPAIR,
        lambda disk: disk.volume("boot").remove("EFI/Boot/bootx64.efi"), fits=uefi,
    ),
    Fault(
        "uefi-fallback-missing:other", "BOOTX64.EFI is another loader, whole", WARN,
        written("EFI/Boot/bootx64.efi", make_pe("amd64", b"another boot manager"), "boot"), fits=uefi,
    ),
    Fault(
        "uefi-fallback-missing:truncated", "BOOTX64.EFI ends early", REPAIR,
        written("EFI/Boot/bootx64.efi", make_pe("amd64", b"another boot manager")[:700], "boot"), fits=uefi,
    ),
    Fault(
        "uefi-fallback-missing:machine", "BOOTX64.EFI is for another machine type", REPAIR,
        written("EFI/Boot/bootx64.efi", make_pe("x86", b"another boot manager"), "boot"), fits=uefi,
    ),
    Fault(
        "secure-boot-db-mismatch", "Secure Boot, and the loader is signed by Windows UEFI CA 2023", REFUSE, new_boot_manager,
        domain=lambda disks: _facts(disks, secure=True), fits=lambda g: uefi(g) and modern(g),
    ),
    Fault("safe-mode-set", "safeboot minimal", WARN, element("", "25000080", "hex:00,00,00,00,00,00,00,00"), (NEW, OLD)),
    Fault("boot-sequence-set", "the next boot is another entry's, once", WARN, another_first, (NEW, OLD)),
    Fault("serial-port-taken:ems", "EMS is on", WARN, element("", "260000b0", "hex:01"), (NEW, OLD)),
    Fault("serial-port-taken:debug", "the kernel debugger is on", WARN, element("", "260000a0", "hex:01")),
    Fault(
        "sector-size-mismatch", "the disk was one with sectors of 4096 bytes", DOMAIN, native_sectors,
        domain=_facts, fits=uefi,
    ),
    Fault("boot-partition-inactive:none", "no partition is active", REPAIR, active(), (OLD,), fits=bios),
    Fault("boot-partition-inactive:wrong", "the Windows partition is active", REPAIR, active(2), (OLD,), fits=bios),
    Fault("boot-partition-inactive:both", "two partitions are active", REPAIR, active(1, 2), (OLD,), fits=bios),
    Fault(
        "boot-partition-inactive:nothing", "none is active, none could be", REFUSE, together(active(), gone("bootmgr", "boot")),
        (OLD,), fits=bios,
    ),
    Fault(
        "domain-name-invalid", "the domain is called team/web01", REFUSE, nothing,
        domain=lambda disks: _facts(disks, name="team/web01"), fits=uefi,
    ),
    Fault(
        "firmware-mismatch", "the domain has the other firmware", DOMAIN, nothing,
        domain=lambda disks: _facts(disks, firmware="bios"), fits=uefi,
    ),
    Fault(
        "firmware-mismatch:uefi", "the domain has the other firmware", DOMAIN, nothing, (OLD,),
        domain=lambda disks: _facts(disks, firmware="uefi"), fits=bios,
    ),
    Fault(
        "boot-disk-ambiguous:order", "the domain starts the data disk", DOMAIN,
        registry("SYSTEM", '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000001\n'), extra=empty_disk,
        domain=lambda disks: _facts(disks, first=1), fits=uefi,
    ),
    Fault(
        "boot-disk-ambiguous:systems", "two disks with Windows", REFUSE, nothing, (NEW, OLD), extra=another_windows,
        also=frozenset({"disk-signature-duplicate"}),
    ),
    Fault(
        "disk-signature-duplicate", "a data disk carries the boot disk's signature", WARN,
        # a second disk would also want a server's SAN policy repaired
        registry("SYSTEM", '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000001\n'), (OLD,),
        extra=same_signature, fits=bios,
    ),
    Fault(
        "disks-offline-policy:internal", "SanPolicy 4", REPAIR,
        registry("SYSTEM", '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000004\n'), (NEW, OLD), extra=empty_disk,
    ),
    Fault(
        "disks-offline-policy:all", "SanPolicy 3", REPAIR,
        registry("SYSTEM", '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'), extra=empty_disk,
    ),
    Fault(
        "disks-offline-policy:kept", "SanPolicy 1 would bring a disk online that the owner kept offline", WARN, kept_offline,
        (NEW, OLD), extra=data_disk(b""),
    ),
    Fault(
        "drive-letter-unresolved:mbr", "E: is on a disk that is not here", WARN,
        registry("SYSTEM", '[MountedDevices]\n"\\\\DosDevices\\\\E:"=hex:44,33,22,11,00,00,10,00,00,00,00,00\n'), (NEW, OLD),
    ),
    Fault(
        "drive-letter-unresolved:gpt", "E: is a partition that is not here", WARN,
        registry("SYSTEM", f'[MountedDevices]\n"\\\\DosDevices\\\\E:"=hex:{(b"DMIO:ID:" + bytes(range(16))).hex(",")}\n'),
    ),
    Fault(
        "page-file-misplaced", "the page file is on Y:, which is not here", WARN,
        registry("SYSTEM", '[$cs\\Control\\Session Manager\\Memory Management]\n"PagingFiles"=multi:["Y:\\\\pagefile.sys 0 0"]\n'), (NEW, OLD),
    ),
    Fault(
        "security-virtualization", "Credential Guard", WARN, registry("SYSTEM", '[$cs\\Control\\Lsa]\n"LsaCfgFlags"=dword:00000001\n'), (NEW,),
        fits=modern,
    ),
    Fault(
        "new-tpm", "the domain has a TPM, and Windows may encrypt itself to it", WARN, nothing, ("win11",),
        domain=lambda disks: _facts(disks, tpm="tpm-crb"), fits=lambda g: uefi(g) and client_of_10(g),
    ),
    Fault(
        "scripts-restricted", "AppLocker enforces script rules", WARN,
        registry("SOFTWARE", '[Policies\\Microsoft\\Windows\\SrpV2\\Script]\n"EnforcementMode"=dword:00000001\n'), (NEW, OLD),
    ),
    Fault(
        "class-filter-hypervisor:xenserver", "scsifilt of XenServer 6, which could start", REPAIR,
        together(
            registry("SYSTEM", f'[{DISK_CLASS}]\n"UpperFilters"=multi:["partmgr","scsifilt"]\n[$cs\\Services\\scsifilt]\n'
                     '"Type"=dword:00000001\n"Start"=dword:00000000\n"ImagePath"=expand:"system32\\\\drivers\\\\scsifilt.sys"\n'),
            written(f"{DRIVERS}/scsifilt.sys", make_pe("amd64", b"made scsifilt.sys")),
        ), fits=modern,
    ),
    Fault(
        "class-filter-hypervisor:rhelscsi", "the boot driver of RHEL's Xen disks, in no list", REPAIR,
        together(
            registry("SYSTEM", '[$cs\\Services\\rhelscsi]\n"Type"=dword:00000001\n"Start"=dword:00000000\n'
                     '"Group"="SCSI miniport"\n"ImagePath"=expand:"system32\\\\drivers\\\\rhelscsi.sys"\n'),
            written(f"{DRIVERS}/rhelscsi.sys", make_pe("amd64", b"made rhelscsi.sys")),
        ), (NEW, OLD),
    ),
    Fault("nic-driver-missing:file", "netkvm.sys is not there", REPAIR, gone(f"{DRIVERS}/netkvm.sys"), (NEW, OLD)),
    Fault("nic-driver-missing:service", "netkvm has no service", REPAIR, registry("SYSTEM", "-[$cs\\Services\\netkvm]\n")),
    Fault(
        "nic-driver-missing:test-signed", "netkvm.sys of the virtio-win is test-signed, and the disks are on SATA", WARN, nothing,
        base="plain", drivers="test", bus="sata", domain=_facts, fits=wide,
    ),
    Fault("nic-ghost", "an adapter of a card that is gone", REPAIR, ghost(static=False), (NEW, OLD)),
    Fault("nic-static-stranded", "a static address on it", REPAIR, ghost(static=True), (NEW, OLD), also=frozenset({"nic-ghost"})),
    Fault(
        "network-setting-dropped", "WINS servers, and NetBIOS off, on it", REPAIR, together(ghost(static=True), wins_and_netbios),
        (NEW, OLD), also=frozenset({"nic-ghost", "nic-static-stranded"}),
    ),
    Fault(
        "network-profile-stale", "a private network known by the old gateway's MAC", REPAIR,
        together(ghost(static=False), stale_profile()), (NEW, OLD), also=frozenset({"nic-ghost"}), policy="profiles: remove\n",
    ),
    Fault(
        "reboot-pending:servicing", "servicing waits for a reboot", WARN,
        registry("SOFTWARE", '[Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\RebootPending]\n"Exclusive"=dword:00000001\n'),
        (NEW, OLD),
    ),
    Fault(
        "reboot-pending:renames", "renames wait for a reboot", WARN,
        registry(
            "SYSTEM", "[$cs\\Control\\Session Manager]\n"
            '"PendingFileRenameOperations"=multi:["\\\\??\\\\C:\\\\Windows\\\\Temp\\\\a.tmp","!\\\\??\\\\C:\\\\Windows\\\\a.dll"]\n',
        ),
    ),
    *(
        Fault(
            f"hypervisor-tools-present:{name}", program, WARN,
            registry(
                "SOFTWARE", f'[Microsoft\\Windows\\CurrentVersion\\Uninstall\\{name}]\n"DisplayName"="{program}"\n'
            ),
            (OLD,), fits=lambda g: g.name != NEW,
        )
        for name, program in (
            ("vmware", "VMware Tools"), ("xen", "XenServer VM Tools"), ("parallels", "Parallels Tools"),
            ("virtualbox", "Oracle VM VirtualBox Guest Additions 7.0.14"),
        )
    ),
    Fault(
        "hypervisor-tools-present:hyperv", "Hyper-V has spoken to this guest", WARN,
        registry("SOFTWARE", '[Microsoft\\Virtual Machine\\Guest\\Parameters]\n"HostName"="HV01"\n"VirtualMachineName"="made"\n'),
        (OLD,), fits=lambda g: g.name != NEW,
    ),
    Fault("guestor-leftover", "virt-v2v's placeholder package", FIRST_BOOT, guestor, fits=modern),
    Fault("first-boot-loop", "virt-v2v's script that installs drivers asks for another try for ever", REPAIR, endless_script, (NEW, OLD)),
    Fault(
        "first-boot-runner-missing", "no rhsrvany.exe on the host", REFUSE, nothing, (NEW,), base="plain", wrapper=True,
    ),
    Fault("source-running", "a QEMU has the disk open for writing", REFUSE, nothing, (NEW, OLD), base="plain", wrapper=True, during=used),
    Fault(
        "windows-unsupported:vista", "Windows Vista", WARN,
        registry("SOFTWARE", '[Microsoft\\Windows NT\\CurrentVersion]\n"CurrentVersion"="6.0"\n"CurrentBuildNumber"="6002"\n'),
        (OLD,), fits=old,
    ),
    Fault(
        "windows-unsupported:xp", "Windows XP, started by ntldr", WARN,
        together(
            registry("SOFTWARE", '[Microsoft\\Windows NT\\CurrentVersion]\n"CurrentVersion"="5.1"\n"CurrentBuildNumber"="2600"\n'),
            gone("bootmgr", "boot"), written("ntldr", b"made ntldr", "boot"),
        ),
        (OLD,), fits=old, base="plain",
    ),
    Fault(
        "cluster-member", "a node of a failover cluster", WARN,
        service("ClusSvc", '"Type"=dword:00000010\n"Start"=dword:00000002\n"ImagePath"=expand:"%SystemRoot%\\\\Cluster\\\\clussvc.exe"'),
        extra=empty_disk,
    ),
)  # fmt: skip


def by_name(name: str) -> Fault:
    """The fault of that name, or the first of that finding."""
    found = [f for f in FAULTS if f.name == name] or [f for f in FAULTS if f.finding == name]
    if not found:
        raise SystemExit(f"{name}: no such fault; see: python3 -m tests.guests.faults list")
    return found[0]


def break_disk(fault: Fault, image: Path) -> None:
    """Put the fault into a disk of a made guest."""
    with Surgery(image) as disk:
        fault.inject(disk)


def main(argv: Sequence[str]) -> int:
    """The commands of the first lines of this file."""
    from tests.guests import fault_matrix

    if not argv or argv[0] == "list":
        for fault in FAULTS:
            print(f"{fault.name:<45} {fault.answer:<21} {', '.join(fault.guests):<19} {fault.what}")
        return 0
    if argv[0] == "matrix":
        return fault_matrix.main(argv[1:])
    if argv[0] == "try":
        return fault_matrix.try_one(by_name(argv[1]))
    break_disk(by_name(argv[0]), Path(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


__all__ = ["FAULTS", "Fault", "GuestFacts", "break_disk", "by_name"]
