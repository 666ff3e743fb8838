"""Class filters, install policies, signatures, domains and volumes, on guests in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.config.policy import Policy
from h2k.disk.ntfs import NtfsVolumeState
from h2k.disk.reader import VolumeRef
from h2k.domain.facts import DiskFacts, DomainFacts
from h2k.engine.hooks import propose
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import open_source
from tests.guests.pe import make_pe
from tests.guests.virtio_win import make_tree
from tests.unit.hooks import ask, options, packaged
from tests.unit.memory_reader import MemoryReader, apply_changes, windows_guest

DISK = "$cs\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}"
SYSTEM = "$cs\\Control\\Class\\{4D36E97D-E325-11CE-BFC1-08002BE10318}"
KEYBOARD = "$cs\\Control\\Class\\{4D36E96B-E325-11CE-BFC1-08002BE10318}"
WINDOWS = VolumeRef(0, 2)
SAFE = Policy()


def driver(name: str, start: int = 0, more: str = "") -> str:
    path = f'"ImagePath"=expand:"System32\\\\drivers\\\\{name}.sys"'
    return f'[$cs\\Services\\{name}]\n"Type"=dword:00000001\n"Start"=dword:{start:08x}\n{path}\n{more}'


def sys_files(*names: str, arch: str = "amd64") -> dict[str, bytes]:
    return {f"Windows/System32/drivers/{n}.sys": make_pe(arch, n.encode()) for n in names}


def filters(guest: Guest, key: str, which: str, number: int = 1) -> Optional[tuple[str, ...]]:
    value = guest.system.value(key.replace("$cs", f"ControlSet{number:03d}"), which)
    return value.multi() if value is not None else None


# Class filters


def test_filters_that_can_start_stay() -> None:
    text = f'[{DISK}]\n"UpperFilters"=multi:["partmgr"]\n"LowerFilters"=multi:["EhStorClass"]\n'
    guest = windows_guest(text + driver("EhStorClass"), files=sys_files("ehstorclass"))
    assert ask("boot-filters", guest).findings == ()


@pytest.mark.parametrize(
    ("text", "files", "why"),
    [
        ("", {}, "no such service"),
        (driver("bad", start=4), sys_files("bad"), "disabled"),
        (driver("bad", more='[$cs\\Services\\bad\\StartOverride]\n"0"=dword:00000004\n'), sys_files("bad"), "disabled"),
        (driver("bad"), {}, "missing"),
        (driver("bad"), {"Windows/System32/drivers/bad.sys": b""}, "empty"),
        (driver("bad"), sys_files("bad", arch="x86"), "for x86"),
    ],
)
def test_a_dangling_filter_leaves_its_list_and_the_others_stay(text: str, files: dict[str, bytes], why: str) -> None:
    listed = f'[{DISK}]\n"UpperFilters"=multi:["first","bad","partmgr"]\n' + driver("first")
    guest = windows_guest(listed + text, files={**files, **sys_files("first")}, sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-dangling": {"broken"}}
    assert len(said.findings) == 2 and why in said.findings[0].evidence
    again = apply_changes(guest, said.changes)
    assert [filters(again, DISK, "UpperFilters", n) for n in (1, 2)] == [("first", "partmgr")] * 2
    assert ask("boot-filters", again).findings == ()


def test_the_boot_stack_s_own_filters_are_the_storage_hook_s() -> None:
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["partmgr"]\n' + driver("partmgr", start=4))
    assert ask("boot-filters", guest).findings == ()


def test_a_list_that_gets_empty_goes_away() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["nosuch"]\n')
    again = apply_changes(guest, ask("boot-filters", guest).changes)
    assert filters(again, DISK, "LowerFilters") is None


def test_a_list_written_as_a_string() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"="nosuch"\n')
    assert ask("boot-filters", guest).states() == {"class-filter-dangling": {"broken"}}


def test_a_compressed_filter_is_there() -> None:
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["wofed"]\n' + driver("wofed"), files=sys_files("wofed"))
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[WINDOWS, "/windows/system32/drivers/wofed.sys"] = "WOF-compressed"
    assert ask("boot-filters", guest).findings == ()


def test_classes_that_no_boot_waits_for_are_nobody_s_business() -> None:
    assert ask("boot-filters", windows_guest(f'[{KEYBOARD}]\n"UpperFilters"=multi:["nosuch"]\n')).findings == ()


def test_a_hypervisor_s_filter_leaves_the_list_before_it_is_disabled() -> None:
    text = f'[{SYSTEM}]\n"UpperFilters"=multi:["xenfilt","nosuch"]\n' + driver("XENFILT")
    guest = windows_guest(text, files=sys_files("xenfilt"), sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"class-filter-hypervisor": {"broken"}, "class-filter-dangling": {"broken"}}
    names = [c.name for c in said.changes]  # type: ignore[union-attr]
    assert names == ["UpperFilters", "Start"] * 2
    assert [c.value.dword() for c in said.changes if isinstance(c, SetValue) and c.name == "Start"] == [4, 4]
    again = apply_changes(guest, said.changes)
    assert ask("boot-filters", again).findings == ()


def test_people_add_filters_in_a_plan_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("filters:\n  - {name: acmeflt, of: the ACME hypervisor}\n")
    guest = windows_guest(f'[{DISK}]\n"LowerFilters"=multi:["acmeflt"]\n' + driver("acmeflt"), files=sys_files("acmeflt"))
    assert ask("boot-filters", guest).findings == ()
    said = ask("boot-filters", guest, plan=load_plan([own]))
    assert said.states() == {"class-filter-hypervisor": {"broken"}}
    assert "ACME" in said.findings[0].evidence
    assert {"XENFILT", "acmeflt"} <= {f.name for f in load_plan([own]).filters}


# Device-install policies


@pytest.mark.parametrize("name", ["DisableCDDB", "DontStartRawDevices"])
def test_install_policies_of_windows_7(name: str) -> None:
    text = f'[$cs\\Control\\PnP]\n"{name}"=dword:00000001\n"PollBootPartitionTimeout"=dword:00007530\n'
    guest = windows_guest(text, version="6.1", build="7601", firmware="bios", sets=(1, 2))
    said = ask("boot-filters", guest)
    assert said.states() == {"device-install-policy": {"broken"}} and len(said.changes) == 2
    assert ask("boot-filters", apply_changes(guest, said.changes)).findings == ()
    assert ask("boot-filters", windows_guest(text)).findings == ()  # later versions know no such policy


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ('"DenyUnspecified"=dword:00000001\n', True),
        ('"DenyDeviceClasses"=dword:00000001\n', True),
        ('"DenyUnspecified"=dword:00000000\n', False),
        ('"AllowAdminInstall"=dword:00000001\n', False),
    ],
)
def test_install_restrictions_are_reported(values: str, found: bool) -> None:
    text = f"[Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions]\n{values}"
    said = ask("boot-filters", windows_guest(software=text))
    assert said.states() == ({"device-install-restrictions": {"warning"}} if found else {}) and said.changes == ()


# Signatures


def domain(**changed: Any) -> DomainFacts:
    facts = DomainFacts("made", 1 << 30, 1, (DiskFacts(Path("/made/disk0.qcow2"), "qcow2", "virtio", "vda"),), firmware="uefi")
    return dataclasses.replace(facts, **changed)


@pytest.mark.parametrize("signed", [True, False])
def test_secure_boot_needs_a_signature(signed: bool) -> None:
    path = "Windows/System32/drivers/viostor.sys"
    guest = windows_guest(driver("viostor"), files={path: make_pe("amd64", b"made viostor", signed=signed)})
    assert ask("signatures", guest, domain=domain()).findings == ()
    assert ask("signatures", guest).findings == ()
    assert ask("signatures", guest, domain=domain(secure_boot=True), bus="sata").findings == ()
    said = ask("signatures", guest, domain=domain(secure_boot=True))
    assert said.states() == ({} if signed else {"driver-unsigned": {"refused"}})
    assert said.settings == {}


def test_the_package_s_driver_is_what_will_start(tmp_path: Path) -> None:
    guest = windows_guest(driver("viostor"), files=sys_files("viostor"))
    with open_source(make_tree(tmp_path / "virtio-win")) as drivers:
        assert ask("signatures", guest, domain=domain(secure_boot=True), drivers=drivers).findings == ()


def test_secure_boot_is_turned_off_when_told_so() -> None:
    guest = windows_guest(driver("viostor"), files=sys_files("viostor"))
    wanted = dataclasses.replace(options(), domain=domain(secure_boot=True), accept=frozenset({"driver-unsigned"}))
    proposal = propose([packaged()["signatures"]], guest, wanted)
    assert proposal.setting("secure-boot", "on") == "off"
    assert [f.state for f in proposal.findings] == ["warning"]


# Domains


def test_firmware_and_boot_disk_are_right_in_the_domains() -> None:
    guest = windows_guest(data_disks=1)
    said = ask("domains", guest, domain=domain(firmware="bios"))
    assert said.states() == {"firmware-mismatch": {"broken"}} and said.settings["firmware"] == "uefi"
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


# Volumes


def volume_findings(guest: Guest, policy: Policy = SAFE) -> dict[str, set[str]]:
    return ask("volumes", guest, policy=policy).states()


def with_states(guest: Guest, **states: NtfsVolumeState) -> Guest:
    assert isinstance(guest.reader, MemoryReader)
    refs = {"windows": WINDOWS, "data": VolumeRef(1, 1)}
    guest.reader.states.update({refs[name]: state for name, state in states.items()})
    return guest


def test_dirty_volumes() -> None:
    dirty = NtfsVolumeState(True, False, "3.1")
    assert volume_findings(with_states(windows_guest(), windows=dirty)) == {"volume-dirty": {"refused"}}
    assert volume_findings(with_states(windows_guest(data_disks=1), data=dirty)) == {"volume-dirty": {"warning"}}


def test_an_unclean_log_is_the_policy_s_to_judge() -> None:
    unclean = NtfsVolumeState(False, True, "3.1")
    assert volume_findings(with_states(windows_guest(), windows=unclean)) == {"volume-log-unclean": {"warning"}}
    refuse = dataclasses.replace(Policy(), log_unclean="refuse")
    assert volume_findings(with_states(windows_guest(), windows=unclean), refuse) == {"volume-log-unclean": {"refused"}}


@pytest.mark.parametrize(("magic", "found"), [(b"HIBR", True), (b"RSTR", True), (b"WAKE", False), (bytes(4), False), (b"", False)])
def test_hibernation(magic: bytes, found: bool) -> None:
    guest = windows_guest(files={"hiberfil.sys": magic})
    assert volume_findings(guest) == ({"volume-hibernated": {"refused"}} if found else {})


def test_disks_that_nobody_initialised_are_no_duplicates() -> None:
    guest = windows_guest(firmware="bios", data_disks=3)
    reader = guest.reader
    assert isinstance(reader, MemoryReader)

    def named(*names: str) -> Guest:
        disks = [dataclasses.replace(d, table=dataclasses.replace(d.table, id=n)) for d, n in zip(reader.disks, names)]
        return Guest(MemoryReader(disks, reader.files))

    assert volume_findings(named("0x00000001", "0x00000000", "0x00000000", "0x00000002")) == {}
    same = ask("volumes", named("0x00000001", "0x00000002", "0x00000001", "0x00000003"))
    assert same.states() == {"disk-signature-duplicate": {"warning"}}
    assert same.findings[0].subject == "disk 0, disk 2"


def test_what_a_hook_can_t_read_is_a_finding_and_stops_the_run() -> None:
    guest = windows_guest(driver("viostor"))
    assert isinstance(guest.reader, MemoryReader)
    path = "/Windows/System32/config/SOFTWARE"
    guest.reader.files[WINDOWS][path] = b"regf" + bytes(8188)
    proposal = propose([packaged()["boot-filters"], packaged()["domains"]], guest, options())
    assert [(f.id, f.state) for f in proposal.findings] == [("hive-corrupt", "refused")]
    assert isinstance(proposal.findings[0], Finding) and "boot-filters" in proposal.findings[0].evidence


# Windows that h2k leaves alone


@pytest.mark.parametrize(("version", "arch", "supported"), [("6.0", "amd64", False), ("6.1", "x86", True), ("10.0", "arm64", True)])
def test_old_windows_are_left_as_virt_v2v_made_them(version: str, arch: str, supported: bool) -> None:
    guest = windows_guest(f'[{DISK}]\n"UpperFilters"=multi:["nosuch"]\n', version=version, build="6002", arch=arch)
    assert guest.windows.supported is supported
    warned = {} if supported else {"windows-unsupported": {"warning"}}
    assert ask("hives", guest).states() == warned
    if not supported:
        for name in ("boot-storage", "boot-filters", "signatures", "boot-loader", "network-driver", "network-policy", "disks"):
            assert ask(name, guest).states() == {}, name


def test_an_architecture_without_drivers_is_left_alone() -> None:
    guest = windows_guest()
    guest.__dict__["machine"] = "0x200"  # Itanium
    assert ask("hives", guest).states() == {"windows-unsupported": {"warning"}}
    assert ask("boot-storage", guest).states() == {}


@pytest.mark.parametrize(
    ("content", "found"),
    [(make_pe("amd64", b"made pci.sys"), set()), (make_pe("x86", b"made pci.sys"), {"boot-stack-driver-disabled"}), (None, {"file-unreadable"})],
)  # fmt: skip
def test_the_boot_stack_s_files_are_programs_for_this_machine(content: Optional[bytes], found: set[str]) -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack)
    guest = windows_guest(text, files=sys_files(*stack))
    assert isinstance(guest.reader, MemoryReader)
    path = "/Windows/System32/drivers/pci.sys"
    if content is None:
        guest.reader.unreadable[WINDOWS, path.lower()] = "WOF-compressed"
    else:
        guest.reader.files[WINDOWS][path] = content
    states = ask("boot-storage", guest, bus="sata").states()
    assert {i for i in states if i != "bootstrap-controller-not-boot-start"} == found
