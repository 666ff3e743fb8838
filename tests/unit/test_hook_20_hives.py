"""Hives that are dirty, damaged or missing, and the Windows that h2k knows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from h2k.disk.reader import VolumeRef
from h2k.guest.changes import ReplayLogs
from h2k.guest.guest import Guest
from tests.guests.hivelog import make_dirty_pair
from tests.guests.regfile import build_hive, make_dirty
from tests.unit.hooks import ask, packaged
from tests.unit.memory_reader import MemoryReader, windows_guest

DISK = "$cs\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}"


@pytest.mark.parametrize(("version", "arch", "supported"), [("6.0", "amd64", False), ("6.1", "x86", True), ("10.0", "x86", True)])
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


@pytest.mark.parametrize(("version", "state"), [("6.0", "warning"), ("6.1", "refused"), ("10.0", "refused")])
def test_windows_for_arm64_has_no_domain_to_run_in(version: str, state: str) -> None:
    said = ask("hives", windows_guest(arch="arm64", version=version))
    assert said.states() == {"windows-unsupported": {state}} and "arm64" in said.findings[0].evidence


def test_behind_what_it_refuses_a_hook_that_can_t_read_the_guest_is_left_out() -> None:
    assert {name for name, hook in packaged().items() if hook.gate} == {"volumes", "hives"}


CONFIG = "Windows/System32/config"


def with_hive(name: str, data: bytes, **more: Any) -> Guest:
    return windows_guest(files={f"{CONFIG}/{name}": data, **more.pop("files", {})}, **more)


def dirty(name: str, fmt: str, **more: Any) -> Guest:
    """A guest whose hive has its newest changes in its logs."""
    clean = windows_guest(drivers=build_hive("[New]\n"), **more).hive_bytes(name)
    newer = build_hive('[Newest]\n"a"="b"\n', clean)
    data, logs = make_dirty_pair(clean, newer, fmt)
    files = {f"{CONFIG}/{name}.{suffix}": log for suffix, log in logs.items()}
    return with_hive(name, data, files=files, **more)


@pytest.mark.parametrize("fmt", ["new", "old"])
@pytest.mark.parametrize("name", ["SYSTEM", "SOFTWARE", "DRIVERS"])
def test_a_dirty_hive_is_reported_and_its_logs_are_replayed(name: str, fmt: str) -> None:
    said = ask("hives", dirty(name, fmt))
    assert said.states() == {"hive-dirty": {"broken"}}
    (finding,) = said.findings
    assert finding.subject == f"/{CONFIG}/{name}" and "only the logs hold" in finding.evidence
    assert [(c.hive, c.applied in finding.evidence) for c in said.changes if isinstance(c, ReplayLogs)] == [(name, True)]
    assert len(said.changes) == 1


def test_the_log_entries_that_are_applied_are_named_by_their_numbers() -> None:
    (finding,) = ask("hives", dirty("SYSTEM", "new")).findings
    assert re.search(r"its logs: LOG1 2-3, LOG2 4-5: \d+ bytes that only the logs hold$", finding.evidence), finding.evidence
    (finding,) = ask("hives", dirty("SYSTEM", "old")).findings
    assert re.search(r"its logs: LOG1 \d+: \d+ bytes", finding.evidence), finding.evidence


def test_a_dirty_hive_does_not_hide_what_windows_it_is() -> None:
    assert ask("hives", dirty("SYSTEM", "new", version="6.0", build="6002")).states() == {
        "hive-dirty": {"broken"}, "windows-unsupported": {"warning"},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["SYSTEM", "SOFTWARE", "DRIVERS"])
def test_a_dirty_hive_without_its_logs_is_refused(name: str) -> None:
    clean = windows_guest(drivers=build_hive("[New]\n")).hive_bytes(name)
    said = ask("hives", with_hive(name, make_dirty(clean)))
    assert said.states() == {"hive-unrecoverable": {"refused"}} and said.changes == ()
    assert said.findings[0].subject == f"/{CONFIG}/{name}" and "shutdown /s /t 0" in said.findings[0].repair


@pytest.mark.parametrize("data", [b"", b"no hive", b"regf" + bytes(8188)])
@pytest.mark.parametrize("name", ["SYSTEM", "SOFTWARE", "DRIVERS"])
def test_a_hive_that_is_none_is_refused(name: str, data: bytes) -> None:
    said = ask("hives", with_hive(name, data))
    assert {f.state for f in said.findings} == {"refused"} and said.changes == ()
    assert {f.id for f in said.findings} <= {"hive-corrupt", "hive-unrecoverable"}
    assert said.findings[0].subject == f"/{CONFIG}/{name}"


@pytest.mark.parametrize(("firmware", "word"), [("uefi", "/f UEFI"), ("bios", "/f BIOS")])
def test_a_boot_store_that_is_no_hive_has_its_own_way_out(firmware: str, word: str) -> None:
    said = ask("hives", windows_guest(bcd=b"no hive", firmware=firmware))
    assert said.states() == {"bcd-corrupt": {"refused"}} and word in said.findings[0].repair
    assert ask("hives", windows_guest(firmware=firmware)).states() == {}, "a missing one is the boot loader hook's"


def test_a_required_hive_that_is_missing_is_refused() -> None:
    guest = windows_guest()
    assert isinstance(guest.reader, MemoryReader)
    del guest.reader.files[VolumeRef(0, 2)][f"/{CONFIG}/SOFTWARE"]
    said = ask("hives", guest)
    assert [(f.id, f.state, f.subject) for f in said.findings] == [("hive-corrupt", "refused", "SOFTWARE")]


@pytest.mark.parametrize("name", ["SYSTEM", "SOFTWARE"])
def test_a_compressed_hive_is_named(name: str) -> None:
    guest = windows_guest()
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[VolumeRef(0, 2), f"/{CONFIG}/{name}".lower()] = "compressed"
    said = ask("hives", guest)
    assert [(f.id, f.state, f.evidence) for f in said.findings] == [("file-unreadable", "refused", "compressed")]
    assert "compact /u" in said.findings[0].repair


def test_what_h2k_knows_is_said_of_a_windows_that_it_does_not() -> None:
    (finding,) = ask("hives", windows_guest(version="6.0", build="6002")).findings
    assert finding.evidence.startswith("NT 6.0 for amd64; h2k knows 6.1 and later, for ")


def test_a_damaged_hive_that_windows_does_not_need_to_be_known_by_hides_nothing() -> None:
    said = ask("hives", with_hive("DRIVERS", b"no hive", version="6.0", build="6002"))
    assert said.states() == {"hive-corrupt": {"refused"}, "windows-unsupported": {"warning"}}
    assert ask("hives", with_hive("SOFTWARE", b"no hive")).states() == {"hive-corrupt": {"refused"}}
