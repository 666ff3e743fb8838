"""The boot loader hook on guests in memory: what it repairs, refuses, and leaves alone."""

from __future__ import annotations

import dataclasses
import struct
import uuid
from typing import Optional

import pytest

from h2k.base.errors import BadData
from h2k.disk.partition import Partition
from h2k.disk.reader import Disk, VolumeRef
from h2k.guest.boot_files import ESP_TYPE
from h2k.guest.changes import SetActive, SetPartitionType, SetValue, WriteFile
from h2k.guest.guest import Guest
from tests.guests.pe import make_pe, make_pe_with_broken_signature
from tests.guests.regfile import build_hive
from tests.unit.hooks import Said, ask
from tests.unit.memory_reader import MemoryReader, apply_changes, make_disk, windows_guest

MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
LOADER = "{11111111-0000-0000-0000-000000000001}"
BOOT, WINDOWS = VolumeRef(0, 1), VolumeRef(0, 2)
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
OTHER_KINDS = {"boot": 5, "ramdisk": 3, "locate": 8, "vhd": 0}


def element(disk: Disk, number: int) -> bytes:
    """A device element for a partition, written without h2k's encoder."""
    partition = next(p for p in disk.table.partitions if p.number == number)
    raw = bytearray(88)
    raw[16], raw[24] = 6, 0x48
    if disk.table.scheme == "gpt":
        raw[32:48], raw[56:72] = uuid.UUID(partition.guid).bytes_le, uuid.UUID(disk.table.id).bytes_le
    else:
        struct.pack_into("<Q", raw, 32, partition.start)
        raw[52] = 1
        struct.pack_into("<I", raw, 56, int(disk.table.id, 16))
    return bytes(raw)


def other_kind(name: str) -> bytes:
    return bytes(16) + struct.pack("<III", OTHER_KINDS[name], 0, 0x48) + bytes(60)


def store(
    firmware: str = "uefi",
    device: Optional[bytes] = None,
    osdevice: Optional[bytes] = None,
    manager: Optional[bytes] = None,
    default: Optional[str] = LOADER,
    order: Optional[str] = LOADER,
    loader: str = LOADER,
    path: str = "",
    extra: str = "",
) -> bytes:
    """A BCD with one Windows loader; the devices name the real partitions unless they are given."""
    scheme = "gpt" if firmware == "uefi" else "mbr"
    disk = make_disk(0, ["fat" if firmware == "uefi" else "ntfs", "ntfs"], scheme)
    suffix = "efi" if firmware == "uefi" else "exe"
    text = f'[Objects\\{MANAGER}\\Description]\n"Type"=dword:10100002\n'

    def add(owner: str, number: str, value: str) -> None:
        nonlocal text
        text += f'[Objects\\{owner}\\Elements\\{number}]\n"Element"={value}\n'

    add(MANAGER, "11000001", f"hex:{(element(disk, 1) if manager is None else manager).hex(',')}")
    if default is not None:
        add(MANAGER, "23000003", f'"{default}"')
    if order is not None:
        add(MANAGER, "24000001", f'multi:["{order}"]')
    text += f'[Objects\\{loader}\\Description]\n"Type"=dword:10200003\n'
    for number, given in (("11000001", device), ("21000001", osdevice)):
        raw = element(disk, 2) if given is None else given
        if raw:
            add(loader, number, f"hex:{raw.hex(',')}")
    shown = path or f"\\\\Windows\\\\system32\\\\winload.{suffix}"
    add(loader, "12000002", f'"{shown}"')
    add(loader, "22000002", '"\\\\Windows"')
    return build_hive(text + extra)


def loader_with(number: str, value: str, firmware: str = "uefi") -> bytes:
    """A sound BCD with one more element in its loader."""
    return store(firmware, extra=f'[Objects\\{LOADER}\\Elements\\{number}]\n"Element"={value}\n')


def guest_with(bcd: Optional[bytes], firmware: str = "uefi", version: str = "10.0", data_disks: int = 0) -> Guest:
    """A guest whose boot files are all there."""
    suffix = "efi" if firmware == "uefi" else "exe"
    files = {f"Windows/System32/winload.{suffix}": make_pe("amd64", b"made winload")}
    guest = windows_guest(files=files, bcd=bcd, firmware=firmware, version=version, data_disks=data_disks)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    if firmware == "uefi":
        manager = make_pe("amd64", b"made boot manager")
        reader.files[BOOT].update({"/EFI/Microsoft/Boot/bootmgfw.efi": manager, "/EFI/Boot/bootx64.efi": manager})
    else:
        reader.files[BOOT]["/bootmgr"] = b"made bootmgr"
    return guest


