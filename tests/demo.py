"""`make demo`: a made Windows Server 2022 guest as VMware hands it over, through h2k-v2v with the real virt-v2v."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.guests.build import build, write_vmx
from tests.guests.virtio_win import make_iso, make_runner, make_tree

ROOT = Path(__file__).resolve().parent.parent
GUEST = "win2022"


def prepare(place: Path) -> tuple[Path, Path, Path]:
    """The guest's .vmx, a virtio-win ISO, and the directory of the stand-in for rhsrvany.exe; made from text."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    print(f"Making a Windows Server 2022 guest from text (VMware, UEFI) and a virtio-win ISO in {shown(place)} …", flush=True)
    guest = build([GUEST], place / "made")[GUEST]
    vmx = write_vmx(guest, place / "vmware")
    iso = make_iso(make_tree(place / "virtio-win"), place / "virtio-win.iso")
    return vmx, iso, make_runner(place / "virt-tools")


def shown(path: Path) -> str:
    """The path as it is seen from the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main(argv: list[str]) -> int:
    """python3 -m tests.demo DIR"""
    place = Path(argv[0]).resolve()
    vmx, iso, runner = prepare(place)
    out = place / "images"
    out.mkdir()
    command = [
        "wrappers/h2k-v2v", "-i", "vmx", shown(vmx), "-o", "local", "-os", shown(out), "--h2k-drivers", shown(iso),
    ]  # fmt: skip
    print("\nmade guest, stand-in for rhsrvany.exe, real virt-v2v:")
    print(f"$ VIRT_TOOLS_DATA_DIR={shown(runner)} {shlex.join(command)}\n", flush=True)
    env = {**os.environ, "VIRT_TOOLS_DATA_DIR": str(runner)}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
