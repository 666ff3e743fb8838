"""virt-v2v's own test suite, once with virt-v2v and once with h2k-v2v in its place: both must end alike.

    python3 -m tests.v2v_suite SOURCE [NAME …]

SOURCE is a source tree of virt-v2v in which `make check` would run (its test data built); NAME is a script of its
tests/ (test-i-ova.sh), all of them when none is given. h2k-v2v is a link called virt-v2v at the front of PATH, with
H2K_MODE=report. The exit status is 0 when every test ends with the same status both times (0 passed, 77 skipped).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from h2k.base.host import guestfs_settings

V2V = Path(__file__).resolve().parents[1] / "wrappers" / "h2k-v2v"
WORDS = {0: "passed", 77: "skipped"}


def main(argv: Sequence[str]) -> int:
    """The command of the first lines of this file."""
    if not argv:
        raise SystemExit(__doc__)
    guestfs_settings()
    tests = Path(argv[0]).resolve() / "tests"
    scripts = list(argv[1:]) or sorted(path.name for path in tests.glob("test-*.sh") if path.name != "test-functions.sh")
    differ = 0
    with tempfile.TemporaryDirectory(prefix="h2k-v2v-suite-") as place:
        (Path(place) / "virt-v2v").symlink_to(V2V)
        wrapped = {"PATH": f"{place}:{os.environ['PATH']}", "H2K_MODE": "report"}
        for script in scripts:
            theirs, ours = (_ends(tests, script, env, Path(place)) for env in ({}, wrapped))
            same = theirs == ours
            differ += not same
            print(f"{'same' if same else 'DIFFERS':<8} {script:<40} virt-v2v {theirs:<12} h2k-v2v {ours}", flush=True)
            if not same:
                print((Path(place) / f"{script}.log").read_text(errors="replace")[-4000:])
    print(f"\n{len(scripts)} tests, {len(scripts) - differ} end alike, {differ} do not")
    return 1 if differ else 0


def _ends(tests: Path, script: str, env: Mapping[str, str], logs: Path) -> str:
    """How the test ends; what it prints stays in `logs` until the next run of it."""
    full = {**os.environ, "srcdir": ".", "top_srcdir": "..", "VG": "", "LC_ALL": "C.UTF-8", **env}
    began = time.monotonic()
    with open(logs / f"{script}.log", "wb") as log:
        done = subprocess.run(
            ["bash", script], cwd=tests, env=full, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    print(f"{script}: status {done.returncode} after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return WORDS.get(done.returncode, f"failed ({done.returncode})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