def files(guest: Guest, ref: VolumeRef = BOOT) -> dict[str, bytes]:
    assert isinstance(guest.reader, MemoryReader)
    return guest.reader.files[ref]


def repaired(guest: Guest, said: Said) -> Guest:
    """The guest after the changes: the hook must have nothing left to say about it."""
    again = apply_changes(guest, said.changes)
    assert ask("boot-loader", again).states() == {}
    assert not ask("boot-loader", again).changes
    return again


def with_table(guest: Guest, index: int, partitions: tuple[Partition, ...]) -> Guest:
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    disks = list(reader.disks)
    table = dataclasses.replace(disks[index].table, partitions=partitions)
    disks[index] = dataclasses.replace(disks[index], table=table)
    return Guest(MemoryReader(disks, reader.files))


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_sound_chain_gets_no_word(firmware: str) -> None:
    said = ask("boot-loader", guest_with(store(firmware), firmware))
    assert said.findings == () and said.changes == ()


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize("kind", sorted(OTHER_KINDS))
def test_devices_that_are_found_at_boot_are_reported_and_left_alone(kind: str, firmware: str) -> None:
    raw = other_kind(kind)
    guest = guest_with(store(firmware, device=raw, osdevice=raw, manager=raw), firmware)
    said = ask("boot-loader", guest)
    assert [f.state for f in said.findings] == ["ok", "ok", "ok"]
    assert {f.id for f in said.findings} == {"bcd-device-unresolved"}
    assert said.changes == ()


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize("which", ["device", "osdevice", "manager"])
def test_a_device_of_another_disk_is_repaired(which: str, firmware: str) -> None:
    scheme = "gpt" if firmware == "uefi" else "mbr"
    strange = element(make_disk(7, ["ntfs", "ntfs"], scheme), 2)
    guest = guest_with(store(firmware, **{which: strange}), firmware)
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-device-unresolved": {"broken"}}
    disk = make_disk(0, ["fat" if firmware == "uefi" else "ntfs", "ntfs"], scheme)
    owner = {"device": f"{LOADER} device", "osdevice": f"{LOADER} osdevice", "manager": f"{MANAGER} device"}
    assert said.findings[0].subject == f"BCD {owner[which]}"
    values = [c for c in said.changes if isinstance(c, SetValue)]
    assert [v.value.raw for v in values] == [element(disk, 1 if which == "manager" else 2)]
    diff = values[0].diff(guest)
    assert "→" in diff and f"{scheme} disk {disk.table.id}" in diff
    again = repaired(guest, said)
    path = "/EFI/Microsoft/Boot/BCD" if firmware == "uefi" else "/Boot/BCD"
    assert files(again)[path + ".h2k-backup"] == files(guest)[path]


def test_a_missing_device_element_is_written() -> None:
    guest = guest_with(store(device=b"", osdevice=b""))
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-device-unresolved": {"broken"}}
    repaired(guest, said)


def test_an_inherited_device_counts_as_the_loader_s_own() -> None:
    disk = make_disk(0, ["fat", "ntfs"])
    parent = "{22222222-0000-0000-0000-000000000002}"
    raw = element(disk, 2).hex(",")
    extra = f'[Objects\\{LOADER}\\Elements\\14000006]\n"Element"=multi:["{parent}"]\n'
    extra += f'[Objects\\{parent}\\Description]\n"Type"=dword:20200003\n'
    extra += "".join(f'[Objects\\{parent}\\Elements\\{n}]\n"Element"=hex:{raw}\n' for n in ("11000001", "21000001"))
    assert ask("boot-loader", guest_with(store(device=b"", osdevice=b"", extra=extra))).states() == {}


def test_a_device_that_names_a_partition_without_the_loader_is_repaired() -> None:
    guest = guest_with(store(device=element(make_disk(0, ["fat", "ntfs"]), 1)))
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-device-unresolved": {"broken"}}
    assert "disk 0 partition 1" in said.findings[0].evidence
    repaired(guest, said)


