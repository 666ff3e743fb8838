"""The lab itself: it stops where Windows would, boots what is repaired, binds devices, and misbehaves when told to."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path
from typing import Callable

import pytest

from tests.boot.conftest import firmware_of
from tests.boot.disk import as_file, boot_partition, opened, read_windows_file, write_file, write_windows_file
from tests.boot.image import boot_image
from tests.boot.lab import EFI_PATHS, boot, install, set_knobs
from tests.guests.regfile import build_hive

TRANSITIONAL = "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
MODERN = "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"
STEPS = ("start", "drivers", "addresses", "disks", "tools", "agent", "cleanup", "done")
SYSTEM = "/Windows/System32/config/SYSTEM"
Bootable = Callable[..., Path]
lab = pytest.mark.lab


def hivexsh(disk: Path, name: str, workdir: Path, *commands: str) -> list[str]:
    """The lines that hivexsh prints for the SYSTEM hive on the disk; none from the first key that is not there."""
    hive = workdir / "SYSTEM"
    hive.write_bytes(read_windows_file(disk, "qcow2", firmware_of(name), workdir, SYSTEM))
    done = subprocess.run(["hivexsh", str(hive)], input="\n".join(commands) + "\n", capture_output=True, text=True)
    return done.stdout.splitlines()


def change_hive(disk: Path, name: str, workdir: Path, text: str) -> None:
    """Merge registry text into the SYSTEM hive on the disk, without an appliance."""
    hive = read_windows_file(disk, "qcow2", firmware_of(name), workdir, SYSTEM)
    write_windows_file(disk, "qcow2", firmware_of(name), workdir, SYSTEM, build_hive(text, hive))


def blue(picture: Path) -> bool:
    """Whether a PNG's first pixel, which no row filter changes, is the blue of a stop screen (168 or 170 of 255)."""
    data, at, packed = picture.read_bytes(), 8, b""
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += 12 + size
    red, green, shade = zlib.decompress(packed)[1:4]
    return red == green == 0 and shade > 150


@pytest.mark.parametrize(("name", "machine", "shown"), [("win7-x86", "pc", TRANSITIONAL), ("win2022", "q35", MODERN)])
def test_unrepaired_stops_on_virtio(name: str, machine: str, shown: str, prepared: Bootable, tmp_path: Path) -> None:
    seen = boot(prepared(name), firmware_of(name), "virtio", machine=machine, screenshot=tmp_path / "stop.png")
    assert (seen.stopped, seen.reason) == ("0x7B", f"no boot driver is known for {shown}")
    assert seen.pvpanic and not seen.steps
    assert blue(tmp_path / "stop.png")


@pytest.mark.parametrize(
    ("name", "repaired_for", "bus", "machine", "service"),
    [
        pytest.param("win7-x86", "virtio", "virtio", "q35", "viostor", marks=lab),
        pytest.param("win7-x86", "virtio", "sata", "q35", "msahci", marks=lab),
        pytest.param("win7-x86", "virtio", "sata", "pc", "msahci", marks=lab),
        pytest.param("win2022", "virtio-scsi", "virtio-scsi", "q35", "vioscsi"),
        pytest.param("win2012r2", "virtio-scsi", "virtio-scsi", "pc", "vioscsi", marks=lab),
        pytest.param("win2012r2", "virtio-scsi", "sata", "q35", "storahci", marks=lab),
    ],
)
def test_repaired_boots(
    name: str, repaired_for: str, bus: str, machine: str, service: str, prepared: Bootable, tmp_path: Path
) -> None:
    seen = boot(prepared(name, repaired_for), firmware_of(name), bus, machine=machine, screenshot=tmp_path / "desktop.png")
    assert seen.booted, seen.reason or seen.serial
    assert seen.facts["service"] == service
    assert not seen.pvpanic and seen.resets == 0
    assert not blue(tmp_path / "desktop.png")


