"""Dirty hives on made guests: what only the logs hold comes through h2k-v2v, and is lost without it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from h2k.disk.open_reader import open_reader
from h2k.guest.guest import Guest
from tests.guests.build import BuiltGuest, edit_guest, write_vmx
from tests.guests.hivelog import make_dirty_pair
from tests.guests.regfile import build_hive

ROOT = Path(__file__).resolve().parents[2]
V2V = ROOT / "wrappers" / "h2k-v2v"
ONLY_IN_LOGS = "ControlSet001\\Services\\OnlyInTheLogs"
NEWER = f'[{ONLY_IN_LOGS}]\n"Start"=dword:00000002\n"Description"="{"written before the last flush " * 40}"\n'


def make_dirty(guest: BuiltGuest, form: str) -> None:
    """Put a dirty SYSTEM and its logs into the guest; the logs alone hold the key OnlyInTheLogs."""
    with open_reader([(guest.disks[0], "qcow2")]) as reader:
        clean = Guest(reader).hive_bytes("SYSTEM")
    hive, logs = make_dirty_pair(clean, build_hive(NEWER, clean), form)

    def write(appliance: Any) -> None:
        appliance.write("/Windows/System32/config/SYSTEM", hive)
        for name, data in logs.items():
            appliance.write(f"/Windows/System32/config/SYSTEM.{name}", data)

    edit_guest(guest, {}, write)


def keys(disk: Path) -> tuple[bool, bool]:
    """(the key that only the logs held is there, virt-v2v's driver is there), as h2k's own readers see the result."""
    with open_reader([(disk, None)]) as reader:
        guest = Guest(reader)
        assert guest.hive_state("SYSTEM").state == "clean"
        return (
            guest.system.key(ONLY_IN_LOGS) is not None,
            guest.system.key("ControlSet001\\Services\\viostor") is not None,
        )


def convert(program: Any, arguments: list[Any], out: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    out.mkdir()
    argv = [str(a) for a in (program, *arguments, "-o", "local", "-os", out, "-on", "g")]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **env}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("name", "form", "described"),
    [("win2022", "new", True), pytest.param("win7-x86", "old", False, marks=pytest.mark.long)],
)
def test_what_only_the_logs_hold_survives(
    name: str, form: str, described: bool, guest: Any, drivers: Path, v2v_env: dict[str, str], tmp_path: Path
) -> None:
    made = guest(name)
    make_dirty(made, form)
    vmx = write_vmx(made, tmp_path / "vmware")
    source = tmp_path / "vmware" / f"{name}.vmdk" if described else made.disks[0]
    arguments = ["-i", "vmx", vmx] if described else ["-i", "disk", source]
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    env = {**v2v_env, "VIRTIO_WIN": str(drivers)}
    done = convert(V2V, arguments, tmp_path / "ours", env)
    assert "repaired  hive-dirty" in done.stdout and "READY" in done.stdout
    assert keys(tmp_path / "ours" / "g-sda") == (True, True)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before, "the source was written"
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == ["g-sda", "g.h2k", "g.xml"]
    assert not (tmp_path / "ours" / "g.h2k" / "source").exists()
    if described:
        convert("virt-v2v", arguments, tmp_path / "plain", {**env, "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"})
        assert keys(tmp_path / "plain" / "g-sda") == (False, True), "plain virt-v2v kept what the logs held: not needed?"
