"""A room of its own for a command that is killed: private /tmp and /var/tmp, and a count of all that is left in it.

The command runs in a mount namespace; WORK is its /tmp/g,
and the project its /tmp/code. What it started is known by its environment (a token), and what
runs in a sandbox by the names of our files.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
CODE = Path("/tmp/code")
APPLIANCE = Path(f"/var/tmp/.guestfs-{os.geteuid()}")
_SETUP = """
mount --bind "$1/work" "$1/tmp/g" && mount --bind "$3" "$1/tmp/code"
if [ -d "$2" ]; then mkdir -p "$1/vartmp/${2##*/}"; mount --bind "$2" "$1/vartmp/${2##*/}"; fi
# By relative paths, as they are: the room may lie below one of the two places that it hides.
cd "$1" && mount -c --rbind tmp /tmp && mount -c --rbind vartmp /var/tmp || exit 99
cd /tmp/g; shift 3; exec "$@"
"""
_TOKEN = "H2K_TEST_TOKEN"


class Room:
    """A directory `top` that is not below /tmp or /var/tmp; `work` is what the command sees as /tmp/g."""

    def __init__(self, top: Path) -> None:
        self.top, self.token = top, secrets.token_hex(16)
        self.work = top / "work"
        for name in ("work", "tmp/g", "tmp/code", "vartmp"):
            (top / name).mkdir(parents=True)
        (top / "tmp").chmod(0o1777)
        (top / "vartmp").chmod(0o1777)

    def begin(self, *argv: Any, **environment: str) -> subprocess.Popen[bytes]:
        """Start the command; the process is the command itself once it has come so far."""
        setup = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP, "sh", str(self.top), str(APPLIANCE), str(ROOT)]
        clean = {k: v for k, v in os.environ.items() if k != "TMPDIR"}
        return subprocess.Popen(
            [*setup, *map(str, argv)], env={**clean, _TOKEN: self.token, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=open(self.top / "said", "ab"),
        )  # fmt: skip

    def said(self) -> str:
        """What the commands have said on standard error."""
        return (self.top / "said").read_text(errors="replace")

    def processes(self) -> Iterator[tuple[int, str]]:
        """(number, command line) of each process of the command."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if self.token.encode() in environment or str(self.top) in line or "/tmp/g/" in line:
                yield int(process.name), line

    def wait_for(self, words: Sequence[str], child: subprocess.Popen[bytes], seconds: float = 120.0) -> Optional[int]:
        """The process whose command line has one of the words; None when the command ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and child.poll() is None:
            for number, line in self.processes():
                if number != child.pid and any(word in line for word in words):
                    return number
        return None

    def left(self, patience: float = 20.0) -> list[str]:
        """What is left of the commands, after the time that it may take to go: processes, mounts, sockets, files."""
        deadline = time.monotonic() + patience
        while True:
            found = list(self._left())
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _left(self) -> Iterator[str]:
        for number, line in self.processes():
            yield f"process {number}: {line[:200]}"
        for name in ("mounts", "net/unix"):
            for line in Path("/proc", name).read_text().splitlines():
                if str(self.top) in line:
                    yield f"{name}: {line}"
        for directory in ("tmp", "vartmp"):
            for path in (self.top / directory).iterdir():
                if path.name not in ("g", "code", APPLIANCE.name):
                    yield f"file: {directory}/{path.name}"

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.top, ignore_errors=True)