@pytest.mark.parametrize(
    ("name", "bootstrap", "machine", "shown"),
    [("win7-x86", "ide", "pc", TRANSITIONAL), pytest.param("win2022", "sata", "q35", MODERN, marks=lab)],
)
def test_bootstrap_then_final(
    name: str, bootstrap: str, machine: str, shown: str, bootable: Bootable, tmp_path: Path
) -> None:
    """The bootstrap meets the scratch disk and binds it; what waits for the final bus runs in the second boot."""
    disk, firmware = bootable(name, "virtio"), firmware_of(name)
    change_hive(disk, name, tmp_path, '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:00000000\n')
    first = boot(disk, firmware, bootstrap, machine=machine, scratch="virtio", keep_writes=True, power_button=True)
    assert first.booted and first.powered_off, first.reason or first.serial
    assert tuple(step for step, _, _ in first.steps) == STEPS
    assert ("cleanup", "skipped", "waits for the next boot: the final bus") in first.steps
    place = f"\\ControlSet001\\Enum\\{shown}"
    (instance,) = hivexsh(disk, name, tmp_path, f"cd {place}", "ls")
    values = hivexsh(disk, name, tmp_path, f"cd {place}\\{instance}", "lsval")
    assert '"Service"="viostor"' in values and '"ConfigFlags"=dword:00000000' in values
    service = hivexsh(disk, name, tmp_path, "cd \\ControlSet001\\Services\\viostor", "lsval", "ls")
    assert '"Start"=dword:00000000' in service and "StartOverride" not in service
    second = boot(disk, firmware, "virtio", machine=machine, keep_writes=True, power_button=True)
    assert second.booted and second.powered_off, second.reason or second.serial
    assert second.steps[-1] == ("done", "ok", "complete")
    runner = hivexsh(disk, name, tmp_path, "cd \\ControlSet001\\Services\\h2k-firstboot", "lsval")
    assert '"Start"=dword:00000004' in runner and '"DeleteFlag"=dword:00000001' in runner
    third = boot(disk, firmware, "virtio", machine=machine)
    assert third.steps == (("start", "ok", "no first-boot service"), ("done", "ok", ""))


@lab
def test_the_scripts_of_virt_v2v_come_first(bootable: Bootable, tmp_path: Path) -> None:
    """Three scripts, of which one needs no restart: two restarts, and only then our own steps. One that asks for another
    try stays, and restarts the guest as long as it is let."""
    disk = bootable("win2022", "virtio")
    place = "/Program Files/Guestfs/Firstboot/scripts"
    for number, content in enumerate((b"exit /b 0\r\n", b"exit /b 250\r\n", b"exit /b 0\r\n")):
        write_windows_file(disk, "qcow2", "uefi", tmp_path, f"{place}/{number}.bat", content)
    service = '[ControlSet001\\Services\\firstboot]\n"Type"=dword:00000010\n"Start"=dword:00000002\n'
    change_hive(disk, "win2022", tmp_path, service)
    seen = boot(disk, "uefi", "sata", scratch="virtio", keep_writes=True, power_button=True, timeout=600)
    assert seen.booted and seen.resets == 2, seen.reason or seen.serial
    waits = ("start", "skipped", "waits for the first-boot scripts of virt-v2v")
    assert seen.steps[:4] == (waits, waits, waits, ("start", "ok", "")) and seen.steps[-1][0] == "done"
    assert hivexsh(disk, "win2022", tmp_path, "cd \\ControlSet001\\Services\\firstboot", "lsval") == []
    disk = bootable("win2022", "virtio")
    write_windows_file(disk, "qcow2", "uefi", tmp_path, f"{place}/0.bat", b"exit /b 249\r\n")
    change_hive(disk, "win2022", tmp_path, service)
    assert boot(disk, "uefi", "sata", resets=2, keep_writes=True, timeout=600).resets == 2


@lab
def test_nothing_is_written_unless_asked(bootable: Bootable) -> None:
    disk = bootable("win2022", "virtio")
    before = disk.read_bytes()
    assert boot(disk, "uefi", "virtio").booted
    assert disk.read_bytes() == before


def test_a_start_override_keeps_the_bootstrap_driver_away(prepared: Bootable) -> None:
    seen = boot(prepared("win2022"), "uefi", "sata")
    assert (seen.stopped, seen.reason) == ("0x7B", "PCI\\CC_010601: storahci: StartOverride keeps it from loading")


@lab
def test_the_source_boots_on_its_own_controller(prepared: Bootable) -> None:
    """Unrepaired, on the VMware guest's LSI SAS 1068 (SeaBIOS can start from it; OVMF can't)."""
    seen = boot(prepared("win7-x86"), "bios", "lsisas1068")
    assert seen.booted and seen.facts["service"] == "LSI_SAS", seen.reason or seen.serial


# Firmware and what it starts


def active_flags(disk: Path, flags: dict[int, int]) -> None:
    """Set the status bytes of MBR partitions, by number."""
    with opened(disk, "qcow2") as handle:
        sector = bytearray(handle.pread(512, 0))
        for number, flag in flags.items():
            sector[446 + 16 * (number - 1)] = flag
        handle.pwrite(sector, 0)


