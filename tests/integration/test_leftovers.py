"""After any kill nothing is left: no process, no mount, no socket, no temporary file; of whole commands, wherever they are.

A run that was killed in mid-commit leaves its journal, and the same command goes on: tests/integration/test_overlay.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.build import cached
from tests.leftovers import CODE, Room

ROOT = Path(__file__).resolve().parents[2]
H2K, V2V = CODE / "wrappers" / "h2k", CODE / "wrappers" / "h2k-v2v"
FIX = [H2K, "fix", "/tmp/g/g-sda", "--drivers", "/tmp/g/drivers"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")


@pytest.fixture
def room(drivers: Path) -> Iterator[Room]:
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="left-", dir=ROOT / ".cache") as name:
        found = Room(Path(name).resolve() / "room")
        shutil.copy(cached()["win7-x86"].disks[0], found.work / "g-sda")
        shutil.copytree(drivers, found.work / "drivers")
        for writer in ("direct", "appliance"):
            (found.work / f"{writer}.yaml").write_text(f"writer: {writer}\n")
        yield found
        for number, _ in found.processes():
            os.kill(number, signal.SIGKILL)
        found.close()


KILL, TERM = signal.SIGKILL, signal.SIGTERM
LIGHT = {
    "direct reader": ([H2K, "verify", "/tmp/g/g-sda"], ["qemu-nbd"]),
    "direct writer": ([*FIX, "--policy", "/tmp/g/direct.yaml"], ["bwrap", "nbdfuse", "ntfs-3g"]),
    "hives": ([*FIX, "--policy", "/tmp/g/direct.yaml"], ["hive_edit_child"]),
}
HEAVY = {
    "appliance writer": ([*FIX, "--policy", "/tmp/g/appliance.yaml"], ["qemu-system"]),
    "virt-v2v": ([V2V, "-i", "disk", "/tmp/g/g-sda", "-o", "local", "-os", "/tmp/g/out", "--h2k-drivers", "/tmp/g/drivers"], ["qemu-system"]),
}


def begun(room: Room, argv: list[str], words: list[str], environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """The command, as soon as it has started the program that the words name."""
    (room.work / "out").mkdir(exist_ok=True)
    child = room.begin(*argv, **environment)
    found = room.wait_for(words, child)
    assert found is not None, f"it ended before: {room.said()}"
    return child, found


def end(room: Room, child: subprocess.Popen[bytes]) -> None:
    child.wait(timeout=120)
    assert room.left() == []
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read 0 512", room.work / "g-sda"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(("what", "number"), [*((what, KILL) for what in LIGHT), ("direct writer", TERM)])
def test_nothing_is_left_of_a_killed_command(what: str, number: int, room: Room) -> None:
    child, _ = begun(room, *LIGHT[what], {})
    child.send_signal(number)
    end(room, child)


@pytest.mark.long
@pytest.mark.parametrize("number", [KILL, TERM], ids=["KILL", "TERM"])
@pytest.mark.parametrize("what", HEAVY)
def test_nothing_is_left_of_an_appliance(what: str, number: int, room: Room, v2v_env: dict[str, str]) -> None:
    child, _ = begun(room, *HEAVY[what], runner(room, v2v_env))
    time.sleep(0.5)
    child.send_signal(number)
    end(room, child)


def runner(room: Room, v2v_env: dict[str, str]) -> dict[str, str]:
    """The stand-in for rhsrvany.exe where the command sees it."""
    shutil.copytree(v2v_env["VIRT_TOOLS_DATA_DIR"], room.work / "tools", dirs_exist_ok=True)
    return {"VIRT_TOOLS_DATA_DIR": "/tmp/g/tools"}


@pytest.mark.long
@pytest.mark.parametrize("number", [KILL, TERM], ids=["KILL", "TERM"])
@pytest.mark.parametrize("when", ["while it starts", "while it reads"])
def test_nothing_is_left_of_the_reader_without_the_sleuth_kit(when: str, number: int, room: Room) -> None:
    """pytsk3 is not there, so that libguestfs reads; LIBGUESTFS_TRACE says how far it has come."""
    (room.work / "none").mkdir()
    (room.work / "none" / "sitecustomize.py").write_text("import sys\nsys.modules['pytsk3'] = None\n")
    child, _ = begun(room, [H2K, "verify", "/tmp/g/g-sda"], ["qemu-system"], {"PYTHONPATH": "/tmp/g/none", "LIBGUESTFS_TRACE": "1"})
    deadline = time.monotonic() + 300
    while when == "while it reads" and "trace: mount_vfs = 0" not in room.said():
        assert child.poll() is None and time.monotonic() < deadline, room.said()
        time.sleep(0.05)
    assert "reading through libguestfs" in room.said()
    child.send_signal(number)
    end(room, child)


@pytest.mark.long
def test_what_virt_v2v_leaves_when_it_is_killed_is_removed(room: Room, v2v_env: dict[str, str]) -> None:
    child, _ = begun(room, *HEAVY["virt-v2v"], runner(room, v2v_env))
    time.sleep(0.5)
    # Its own children have its name too: libguestfs forks one to watch over QEMU.
    v2v = min(number for number, line in room.processes() if line.split()[:1] in (["virt-v2v"], ["/usr/bin/virt-v2v"]))
    os.kill(v2v, signal.SIGKILL)
    assert child.wait(timeout=120) == 128 + signal.SIGKILL, room.said()
    assert [line for line in room.left() if "out" not in line] == []
