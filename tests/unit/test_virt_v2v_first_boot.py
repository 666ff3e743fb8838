"""virt-v2v's own first boot, read offline: what waits, which cards it sets, which scripts would never end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import pytest

from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.guest.virt_v2v_first_boot import DIRECTORY, MAX_TRIES, allowed_restarts, bounded, loops, virt_v2v_first_boot
from h2k.windows.first_boot import Runner
from tests.guests.pe import make_pe
from tests.unit.cmd_lint import lint
from tests.unit.hooks import ask
from tests.unit.memory_reader import MemoryReader, apply_changes, windows_guest

SERVICE = '[$cs\\Services\\firstboot]\n"Type"=dword:00000010\n"Start"=dword:00000002\n'
RETRIES = b"if !elvl! NEQ 249 (\r\n"  # of a firstboot.bat that tries again
DRIVERS = b"@echo off\r\n%systemroot%\\Sysnative\\PnPutil -i -a x.inf\r\nexit /b 249\r\n"
OTHER = b"@echo off\r\nexit 249\r\n"
INSTALL = "2000-0001-pnputil-install-drivers.bat"
GOOD = b"[Version]\nSignature=$WINDOWS NT$\nCatalogFile=a.cat\n[Manufacturer]\nx=x,NTamd64\n[x.NTamd64]\ny=z,PCI\\VEN_1AF4&DEV_1041\n"


def guest(
    scripts: Mapping[str, bytes], control: bytes = RETRIES, service: str = SERVICE, files: Optional[Mapping[str, bytes]] = None, **more: Any
) -> Guest:
    content = {f"Program Files/Guestfs/Firstboot/scripts/{name}": data for name, data in scripts.items()}
    content["Program Files/Guestfs/Firstboot/firstboot.bat"] = control
    return windows_guest(service, files={**content, **(files or {})}, **more)


def test_scripts_are_counted_in_their_order() -> None:
    found = virt_v2v_first_boot(guest({"5000-0003-c.bat": b"", "2000-0001-a.BAT": b"", "note.txt": b""}))
    assert found is not None and [path.rsplit("/", 1)[-1] for path in found.scripts] == ["2000-0001-a.BAT", "5000-0003-c.bat"]


def test_each_script_may_restart_the_machine_and_a_bounded_one_at_each_of_its_tries() -> None:
    staged = guest({INSTALL: DRIVERS, "5000-0003-c.bat": OTHER, "5000-0004-d.bat": b""})
    assert allowed_restarts(staged) == 3
    (_, other) = loops(staged, virt_v2v_first_boot(staged))
    repaired = guest({INSTALL: DRIVERS, "5000-0003-c.bat": bounded(other)[other.script], "5000-0004-d.bat": b""})
    assert allowed_restarts(repaired) == 2 + MAX_TRIES
    assert allowed_restarts(guest({"a.bat": b""}, service="")) == 0


@pytest.mark.parametrize(
    "other",
    [
        guest({"a.bat": b""}, service=""),
        guest({"a.bat": b""}, service=SERVICE.replace("00000002", "00000004")),
        guest({"a.bat": b""}, service=SERVICE.replace('"Start"', '"Other"')),
        guest({}),
        guest({"a.bat": b""}, files={"Program Files/Guestfs/Firstboot/complete": b""}),
        windows_guest(SERVICE),
    ],
    ids=["no service", "disabled", "no start", "no script", "complete", "no directory"],
)
def test_nothing_waits(other: Guest) -> None:
    assert virt_v2v_first_boot(other) is None


def test_a_service_that_is_started_by_hand_waits_too() -> None:
    assert virt_v2v_first_boot(guest({"a.bat": b""}, service=SERVICE.replace("00000002", "00000003"))) is not None


def test_the_cards_that_it_sets() -> None:
    script = "$mac_address = '52-54-00-AA-00-01'\r\nif ($ifindex) {\r\n$mac_address = '52-54-00-aa-00-02'\r\n"
    files = {"Program Files/Guestfs/Firstboot/Temp/network-configure.ps1": script.encode()}
    found = virt_v2v_first_boot(guest({"2500-0001-network-configure.bat": b""}, files=files))
    assert found is not None and found.addresses == {"52:54:00:aa:00:01", "52:54:00:aa:00:02"}
    older = virt_v2v_first_boot(guest({"0002-v2vnetcf-ps1.bat": b""}, files={"Windows/Temp/v2vnetcf.ps1": script.encode()}))
    assert older is not None and older.addresses == found.addresses, "up to 2.4"
    done = virt_v2v_first_boot(guest({"other.bat": b""}, files=files))
    assert done is not None and done.addresses == frozenset(), "the script ran at an earlier boot"


def test_a_script_that_may_loop() -> None:
    fine = dict.fromkeys(("1000-0000-fine.bat", "5000-0003-fine.bat"), b"exit /b 2490\r\n")
    made = guest({INSTALL: DRIVERS, "5000-0002-other.bat": OTHER, **fine})
    staged = virt_v2v_first_boot(made)
    assert staged is not None
    first, second = loops(made, staged)
    assert (first.installs, second.installs) == (True, False) and second.content == OTHER
    assert "249" not in repr(second), "what a guest holds is in no message"
    assert list(bounded(second)) == [f"{DIRECTORY}/h2k/5000-0002-other.cmd", second.script]
    assert bounded(second)[f"{DIRECTORY}/h2k/5000-0002-other.cmd"] == OTHER


def looping(made: Guest) -> int:
    staged = virt_v2v_first_boot(made)
    assert staged is not None
    return len(loops(made, staged))


def test_a_runner_that_moves_every_script_on_does_not_loop() -> None:
    assert looping(guest({INSTALL: DRIVERS})) == 1
    assert looping(guest({INSTALL: DRIVERS}, control=b"move it, whatever it says\r\n")) == 0
    without = guest({INSTALL: DRIVERS})
    assert isinstance(without.reader, MemoryReader)
    del without.reader.files[without.volume][f"{DIRECTORY}/firstboot.bat"]
    assert looping(without) == 0


@pytest.mark.parametrize(("limit", "found"), [(len(OTHER), 1), (len(OTHER) - 1, 0)])
def test_scripts_that_are_too_large_are_not_read(limit: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = guest({"a.bat": OTHER}, control=b"249")
    monkeypatch.setattr("h2k.guest.virt_v2v_first_boot.SCRIPT_LIMIT", limit)
    assert looping(made) == found


def test_a_script_that_can_t_be_read_is_left_as_it_is() -> None:
    made = guest({"a.bat": OTHER, "b.bat": OTHER})
    assert isinstance(made.reader, MemoryReader)
    made.reader.unreadable[made.volume, f"{DIRECTORY}/scripts/a.bat".lower()] = "compressed"
    assert looping(made) == 1


def test_what_can_not_be_installed_is_left_out_with_the_reason() -> None:
    drivers = {
        "Windows/Drivers/VirtIO/a.cat": b"x",
        "Windows/Drivers/VirtIO/good.inf": GOOD,
        "Windows/Drivers/VirtIO/lacking.inf": GOOD.replace(b"a.cat", b"b.cat"),
        "Windows/Drivers/VirtIO/arm.inf": GOOD.replace(b"NTamd64", b"NTarm64"),
        "Windows/Drivers/VirtIO/junk.inf": b"\x00\x01",
        "Windows/Drivers/VirtIO/a & calc.inf": GOOD,
    }
    made = guest({INSTALL: DRIVERS}, files=drivers)
    staged = virt_v2v_first_boot(made)
    assert staged is not None
    (loop,) = loops(made, staged)
    assert loop.infs == ("good.inf",)
    assert [name for name, _ in loop.without] == ["a & calc.inf", "arm.inf", "junk.inf", "lacking.inf"]
    assert dict(loop.without)["lacking.inf"] == "b.cat missing" and "amd64" in dict(loop.without)["arm.inf"]
    (script,) = bounded(loop).values()
    assert b'call :install "good.inf"' in script and b"calc" not in script and b"@" not in script.replace(b"@echo", b"")


@pytest.mark.parametrize("content", [DRIVERS, OTHER])
def test_the_scripts_in_their_place_are_clean(content: bytes) -> None:
    made = guest({INSTALL: content}, files={"Windows/Drivers/VirtIO/good.inf": GOOD, "Windows/Drivers/VirtIO/a.cat": b"x"})
    staged = virt_v2v_first_boot(made)
    assert staged is not None
    (loop,) = loops(made, staged)
    script = bounded(loop)[loop.script]
    assert lint("x.bat", script, {"x.bat": script}) == []
    assert f"of {MAX_TRIES}".encode() in script


def test_the_first_four_drivers_that_are_left_out_are_named_with_the_first_three_files_that_they_lack() -> None:
    lacking = GOOD + b"[z]\nCopyFiles=@1.sys,@2.sys,@3.sys,@4.sys\n"
    drivers = {f"Windows/Drivers/VirtIO/{n}.inf": lacking for n in "abcde"}
    said = ask("first-boot", guest({INSTALL: DRIVERS, "5000-0002-other.bat": OTHER}, files={**drivers, "Windows/Drivers/VirtIO/a.cat": b"x"}))
    first, second = (f for f in said.findings if f.id == "first-boot-loop")
    left = "; ".join(f"{n}.inf: 1.sys, 2.sys, 3.sys missing" for n in "abcd")
    assert first.evidence.endswith(f"(exit status 249), and 5 of the drivers that it installs can't go in: {left}")
    assert (first.repair, second.repair) == (f"bounded: {MAX_TRIES} tries, without these drivers", f"bounded: {MAX_TRIES} tries")
    assert second.evidence.endswith("without limit (exit status 249)")


def test_the_hook_repairs_it_once() -> None:
    made = guest({INSTALL: DRIVERS, "5000-0002-other.bat": OTHER})
    assert "first-boot-loop" not in ask("first-boot", made, phase="source").states(), "virt-v2v is still to write its own"
    said = ask("first-boot", made)
    assert [f.state for f in said.findings if f.id == "first-boot-loop"] == ["broken", "broken"]
    changes = [c for c in said.changes if "Guestfs" in getattr(c, "path", "")]
    again = ask("first-boot", apply_changes(made, changes))
    assert "first-boot-loop" not in again.states()
    assert not any("Guestfs" in getattr(c, "path", "") for c in again.changes)


@pytest.mark.parametrize(
    ("machine", "arch", "warned"),
    [("amd64", "x86", True), ("x86", "x86", False), ("x86", "amd64", False), ("amd64", "amd64", False), ("arm64", "amd64", True), ("", "x86", False)],
)
def test_a_runner_that_windows_can_not_start_is_said_before_the_copy(machine: str, arch: str, warned: bool) -> None:
    runner = Runner("rhsrvany.exe", b"x", machine)
    old = {"version": "6.1", "build": "7601", "server": False, "firmware": "bios"} if arch == "x86" else {}
    said = ask("first-boot", windows_guest(arch=arch, **old), phase="source", runner=runner)  # type: ignore[arg-type]
    assert ("first-boot-loop" in said.states()) is warned
    assert said.changes == ()
    later = ask("first-boot", windows_guest(arch=arch, **old), runner=runner)  # type: ignore[arg-type]
    assert "first-boot-loop" not in later.states(), "after the copy the runner in the guest counts"


@pytest.mark.parametrize(("machine", "warned"), [("x86", False), ("amd64", True)])
def test_a_runner_in_the_guest_that_never_starts_is_named(machine: str, warned: bool) -> None:
    runner = {"Program Files/Guestfs/Firstboot/rhsrvany.exe": make_pe(machine, b"made rhsrvany.exe")}
    made = guest({"a.bat": b""}, files=runner, arch="x86", version="6.1", build="7601", server=False, firmware="bios")
    said = ask("first-boot", made)
    assert [f.state for f in said.findings if f.id == "first-boot-loop"] == (["broken"] if warned else [])
    switched_off = [c for c in said.changes if isinstance(c, SetValue) and c.key.endswith("Services\\firstboot")]
    assert [(c.name, c.value.dword()) for c in switched_off] == ([("Start", 4)] if warned else []), "ours would wait for it in vain"
    if warned:
        assert "first-boot-loop" not in ask("first-boot", apply_changes(made, switched_off)).states()


def test_a_service_is_switched_off_only_where_it_is() -> None:
    """virt-v2v stages it in the control set that boots alone: no key of it is made in another."""
    runner = {"Program Files/Guestfs/Firstboot/rhsrvany.exe": make_pe("amd64", b"made")}
    old = {"arch": "x86", "version": "6.1", "build": "7601", "server": False, "firmware": "bios"}
    made = guest({"a.bat": b""}, service=SERVICE.replace("$cs", "ControlSet001"), files=runner, sets=(1, 2), **old)
    assert made.control_sets.boot == (1, 2)
    changed = [c.key for c in ask("first-boot", made).changes if isinstance(c, SetValue) and c.key.endswith("Services\\firstboot")]
    assert changed == ["ControlSet001\\Services\\firstboot"]