@pytest.mark.parametrize(
    ("flags", "stop"),
    [
        pytest.param({1: 0}, "No bootable device", marks=lab),
        pytest.param({1: 0, 2: 0x80}, "BOOTMGR is missing"),
        pytest.param({1: 0x80, 2: 0x40}, "No bootable device", marks=lab),
    ],
)
def test_the_active_partition_decides(flags: dict[int, int], stop: str, bootable: Bootable) -> None:
    disk = bootable("win7-x86")
    active_flags(disk, flags)
    assert boot(disk, "bios", "sata").stopped == stop


@lab
def test_an_empty_bootmgr_is_missed(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win7-x86")
    with opened(disk, "qcow2") as handle:
        write_file(handle, boot_partition(handle, "bios"), tmp_path, "/bootmgr", b"")
    seen = boot(disk, "bios", "sata")
    assert seen.stopped == "BOOTMGR is missing" and "empty" in seen.reason


@lab
def test_uefi_without_fallback_starts_nothing(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022", "virtio")
    with opened(disk, "qcow2") as handle, as_file(handle, boot_partition(handle, "uefi"), tmp_path / "esp") as volume:
        subprocess.run(["mdel", "-i", str(volume), "::EFI/BOOT/BOOTX64.EFI"], check=True)
    assert boot(disk, "uefi", "virtio").stopped == "firmware"


@lab
@pytest.mark.parametrize(("name", "wrong"), [("win7-x86", "uefi"), ("win2022", "bios")])
def test_the_other_firmware_starts_nothing(name: str, wrong: str, prepared: Bootable) -> None:
    assert boot(prepared(name), wrong, "sata").stopped == "firmware"


def test_install_leaves_signature_table_and_bootmgr(bootable: Bootable, tmp_path: Path) -> None:
    from tests.guests import build as guests

    disk = bootable("win7-x86")
    seen = []
    for path in (guests.cached()["win7-x86"].disks[0], disk):
        with opened(path, "qcow2") as handle:
            extent = boot_partition(handle, "bios")
            with as_file(handle, extent, tmp_path / "boot") as volume:
                manager = subprocess.run(["ntfscat", "-f", str(volume), "/bootmgr"], check=True, capture_output=True).stdout
            seen.append((bytes(handle.pread(72, 440)), manager, extent))
    assert seen[0] == seen[1]


def test_the_efi_image_is_both_boot_managers(prepared: Bootable, tmp_path: Path) -> None:
    with opened(prepared("win2022"), "qcow2") as handle, as_file(handle, boot_partition(handle, "uefi"), tmp_path / "e") as esp:
        for path in ("EFI/Microsoft/Boot/bootmgfw.efi", "EFI/BOOT/BOOTX64.EFI"):
            done = subprocess.run(["mtype", "-i", str(esp), f"::{path}"], check=True, capture_output=True)
            assert done.stdout == boot_image().efi.read_bytes()


def test_a_boot_manager_that_is_missing_or_no_program_stays_so(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022")
    with opened(disk, "qcow2") as handle, as_file(handle, boot_partition(handle, "uefi"), tmp_path / "esp") as volume:
        (tmp_path / "empty").write_bytes(b"")
        subprocess.run(["mdel", "-i", str(volume), "::EFI/BOOT/BOOTX64.EFI"], check=True)
        subprocess.run(["mcopy", "-o", "-i", str(volume), str(tmp_path / "empty"), "::EFI/Microsoft/Boot/bootmgfw.efi"], check=True)
    install(disk, "qcow2", "uefi", tmp_path)
    with opened(disk, "qcow2") as handle, as_file(handle, boot_partition(handle, "uefi"), tmp_path / "esp") as volume:
        seen = [subprocess.run(["mtype", "-i", str(volume), f"::{path}"], capture_output=True) for path in EFI_PATHS]
    assert [(done.stdout, done.returncode == 0) for done in seen] == [(b"", True), (b"", False)]


# Faults of the registry that the lab must see


@lab
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[ControlSet001\\Services\\partmgr]\n"Start"=dword:00000004\n', "boot stack: partmgr: Start is 4, not boot-start"),
        ("-[ControlSet001\\Services\\mountmgr]\n", "boot stack: mountmgr: the service is missing in ControlSet001"),
        ('[ControlSet001\\Services\\viostor]\n"Type"=dword:00000010\n', "PCI\\VEN_1AF4&DEV_1042&REV_01: viostor: Type is 16, no driver"),
        (
            '[ControlSet001\\Services\\viostor\\StartOverride]\n"1"=dword:00000003\n',
            "PCI\\VEN_1AF4&DEV_1042&REV_01: viostor: StartOverride keeps it from loading",
        ),
        (
            '[ControlSet001\\Control\\Class\\{4D36E97B-E325-11CE-BFC1-08002BE10318}]\n"UpperFilters"=multi:["gone"]\n',
            "UpperFilters of class {4D36E97B-E325-11CE-BFC1-08002BE10318}: gone: the service is missing",
        ),
        (
            '[ControlSet001\\Services\\viostor]\n"ImagePath"=expand:"\\\\SystemRoot\\\\System32\\\\drivers\\\\other.sys"\n',
            "PCI\\VEN_1AF4&DEV_1042&REV_01: viostor: /Windows/System32/drivers/other.sys: the file is missing",
        ),
    ],
)
def test_faults_of_the_registry(text: str, reason: str, bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022", "virtio")
    change_hive(disk, "win2022", tmp_path, text)
    seen = boot(disk, "uefi", "virtio")
    assert (seen.stopped, seen.reason) == ("0x7B", reason)


@lab
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"MZ" + bytes(2000), "the file is not a PE"),
        (b"x86", "the file is for another machine type"),
    ],
)
def test_faults_of_the_driver_file(data: bytes, reason: str, bootable: Bootable, tmp_path: Path) -> None:
    from tests.guests.pe import make_pe

    disk = bootable("win2022", "virtio")
    path = "/Windows/System32/drivers/viostor.sys"
    write_windows_file(disk, "qcow2", "uefi", tmp_path, path, make_pe("x86") if data == b"x86" else data)
    seen = boot(disk, "uefi", "virtio")
    assert seen.stopped == "0x7B" and seen.reason.endswith(reason)