def test_a_loader_that_is_nowhere_is_refused_with_the_command() -> None:
    guest = guest_with(store())
    del files(guest, WINDOWS)["/Windows/System32/winload.efi"]
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-loader-missing": {"refused"}} and said.changes == ()
    assert r"copy C:\Windows\System32\Boot\winload.efi to C:\Windows\system32\winload.efi " in said.findings[0].repair
    assert r"bcdboot C:\Windows /s S: /f UEFI" in said.findings[0].repair


def test_a_loader_for_the_other_firmware_is_refused() -> None:
    said = ask("boot-loader", guest_with(store(path="\\\\Windows\\\\system32\\\\winload.exe")))
    assert said.states() == {"bcd-loader-missing": {"refused"}}
    assert said.findings[0].subject == "/Windows/system32/winload.exe"
    assert said.findings[0].evidence == "the default loader is \\Windows\\system32\\winload.exe, which UEFI firmware can't start"
    nowhere = f'[Objects\\{LOADER}\\Elements\\12000002]\n"Element"=""\n'
    said = ask("boot-loader", guest_with(store("bios", extra=nowhere), "bios"))
    assert said.states() == {"bcd-loader-missing": {"refused"}} and said.findings[0].subject == LOADER
    assert said.findings[0].evidence == "the default loader is nowhere, which BIOS firmware can't start"


def test_a_device_whose_volume_can_t_be_read_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = guest_with(store(device=element(make_disk(0, ["fat", "ntfs"]), 1)))
    stat = guest.reader.stat

    def damaged(ref: VolumeRef, path: str) -> object:
        if ref == BOOT and "winload" in path:
            raise BadData(f"{path}: the file system is damaged")
        return stat(ref, path)

    monkeypatch.setattr(guest.reader, "stat", damaged)
    assert ask("boot-loader", guest).states() == {"bcd-device-unresolved": {"broken"}}


def test_a_loader_of_another_machine_type_is_refused() -> None:
    guest = guest_with(store())
    for machine, wanted in (("x86", "amd64"), ("amd64", "x86")):
        files(guest, WINDOWS)["/Windows/System32/winload.efi"] = make_pe(machine, b"made winload")
        files(guest, WINDOWS)["/Windows/System32/ntoskrnl.exe"] = make_pe(wanted, b"made kernel")
        said = ask("boot-loader", Guest(guest.reader))
        assert said.states() == {"bcd-loader-missing": {"refused"}}
        assert said.findings[0].evidence == f"is for {machine}, Windows is {wanted}"


@pytest.mark.parametrize("path", ["/Windows/System32/winload.efi", "/bootmgr"])
def test_a_compressed_loader_can_t_be_judged(path: str) -> None:
    firmware = "bios" if path == "/bootmgr" else "uefi"
    guest = guest_with(store(firmware), firmware)
    ref = BOOT if path == "/bootmgr" else WINDOWS
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    reader.unreadable[ref, path.lower()] = "WOF-compressed"
    said = ask("boot-loader", guest)
    assert said.states() == {"file-unreadable": {"refused"}}
    assert "compact /u" in said.findings[0].repair


@pytest.mark.parametrize(
    ("default", "order"), [(None, None), ("{99999999-0000-0000-0000-000000000009}", LOADER), (None, "{99999999-0000-0000-0000-000000000009}")]
)  # fmt: skip
def test_the_only_windows_loader_becomes_the_default(default: Optional[str], order: Optional[str]) -> None:
    guest = guest_with(store(default=default, order=order))
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-default-missing": {"broken"}}
    named = default or order or "not set"
    assert said.findings[0].evidence == f"the default is {named}, which is no object of the store (Windows loaders: {LOADER})"
    again = repaired(guest, said)
    manager = again.hive("BCD").key(f"Objects\\{MANAGER}\\Elements")
    assert manager is not None
    values = {k.name: k.value("Element") for k in manager.subkeys()}
    assert values["23000003"] is not None and values["23000003"].text() == LOADER
    assert values["24000001"] is not None and values["24000001"].multi() == (LOADER,)


def second_system(root: str, device: bytes) -> str:
    other = "{33333333-0000-0000-0000-000000000003}"
    text = f'[Objects\\{other}\\Description]\n"Type"=dword:10200003\n'
    text += f'[Objects\\{other}\\Elements\\21000001]\n"Element"=hex:{device.hex(",")}\n'
    return text + f'[Objects\\{other}\\Elements\\22000002]\n"Element"="{root}"\n'


