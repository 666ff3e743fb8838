"""Select decides which control sets a boot may use: those are repaired, and proven by hivexget."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.guests.surgery import Surgery

ROOT = Path(__file__).resolve().parents[2]
H2K = ROOT / "wrappers" / "h2k"
SELECT = '[Select]\n"Current"=dword:{current:08x}\n"Default"=dword:{default:08x}\n"LastKnownGood"=dword:{default:08x}\n'
# A boot driver that no boot would load, in both sets.
BROKEN = "".join(
    f'[ControlSet00{n}\\Services\\viostor]\n"Start"=dword:00000003\n[ControlSet00{n}\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n'
    for n in (1, 2)
)


def h2k(command: str, *argv: Any, status: int = 0) -> dict[str, Any]:
    done = subprocess.run([H2K, command, *argv, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("default", "current", "repaired"), [(2, 2, {2}), (2, 1, {1, 2})])
def test_each_set_that_boots(default: int, current: int, repaired: set[int], guest: Any, drivers: Path, tmp_path: Path) -> None:
    disk = guest("win7-x86").disks[0]
    with Surgery(disk) as surgery:
        surgery.registry("SYSTEM", SELECT.format(current=current, default=default) + BROKEN)
    h2k("verify", disk, "--drivers", drivers, status=4)
    h2k("fix", disk, "--drivers", drivers)
    hive = tmp_path / "SYSTEM"
    with Surgery(disk) as surgery:
        hive.write_bytes(surgery.hive_bytes("SYSTEM"))
    for number in (1, 2):
        service = f"\\ControlSet00{number}\\Services\\viostor"
        start = subprocess.run(["hivexget", hive, service, "Start"], capture_output=True, text=True, check=True).stdout.strip()
        override = subprocess.run(["hivexget", hive, f"{service}\\StartOverride"], capture_output=True, check=False).returncode
        bound = [
            subprocess.run(
                ["hivexget", hive, f"\\ControlSet00{number}\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&{device}", "Service"],
                capture_output=True, text=True, check=False,
            ).stdout.strip()
            for device in ("DEV_1001&REV_00", "DEV_1042&REV_01")
        ]  # fmt: skip
        if number in repaired:
            assert (start, bound) == ("0", ["viostor", "viostor"]), number
            assert override == 0, "Windows 7 does not read StartOverride: it is no fault there, and stays"
        else:
            assert (start, override, bound) == ("3", 0, ["", ""]), "a set that no boot uses is left alone"
    assert h2k("verify", disk, "--drivers", drivers)["status"] == 0