@lab
def test_last_known_good_is_another_control_set(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win7-x86", "virtio")
    change_hive(disk, "win7-x86", tmp_path, '[ControlSet002\\Services\\viostor]\n"Start"=dword:00000003\n')
    assert boot(disk, "bios", "virtio").facts["boots"] == "ControlSet001"
    seen = boot(disk, "bios", "virtio", last_known_good=True)
    assert seen.stopped == "0x7B" and "viostor: Start is 3" in seen.reason


@lab
def test_disable_cddb_blinds_windows_7(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win7-x86", "virtio")
    change_hive(disk, "win7-x86", tmp_path, '[ControlSet001\\Control\\PnP]\n"DisableCDDB"=dword:00000001\n')
    seen = boot(disk, "bios", "virtio")
    assert (seen.stopped, seen.reason) == ("0x7B", f"no boot driver is known for {MODERN}")


@lab
def test_a_broken_hive_stops_the_loader(bootable: Bootable, tmp_path: Path) -> None:
    from tests.guests.regfile import make_dirty

    disk = bootable("win2022", "virtio")
    hive = read_windows_file(disk, "qcow2", "uefi", tmp_path, SYSTEM)
    write_windows_file(disk, "qcow2", "uefi", tmp_path, SYSTEM, make_dirty(hive))
    seen = boot(disk, "uefi", "virtio")
    assert seen.stopped == "0xc000014c" and "dirty" in seen.reason


# The knobs


@lab
def test_no_pnp_boots_and_binds_nothing(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022", "virtio")
    set_knobs(disk, "qcow2", "uefi", tmp_path, ["no-pnp"])
    seen = boot(disk, "uefi", "sata", scratch="virtio", keep_writes=True, power_button=True)
    assert seen.booted and ("drivers", "skipped") in [step[:2] for step in seen.steps]
    found = hivexsh(disk, "win2022", tmp_path, "cd \\ControlSet001\\Enum\\PCI", "ls")
    assert not [key for key in found if key.startswith("VEN_1AF4")]


@lab
def test_hang_gives_no_sign(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022", "virtio")
    set_knobs(disk, "qcow2", "uefi", tmp_path, ["hang"])
    seen = boot(disk, "uefi", "virtio", 90)
    assert "BdsDxe: starting" in seen.serial
    assert not seen.booted and seen.stopped is None and not seen.facts and not seen.steps and not seen.powered_off


def test_reboot_loop_resets(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win7-x86", "virtio")
    set_knobs(disk, "qcow2", "bios", tmp_path, ["reboot-loop"])
    seen = boot(disk, "bios", "virtio", resets=2)
    assert seen.resets >= 2 and not seen.steps, "a quick guest may reset once more before it is stopped"


@lab
def test_only_first_stops_the_second_boot(bootable: Bootable, tmp_path: Path) -> None:
    disk = bootable("win2022", "virtio")
    set_knobs(disk, "qcow2", "uefi", tmp_path, ["only-first"])
    assert boot(disk, "uefi", "sata", keep_writes=True, power_button=True).booted
    seen = boot(disk, "uefi", "virtio")
    assert seen.stopped == "0x7B" and seen.pvpanic
