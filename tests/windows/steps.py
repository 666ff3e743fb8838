"""A step of the kit: it has a time limit and leaves its log; one that fails says what to look at."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

# Seconds. Those of Windows come from what deployment guides name for slow disks, doubled; a host without KVM gets six
# times as long (SLOW), which is what made guests take here.
LIMITS = {
    "install": 2 * 3600, "convert": 3600, "fix": 1800, "boot": 3600, "start": 900, "agent": 300, "answer": 120,
    "shutdown": 300, "image": 3600, "inspect": 900,
}  # fmt: skip
SLOW = 6


class StepFailed(Exception):
    """A step that did not do its work: what happened, and the file or command that shows why."""

    def __init__(self, step: str, why: str, look_at: str) -> None:
        self.step, self.why, self.look_at = step, why, look_at
        super().__init__(f"{step}: {why}; look at {look_at}")


def limit_of(step: str, kvm: bool) -> int:
    """How long the step may take on this host, in seconds."""
    return LIMITS[step] * (1 if kvm else SLOW)


def say(text: str) -> None:
    """A line for whoever waits."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def run_logged(
    argv: Sequence[Any], step: str, log: Path, limit: float, env: Optional[Mapping[str, str]] = None, cwd: Optional[Path] = None
) -> int:
    """Run a command with both outputs appended to `log`, behind the line that replays it; its exit status.

    StepFailed when it could not start or ran out of time; then all its children are gone too.
    """
    words = [str(a) for a in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        output.write(f"$ {shlex.join(words)}\n".encode())
        output.flush()
        try:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}, cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            raise StepFailed(step, f"{words[0]}: {e.strerror}", str(log)) from e
        try:
            status = child.wait(limit)
        except BaseException as e:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(e, subprocess.TimeoutExpired):
                raise StepFailed(step, f"{words[0]} was not done after {limit:.0f} s", str(log)) from e
            raise
        output.write(f"ended with status {status}\n".encode())
    return status
