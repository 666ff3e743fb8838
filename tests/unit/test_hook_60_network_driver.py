"""Hook network-driver: NetKVM staged offline, and the card of each phase."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from h2k.config.driver_plan import load_plan
from h2k.config.policy import Policy
from h2k.engine.hooks import Options, propose
from h2k.guest.changes import SetValue, WriteFile, pending
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource, PackageBad, PackageMissing
from tests.guests.pe import make_pe
from tests.guests.regfile import build_hive
from tests.guests.signing import sign_catalogue
from tests.unit.hooks import Said, domain
from tests.unit.hooks import ask as plain_ask
from tests.unit.memory_reader import apply_changes, windows_guest
from tests.unit.moved_guests import MODERN, NATIVE, THREE, UNKNOWN, VIRTIO, WithNetwork, ask, hooks, ids
from tests.unit.test_hook_50_boot_loader import loader_with
from tests.unit.test_pnp import package


def test_without_a_package_it_warns_and_never_stops() -> None:
    found = ask(windows_guest(MODERN + THREE), None)
    told = [f for f in found.findings if f.id == "nic-driver-missing"]
    assert told and all(f.state == "warning" for f in told)
    assert found.refused == () and found.setting("bootstrap-nic", "") == found.setting("final-nic", "") == "e1000e"


def test_a_plan_may_say_when_it_starts(drivers: DriverSource, tmp_path: Path) -> None:
    guest = windows_guest(MODERN)
    plan = load_plan()
    roles = tuple(dataclasses.replace(r, start=3) if r.kind == "network" else r for r in plan.roles)
    for wanted, options in ((1, plan), (3, dataclasses.replace(plan, roles=roles))):
        found = propose(hooks(), guest, Options(plan=options, drivers=drivers))
        (start,) = [c for c in found.changes if getattr(c, "key", "").endswith("Services\\netkvm") and getattr(c, "name", "") == "Start"]
        assert start.value.dword() == wanted  # type: ignore[union-attr]


def test_a_disabled_or_broken_installed_driver_is_repaired(drivers: DriverSource) -> None:
    off = VIRTIO.replace('"Start"=dword:00000003', '"Start"=dword:00000004')
    guest = windows_guest(MODERN + off, files={"Windows/System32/drivers/netkvm.sys": b""})
    found = ask(guest, drivers)
    assert ids(found, "broken") == {"nic-driver-missing"}
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert ask(fixed, drivers).findings == ()


@pytest.mark.parametrize("old", [False, True])
def test_its_ids_are_left_to_the_package(old: bool, drivers: DriverSource) -> None:
    """Service, file and start type, and no skeleton of a package: a card that starts so has no connection."""
    if old:
        guest = windows_guest(UNKNOWN, version="6.1", build="7601", arch="x86", server=False, firmware="bios")
    else:
        guest = windows_guest(MODERN)
    (hook,) = [hook for hook in hooks() if hook.name == "network-driver"]
    found = propose([hook], guest, Options(plan=load_plan(), drivers=drivers))
    keys = {getattr(c, "key", "").lower() for c in found.changes}
    assert any(key.endswith("services\\netkvm") for key in keys)
    assert not any("driverdatabase" in key or "criticaldevicedatabase" in key for key in keys)
    fixed = apply_changes(guest, pending(found.changes, guest))
    assert propose([hook], fixed, Options(plan=load_plan(), drivers=drivers)).findings == ()


@pytest.mark.parametrize("error", [None, PackageMissing("no netkvm.inf"), PackageBad("netkvm.sys: truncated")])
def test_how_to_get_a_driver_is_told(error: Any) -> None:
    class NoPackage:
        def find(self, *_: Any) -> Any:
            raise error

    said = plain_ask("network-driver", windows_guest(MODERN), drivers=NoPackage() if error is not None else None)
    way_out = f"{error.message}: get a virtio-win that has it" if error is not None else "no virtio-win was found: give --h2k-drivers PATH"
    assert {f.repair for f in said.findings} == {f"{way_out}; until then the card has no driver"} and said.changes == ()
    why = "the network driver is missing; Windows drives this card itself"
    assert (said.reasons["bootstrap-nic"], said.reasons["final-nic"]) == (why, why)


@pytest.mark.parametrize(("policy", "bootstrap", "why"), [
    ("auto", "virtio", "the network driver can start"), ("e1000e", "e1000e", "the policy says so"), ("virtio", "virtio", "the policy says so"),
])  # fmt: skip
def test_the_card_of_each_phase(policy: str, bootstrap: str, why: str, drivers: DriverSource) -> None:
    said = plain_ask("network-driver", windows_guest(MODERN), drivers=drivers, policy=Policy(bootstrap_nic="".join(policy)))
    assert said.settings == {"bootstrap-nic": bootstrap, "final-nic": "virtio"}
    assert said.reasons == {"bootstrap-nic": why, "final-nic": "the network driver can start"}


def test_a_windows_without_drivers_of_ours_gets_the_card_that_it_drives_itself(drivers: DriverSource) -> None:
    said = plain_ask("network-driver", windows_guest(version="6.0", build="6002"), drivers=drivers)
    assert said.settings == {"bootstrap-nic": "e1000e"} and said.findings == () == said.changes
    assert said.reasons["bootstrap-nic"] == "no driver of h2k's for this Windows"


@pytest.mark.parametrize(("start", "disabled"), [(0, False), (3, False), (4, True)])
def test_a_driver_that_windows_installed_only_has_to_be_able_to_start(start: int, disabled: bool, drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + VIRTIO.replace("00000003", f"{start:08x}"), files=NATIVE, sets=(1, 2))
    said = plain_ask("network-driver", guest, drivers=drivers)
    keys = [f"ControlSet00{number}\\Services\\netkvm" for number in (1, 2)]
    assert [(f.subject, f.evidence, f.repair) for f in said.findings] == [(key, "the driver is disabled", "Start 3") for key in keys if disabled]
    assert [(c.key, c.name, c.value.dword()) for c in said.changes if isinstance(c, SetValue)] == [(key, "Start", 3) for key in keys if disabled]
    without = plain_ask("network-driver", guest)
    assert [f.state for f in without.findings] == ["warning"] * (2 * disabled) and without.changes == ()


@pytest.mark.parametrize(
    ("ids_there", "service", "needed"), [(("1000", "1041"), "netkvm", False), (("1000",), "netkvm", True), (("1000", "1041"), "other", True)]
)
def test_a_package_in_the_driver_store_needs_no_staging(ids_there: tuple[str, ...], service: str, needed: bool, drivers: DriverSource) -> None:
    """Newer builds keep the store's index in the DRIVERS hive: Windows installs the package itself when the card appears."""
    text = "[DriverDatabase]\n" + "".join(package(f"oem{n}.inf", f"VEN_1AF4&DEV_{i}", service) for n, i in enumerate(ids_there))
    said = plain_ask("network-driver", windows_guest(MODERN, drivers=build_hive(text)), drivers=drivers)
    assert bool(said.findings) is bool(said.changes) is needed
    plain = plain_ask("network-driver", windows_guest(MODERN, drivers=build_hive("[Other]\n")), drivers=drivers)
    assert plain.findings, "a DRIVERS hive that is no index"


