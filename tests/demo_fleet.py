"""`make demo-fleet`: five made guests as a team has them in a directory, two of them broken; survey, plan and run, and the run
once more.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.guests import build
from tests.guests.virtio_win import make_tree

ROOT = Path(__file__).resolve().parent.parent
GOOD = ("win2022", "win2012r2")
ESX = "win2019-hyperv-gen1"


def prepare(place: Path) -> dict[str, str]:
    """The exports: two qcow2, a VHDX, a disk cut short and a text; the environment with a made virtio-win."""
    shutil.rmtree(place, ignore_errors=True)
    exports = place / "exports"
    (exports / "hyper-v").mkdir(parents=True)
    print("Making guests from text (Hyper-V, VMware) …", flush=True)
    known = build.cached()
    for name in GOOD:
        shutil.copy(known[name].disks[0], exports / f"{name}.qcow2")
    argv = ["qemu-img", "convert", "-O", "vhdx", str(known[ESX].disks[0]), str(exports / "hyper-v" / "erp.vhdx")]
    subprocess.run(argv, check=True)
    whole = known["win2022"].disks[0].read_bytes()
    (exports / "short.qcow2").write_bytes(whole[: len(whole) // 3])
    (exports / "moved.vmdk").write_text("<html>404 Not Found</html>\n")
    return {**os.environ, "VIRTIO_WIN": str(make_tree(place / "virtio-win")), "XDG_STATE_HOME": str(place)}


def show(env: dict[str, str], place: Path, *argv: str, into: str = "") -> int:
    """One command, as a user types it."""
    print(f"\n$ {shlex.join(argv)}{f' > {into}' if into else ''}\n", flush=True)
    command = [str(ROOT / "wrappers" / argv[0]), *argv[1:]]
    if not into:
        return subprocess.run(command, cwd=place, env=env, check=False).returncode
    with open(place / into, "wb") as out:
        status = subprocess.run(command, cwd=place, env=env, stdout=out, check=False).returncode
    print((place / into).read_text(encoding="utf-8"), end="", flush=True)
    return status


def main(argv: list[str]) -> int:
    """python3 -m tests.demo_fleet DIR"""
    place = Path(argv[0]).resolve()
    env = prepare(place)
    show(env, place, "h2k", "survey", "exports", "-o", "survey.json", "--csv", "survey.csv", "--html", "survey.html")
    show(env, place, "h2k", "fleet", "plan", "survey.json", "-o", "images", into="waves.yaml")
    status = show(env, place, "h2k", "fleet", "run", "waves.yaml", "--html", "fleet.html")
    show(env, place, "h2k", "fleet", "status", "waves.yaml")
    print("\nTo look at, in a browser, with a link to the page of each guest:")
    for page in ("survey.html", "fleet.html"):
        print(f"  {place / page}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