def test_a_store_without_a_windows_loader_is_refused() -> None:
    gone = [f"{{99999999-0000-0000-0000-00000000000{n}}}" for n in (1, 2)]
    other = f'[Objects\\{LOADER}\\Description]\n"Type"=dword:10200004\n'
    said = ask("boot-loader", guest_with(store(default=None, order='","'.join(gone), extra=other)))
    assert said.states() == {"bcd-default-missing": {"refused"}} and said.changes == ()
    assert said.findings[0].evidence == f"the default is {gone[0]}, which is no object of the store (Windows loaders: none)"


def test_two_windows_loaders_are_nobody_s_to_choose_from() -> None:
    extra = second_system("\\\\Windows", element(make_disk(0, ["fat", "ntfs"]), 2))
    said = ask("boot-loader", guest_with(store(default=None, order=None, extra=extra)))
    assert said.states() == {"bcd-default-missing": {"refused"}} and said.changes == ()
    assert "bcdboot" in said.findings[0].repair


def test_the_one_that_names_this_windows_root_is_chosen_of_two() -> None:
    extra = second_system("\\\\WINNT", element(make_disk(0, ["fat", "ntfs"]), 2))
    guest = guest_with(store(default=None, order=None, extra=extra))
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-default-missing": {"broken"}} and said.findings[0].repair.startswith(LOADER)
    repaired(guest, said)


def test_the_only_loader_counts_whatever_root_it_names() -> None:
    strange = f'[Objects\\{LOADER}\\Elements\\22000002]\n"Element"="\\\\WINNT"\n'
    assert ask("boot-loader", guest_with(store(default=None, order=None, extra=strange))).states() == {"bcd-default-missing": {"broken"}}


def test_the_new_default_stands_first_and_the_rest_of_the_order_stays() -> None:
    tools, gone = [f"{{44444444-0000-0000-0000-00000000000{n}}}" for n in (4, 5)], "{99999999-0000-0000-0000-000000000009}"
    extra = "".join(f'[Objects\\{tool}\\Description]\n"Type"=dword:10400008\n' for tool in tools)
    guest = guest_with(store(default=gone, order='","'.join([gone, *tools]), extra=extra))
    manager = repaired(guest, ask("boot-loader", guest)).hive("BCD").value(f"Objects\\{MANAGER}\\Elements\\24000001", "Element")
    assert manager is not None and manager.multi() == (LOADER, *tools)


def test_a_recovery_environment_is_no_second_windows() -> None:
    guest = guest_with(store(default=None, order=None, extra=second_system("\\\\windows", other_kind("ramdisk"))))
    said = ask("boot-loader", guest)
    assert said.states() == {"bcd-default-missing": {"broken"}}
    repaired(guest, said)


def test_a_default_that_is_no_windows_loader_is_the_owner_s_choice() -> None:
    other = "{44444444-0000-0000-0000-000000000004}"
    extra = f'[Objects\\{other}\\Description]\n"Type"=dword:10400008\n'
    said = ask("boot-loader", guest_with(store(default=other, order=other, extra=extra)))
    assert said.states() == {"bcd-default-missing": {"warning"}} and said.changes == ()


def test_no_store_and_a_bad_store_are_refused() -> None:
    for firmware, command in (("uefi", "/f UEFI"), ("bios", "/f BIOS")):
        missing = ask("boot-loader", guest_with(None, firmware))
        assert missing.states() == {"bcd-missing": {"refused"}} and command in missing.findings[0].repair
        bad = ask("boot-loader", guest_with(build_hive('[Objects\\{0}]\n"a"="b"\n'), firmware))
        assert bad.states() == {"bcd-corrupt": {"refused"}} and command in bad.findings[0].repair


def test_the_fallback_is_the_guest_s_own_boot_manager() -> None:
    for content in (None, b"MZ another program"):
        guest = guest_with(store())
        del files(guest)["/EFI/Boot/bootx64.efi"]
        if content is not None:
            files(guest)["/EFI/Boot/bootx64.efi"] = content
        said = ask("boot-loader", guest)
        assert said.states() == {"uefi-fallback-missing": {"broken"}}
        assert [c.data for c in said.changes if isinstance(c, WriteFile)] == [files(guest)["/EFI/Microsoft/Boot/bootmgfw.efi"]]
        repaired(guest, said)


def test_an_earlier_backup_of_the_store_stays() -> None:
    guest = guest_with(store(default=None, order=None))
    files(guest)["/EFI/Microsoft/Boot/BCD.h2k-backup"] = b"the oldest"
    said = ask("boot-loader", guest)
    assert not [c for c in said.changes if isinstance(c, WriteFile)]
    assert files(repaired(guest, said))["/EFI/Microsoft/Boot/BCD.h2k-backup"] == b"the oldest"