# Signatures

SYS = "/Windows/System32/drivers/netkvm.sys"
OEM4 = "Windows/System32/CatRoot/{F750E6C3-38EE-11D1-85E5-00C04FC295EE}/oem4.cat"
REFUSED = "Windows would not load the network driver; it drives this card itself"
STAYS = "the card stays VirtIO, as Windows has it installed"


def look(guest: Guest, drivers: Any, **options: Any) -> Said:
    return plain_ask("network-driver", guest, drivers=drivers, **options)


def refused(said: Said, own: bool = False) -> list[str]:
    """The subjects of the warnings, when nothing is staged and both cards are e1000e, or the guest's own VirtIO; none when
    all is as ever."""
    told = [f for f in said.findings if f.state == "warning"]
    if not told:
        assert said.settings == {"bootstrap-nic": "virtio", "final-nic": "virtio"}
        return []
    assert {f.id for f in told} == {"nic-driver-missing"} and said.changes == ()
    card, reason = ("virtio", STAYS) if own else ("e1000e", REFUSED)
    assert said.settings == {"bootstrap-nic": card, "final-nic": card} and set(said.reasons.values()) == {reason}
    assert all(f.evidence.endswith(": Windows will not load it") for f in told)
    return [f.subject for f in told]


@pytest.mark.parametrize("bus", ["virtio", "sata"])
@pytest.mark.parametrize(("by", "why"), [("", "it carries no signature"), ("test", "WDKTestCert")])
def test_a_driver_that_windows_would_not_load_is_not_relied_on(bus: str, by: str, why: str, drivers: DriverSource) -> None:
    said = look(windows_guest(MODERN), WithNetwork(drivers, by), bus=bus)
    assert refused(said) == ["NetKVM/2k22/amd64/netkvm.sys"] and why in said.findings[0].evidence
    assert said.findings[0].repair == (
        "get a virtio-win whose drivers Microsoft has signed for this Windows, or go on: the card is then one that Windows"
        " drives itself (e1000e)"
    )


