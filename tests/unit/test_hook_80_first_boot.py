"""Hook first-boot: what is staged, when, and that it holds."""

from __future__ import annotations

import dataclasses
import struct
import uuid
from typing import Any

import pytest

from h2k.config.policy import Policy
from h2k.domain.facts import NicFacts
from h2k.guest.changes import SetValue, WriteFile, pending
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, DriverSource, PackageBad, PackageMissing
from h2k.windows import first_boot
from h2k.windows.first_boot import FirstBoot, Runner
from h2k.windows.first_boot_steps import STEPS
from h2k.windows.network import Gateway
from h2k.windows.network_carry import Settings
from tests.guests.pe import make_pe
from tests.unit.memory_reader import MemoryReader, apply_changes, make_disk, windows_guest
from tests.unit.moved_guests import (
    MACS,
    MODERN,
    NATIVE,
    THREE,
    UNKNOWN,
    VIRTIO,
    WithNetwork,
    ask,
    domain,
    hooks,
    ids,
    settings_of,
)


def test_three_cards_each_to_its_own_mac(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    nics = domain(NicFacts(MACS[2], slot=224), NicFacts(MACS[1], slot=192), NicFacts(MACS[0], slot=160))
    found = ask(guest, drivers, domain=nics)
    cards = {card.mac: card for card in settings_of(found).cards}
    assert set(cards) == set(MACS)
    assert cards[MACS[0]].addresses == ("192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/25")
    assert [g.address for g in cards[MACS[0]].gateways] == ["192.0.2.1", "192.0.2.2"]
    assert cards[MACS[0]].dns == ("192.0.2.53", "192.0.2.54") and cards[MACS[0]].addresses6 == ("2001:db8::10/64",)
    assert cards[MACS[0]].gateways6 == (Gateway("2001:db8::1"),) and cards[MACS[0]].metric == 15
    assert cards[MACS[1]].addresses == ("10.20.30.40/16",) and cards[MACS[1]].name == "Backup LAN"
    assert cards[MACS[2]].dhcp and not cards[MACS[2]].static and cards[MACS[2]].name == "DMZ"
    assert [r.destination for r in settings_of(found).routes] == ["10.0.0.0/8", "172.16.0.0/12"]
    (document,) = found.documents
    assert document.name == "network.json"
    assert document.content["assignments"]["{11111111-0000-4000-8000-000000000003}"]["mac"] == MACS[2]
    assert ids(found, "broken") >= {"nic-ghost", "nic-static-stranded", "nic-driver-missing", "disks-offline-policy"}
    # An IPv6 address that does not decode beyond doubt is for the owner to set.
    assert any(f.id == "nic-static-stranded" and "2001:db8:1::20" in f.evidence for f in found.findings)


def test_after_the_repair_nothing_is_to_do_and_the_staged_state_holds(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1, sets=(1, 2))
    nics = domain(*(NicFacts(mac, slot=slot) for mac, slot in zip(MACS, (160, 192, 224))))
    first = ask(guest, drivers, domain=nics)
    todo = pending(first.changes, guest)
    fixed = apply_changes(guest, todo)
    assert [c.diff(fixed) for c in todo if not c.holds(fixed)] == []
    again = ask(fixed, drivers, domain=nics)
    assert pending(again.changes, fixed) == () and again.broken == ()
    assert settings_of(again) == settings_of(first), "what the first boot needs outlives the adapters that had it"
    # On a host without virtio-win, without the domain: still nothing to do.
    other = ask(fixed, None)
    assert [c.diff(fixed) for c in pending(other.changes, fixed)] == [] and other.broken == ()
    assert other.documents == (), "network.json of the first run is not overwritten by an emptier one"


def test_every_script_is_staged_as_it_is(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    fixed = apply_changes(guest, ask(guest, drivers).changes)
    scripts = first_boot.scripts()
    assert "runner.cmd" in scripts
    for name, data in scripts.items():
        assert fixed.reader.read(fixed.volume, f"/Program Files/h2k/{name}", 1 << 20) == data


def test_hostile_names_reach_no_script(drivers: DriverSource) -> None:
    name = '[$cs\\Control\\Network\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\{11111111-0000-4000-8000-000000000001}\\Connection]\n"Name"="x\\u0022 & calc %PATH%"\n'
    found = ask(windows_guest(MODERN + THREE + name), drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    for change in found.changes:
        if getattr(change, "path", "").startswith("/Program Files/h2k/settings"):
            assert b"calc" not in change.data  # type: ignore[union-attr]
    assert {c.mac: c.name for c in settings_of(found).cards}[MACS[0]] == ""


def test_a_native_virtio_guest_gets_no_write(drivers: DriverSource) -> None:
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + VIRTIO + san, files=NATIVE, data_disks=2)
    found = ask(guest, drivers)
    assert found.changes == () and found.findings == ()
    assert found.setting("bootstrap-nic", "") == found.setting("final-nic", "") == "virtio"


def test_once_it_is_over_nothing_is_staged_again(drivers: DriverSource) -> None:
    done = '[h2k]\n"FirstBoot"="done"\n'
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + VIRTIO + san, done, files=NATIVE, data_disks=2)
    assert ask(guest, drivers).changes == ()


def test_a_disk_that_comes_back_from_another_hypervisor_starts_anew(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, '[h2k]\n"FirstBoot"="done"\n')
    found = ask(guest, drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    assert len(settings_of(found).cards) == 3
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert fixed.hive("SOFTWARE").value("h2k", "FirstBoot") is None
    assert pending(ask(fixed, drivers).changes, fixed) == ()


def test_between_the_two_boots_the_staged_state_holds(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE, data_disks=1)
    nics = domain(*(NicFacts(m) for m in MACS))
    fixed = apply_changes(guest, pending(ask(guest, drivers, domain=nics).changes, guest))
    reader = fixed.reader
    # Windows has met its VirtIO devices, and given the cards their addresses.
    from tests.guests.regfile import build_hive

    assert isinstance(reader, MemoryReader)
    files = {ref: dict(tree) for ref, tree in reader.files.items()}
    where = fixed.hive_file("SYSTEM")
    assert where is not None
    met = VIRTIO.replace("$cs", "ControlSet001")
    files[where.volume][where.path] = build_hive(met, fixed.hive_bytes("SYSTEM"))
    booted = Guest(MemoryReader(reader.disks, files))
    again = ask(booted, drivers, domain=nics)
    assert [c.diff(booted) for c in pending(again.changes, booted)] == [] and again.broken == ()


def test_before_the_copy_it_only_reports(drivers: DriverSource) -> None:
    found = ask(windows_guest(MODERN + THREE), drivers, phase="source")
    assert not any("Program Files/h2k" in getattr(c, "path", "") for c in found.changes)


def test_the_service_in_both_forms(drivers: DriverSource) -> None:
    key = "ControlSet001\\Services\\h2k-firstboot"
    guest = windows_guest(MODERN + THREE)
    plain = apply_changes(guest, pending(ask(guest, drivers).changes, guest))
    image = plain.system.value(key, "ImagePath")
    assert image is not None
    assert image.text() == (
        r'%SystemRoot%\System32\cmd.exe /d /c start "" %SystemRoot%\System32\cmd.exe /d /c call "%SystemDrive%\Program Files\h2k\runner.cmd"'
    )
    assert [plain.system.value(key, n).dword() for n in ("Type", "Start")] == [0x10, 2]  # type: ignore[union-attr]

    runner = Runner("rhsrvany.exe", b"made rhsrvany.exe", "x86")
    assert pending(ask(plain, drivers, runner=runner).changes, plain) == (), "a service that is staged stays as it is"
    for other in (Runner("pvvxsvc.exe", b"x", "x86"), Runner("rhsrvany.exe", b"x", "arm64")):
        assert not any("rhsrvany" in getattr(c, "path", "") for c in ask(guest, drivers, runner=other).changes)
    better = apply_changes(guest, pending(ask(guest, drivers, runner=runner).changes, guest))
    image, command = better.system.value(key, "ImagePath"), better.system.value(f"{key}\\Parameters", "CommandLine")
    assert image is not None and image.text() == r'"%SystemDrive%\Program Files\h2k\rhsrvany.exe" -s h2k-firstboot'
    assert command is not None and command.text() == r'cmd.exe /d /c call "%SystemDrive%\Program Files\h2k\runner.cmd"'
    assert better.stat("/Program Files/h2k/rhsrvany.exe") is not None
    assert pending(ask(better, drivers).changes, better) == ()


def test_the_packages_are_whole_and_only_those_that_are_needed(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    found = ask(guest, drivers)
    names = {c.path.split("/drivers/")[1] for c in found.changes if "/h2k/drivers/" in getattr(c, "path", "")}  # type: ignore[union-attr]
    wanted = settings_of(found)
    assert {p.inf for p in wanted.drivers if p.required} == {"viostor\\viostor.inf", "NetKVM\\netkvm.inf"} or {
        p.inf.lower() for p in wanted.drivers if p.required
    } == {"viostor\\viostor.inf", "netkvm\\netkvm.inf"}
    assert {"viostor/viostor.inf", "viostor/viostor.sys", "viostor/viostor.cat"} <= names
    assert not any(name.startswith("vioscsi/") or name.endswith(".pdb") for name in names)
    scsi = {p.inf.split("\\")[0] for p in settings_of(ask(guest, drivers, bus="virtio-scsi")).drivers}
    assert "vioscsi" in scsi and "viostor" not in scsi


def test_tools_and_agent_on_request(drivers: DriverSource) -> None:
    uninstall = "Microsoft\\Windows\\CurrentVersion\\Uninstall\\"
    entries = [
        (uninstall, "evil & calc", "VMware Tools helper"),
        (uninstall, "{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}", "VMware Tools"),
        (uninstall, "{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A12}", "The owner's own program"),
        ("WOW6432Node\\" + uninstall, "{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A13}", "XCP-ng Windows Guest Tools"),
    ]
    guest = windows_guest(MODERN + THREE, "".join(f'[{place}{name}]\n"DisplayName"="{shown}"\n' for place, name, shown in entries))
    plain = settings_of(ask(guest, drivers))
    assert plain.tools == () and plain.agent == ""
    asked = ask(guest, drivers, policy=Policy(tools="remove", agent="install"))
    assert settings_of(asked).tools == ("{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A11}", "{5C7A5A7C-AAD6-4C42-8F5F-2C2C6C4A1A13}")
    assert settings_of(asked).agent == "qemu-ga-x86_64.msi"
    agent = [c.data for c in asked.changes if getattr(c, "path", "") == "/Program Files/h2k/qemu-ga-x86_64.msi"]  # type: ignore[union-attr]
    assert agent == [b"made guest-agent installer"]
    fixed = apply_changes(guest, pending(asked.changes, guest))
    later = settings_of(ask(fixed, None, policy=Policy(agent="install")))
    assert (later.tools, later.agent) == (settings_of(asked).tools, "qemu-ga-x86_64.msi"), "what is staged needs its source no more"


def test_each_sign_that_windows_waits_for_a_restart_is_named() -> None:
    system = f'[$cs\\Control\\Session Manager]\n"PendingFileRenameOperations"=multi:["{"x" * 80}rest","other"]\n'
    keys = (
        "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\RebootPending",
        "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired",
    )
    guest = windows_guest(MODERN + THREE + system, "".join(f"[{key}]\n" for key in keys), {"Windows/WinSxS/pending.xml": b"<x/>"})
    assert [(f.subject, f.evidence) for f in ask(guest, None).findings if f.id == "reboot-pending"] == [
        ("SYSTEM\\ControlSet001\\Control\\Session Manager", f"PendingFileRenameOperations, the first of {'x' * 80}"),
        *((f"SOFTWARE\\{key}", "the key is there") for key in keys),
        ("/Windows/WinSxS/pending.xml", "4 bytes of servicing to do"),
    ]
    assert "reboot-pending" not in ids(ask(windows_guest(MODERN + THREE), None), "warning")


@pytest.mark.parametrize("package", ["guestor.inf_tmp", "guestor.inf_amd64_0000000000000000"], ids=["2.2", "2.10"])
def test_placeholder_packages_go_once_the_real_driver_is_bound(drivers: DriverSource, package: str) -> None:
    system = MODERN + f'[DriverDatabase\\DriverInfFiles\\guestor.inf]\n"Active"="{package}"\n'
    found = ask(windows_guest(system + THREE), drivers)
    assert "guestor-leftover" in ids(found, "warning")
    wanted = settings_of(found)
    assert wanted.leftovers == ("guestor.inf", "h2kviostor.inf")
    assert wanted.bound == ("viostor",)


def test_windows_7_has_no_placeholder_packages(drivers: DriverSource) -> None:
    guest = windows_guest(UNKNOWN, version="6.1", build="7601", arch="x86", server=False, firmware="bios")
    found = ask(guest, drivers)
    assert settings_of(found).leftovers == () == settings_of(found).bound
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert pending(ask(fixed, drivers).changes, fixed) == ()


def test_the_guest_gets_less_time_than_the_policy_gives_the_host(drivers: DriverSource) -> None:
    policy = Policy(timeouts={**Policy().timeouts, "drivers": 100})
    told = dict(settings_of(ask(windows_guest(MODERN + THREE), drivers, policy=policy)).limits)
    assert told == {**{step.name: step.budget for step in STEPS if step.bounded}, "drivers": 80}
    assert all(0 < seconds < policy.timeouts[name] for name, seconds in told.items())


@pytest.mark.parametrize(("version", "build", "asks"), [("6.3", "9600", True), ("6.2", "9200", True), ("10.0", "20348", False)])
def test_a_publisher_comes_along_where_windows_would_ask(
    version: str, build: str, asks: bool, drivers: DriverSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ("0" * 40, b"made certificate")
    hook = next(h for h in hooks() if h.name == "first-boot")
    monkeypatch.setitem(hook.propose.__globals__, "catalogue_publisher", lambda data: found)  # type: ignore[attr-defined]
    guest = windows_guest(MODERN + THREE, version=version, build=build)
    said = ask(guest, drivers)
    assert ((found[0], "viostor\\publisher.cer") in [(p.thumbprint, p.file) for p in settings_of(said).publishers]) is asks
    assert any(getattr(c, "path", "").endswith("viostor/publisher.cer") for c in said.changes) is asks
    fixed = apply_changes(guest, pending(said.changes, guest))
    assert pending(ask(fixed, None).changes, fixed) == ()
    # virt-v2v's own script installs packages before ours does: the trust is there when Windows starts.
    key = f"Microsoft\\SystemCertificates\\TrustedPublisher\\Certificates\\{found[0]}"
    trusted = fixed.hive("SOFTWARE").raw(key, "Blob")
    assert trusted == (b"\x03\0\0\0\1\0\0\0\x14\0\0\0" + bytes(20) + b"\x20\0\0\0\1\0\0\0\x10\0\0\0" + found[1] if asks else b"")
    installed = windows_guest(
        base=fixed.hive_bytes("SYSTEM"), version=version, build=build, files={first_boot.SETTINGS.lstrip("/"): first_boot.settings_text(settings_of(said)), "Program Files/h2k/done/drivers": b"ok"}
    )
    assert not any(isinstance(c, SetValue) and c.key == key for c in ask(installed, drivers).changes), "taken back, and not given again"


def test_a_disk_that_comes_back_trusts_anew(drivers: DriverSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier first boot left says nothing of this one: the runner throws it away."""
    hook = next(h for h in hooks() if h.name == "first-boot")
    monkeypatch.setitem(hook.propose.__globals__, "catalogue_publisher", lambda data: ("0" * 40, b"made"))  # type: ignore[attr-defined]
    for mark, trusted in (('[h2k]\n"FirstBoot"="done"\n', True), ("", False)):
        files = {"Program Files/h2k/done/drivers": b"ok"}
        said = ask(windows_guest(MODERN + THREE, mark, files, version="6.3", build="9600"), drivers)
        assert any(isinstance(c, SetValue) and c.name == "Blob" for c in said.changes) is trusted


def test_a_publisher_whom_the_owner_trusts_stays_his(drivers: DriverSource, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = next(h for h in hooks() if h.name == "first-boot")
    monkeypatch.setitem(hook.propose.__globals__, "catalogue_publisher", lambda data: ("0" * 40, b"made"))  # type: ignore[attr-defined]
    own = f'[Microsoft\\SystemCertificates\\TrustedPublisher\\Certificates\\{"0" * 40}]\n"Blob"=hex:01\n'
    said = ask(windows_guest(MODERN + THREE, own, version="6.3", build="9600"), drivers)
    assert settings_of(said).publishers == ()
    assert not any(isinstance(c, SetValue) and c.name == "Blob" for c in said.changes)


def test_disks_that_the_owner_kept_offline_keep_the_policy(drivers: DriverSource) -> None:
    disk = windows_guest(data_disks=2).disks[2]
    cache = struct.pack("<II", 1, 2) + uuid.UUID(disk.table.id).bytes_le + bytes(20)
    kept = (
        "[$cs\\Enum\\SCSI\\Disk&Ven_VMware_&Prod_VMware_Virtual_S\\5&1ec51bf7&0&000100\\Device Parameters\\Partmgr]\n"
        f'"Attributes"=dword:00000001\n"PartitionTableCache"=hex:{cache.hex(",")}\n'
    )
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    found = ask(windows_guest(MODERN + THREE + san + kept, data_disks=2), drivers)
    wanted = settings_of(found)
    assert wanted.san == () and len(wanted.disks) == 2 and f"{{{disk.table.id.lower()}}}" not in wanted.disks
    assert not any(isinstance(c, SetValue) and c.name == "SanPolicy" for c in found.changes)


def test_its_own_disks_are_named(drivers: DriverSource) -> None:
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + THREE + san, data_disks=1)
    wanted = settings_of(ask(guest, drivers))
    assert wanted.san == ((1, 3),) and len(wanted.disks) == 2
    other = settings_of(ask(guest, drivers, policy=Policy(san="keep")))
    assert (other.san, other.disks) == ((), ()), "the owner keeps the SAN policy"
    assert settings_of(ask(windows_guest(MODERN + THREE), drivers)).disks == (), "nothing to bring online"


def test_without_a_first_boot_a_crash_restarts_windows_at_once(drivers: DriverSource) -> None:
    """virt-v2v has switched it off, and no step of ours would give it back."""
    crash = '[$cs\\Control\\CrashControl]\n"AutoReboot"=dword:0000000%d\n'
    native = MODERN + VIRTIO + crash % 0
    for software in ("", '[h2k]\n"FirstBoot"="done"\n'):
        found = ask(windows_guest(native, software, files=NATIVE), drivers, source={"auto-reboot": "1"})
        assert [(c.key, c.name) for c in found.changes if isinstance(c, SetValue)] == [("ControlSet001\\Control\\CrashControl", "AutoReboot")]
    assert ask(windows_guest(native, files=NATIVE), drivers).changes == (), "it stood still on the source as well"
    assert ask(windows_guest(MODERN + VIRTIO + crash % 1, files=NATIVE), drivers, source={"auto-reboot": "1"}).changes == ()


def test_a_crash_may_restart_windows_again_when_all_is_over(drivers: DriverSource) -> None:
    crash = '[$cs\\Control\\CrashControl]\n"AutoReboot"=dword:0000000%d\n'
    guest = windows_guest(MODERN + THREE + crash % 1, sets=(1, 2))
    found = ask(guest, drivers)
    assert settings_of(found).auto_reboot == ((1, 1), (2, 1))
    fixed = apply_changes(guest, pending(found.changes, guest))
    off = windows_guest(base=fixed.hive_bytes("SYSTEM"), system=crash % 0, sets=(1, 2), files={
        name.lstrip("/"): data for ref, tree in fixed.reader.files.items() if ref == fixed.volume  # type: ignore[attr-defined]
        for name, data in tree.items() if not name.endswith("config/SYSTEM")
    })  # fmt: skip
    assert settings_of(ask(off, drivers)).auto_reboot == ((1, 1), (2, 1)), "h2k-qemu-img switches it off afterwards"
    assert settings_of(ask(windows_guest(MODERN + THREE + crash % 0), drivers)).auto_reboot == ()


def test_what_virt_v2v_switches_off_is_known_from_the_source(drivers: DriverSource) -> None:
    crash = '[ControlSet00%d\\Control\\CrashControl]\n"AutoReboot"=dword:0000000%d\n'
    source = ask(windows_guest(MODERN + THREE + crash % (1, 1) + crash % (2, 0), sets=(1, 2)), drivers, phase="source")
    assert source.setting("auto-reboot", "") == "1"
    converted = windows_guest(MODERN + THREE + crash % (1, 0) + crash % (2, 0), sets=(1, 2))
    assert settings_of(ask(converted, drivers, source={"auto-reboot": "1"})).auto_reboot == ((1, 1),)
    assert settings_of(ask(converted, drivers, source={"auto-reboot": ""})).auto_reboot == ()


def test_what_an_older_h2k_staged_is_not_lost(drivers: DriverSource) -> None:
    """The adapters of the source are gone already: what they had is in the settings that h2k 0.1 left in ProgramData."""
    guest = windows_guest(MODERN + THREE)
    first = ask(guest, drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    fixed = apply_changes(guest, pending(first.changes, guest))
    reader = fixed.reader
    files = reader.files[fixed.volume]  # type: ignore[attr-defined]
    for name in [n for n in files if n.startswith("/Program Files/h2k/")]:
        data = files.pop(name)
        if name.endswith("settings.txt"):
            files["/ProgramData/h2k/settings.txt"] = data
    found = ask(Guest(reader), drivers)
    assert settings_of(found).cards == settings_of(first).cards and settings_of(found).drivers
    assert settings_of(ask(Guest(reader), None)).drivers == (), "a package that is not there can't be installed"


@pytest.mark.parametrize(("nic", "cards"), [("auto", 0), ("virtio", 0), ("e1000e", 1)])
def test_a_card_that_only_the_bootstrap_has_is_removed_at_the_end(nic: str, cards: int, drivers: DriverSource) -> None:
    read = "".join(nic)  # a string of its own, as one that comes out of a file
    found = settings_of(ask(windows_guest(MODERN + THREE), drivers, policy=Policy(bootstrap_nic=read)))
    assert len(found.bootstrap_cards) == cards and all(card.startswith("VEN_8086&DEV_10D3&") for card in found.bootstrap_cards)


def test_the_service_of_the_final_cards_outlives_the_source_of_its_driver(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    found = ask(guest, drivers)
    assert settings_of(found).network_service == "netkvm"
    assert settings_of(ask(apply_changes(guest, pending(found.changes, guest)), None)).network_service == "netkvm"
    assert settings_of(ask(guest, None)).network_service == "", "left to an inbox driver"


@pytest.mark.parametrize(
    ("root", "drive"), [("D:\\\\Windows", "D:\\"), ("c:\\\\Windows", "c:\\"), ("%x%\\\\Windows", "C:\\"), ("", "C:\\")]
)
def test_the_runner_starts_where_windows_says_that_it_is(root: str, drive: str, drivers: DriverSource) -> None:
    software = f'[Microsoft\\Windows NT\\CurrentVersion]\n"SystemRoot"="{root}"\n'
    guest = windows_guest(MODERN + THREE, software)
    found = ask(guest, drivers, runner=Runner("rhsrvany.exe", b"made", "x86"))
    (place,) = [c.value.text() for c in found.changes if isinstance(c, SetValue) and c.name == "PWD"]
    assert place == drive


@pytest.mark.parametrize("error", [PackageMissing("no such directory"), PackageBad("viostor.sys: truncated")])
def test_a_driver_that_is_not_there_holds_no_other_one_up(error: Exception, drivers: DriverSource) -> None:
    class Without:
        def find(self, plan: Any, role: Any, windows: Any) -> DriverPackage:
            if role.name == "virtio-blk":
                raise error
            return drivers.find(plan, role, windows)

    without: Any = Without()
    staged = {p.inf.lower() for p in settings_of(ask(windows_guest(MODERN + THREE), without)).drivers}
    assert "netkvm\\netkvm.inf" in staged and "balloon\\balloon.inf" in staged and not any("viostor" in inf for inf in staged)


def test_routes_come_along_with_static_addresses_alone(drivers: DriverSource) -> None:
    nics = domain(*(NicFacts(m) for m in MACS))
    assert settings_of(ask(windows_guest(MODERN + THREE), drivers, domain=nics)).routes
    assert settings_of(ask(windows_guest(MODERN + THREE), drivers, domain=nics, policy=Policy(addresses="dhcp"))).routes == ()
    strange = domain(NicFacts("52:54:00:00:00:01"), NicFacts("52:54:00:00:00:02"))
    assert settings_of(ask(windows_guest(MODERN + THREE), drivers, domain=strange)).routes == (), "no card gets an address"


def test_what_the_adapters_say_now_counts_before_what_was_staged(drivers: DriverSource) -> None:
    """Of a card that is set by hand; one with DHCP keeps what was staged for it, for its adapter knows no better."""
    earlier = (Settings(MACS[0], dhcp=False, addresses=("192.0.2.99/24",)), Settings(MACS[2], "Old name"), Settings("52:54:00:00:00:09", "Gone"))
    staged = {first_boot.SETTINGS.lstrip("/"): first_boot.settings_text(FirstBoot("virtio", cards=earlier))}
    service = f'[$cs\\Services\\{first_boot.SERVICE}]\n"Start"=dword:00000002\n'
    guest = windows_guest(MODERN + THREE + service, files=staged)
    said = ask(guest, drivers, domain=domain(*(NicFacts(m) for m in MACS)))
    assert any("/drivers/viostor/" in getattr(c, "path", "") for c in said.changes), "a package that is not there yet is staged"
    cards = {c.mac: (c.addresses[:1], c.name) for c in settings_of(said).cards}
    assert cards == {
        MACS[0]: (("192.0.2.10/24",), "Ethernet0"), MACS[1]: (("10.20.30.40/16",), "Backup LAN"), MACS[2]: ((), "Old name"),
        "52:54:00:00:00:09": ((), "Gone"),
    }  # fmt: skip


def test_the_owner_may_turn_staged_addresses_into_dhcp(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    nics = domain(*(NicFacts(m) for m in MACS))
    fixed = apply_changes(guest, pending(ask(guest, drivers, domain=nics).changes, guest))
    later = settings_of(ask(fixed, drivers, domain=nics, policy=Policy(addresses="dhcp"))).cards
    assert [(c.mac, c.name, c.addresses) for c in later if c.name] and not any(c.static for c in later)


class Other:
    """Another virtio-win: the same drivers in packages with other content, or without one of their files."""

    def __init__(self, source: DriverSource, missing: tuple[str, ...] = ()) -> None:
        self.source, self.missing = source, missing

    def find(self, plan: Any, role: Any, windows: Any) -> DriverPackage:
        found = self.source.find(plan, role, windows)
        files = {name: data if name.endswith(".sys") else data + b"newer" for name, data in found.files.items()}
        return dataclasses.replace(found, files=files, missing=self.missing)


def test_a_package_that_is_staged_stays_as_it_is(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    fixed = apply_changes(guest, pending(ask(guest, drivers).changes, guest))
    newer: Any = Other(drivers)
    assert any("/h2k/drivers/viostor/" in getattr(c, "path", "") for c in ask(guest, newer).changes)
    assert not any("/h2k/drivers/" in getattr(c, "path", "") for c in ask(fixed, newer).changes)


def test_a_package_that_windows_can_not_install_is_told_and_not_staged(drivers: DriverSource) -> None:
    lacking: Any = Other(drivers, ("1.cat", "2.dll", "3.dll", "4.dll", "5.dll"))
    found = ask(windows_guest(MODERN + THREE), lacking)
    told = {f.subject.lower(): f.evidence for f in found.findings if f.id == "driver-package-missing" and f.state == "warning"}
    assert set(told) == {"viostor.inf", "netkvm.inf"}
    assert all("lacks 1.cat, 2.dll, 3.dll, 4.dll: Windows can't" in evidence for evidence in told.values()), "the first four"
    assert settings_of(found).drivers == () and not any("/h2k/drivers/" in getattr(c, "path", "") for c in found.changes)


def test_the_disks_that_were_noted_first_stay_the_ones(drivers: DriverSource) -> None:
    """A disk that is given to a later run was none of the guest's own when its SAN policy was noted."""
    san = '[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:00000003\n'
    guest = windows_guest(MODERN + THREE + san, data_disks=1)
    first = ask(guest, drivers)
    fixed = apply_changes(guest, pending(first.changes, guest))
    reader = fixed.reader
    assert isinstance(reader, MemoryReader)
    more = Guest(MemoryReader([*reader.disks, make_disk(2, ["ntfs"])], reader.files))
    assert settings_of(ask(more, drivers)).disks == settings_of(first).disks != ()


@pytest.mark.parametrize("bus", ["virtio", "sata"])
@pytest.mark.parametrize(("by", "catalogue", "there"), [("", "", False), ("test", "", False), ("test", "test", False), ("", "whql", True)])
def test_a_network_driver_that_windows_would_not_load_is_not_staged(
    bus: str, by: str, catalogue: str, there: bool, drivers: DriverSource
) -> None:
    source: Any = WithNetwork(drivers, by, catalogue)
    guest = windows_guest(MODERN + THREE)
    found = ask(guest, source, bus=bus, domain=domain(*(NicFacts(m) for m in MACS)))
    wanted = settings_of(found)
    assert (wanted.network_service == "netkvm") is there is any("NetKVM" in p.inf for p in wanted.drivers)
    assert there is any("/drivers/NetKVM/" in getattr(c, "path", "") for c in found.changes)
    assert there is any("netkvm" in getattr(c, "key", "").lower() for c in found.changes)
    assert len([c for c in wanted.cards if c.static]) == 2, "the cards get their addresses whatever drives them"
    assert bus == "sata" or any("viostor" in p.inf for p in wanted.drivers)
    assert found.setting("final-nic", "") == found.setting("bootstrap-nic", "") == ("virtio" if there else "e1000e")
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert pending(ask(fixed, source, bus=bus).changes, fixed) == ()


def test_a_card_that_both_phases_have_is_not_removed(drivers: DriverSource) -> None:
    source: Any = WithNetwork(drivers, "test")
    assert settings_of(ask(windows_guest(MODERN + THREE), source, policy=Policy(bootstrap_nic="e1000e"))).bootstrap_cards == ()


def test_a_staged_network_driver_that_windows_would_not_load_goes(drivers: DriverSource) -> None:
    """As an h2k that did not judge it has staged it: replaced by a good one, else no step waits for it."""
    guest = windows_guest(MODERN + THREE)
    fixed = apply_changes(guest, pending(ask(guest, drivers).changes, guest))
    bad = make_pe("amd64", b"made netkvm.sys", signed=True, by="test")
    paths = ("/Program Files/h2k/drivers/NetKVM/netkvm.sys", "/Windows/System32/drivers/netkvm.sys")
    old = apply_changes(fixed, [WriteFile(fixed.volume, path, bad, "made") for path in paths])
    again = ask(old, drivers)
    assert settings_of(again) == settings_of(ask(fixed, drivers))
    assert {getattr(c, "path", "").lower() for c in pending(again.changes, old)} == {path.lower() for path in paths}
    worse: Any = WithNetwork(drivers, "test")
    for source in (None, worse):
        found = ask(old, source)
        wanted = settings_of(found)
        assert wanted.network_service == "" and not any("NetKVM" in p.inf for p in wanted.drivers)
        assert any("viostor" in p.inf for p in wanted.drivers) and found.setting("final-nic", "") == "e1000e"
    # The file that starts is good, what the first boot would put in its place is not.
    half = apply_changes(fixed, [WriteFile(fixed.volume, paths[0], bad, "made")])
    assert settings_of(ask(half, None)).network_service == "" and ask(half, None).setting("final-nic", "") == "e1000e"
    assert {getattr(c, "path", "") for c in pending(ask(half, drivers).changes, half)} == {paths[0]}
