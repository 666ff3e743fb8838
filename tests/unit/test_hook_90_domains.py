"""What of the disks and the guest's tools must be right in the domains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.disk.reader import VolumeRef
from h2k.domain.facts import DiskFacts
from h2k.engine.catalogue import in_domain
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, DriverSource, PackageBad
from h2k.windows import first_boot
from tests.unit.hooks import ask, domain, options
from tests.unit.memory_reader import MemoryReader, windows_guest
from tests.unit.moved_guests import MODERN, VIRTIO


def test_firmware_and_boot_disk_are_right_in_the_domains() -> None:
    guest = windows_guest(data_disks=1)
    said = ask("domains", guest, domain=domain(firmware="bios"))
    assert said.states() == {"firmware-mismatch": {"broken"}} and said.settings["firmware"] == "uefi"
    silent = ask("domains", guest, domain=domain(firmware=""))
    assert "firmware-mismatch" not in silent.states() and silent.settings["firmware"] == "uefi", "a description that does not tell"
    assert (said.findings[0].subject, said.findings[0].evidence) == ("made", "the domain says bios, the disk is laid out for uefi")
    assert said.settings["boot-disk"] == "0"
    assert ask("domains", guest, domain=domain()).states() == {}


def test_the_domain_must_start_the_disk_with_this_windows() -> None:
    guest = windows_guest(bcd=b"store", data_disks=1)
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[VolumeRef(0, 1)]["/EFI/Microsoft/Boot/bootmgfw.efi"] = b"manager"
    first, second = (DiskFacts(Path(f"/made/disk{n}.qcow2"), "qcow2", "virtio", f"vd{n}") for n in (0, 1))
    no_file = DiskFacts(None, None, "virtio", "vdx")  # a disk that is no image of the guest is not counted
    for disks in ((first, second), (no_file, first, second), (dataclasses.replace(first, boot_order=2), second)):
        assert ask("domains", guest, domain=domain(disks=disks)).states() == {}
    wrong = (first, dataclasses.replace(second, boot_order=1))
    said = ask("domains", guest, domain=domain(disks=wrong))
    assert said.states() == {"boot-disk-ambiguous": {"broken"}} and said.settings["boot-disk"] == "0"
    assert said.findings[0].evidence == "the domain starts disk 1; the boot manager of this Windows is on disk 0"
    assert ask("domains", guest, domain=domain(disks=())).states() == {}, "a domain without disks starts none"
    guest.reader.files[VolumeRef(0, 1)].clear()
    assert ask("domains", Guest(guest.reader), domain=domain(disks=wrong)).states() == {}, "no disk has a boot manager"


def two_boot_disks() -> Guest:
    """Two disks with boot files, and no store that tells which one starts this Windows."""
    guest = windows_guest(bcd=b"store", data_disks=1)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    disks = list(reader.disks)
    partition = dataclasses.replace(disks[1].table.partitions[0], type=disks[0].table.partitions[0].type)
    table = dataclasses.replace(disks[1].table, partitions=(partition,))
    disks[1] = dataclasses.replace(disks[1], table=table, volumes=(dataclasses.replace(disks[1].volumes[0], kind="fat"),))
    boot = {"EFI/Microsoft/Boot/BCD": b"store", "EFI/Microsoft/Boot/bootmgfw.efi": b"manager"}
    return Guest(MemoryReader(disks, {**reader.files, VolumeRef(0, 1): boot, VolumeRef(1, 1): boot}))


def test_several_disks_that_could_boot() -> None:
    guest = two_boot_disks()
    assert ask("domains", guest).states() == {"boot-disk-ambiguous": {"refused"}}
    second = domain(disks=tuple(DiskFacts(Path(f"/made/{n}"), "qcow2", "virtio", f"vd{n}", 2 - n) for n in (0, 1)))
    said = ask("domains", guest, domain=second)
    assert said.states() == {"boot-disk-ambiguous": {"warning"}} and said.settings["boot-disk"] == "1"
    assert (said.findings[0].subject, said.findings[0].repair) == ("disk 0, disk 1", "disk 1, as the domain has it")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[Microsoft\\Windows\\CurrentVersion\\Uninstall\\A]\n"DisplayName"="VMware Tools"\n', "VMware Tools"),
        ('[WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall\\A]\n"DisplayName"="XCP-ng PV Tools"\n', "XCP-ng PV Tools"),
        ('[Microsoft\\Virtual Machine\\Guest\\Parameters]\n"HostName"="HV01"\n', "Hyper-V guest tools"),
        ('[Microsoft\\Virtual Machine\\Guest\\Parameters]\n', ""),
        ('[Microsoft\\Windows\\CurrentVersion\\Uninstall\\A]\n"DisplayName"="My VMware Tools"\n', ""),
    ],
)
def test_guest_tools_are_known_by_data(text: str, found: str) -> None:
    said = ask("domains", windows_guest(software=text))
    assert [f.subject for f in said.findings] == ([found] if found else [])


@pytest.mark.parametrize("name", ["team/web01", "", "a\nb", "x" * 250, ".."])
def test_a_name_that_no_domain_can_have(name: str) -> None:
    said = ask("domains", windows_guest(), domain=domain(name=name))
    assert said.states() == {"domain-name-invalid": {"refused"}}
    assert "-on" in said.findings[0].repair


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        ("dword:ffffffc4", "3600"), ("dword:000000d2", "-12600"), ("dword:00000000", "0"), ("dword:ffffffff", "60"), (None, None),
        ("dword:00000348", "-50400"), ("dword:00000349", None), ("dword:fffffcb8", "50400"), ("dword:fffffcb7", None),
        ("dword:7fffffff", None), ("dword:80000000", None),
    ],
)
def test_what_local_time_is_ahead_of_utc(value: str, offset: str) -> None:
    bias = f'"ActiveTimeBias"={value}\n' if value else ""
    said = ask("domains", windows_guest(system=f"[$cs\\Control\\TimeZoneInformation]\n{bias}"))
    assert said.settings.get("utc-offset") == offset and said.settings["clock"] == "localtime"


@pytest.mark.parametrize(("value", "clock"), [("dword:00000001", "utc"), ("dword:00000000", "localtime"), ("hex(b):01,00,00,00,00,00,00,00", "utc")])
def test_a_clock_that_counts_universal_time(value: str, clock: str) -> None:
    said = ask("domains", windows_guest(system=f'[$cs\\Control\\TimeZoneInformation]\n"RealTimeIsUniversal"={value}\n'))
    assert said.settings["clock"] == clock
    assert said.reasons["clock"] == "ControlSet001\\Control\\TimeZoneInformation RealTimeIsUniversal"


def test_small_devices_come_with_their_drivers() -> None:
    assert {name: ask("domains", windows_guest()).settings[name] for name in ("rng", "pvpanic")} == {"rng": "no", "pvpanic": "no"}
    service = '[$cs\\Services\\{}]\n"Type"=dword:00000001\n"Start"=dword:00000003\n"ImagePath"=expand:"x.sys"\n'
    for device, name in (("rng", "VirtRng"), ("pvpanic", "PVPanic")):
        said = ask("domains", windows_guest(system=service.format(name)))
        assert [d for d in ("rng", "pvpanic") if said.settings[d] == "yes"] == [device]
        assert said.reasons[device] == f"{name} is installed"


def test_small_devices_go_along_with_the_drivers_that_are_to_be_installed(drivers: DriverSource) -> None:
    class Source:
        """The same virtio-win, where the package of one driver is not whole and that of another is bad."""

        def find(self, plan: Any, role: Any, windows: Any) -> DriverPackage:
            if role.driver == "pvpanic":
                raise PackageBad("pvpanic.inf: no INF")
            return dataclasses.replace(drivers.find(plan, role, windows), missing=("viorng.cat",))

    def devices(guest: Guest, **changed: Any) -> tuple[str, str]:
        said = ask("domains", guest, **changed)
        return said.settings["rng"], said.settings["pvpanic"]

    said = ask("domains", windows_guest(), drivers=drivers)
    assert said.settings["rng"] == "yes" and said.reasons["rng"] == "viorng is in the virtio-win, and goes along"
    assert devices(windows_guest(), drivers=Source()) == ("no", "no")
    done = '[h2k]\n"FirstBoot"="done"\n'
    assert devices(windows_guest(software=done), drivers=drivers) == ("yes", "yes"), "it is moved once more"
    assert devices(windows_guest(MODERN + VIRTIO, done), drivers=drivers) == ("no", "no"), "no first boot is to come"
    plan = dataclasses.replace(options().plan, roles=tuple(r for r in options().plan.roles if r.driver != "viorng"))
    other = ask("domains", windows_guest(), drivers=drivers, plan=plan).settings
    assert "rng" not in other and other["pvpanic"] == "yes"


def test_a_driver_that_is_staged_for_the_first_boot_counts() -> None:
    service = f'[$cs\\Services\\{first_boot.SERVICE}]\n"Type"=dword:00000010\n"Start"=dword:00000002\n"ImagePath"=expand:"x"\n'
    wanted = first_boot.FirstBoot("virtio", drivers=(first_boot.Package("viorng\\viorng.inf", False),))
    settings = first_boot.settings_text(wanted)
    said = ask("domains", windows_guest(system=service, files={first_boot.SETTINGS: settings}))
    assert (said.settings["rng"], said.settings["pvpanic"]) == ("yes", "no")
    assert (said.reasons["rng"], said.reasons["pvpanic"]) == ("viorng is staged for the first boot", "no pvpanic in the guest")


# Sectors of 4096 bytes


def native(*indexes: int) -> Guest:
    guest = windows_guest(data_disks=1)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)
    disks = [dataclasses.replace(d, table=dataclasses.replace(d.table, sector=4096)) if d.index in indexes else d for d in reader.disks]
    return Guest(MemoryReader(disks, reader.files))


def disk_facts(*sectors: int) -> tuple[DiskFacts, ...]:
    return tuple(DiskFacts(Path(f"/made/disk{n}.qcow2"), "qcow2", "virtio", f"vd{n}", sector=s) for n, s in enumerate(sectors))


@pytest.mark.parametrize(("disks", "shown"), [((0,), "0:4096"), ((1,), "1:4096"), ((0, 1), "0:4096,1:4096")])
def test_a_table_that_counts_in_other_sectors(disks: tuple[int, ...], shown: str) -> None:
    said = ask("domains", native(*disks), domain=domain(disks=disk_facts(512, 512)))
    assert said.states() == {"sector-size-mismatch": {"broken"}} and said.settings["sector-size"] == shown
    assert said.findings[0].subject == ", ".join(f"disk {d}" for d in disks)
    assert ask("domains", native(*disks)).states() == {"sector-size-mismatch": {"warning"}}
    assert in_domain("sector-size-mismatch")
    assert ask("domains", native(*disks), domain=domain(disks=())).states() == {"sector-size-mismatch": {"broken"}}, "a domain without disks"


def test_a_domain_that_has_them() -> None:
    said = ask("domains", native(0), domain=domain(disks=disk_facts(4096, 512)))
    assert said.states() == {} and said.settings["sector-size"] == "0:4096"
    assert "sector-size" not in ask("domains", native(), domain=domain(disks=disk_facts(512, 512))).settings


# A TPM


def prevents(value: str) -> str:
    return f'[$cs\\Control\\BitLocker]\n"PreventDeviceEncryption"={value}\n'


@pytest.mark.parametrize("system", ["", prevents("dword:00000000"), prevents('"1"')])
@pytest.mark.parametrize("build", ["10240", "22631"])
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_client_that_may_encrypt_itself_to_a_new_tpm(system: str, build: str, firmware: str) -> None:
    guest = windows_guest(system, build=build, server=False, firmware=firmware)
    said = ask("domains", guest, domain=domain(tpm="tpm-crb", firmware=firmware))
    assert said.states() == {"new-tpm": {"warning"}} and said.changes == ()
    (finding,) = said.findings
    assert finding.subject == "made" and "SYSTEM\\ControlSet001\\Control\\BitLocker PreventDeviceEncryption" in finding.evidence
    assert "empty" in finding.evidence and "/var/lib/libvirt/swtpm/UUID" in finding.repair and "PreventDeviceEncryption to 1" in finding.repair


def test_the_control_set_that_boots_decides_about_encryption() -> None:
    only_the_other = '[ControlSet002\\Control\\BitLocker]\n"PreventDeviceEncryption"=dword:00000001\n'
    guest = windows_guest(only_the_other, server=False, sets=(1, 2))
    assert ask("domains", guest, domain=domain(tpm="tpm-tis")).states() == {"new-tpm": {"warning"}}


@pytest.mark.parametrize(
    ("guest", "tpm"),
    [
        ({"server": False}, None),  # no TPM in its domain
        ({"server": False, "system": prevents("dword:00000001")}, "tpm-crb"),
        ({"server": True}, "tpm-crb"),
        ({"server": False, "version": "6.3", "build": "9600"}, "tpm-crb"),
        ({"server": False, "version": "6.1", "build": "7601"}, "tpm-tis"),
    ],
)
def test_who_does_not_encrypt_itself_to_a_new_tpm(guest: dict[str, Any], tpm: Optional[str]) -> None:
    assert ask("domains", windows_guest(**guest), domain=domain(tpm=tpm)).states() == {}


def test_without_a_domain_nothing_is_known_of_a_tpm() -> None:
    assert ask("domains", windows_guest(server=False)).states() == {}
