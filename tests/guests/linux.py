"""A made Debian that virt-v2v converts: an ext4 disk with what it looks at and runs, programs as scripts of busybox.

No appliance is needed to build it. The scripts say what they were called with in /var/log/made.log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

KERNEL = "6.1.0-18-amd64"
START, SIZE = 1024 * 1024, 96 * 1024 * 1024
BUSYBOX = Path("/bin/busybox")
LOG = "var/log/made.log"

_TEXT = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n',
    "etc/debian_version": "12.5\n",
    "etc/hostname": "made\n",
    "etc/fstab": "/dev/sda1 / ext4 errors=remount-ro 0 1\n",
    "etc/default/grub": 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX="console=tty0"\n',
    "etc/modprobe.d/.keep": "",
    "etc/initramfs-tools/modules": "# modules of the initial RAM disk\n",
    "boot/grub/grub.cfg": f"menuentry 'Debian' {{\n\tlinux /boot/vmlinuz-{KERNEL} root=/dev/sda1 ro\n\tinitrd /boot/initrd.img-{KERNEL}\n}}\n",
    "boot/grub/device.map": "(hd0) /dev/sda\n",
    f"boot/config-{KERNEL}": "CONFIG_VIRTIO_BLK=m\n",
    "var/lib/dpkg/status": "".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\nDescription: made\n\n"
        for name, version in ((f"linux-image-{KERNEL}", "6.1.76-1"), ("grub-pc", "2.06-13"), ("initramfs-tools", "0.142"))
    ),
}  # fmt: skip
_SCRIPTS = {
    "usr/bin/dpkg": f"cat /var/lib/dpkg/info/linux-image-{KERNEL}.list\n",
    "usr/sbin/update-initramfs": f"echo made by update-initramfs > /boot/initrd.img-{KERNEL}\n",
    "usr/sbin/update-grub": "true\n",
    "usr/sbin/grub-mkconfig": "true\n",
    "usr/sbin/update-grub2": "true\n",
}
_PROGRAMS = ("sh", "bash", "ls", "cat", "echo", "rm", "test", "true", "uname")


def build(path: Path) -> Path:
    """The disk as qcow2 at `path`: MBR, one active ext4 partition."""
    work = path.with_suffix(".tree")
    _tree(work)
    raw = path.with_suffix(".raw")
    with open(raw, "wb") as image:
        image.truncate(START + SIZE)
    rows = f"label: dos\nlabel-id: 0x4d414445\n\nstart={START // 512}, size={SIZE // 512}, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(raw)], input=rows.encode(), check=True)
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(work), "-E", f"offset={START},root_owner=0:0"]
    subprocess.run([*argv, str(raw), f"{SIZE // 1024}k"], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    raw.unlink()
    shutil.rmtree(work)
    return path


def _tree(root: Path) -> None:
    files = {name: text.encode() for name, text in _TEXT.items()}
    for name, script in _SCRIPTS.items():
        files[name] = f"#!/bin/sh\necho \"$0 $*\" >> /{LOG}\n{script}".encode()
    # virt-v2v asks a module for the kernel's architecture: any ELF file of that machine does.
    modules = f"lib/modules/{KERNEL}/kernel/drivers"
    programs = [f"bin/{name}" for name in _PROGRAMS]
    programs += [f"{modules}/{name}.ko" for name in ("block/virtio_blk", "net/virtio_net", "scsi/virtio_scsi")]
    files[f"boot/vmlinuz-{KERNEL}"] = b"made kernel\n"
    files[f"boot/initrd.img-{KERNEL}"] = b"made initrd\n"
    listed = sorted({f"/{p}" for name in (*files, *programs) for p in (name, *map(str, Path(name).parents)) if name.startswith(("boot", "lib")) and p != "."})
    files[f"var/lib/dpkg/info/linux-image-{KERNEL}.list"] = ("\n".join(listed) + "\n").encode()
    for name, data in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        if name.startswith("usr/"):
            place.chmod(0o755)
    for name in programs:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name == programs[0]:
            shutil.copy(BUSYBOX, root / name)
        else:
            os.link(root / programs[0], root / name)
    for name in ("sbin", "dev", "proc", "sys", "tmp", "run", "usr/lib", "var/tmp", "var/log", "root", "home"):
        (root / name).mkdir(parents=True, exist_ok=True)
