"""What the lab's tests share: guests that boot, repaired or not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.boot.lab import install
from tests.guests import build as guests

ROOT = Path(__file__).resolve().parents[2]
H2K = ROOT / "wrappers" / "h2k"
Bootable = Callable[..., Path]
Recorded = Callable[[str, str, str, str, str], None]


ROWS = pytest.StashKey[list[tuple[str, ...]]]()


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Recorded:
    """recorded(FAULT, GUEST, PHASE, what h2k expects to stop it, what the lab did): a row of the table at the end."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda *row: rows.append(row)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The agreement matrix."""
    for fault, guest, phase, said, seen in config.stash.get(ROWS, []):
        agrees = "agree" if bool(said) == (seen == "stops") else "DISAGREE"
        terminalreporter.write_line(f"{agrees:<9} {fault:<46} {guest:<20} {phase:<16} h2k: {said or 'boots':<36} lab: {seen}")


def firmware_of(name: str) -> str:
    """The firmware of a made guest."""
    return str(guests.descriptions()[name]["firmware"])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, drivers: Path) -> Bootable:
    """prepared(NAME, BUS): the path of a made guest that boots; with a bus, repaired for it by `h2k fix`. Shared: copy it."""
    place = tmp_path_factory.mktemp("boot-lab")
    made: dict[tuple[str, str], Path] = {}

    def prepare(name: str, bus: str = "") -> Path:
        if (name, bus) not in made:
            disk = place / f"{name}{bus and '-' + bus}.qcow2"
            shutil.copy(guests.cached()[name].disks[0], disk)
            install(disk, "qcow2", firmware_of(name), place)
            if bus:
                argv = [H2K, "fix", disk, "--drivers", drivers, "--bus", bus, "--report", place / f"{disk.stem}.h2k", "--json"]
                done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                assert done.returncode == 0, done.stdout + done.stderr
                assert json.loads(done.stdout)["changes"]
            made[name, bus] = disk
        return made[name, bus]

    return prepare


@pytest.fixture
def bootable(prepared: Bootable, tmp_path: Path) -> Bootable:
    """bootable(NAME, BUS): a copy of the prepared guest that the test may change."""

    def copy(name: str, bus: str = "") -> Path:
        disk = tmp_path / "guest.qcow2"
        shutil.copy(prepared(name, bus), disk)
        return disk

    return copy