@pytest.mark.parametrize(("content", "why"), [(None, "missing"), (b"", "empty"), (b"no program", "not a PE file")])
def test_no_boot_manager_is_refused(content: Optional[bytes], why: str) -> None:
    guest = guest_with(store())
    del files(guest)["/EFI/Microsoft/Boot/bootmgfw.efi"]
    if content is not None:
        files(guest)["/EFI/Microsoft/Boot/bootmgfw.efi"] = content
    said = ask("boot-loader", guest)
    assert said.states() == {"boot-manager-missing": {"refused"}} and why in said.findings[0].evidence


@pytest.mark.parametrize(("arch", "name"), [("x86", "BOOTIA32"), ("amd64", "BOOTX64"), ("arm64", "BOOTAA64")])
def test_each_machine_type_has_its_own_fallback(arch: str, name: str) -> None:
    guest = guest_with(store())
    manager = make_pe(arch, b"made boot manager")
    files(guest).clear()
    files(guest).update({"/EFI/Microsoft/Boot/bootmgfw.efi": manager, "/EFI/Microsoft/Boot/BCD": store()})
    assert [c for c in ask("boot-loader", guest).changes if isinstance(c, WriteFile)] == [
        WriteFile(BOOT, f"/EFI/BOOT/{name}.EFI", manager, "the guest's own /EFI/Microsoft/Boot/bootmgfw.efi")
    ]


@pytest.mark.parametrize(("content", "why"), [(None, "missing"), (b"", "empty")])
def test_no_boot_manager_of_bios_is_refused(content: Optional[bytes], why: str) -> None:
    guest = guest_with(store("bios"), "bios")
    del files(guest)["/bootmgr"]
    if content is not None:
        files(guest)["/bootmgr"] = content
    (finding,) = [f for f in ask("boot-loader", guest).findings if f.id == "boot-manager-missing"]
    assert (finding.state, finding.subject, finding.evidence) == ("refused", "/bootmgr", why)


def test_ntldr_is_named() -> None:
    guest = guest_with(store("bios"), "bios")
    del files(guest)["/bootmgr"]
    files(guest)["/ntldr"] = b"made ntldr"
    assert ask("boot-loader", guest).findings[0].evidence == "missing; ntldr of Windows XP or 2003 is there"


def test_an_old_windows_is_left_to_virt_v2v() -> None:
    guest = guest_with(None, "bios", version="5.1")
    assert ask("boot-loader", guest).findings == ()


@pytest.mark.parametrize(("active", "shown"), [((), "none"), ((2,), "2"), ((1, 2), "1, 2")])
def test_the_partition_with_the_boot_files_becomes_active(active: tuple[int, ...], shown: str) -> None:
    guest = guest_with(store("bios"), "bios")
    partitions = guest.disks[0].table.partitions
    guest = with_table(guest, 0, tuple(dataclasses.replace(p, active=p.number in active) for p in partitions))
    said = ask("boot-loader", guest)
    assert said.states() == {"boot-partition-inactive": {"broken"}}
    assert said.findings[0].evidence == f"active: {shown}; bootmgr and \\Boot\\BCD are on partition 1"
    assert [c for c in said.changes if isinstance(c, SetActive)] == [SetActive(0, 1)]
    assert f"→ {1}" in said.changes[0].diff(guest)
    assert [p.active for p in repaired(guest, said).disks[0].table.partitions] == [True, False]


def test_boot_files_on_another_disk_are_no_second_choice() -> None:
    guest = guest_with(store("bios"), "bios", data_disks=1)
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[VolumeRef(1, 1)] = {"/bootmgr": b"made bootmgr", "/Boot/BCD": b"of another system"}
    guest = with_table(guest, 0, tuple(dataclasses.replace(p, active=False) for p in guest.disks[0].table.partitions))
    said = ask("boot-loader", guest)
    assert said.states() == {"boot-partition-inactive": {"broken"}} and said.changes == (SetActive(0, 1),)