@pytest.mark.parametrize(("catalogue", "missing", "wrong"), [
    ("whql", (), False), ("cross", (), False), ("test", (), True), ("vendor", (), True), ("", (), True), ("whql", ("x.dll",), True),
])  # fmt: skip
@pytest.mark.parametrize("by", ["", "test"])
def test_a_catalogue_that_the_first_boot_installs_counts(
    by: str, catalogue: str, missing: tuple[str, ...], wrong: bool, drivers: DriverSource
) -> None:
    guest = windows_guest(MODERN)
    source: Any = WithNetwork(drivers, by, catalogue, missing)
    said = look(guest, source)
    assert bool(refused(said)) is wrong
    if not wrong:
        fixed = apply_changes(guest, said.changes)
        assert look(fixed, source).findings == (), "its own package's catalogue counts for a file that is staged"


def test_32_bit_windows_takes_what_others_do_not(drivers: DriverSource) -> None:
    guest = windows_guest(version="10.0", build="19045", server=False, arch="x86")
    for by in ("", "test"):
        said = look(guest, WithNetwork(drivers, by))
        assert refused(said) == [] and said.changes
        assert refused(look(guest, WithNetwork(drivers, by), domain=domain(secure_boot=True)))


@pytest.mark.parametrize(("arch", "update", "accept", "wrong"), [
    ("amd64", "", "", True), ("amd64", "70", "", False), ("amd64", "50", "", False), ("amd64", "", "driver-sha2-unsupported", False),
    ("x86", "", "", False),
])  # fmt: skip
def test_sha_256_alone_on_windows_7(arch: str, update: str, accept: str, wrong: bool, drivers: DriverSource) -> None:
    packages = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\Packages"
    software = f'[{packages}\\Package_for_KB4474419~31bf~amd64~~6.1.3.2]\n"CurrentState"=dword:000000{update}\n' if update else ""
    guest = windows_guest("", software, version="6.1", build="7601", firmware="bios", server=False, arch=arch)
    said = look(guest, WithNetwork(drivers, "whql"), accept=frozenset({accept}))
    assert bool(refused(said)) is wrong
    assert not wrong or said.findings[0].repair.startswith("install KB4474419 on the source, get a virtio-win with SHA-1 signatures, or go on")


def test_a_catalogue_by_sha_256_alone_counts_on_windows_7_only_with_the_update(drivers: DriverSource) -> None:
    guest = windows_guest(version="6.1", build="7601", firmware="bios", server=False)
    assert refused(look(guest, WithNetwork(drivers, "", "whql")))
    assert refused(look(guest, WithNetwork(drivers, "", "whql", digest="sha1"))) == []


def test_test_signing_in_the_bcd_and_secure_boot(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN, bcd=loader_with("16000049", "hex:01"))
    assert refused(look(guest, WithNetwork(drivers, "test"))) == []
    assert refused(look(guest, WithNetwork(drivers, "test"), domain=domain(secure_boot=True)))


