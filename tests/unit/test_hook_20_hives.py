"""Hives that can be read, and the Windows that h2k knows."""

from __future__ import annotations

import pytest

from tests.unit.hooks import ask
from tests.unit.memory_reader import windows_guest

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


def test_windows_for_arm64_has_no_domain_to_run_in() -> None:
    said = ask("hives", windows_guest(arch="arm64"))
    assert said.states() == {"windows-unsupported": {"refused"}} and "arm64" in said.findings[0].evidence
