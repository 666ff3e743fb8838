"""A report directory on a file system that is full at any step of `h2k fix`: the old disks, one line, and the same command later."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.guests.build import cached
from tests.integration.virthost import H2K

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
NO_SPACE = ("No space left", "no room", "free some space")
# What the run sees is mounted for it alone, and gone with it.
SCRIPT = """
set -u
size=$1 small=$2; shift 2
mount -t tmpfs -o size=$size,mode=755 none "$small" || exit 99
"$@" 2>&1; echo "status $?"
sha256sum "$DISK"
ls -A "$small" "$small"/g.h2k 2> /dev/null
mount -o remount,size=64m "$small"
echo "--- again"; "$@" 2>&1; echo "status $?"
"""


@pytest.mark.parametrize("kib", [64, 192, 1024, 4096])
def test_the_report_directory_is_full(kib: int, drivers: Path, tmp_path: Path) -> None:
    disk, small = tmp_path / "g-sda", tmp_path / "small"
    small.mkdir()
    disk.write_bytes(cached()["win7-x86"].disks[0].read_bytes())
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    command = [H2K, "fix", disk, "--report", small / "g.h2k", "--drivers", drivers]
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", f"{kib}k", small, *command]
    done = subprocess.run([str(a) for a in argv], env={**os.environ, "DISK": str(disk)}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert "Traceback" not in done.stdout and done.returncode == 0, done.stdout + done.stderr
    first, again = done.stdout.split("--- again\n")
    assert again.rstrip().endswith("status 0") and "READY" in again, again
    if "status 0" not in first.splitlines():
        assert before in first, f"the disk is not what it was: {first}"
        assert any(words in first for words in NO_SPACE) and "overlay-" not in first.split("\nstatus ")[1], first
        assert "to replay" not in first, "raw text of qemu-img"
        assert "status 1" in first.splitlines() or "status 3" in first.splitlines(), first