def test_two_partitions_that_could_be_active_are_refused() -> None:
    guest = guest_with(store("bios", device=other_kind("boot"), osdevice=other_kind("locate")), "bios")
    files(guest, WINDOWS).update({p: files(guest)[p] for p in ("/bootmgr", "/Boot/BCD")})
    partitions = guest.disks[0].table.partitions
    guest = with_table(guest, 0, tuple(dataclasses.replace(p, active=False) for p in partitions))
    said = ask("boot-loader", guest)
    assert said.states() == {"boot-partition-inactive": {"refused"}} and said.changes == ()
    assert said.findings[0].evidence.endswith("on each of the partitions 1, 2")


def test_no_partition_to_start_from() -> None:
    guest = guest_with(None, "bios")
    del files(guest)["/bootmgr"]
    partitions = guest.disks[0].table.partitions
    for active, shown in (((), "none"), ((1, 2), "partition 1, partition 2")):
        guest = with_table(guest, 0, tuple(dataclasses.replace(p, active=p.number in active) for p in partitions))
        said = ask("boot-loader", guest)
        assert said.states() == {"boot-partition-inactive": {"refused"}}
        assert said.findings[0].evidence == f"active: {shown}; no primary partition holds bootmgr and \\Boot\\BCD"
    uefi = guest_with(store())
    files(uefi).clear()
    no_esp = tuple(dataclasses.replace(p, type="EBD0A0A2-B9E5-4433-87C0-68B6B72699C7") for p in uefi.disks[0].table.partitions)
    assert ask("boot-loader", with_table(uefi, 0, no_esp)).states() == {"boot-manager-missing": {"refused"}}


def test_the_boot_files_are_found_on_another_disk() -> None:
    """Windows on the first disk, its boot partition on the second: what is on a disk decides, and not its number."""
    guest = guest_with(store("bios"), "bios", data_disks=1)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    reader.files[VolumeRef(1, 1)] = reader.files.pop(BOOT)
    reader.files[BOOT] = {}
    moved = Guest(reader)
    assert moved.boot_disk == 1 and moved.boot_place.fitting[0].ref == VolumeRef(1, 1)
    assert ask("boot-loader", moved).states() == {}


# Loaders of others, and what the default loader is told


@pytest.mark.parametrize("content", [make_pe("amd64", b"a shim"), make_pe("amd64", b"an older boot manager", signed=True, by="windows")])
def test_a_whole_loader_at_the_fallback_path_is_never_overwritten(content: bytes) -> None:
    guest = guest_with(store())
    files(guest)["/EFI/Boot/bootx64.efi"] = content
    said = ask("boot-loader", guest)
    assert said.states() == {"uefi-fallback-missing": {"warning"}} and said.changes == ()
    assert ("signed by Microsoft Windows" if b"older" in content else "not signed") in said.findings[0].evidence


def test_a_loader_at_the_fallback_path_whose_signature_is_none_counts_as_not_signed() -> None:
    guest = guest_with(store())
    files(guest)["/EFI/Boot/bootx64.efi"] = make_pe_with_broken_signature("amd64", b"a shim")
    said = ask("boot-loader", guest)
    assert said.states() == {"uefi-fallback-missing": {"warning"}} and said.findings[0].evidence.endswith(": not signed")


def test_a_fallback_of_the_same_size_is_another_loader_and_one_that_can_t_be_read_is_none() -> None:
    guest = guest_with(store())
    files(guest)["/EFI/Boot/bootx64.efi"] = make_pe("amd64", b"made boot other!!")
    assert ask("boot-loader", guest).states() == {"uefi-fallback-missing": {"warning"}}
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[BOOT, "/efi/boot/bootx64.efi"] = "compressed"
    said = ask("boot-loader", guest)
    assert said.states() == {"uefi-fallback-missing": {"broken"}} and "compressed" in said.findings[0].evidence


@pytest.mark.parametrize("content", [b"", make_pe("amd64", b"a shim")[:700], make_pe("x86", b"a shim"), b"text" * 300])
def test_one_that_is_none_here_is(content: bytes) -> None:
    guest = guest_with(store())
    files(guest)["/EFI/Boot/bootx64.efi"] = content
    said = ask("boot-loader", guest)
    assert said.states() == {"uefi-fallback-missing": {"broken"}}
    repaired(guest, said)


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize(("value", "word"), [(0, "minimal"), (1, "network"), (2, "dsrepair"), (9, "9")])
def test_safe_mode(firmware: str, value: int, word: str) -> None:
    said = ask("boot-loader", guest_with(loader_with("25000080", f"hex:{value:02x},00,00,00,00,00,00,00", firmware), firmware))
    assert said.states() == {"safe-mode-set": {"warning"}} and word in said.findings[0].evidence and said.changes == ()


