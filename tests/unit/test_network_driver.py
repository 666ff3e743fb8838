"""What there is of a network driver: offered, installed, stored, staged, and what Windows would not load of it."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from h2k.config.driver_plan import load_plan
from h2k.guest.changes import WriteFile, pending
from h2k.guest.guest import Guest
from h2k.guest.network_driver import NetworkDriver, network_drivers
from h2k.guest.virtio_win import DriverSource
from tests.guests.pe import make_pe
from tests.guests.signing import sign_catalogue
from tests.unit.memory_reader import MemoryReader, apply_changes, windows_guest
from tests.unit.moved_guests import MODERN, NATIVE, THREE, VIRTIO, WithNetwork, ask

STAGED = "/Program Files/h2k/drivers/NetKVM/netkvm.sys"
BAD = make_pe("amd64", b"made netkvm.sys", signed=True, by="test")


def found(guest: Guest, source: Any, secure_boot: bool = False, accept: Optional[str] = None) -> NetworkDriver:
    (only,) = network_drivers(guest, load_plan(), source, secure_boot, {accept} if accept else ()).values()
    return only


def test_a_good_package(drivers: DriverSource) -> None:
    it = found(windows_guest(MODERN), drivers)
    assert it.package is not None and it.package is it.offered and it.serves and not it.refused
    assert not (it.installed or it.stored or it.stale)


def test_none_and_one_that_windows_would_not_load(drivers: DriverSource) -> None:
    none = found(windows_guest(MODERN), None)
    assert none.offered is None is none.package and none.why.startswith("no virtio-win was found") and none.serves
    bad = found(windows_guest(MODERN), WithNetwork(drivers, "test"))
    assert bad.offered is not None and bad.package is None and not bad.serves
    assert list(bad.refused) == ["NetKVM/2k22/amd64/netkvm.sys"] and "Microsoft has signed" in bad.why


def test_what_windows_has_installed_counts_and_not_what_is_offered(drivers: DriverSource) -> None:
    it = found(windows_guest(MODERN + VIRTIO, files=NATIVE), WithNetwork(drivers, "test"))
    assert it.installed and it.serves and not it.refused and it.offered is not None and it.package is None


@pytest.mark.parametrize("inf", ["..\\\\..\\\\oem4.inf", "oem4", "", "a/b.inf", f"{'x' * 61}.inf"])
def test_a_name_that_is_none_of_an_inf_leads_to_no_catalogue(inf: str) -> None:
    plain = make_pe("amd64", b"made netkvm.sys")
    files = {"Windows/System32/drivers/netkvm.sys": plain}
    for name in ("oem4.cat", "a/b.cat", ".cat", f"{'x' * 61}.cat"):
        files[f"Windows/System32/CatRoot/{{F750E6C3-38EE-11D1-85E5-00C04FC295EE}}/{name}"] = sign_catalogue([plain])
    good = windows_guest(MODERN + VIRTIO, files=files)
    assert found(good, None).serves
    assert not found(windows_guest(MODERN + VIRTIO.replace("oem4.inf", inf), files=files), None).serves


def test_a_catalogue_that_can_not_be_read_counts_for_nothing() -> None:
    plain = make_pe("amd64", b"made netkvm.sys")
    place = "Windows/System32/CatRoot/{F750E6C3-38EE-11D1-85E5-00C04FC295EE}/oem4.cat"
    guest = windows_guest(MODERN + VIRTIO, files={"Windows/System32/drivers/netkvm.sys": plain, place: sign_catalogue([plain])})
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.unreadable[guest.volume, f"/{place}".lower()] = "WOF-compressed"
    assert not found(guest, None).serves


def test_what_is_staged_for_the_first_boot_is_judged_too(drivers: DriverSource) -> None:
    guest = windows_guest(MODERN + THREE)
    fixed = apply_changes(guest, pending(ask(guest, drivers).changes, guest))
    assert not found(fixed, None).stale and found(fixed, WithNetwork(drivers, "test")).serves
    stale = apply_changes(fixed, [WriteFile(fixed.volume, STAGED, BAD, "made")])
    assert list(found(stale, None).refused) == [STAGED] and not found(stale, None).serves
    again = found(stale, drivers)
    assert again.stale and again.serves and not again.refused


def test_who_accepts_sha_2_says_that_windows_knows_it(drivers: DriverSource) -> None:
    seven = windows_guest(version="6.1", build="7601", firmware="bios", server=False)
    source = WithNetwork(drivers, "whql")
    assert not found(seven, source).serves and found(seven, source, accept="driver-sha2-unsupported").serves


def test_32_bit_windows_refuses_under_secure_boot_alone(drivers: DriverSource) -> None:
    guest = windows_guest(version="10.0", build="19045", server=False, arch="x86")
    assert found(guest, WithNetwork(drivers, "")).serves and not found(guest, WithNetwork(drivers, ""), secure_boot=True).serves
