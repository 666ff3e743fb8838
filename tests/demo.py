"""`make demo`: a made Windows Server 2022 guest as VMware hands it over, through h2k-v2v with the real virt-v2v, and then
through both boots, with the boot lab's stand-in for Windows, on a libvirt of the demo's own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.boot import lab
from tests.guests.build import build, write_vmx
from tests.guests.virtio_win import make_iso, make_runner, make_tree
from tests.integration.virthost import own_libvirt, tools_missing

ROOT = Path(__file__).resolve().parent.parent
GUEST = "win2022"
NETWORK = "demo"
# A network that leads nowhere: the demo's guest talks to nobody.
NETWORK_XML = f"<network><name>{NETWORK}</name><bridge name='h2k-demo0'/></network>"
POLICY = "report: {html: true}\ntimeouts: {settle: 5}\nvalidation: {minutes: 0}\n"
# What a recent virtio-win has nothing for.
OLD_WINDOWS = ("xp", "2k3", "2k8", "w7", "2k8R2", "w8", "2k12", "w8.1", "2k12R2", "2k16")


def prepare(place: Path) -> tuple[Path, Path, Path]:
    """The guest's .vmx, a virtio-win directory with its ISO in it, and the directory of the stand-in for rhsrvany.exe; made from text."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    print(f"Making a Windows Server 2022 guest from text (VMware, UEFI) and a virtio-win in {shown(place)} …", flush=True)
    guest = build([GUEST], place / "made")[GUEST]
    (place / "policy.yaml").write_text(POLICY)
    lab.install(guest.disks[0], "qcow2", guest.firmware, place)
    vmx = write_vmx(guest, place / "vmware")
    drivers = make_tree(place / "virtio-win", omit=OLD_WINDOWS)
    make_iso(drivers, place / "virtio-win.iso").rename(drivers / "virtio-win.iso")
    return vmx, drivers, make_runner(place / "virt-tools")


def shown(path: Path) -> str:
    """The path as it is seen from the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def convert(place: Path, vmx: Path, drivers: Path, runner: Path) -> int:
    """The conversion, as a user types it."""
    out = place / "images"
    out.mkdir()
    command = [
        "wrappers/h2k-v2v", "-i", "vmx", shown(vmx), "-o", "local", "-os", shown(out), "--network", NETWORK,
        "--h2k-drivers", shown(drivers), "--h2k-policy", shown(place / "policy.yaml"),
    ]  # fmt: skip
    print("\nmade guest, stand-in for rhsrvany.exe, real virt-v2v:")
    print(f"$ VIRT_TOOLS_DATA_DIR={shown(runner)} {shlex.join(command)}\n", flush=True)
    env = {**os.environ, "VIRT_TOOLS_DATA_DIR": str(runner)}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def boots(place: Path) -> int:
    """`h2k boot` on a libvirtd of the demo's own, whose QEMU runs as root, so that it may read this checkout."""
    missing = tools_missing()
    if missing is not None:
        print(f"\nThe boots are left out: {missing}.")
        return 0
    state, policy = place / "images" / f"{GUEST}.h2k", place / "policy.yaml"
    network = place / "network.xml"
    network.write_text(NETWORK_XML)
    with own_libvirt('user = "root"\ngroup = "root"\nsecurity_driver = "none"\n') as host:
        host.run("virsh", "net-define", network)
        host.run("virsh", "net-start", NETWORK)
        command = ["wrappers/h2k", "boot", shown(state), "--policy", shown(policy)]
        print(f"\nboot lab: a stand-in for Windows, on real firmware, QEMU and libvirt:\n$ {shlex.join(command)}\n", flush=True)
        try:
            return host.show(*command)
        finally:
            host.stop_domains()
            host.run("virsh", "net-destroy", NETWORK, check=False)


def main(argv: list[str]) -> int:
    """python3 -m tests.demo DIR"""
    place = Path(argv[0]).resolve()
    status = convert(place, *prepare(place)) or boots(place)
    page = place / "images" / f"{GUEST}.h2k" / "page.html"
    if page.exists():
        print(f"\nTo look at, in a browser, written anew by each run as the policy says:\n  {shown(page)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