PARENT, EMS_SETTINGS = "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}", "{0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9}"
GLOBAL_SETTINGS = "{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}"


def inherited(number: str) -> str:
    """The chain of a store that Windows 7 made, from the loader to {emssettings}, which has the element on."""
    heirs = ((LOADER, PARENT), (PARENT, GLOBAL_SETTINGS), (GLOBAL_SETTINGS, EMS_SETTINGS))
    chain = "".join(f'[Objects\\{heir}\\Elements\\14000006]\n"Element"=multi:["{parent}"]\n' for heir, parent in heirs)
    return chain + f'[Objects\\{EMS_SETTINGS}\\Elements\\{number}]\n"Element"=hex:01\n'


@pytest.mark.parametrize(
    ("elements", "who"),
    [
        ({"260000b0": "hex:01"}, "EMS"),
        ({"16000020": "hex:01"}, ""),  # bootems: of boot applications, which are gone by then
        ({"16000020": "hex:01", "15000022": "hex:01,00,00,00,00,00,00,00"}, ""),
        ({"16000020": "hex:01", "260000b0": "hex:00"}, ""),
        ({"16000020": "hex:00", "260000b0": "hex:01"}, "EMS"),
        ({"260000b0": "hex:00"}, ""),
        ({"260000b0": "hex:01", "15000022": "hex:02,00,00,00,00,00,00,00"}, ""),
        ({"260000b0": "hex:01", "15000022": "hex:01,00,00,00,00,00,00,00"}, "EMS"),
        ({"260000a0": "hex:01"}, "debugger"),
        ({"16000010": "hex:01"}, "debugger"),  # no store has it on by itself
        ({"16000010": "hex:01", "15000011": "hex:00,00,00,00,00,00,00,00"}, "debugger"),
        ({"260000a0": "hex:01", "15000011": "hex:03,00,00,00,00,00,00,00"}, ""),  # over the network
        ({"260000a0": "hex:01", "15000013": "hex:02,00,00,00,00,00,00,00"}, ""),  # over COM2
        ({"15000011": "hex:00,00,00,00,00,00,00,00", "15000013": "hex:01,00,00,00,00,00,00,00"}, ""),  # set, and off
    ],
)
def test_who_has_com1(elements: dict[str, str], who: str) -> None:
    extra = "".join(f'[Objects\\{LOADER}\\Elements\\{number}]\n"Element"={value}\n' for number, value in elements.items())
    said = ask("boot-loader", guest_with(store(extra=extra)))
    assert said.states() == ({"serial-port-taken": {"warning"}} if who else {})
    assert not who or who in said.findings[-1].evidence


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_store_as_windows_7_makes_it_takes_no_port(firmware: str) -> None:
    """`bootems Yes` in {emssettings}, which every loader inherits, with EMS not in use."""
    assert ask("boot-loader", guest_with(store(firmware, extra=inherited("16000020")), firmware)).states() == {}


def test_settings_that_the_loader_inherits_count() -> None:
    assert ask("boot-loader", guest_with(store(extra=inherited("260000b0")))).states() == {"serial-port-taken": {"warning"}}


OTHER, MEMORY_TEST = "{33333333-0000-0000-0000-000000000003}", "{b2721d73-1db4-4c62-bf78-c548a880142d}"


def named(owner: str, name: str = "") -> str:
    """An entry of the store, with the name that the boot menu shows."""
    text = f'[Objects\\{owner}\\Description]\n"Type"=dword:10200005\n'
    return text + (f'[Objects\\{owner}\\Elements\\12000004]\n"Element"="{name}"\n' if name else "")


def sequence(*entries: str, more: str = "") -> str:
    listed = ",".join(f'"{entry}"' for entry in entries)
    return f'[Objects\\{MANAGER}\\Elements\\24000002]\n"Element"=multi:[{listed}]\n{more}'


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_one_time_boot_sequence_that_begins_with_another_entry(firmware: str) -> None:
    more = named(MEMORY_TEST, "Windows Memory Diagnostic") + named(OTHER)
    extra = sequence(MEMORY_TEST.upper(), OTHER, LOADER, more=more)
    said = ask("boot-loader", guest_with(store(firmware, extra=extra), firmware))
    assert said.states() == {"boot-sequence-set": {"warning"}} and said.changes == ()
    (finding,) = said.findings
    assert (finding.subject, finding.repair) == (f"BCD {MANAGER}", "bcdedit /deletevalue {bootmgr} bootsequence")
    assert finding.evidence == (
        f'bootsequence "Windows Memory Diagnostic" {MEMORY_TEST}, then {OTHER}, then {LOADER}: '
        f"the next boot starts it, once, instead of {LOADER}"
    )


