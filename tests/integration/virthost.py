"""A libvirt of the tests' own: libvirtd and virtlogd in a mount namespace, so that they can be killed at will."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.host import kvm_works

ROOT = Path(__file__).resolve().parents[2]
H2K = ROOT / "wrappers" / "h2k"

# What libvirt keeps its state in is empty and private; images and everything else is this machine's.
SETUP = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/libvirt /run/lock
mount -t tmpfs -o mode=755 none /var/cache/libvirt
mount -t tmpfs -o mode=755 none /var/lib/libvirt
for settings in qemu storage nwfilter secrets; do
  [ ! -d /etc/libvirt/$settings ] || mount -t tmpfs -o mode=755 none /etc/libvirt/$settings
done
echo ready
exec sleep infinity
"""
# Where KVM is there and does not work, libvirt asks every QEMU anew at each define, a minute long: a /dev/kvm that can't
# be written is none. It can't be moved into a /dev that libvirt makes for each guest, either.
HIDE_KVM = """[ -e /dev/kvm ] || exit 0
mkdir /run/none; mount -t tmpfs none /run/none; touch /run/none/kvm; mount -o remount,ro /run/none
mount --bind /run/none/kvm /dev/kvm"""
QEMU_CONF = "namespaces = []\n"


class VirtHost:
    """Runs commands where its libvirtd is; ends everything that it has started."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != b"ready\n":
            self.holder.wait()
            pytest.skip("needs root, to run a libvirtd of its own")

    def start(self, config: str = "") -> None:
        """Start virtlogd and libvirtd with these lines of qemu.conf, and wait until libvirtd answers."""
        if not kvm_works():
            self.run("sh", "-ec", HIDE_KVM)
        self.run("sh", "-ec", f"printf %s '{QEMU_CONF}{config}' > /run/qemu.conf; mount --bind /run/qemu.conf /etc/libvirt/qemu.conf")
        self.run("virtlogd", "-d", "-p", "/run/virtlogd.pid")
        self.start_libvirtd()

    @property
    def uri(self) -> str:
        """Where a client outside the namespace finds this libvirtd."""
        return f"qemu+unix:///system?socket=/proc/{self.holder.pid}/root/run/libvirt/libvirt-sock"

    def start_libvirtd(self) -> None:
        self.run("libvirtd", "-d", "-p", "/run/libvirtd.pid")
        self.wait_for("virsh", "-q", "uri")

    def wait_for(self, *argv: Any) -> None:
        for _ in range(3000):
            if self.run(*argv, check=False).returncode == 0:
                return
            time.sleep(0.2)
        raise AssertionError(f"never came: {argv}")

    def _inside(self, *argv: Any) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", f"--wd={ROOT}", "--", *map(str, argv)]

    def run(self, *argv: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the namespace, its output captured."""
        done = subprocess.run(self._inside(*argv), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert not check or done.returncode == 0, f"{shlex.join(map(str, argv))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def show(self, *argv: Any) -> int:
        """A command in the namespace on our own terminal; its exit status."""
        return subprocess.run(self._inside(*argv), stdin=subprocess.DEVNULL, check=False).returncode

    def begin(self, *argv: Any) -> subprocess.Popen[str]:
        """A command that goes on; its standard error is a pipe."""
        return subprocess.Popen(self._inside(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)

    def pid(self, name: str) -> int:
        """The process id in /run/NAME.pid."""
        return int(self.run("cat", f"/run/{name}.pid").stdout)

    def kill_libvirtd(self) -> None:
        """End libvirtd as a crash would; the guests go on."""
        os.kill(self.pid("libvirtd"), signal.SIGKILL)
        while self.run("virsh", "-q", "uri", check=False).returncode == 0:
            time.sleep(0.1)

    def domains(self) -> dict[str, str]:
        """Name → state of every domain that libvirt knows."""
        lines = self.run("virsh", "-q", "list", "--all").stdout.splitlines()
        return {line.split()[1]: " ".join(line.split()[2:]) for line in lines if line.strip()}

    def stop_domains_of(self, name: str) -> None:
        """Destroy a domain, whatever characters its name has."""
        self.run("virsh", "-q", "destroy", "--domain", name, check=False)

    def stop_domains(self) -> None:
        """Destroy and undefine them all."""
        for name, state in self.domains().items():
            if state != "shut off":
                self.run("virsh", "destroy", name, check=False)
            self.run("virsh", "undefine", "--keep-nvram", name, check=False)

    def stop(self) -> None:
        """End the domains, the daemons, and the namespace with them."""
        try:
            self.stop_domains()
            for name in ("libvirtd", "virtlogd"):
                os.kill(self.pid(name), signal.SIGTERM)
        finally:
            self.holder.terminate()
            self.holder.wait()


@contextmanager
def own_libvirt(config: str = "") -> Iterator[VirtHost]:
    """One that runs with these lines of qemu.conf, ended whatever happens; a test that can't have it is skipped."""
    lack = tools_missing()
    if lack is not None:
        pytest.skip(lack)
    host = VirtHost()
    try:
        host.start(config)
        yield host
    finally:
        host.stop()


def tools_missing() -> Optional[str]:
    """What a libvirtd of the tests' own lacks here, None when it can run."""
    if os.geteuid() != 0:
        return "needs root for libvirtd"
    missing = [name for name in ("libvirtd", "virtlogd", "virsh", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    argv = ["unshare", "--mount", "--propagation", "private", "true"]
    if subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        return "needs mounts of its own: in a chroot its root must be a mount point (mount --bind DIR DIR, then chroot DIR)"
    return None