def native(data: bytes, **more: bytes) -> Guest:
    return windows_guest(MODERN + VIRTIO, files={SYS.lstrip("/"): data, **more})


BAD = make_pe("amd64", b"made netkvm.sys", signed=True, by="test")


@pytest.mark.parametrize("data", [BAD, make_pe("amd64", b"made netkvm.sys")], ids=["test", "unsigned"])
def test_an_installed_driver_that_windows_would_not_load_is_replaced_by_a_good_one(data: bytes, drivers: DriverSource) -> None:
    guest = native(data)
    said = look(guest, drivers)
    assert [(f.id, f.state, f.subject, f.repair) for f in said.findings] == [("nic-driver-missing", "broken", SYS, "the package's file")]
    assert [getattr(c, "path", "") for c in said.changes] == [SYS] and said.settings["final-nic"] == "virtio"
    assert look(apply_changes(guest, said.changes), drivers).findings == ()
    # The file of a package that counts by its catalogue alone would come without it.
    for source in (None, WithNetwork(drivers, "test"), WithNetwork(drivers, "", "whql")):
        assert refused(look(guest, source), own=True) == [SYS], "another card would start without its addresses"
    # Here the machine's own card is VMware's, whose addresses go to whatever card comes.
    moved = windows_guest(MODERN + THREE + VIRTIO, files={SYS.lstrip("/"): data})
    assert refused(look(moved, None)) == [SYS]


def test_an_installed_driver_that_windows_loads_stays(drivers: DriverSource) -> None:
    plain = make_pe("amd64", b"made netkvm.sys")
    listed = native(plain, **{OEM4: sign_catalogue([plain])})
    for guest in (native(NATIVE[SYS.lstrip("/")]), listed):
        for source in (drivers, None, WithNetwork(drivers, "test")):
            said = look(guest, source)
            assert refused(said) == [] and said.findings == () and said.changes == ()
    for catalogue in (b"made", sign_catalogue([plain], "test"), sign_catalogue([make_pe("amd64", b"another")])):
        assert refused(look(native(plain, **{OEM4: catalogue}), None), own=True) == [SYS]


def test_an_installed_driver_that_is_disabled_may_start_whoever_signed_the_package(drivers: DriverSource) -> None:
    off = VIRTIO.replace('"Start"=dword:00000003', '"Start"=dword:00000004')
    said = look(windows_guest(MODERN + off, files=NATIVE), WithNetwork(drivers, "test"))
    assert [(f.state, f.evidence) for f in said.findings] == [("broken", "the driver is disabled")] and len(said.changes) == 1


def test_a_package_in_the_driver_store_has_been_judged_by_windows(drivers: DriverSource) -> None:
    text = "[DriverDatabase]\n" + "".join(package(f"oem{n}.inf", f"VEN_1AF4&DEV_{i}", "netkvm") for n, i in enumerate(("1000", "1041")))
    said = look(windows_guest(MODERN, drivers=build_hive(text)), WithNetwork(drivers, "test"))
    assert said.findings == () and said.settings["final-nic"] == "virtio"


def test_a_staged_file_that_windows_would_not_load_is_replaced(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN)
    staged = apply_changes(guest, look(guest, drivers).changes)
    bad = apply_changes(staged, [WriteFile(staged.volume, SYS, BAD, "made")])
    said = look(bad, drivers)
    assert [(f.state, f.subject.lower()) for f in said.findings] == [("broken", SYS.lower())]
    assert look(apply_changes(bad, said.changes), drivers).findings == ()
    assert [path.lower() for path in refused(look(bad, None))] == [SYS.lower()]
    without = apply_changes(guest, [WriteFile(guest.volume, SYS, BAD, "made")])
    assert SYS in [f.subject for f in look(without, drivers).findings], "a file that has no service yet, too"


def test_what_was_staged_well_stays_when_another_virtio_win_is_worse(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    source: Any = WithNetwork(drivers, "", "whql")
    for good in (drivers, source):
        fixed = apply_changes(guest, pending(ask(guest, good).changes, guest))
        for other in (None, WithNetwork(drivers, "test")):
            said = look(fixed, other)
            assert refused(said) == [] and said.findings == ()