@pytest.mark.parametrize(
    "extra",
    [
        sequence(),
        sequence(LOADER),
        sequence(LOADER.upper(), OTHER, more=named(OTHER)),  # the other is for when Windows fails
        sequence(OTHER),  # an id that the store does not have is passed over
        sequence(OTHER, LOADER),
        f'[Objects\\{MANAGER}\\Elements\\24000002]\n"Element"="{OTHER}"\n{named(OTHER)}',  # a string where a list belongs
        f'[Objects\\{LOADER}\\Elements\\24000002]\n"Element"=multi:["{OTHER}"]\n{named(OTHER)}',  # not the boot manager's
    ],
)
def test_a_sequence_that_starts_windows_as_ever(extra: str) -> None:
    assert ask("boot-loader", guest_with(store(extra=extra))).states() == {}


def test_a_sequence_is_judged_against_the_default_that_is_repaired() -> None:
    """No default, one Windows loader: that is the default from then on."""
    extra = sequence(OTHER, more=named(OTHER, "Upgrade"))
    said = ask("boot-loader", guest_with(store(default=None, order=None, extra=extra)))
    assert said.states() == {"bcd-default-missing": {"broken"}, "boot-sequence-set": {"warning"}}
    assert {change.key for change in said.changes if isinstance(change, SetValue)} == {f"Objects\\{MANAGER}\\Elements\\{n}" for n in ("23000003", "24000001")}


def test_a_long_sequence_and_a_long_name_are_cut() -> None:
    ids = [f"{{44444444-0000-0000-0000-{n:012d}}}" for n in range(200)]
    extra = sequence(*ids, more=named(ids[0], "x" * 5000) + "".join(map(named, ids[1:])))
    (finding,) = ask("boot-loader", guest_with(store(extra=extra))).findings
    assert f'"{"x" * 80}" {ids[0]}, then {ids[1]}' in finding.evidence and "then 196 more:" in finding.evidence
    assert len(finding.evidence) < 500


def mistyped() -> Guest:
    """A guest whose EFI system partition says that it is basic data."""
    guest = guest_with(store())
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    disk = reader.disks[0]
    partitions = tuple(dataclasses.replace(p, type=BASIC_DATA) for p in disk.table.partitions)
    return Guest(MemoryReader([dataclasses.replace(disk, table=dataclasses.replace(disk.table, partitions=partitions))], reader.files))


def test_an_efi_system_partition_of_another_type_gets_its_own() -> None:
    guest = mistyped()
    assert guest.firmware == "uefi"
    said = ask("boot-loader", guest)
    assert said.states() == {"esp-type-wrong": {"broken"}}
    assert said.changes == (SetPartitionType(0, 1, ESP_TYPE),) and ESP_TYPE in said.changes[0].diff(guest)
    repaired(guest, said)


def test_the_right_one_of_several_partitions_gets_its_type_from_the_owner() -> None:
    guest = guest_with(store())
    boot = dict(files(guest))
    for types, copies in (((BASIC_DATA, BASIC_DATA), (1, 3)), ((BASIC_DATA, ESP_TYPE), (1,))):
        disk = make_disk(0, ["fat", "ntfs", "fat"])
        kinds = {1: types[0], 2: BASIC_DATA, 3: types[1]}
        table = dataclasses.replace(disk.table, partitions=tuple(dataclasses.replace(p, type=kinds[p.number]) for p in disk.table.partitions))
        content = {WINDOWS: files(guest, WINDOWS), **{VolumeRef(0, n): boot for n in copies}}
        said = ask("boot-loader", Guest(MemoryReader([dataclasses.replace(disk, table=table)], content)))
        assert said.states()["esp-type-wrong"] == {"warning"} and said.changes == ()
        assert said.findings[0].subject == "disk 0 partition 1" and "diskpart: set id" in said.findings[0].repair


def test_no_boot_files_on_a_fat_volume_is_no_efi_system_partition() -> None:
    guest = mistyped()
    files(guest).clear()
    assert "esp-type-wrong" not in ask("boot-loader", guest).states()
