"""False alarms are as bad as misses: the SYSTEM hives of real machines, with a boot driver added, get no word about
their boot stack, their filters and their policies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from h2k.engine.hooks import Proposal, propose
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import open_source
from h2k.windows.regf import Hive
from h2k.windows.services import control_set_name, driver_path, read_service
from tests.corpus import corpus
from tests.guests.pe import make_pe
from tests.guests.regfile import fix_dirty
from tests.guests.virtio_win import make_tree
from tests.unit.hooks import options, packaged
from tests.unit.memory_reader import apply_changes, windows_guest

HIVES = {
    "win10-1903-vmware.SYSTEM": {"version": "10.0", "build": "18362", "server": False},
    "win8.1-virtualbox.SYSTEM": {"version": "6.3", "build": "9600", "server": False, "firmware": "bios"},
    "made-win10.SYSTEM": {"version": "10.0", "build": "18362", "server": False},
}
HOOKS = ("volumes", "hives", "boot-storage", "boot-filters", "signatures", "domains")


def real_guest(name: str) -> Guest:
    """A guest with the real hive, and every driver that it names in place, for that is how the machine was."""
    data = fix_dirty(corpus(name))
    hive = Hive.parse(data, "SYSTEM")
    files = {}
    services = hive.key(f"{control_set_name(1)}\\Services")
    assert services is not None
    for key in services.subkeys():
        service = read_service(hive, 1, key.name)
        if service is not None and service.type in (1, 2):
            files[driver_path(service).lstrip("/")] = make_pe("amd64", key.name.encode())
    return windows_guest(base=data, files=files, **HIVES[name])  # type: ignore[arg-type]


def ask_all(guest: Guest, tree: Path, bus: str = "virtio") -> Proposal:
    with open_source(tree) as drivers:
        wanted = dataclasses.replace(options(), drivers=drivers, bus=bus)
        return propose([packaged()[name] for name in HOOKS], guest, wanted)


@pytest.mark.parametrize("bus", ["virtio", "virtio-scsi"])
@pytest.mark.parametrize("name", sorted(HIVES))
def test_a_real_hive_with_a_boot_driver_gets_no_word(name: str, bus: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "virtio-win")
    guest = real_guest(name)
    before = ask_all(guest, tree, bus)
    assert {f.id for f in before.findings} == {
        "driver-file-missing", "driver-not-boot-start", "driver-parameters-missing", "device-id-unbound",
    }, "only the driver that VMware and VirtualBox have no use for"  # fmt: skip
    again = ask_all(apply_changes(guest, before.changes), tree, bus)
    assert again.findings == ()
    assert {s.name: s.value for s in again.settings}["bootstrap-bus"] == "sata"


@pytest.mark.parametrize("name", sorted(HIVES))
def test_a_real_hive_by_itself_is_ready_for_sata(name: str, tmp_path: Path) -> None:
    """No VirtIO driver asked for: the boot stack, the AHCI driver and the filters are as these machines had them."""
    assert ask_all(real_guest(name), make_tree(tmp_path / "virtio-win"), "sata").findings == ()
