"""Signatures of boot drivers, on guests in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from h2k.engine.hooks import propose
from h2k.guest.virtio_win import open_source
from tests.guests.pe import make_pe
from tests.guests.virtio_win import make_tree
from tests.unit.hooks import ask, domain, options, packaged
from tests.unit.memory_reader import driver, sys_files, windows_guest


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
