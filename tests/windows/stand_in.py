"""Makes a stand-in for a Windows ISO: a small Linux that boots from it, obeys autounattend.xml and installs a made guest.

    python3 -m tests.windows.stand_in DIR       both ISOs: DIR/stand-in.iso, DIR/virtio-win.iso, and DIR/virt-tools

Nothing of it is Windows; its label says so, and so does every row of evidence that comes from it.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.boot import image as lab_image
from tests.boot import lab
from tests.boot.image import boot_image, unpacked
from tests.guests import build as guests
from tests.guests.virtio_win import make_iso as make_virtio_win
from tests.guests.virtio_win import make_runner, make_tree
from tests.windows.configuration import make_iso
from tests.windows.media import STAND_IN_LABEL, WIM_HEADER

HERE = Path(__file__).resolve().parent / "stand_in"
GUESTS = ("win2022", "win2016")  # by image index: one for UEFI, one for BIOS
MODULES = ("cdrom", "isofs", "sr_mod")
GRUB_MODULES = ("biosdisk", "iso9660", "linux", "normal", "search", "echo", "configfile", "memdisk", "tar")
ELTORITO = Path("/usr/lib/grub/i386-pc")
CONFIG = f"search --no-floppy --set=root --label {STAND_IN_LABEL}\nlinux /boot/vmlinuz {lab_image.COMMAND_LINE}\ninitrd /boot/initrd\nboot\n"


def wim(descriptions: Sequence[dict[str, str]]) -> bytes:
    """An install.wim that names its images and holds none: a header and the XML data (media.py reads just these)."""
    images = ""
    for index, about in enumerate(descriptions, 1):
        images += (
            f'<IMAGE INDEX="{index}"><NAME>{about["name"]}</NAME><WINDOWS><ARCH>{about["arch"]}</ARCH>'
            f'<EDITIONID>{about["edition"]}</EDITIONID><PRODUCTTYPE>{about["type"]}</PRODUCTTYPE>'
            f'<LANGUAGES><LANGUAGE>en-US</LANGUAGE><DEFAULT>en-US</DEFAULT></LANGUAGES>'
            f'<VERSION><MAJOR>10</MAJOR><BUILD>{about["build"]}</BUILD></VERSION></WINDOWS></IMAGE>'
        )
    xml = f"\ufeff<WIM>{images}</WIM>".encode("utf-16-le")
    header = bytearray(WIM_HEADER)
    header[:8] = b"MSWIM\0\0\0"
    struct.pack_into("<II", header, 8, WIM_HEADER, 0x10D00)
    struct.pack_into("<HHI", header, 40, 1, 1, len(descriptions))
    header[72:79] = len(xml).to_bytes(7, "little")
    struct.pack_into("<QQ", header, 80, WIM_HEADER, len(xml))
    return bytes(header) + xml


def description(name: str) -> dict[str, str]:
    """How a made guest stands in the WIM's XML; its name says what it is."""
    about = guests.descriptions()[name]
    return {
        "name": f"STAND-IN for {about['product']} (made guest, Desktop Experience)",
        "arch": "9" if about["arch"] == "amd64" else "0",
        "edition": "ServerStandardEval" if about["server"] else "EnterpriseEval",
        "type": "ServerNT" if about["server"] else "WinNT",
        "build": str(about["build"]),
    }


def make_stand_in(place: Path) -> Path:
    """The ISO, bootable under BIOS and UEFI; an appliance builds the made guests."""
    work = place / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return bootable(sources(work), place, work)


def sources(work: Path) -> dict[str, bytes]:
    """What stands for the images in \\sources: made guests, with the lab's loader on their disks."""
    files = {"sources/install.wim": wim([description(name) for name in GUESTS])}
    for index, (name, built) in enumerate(guests.build(GUESTS, work / "guests").items(), 1):
        lab.install(built.disks[0], "qcow2", built.firmware, work)
        raw = work / "disk.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(built.disks[0]), str(raw)], check=True)
        files[f"sources/{index}.gz"] = gzip.compress(raw.read_bytes(), 1, mtime=0)
        files[f"sources/{index}.firmware"] = built.firmware.encode() + b"\n"
        files[f"sources/{index}.arch"] = guests.descriptions()[name]["arch"].encode() + b"\n"
    return files


def bootable(files: dict[str, bytes], place: Path, work: Path) -> Path:
    """The ISO of these files and of what starts from it."""
    kernel, initrd = boot_image().kernel, work / "initrd"
    initrd.write_bytes(_initrd())
    started = {"boot/vmlinuz": kernel.read_bytes(), "boot/initrd": initrd.read_bytes()}
    started.update({"boot/efi.img": _efi_image(work, kernel, initrd), "boot/grub.img": _grub(work)})
    options = [
        "-b", "boot/grub.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
        "-eltorito-alt-boot", "-e", "boot/efi.img", "-no-emul-boot",
    ]  # fmt: skip
    iso = make_iso({**files, **started}, place / "stand-in.iso", place / "stand-in.log", STAND_IN_LABEL, options)
    shutil.rmtree(work)
    shutil.rmtree(iso.with_suffix(".files"))
    return iso


def _initrd() -> bytes:
    """The lab's initramfs with another /init laid over it, and the modules of CDs: the kernel takes several archives."""
    _, modules = lab_image.chosen_kernel()
    files: dict[str, tuple[int, bytes]] = {"init": (0o755, (HERE / "init").read_bytes())}
    files["kit/setup.sh"] = (0o755, (HERE / "setup.sh").read_bytes())
    order = []
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        path = line.partition(":")[0]
        name = lab_image.module_name(path)
        if name in MODULES:
            plain, data = unpacked(modules / path)
            files[f"kit/{plain}"] = (0o644, data)
            order.append((MODULES.index(name), f"/kit/{plain}"))
    files["kit/modules"] = (0o644, "".join(f"{path}\n" for _, path in sorted(order)).encode())
    lab_archive = boot_image().initrd.read_bytes()
    return lab_archive + bytes(-len(lab_archive) % 4) + gzip.compress(lab_image.newc(files, ()), 1, mtime=0)


def _efi_image(work: Path, kernel: Path, initrd: Path) -> bytes:
    """A FAT volume with the Linux as BOOTX64.EFI."""
    program = work / "efi"
    program.mkdir()
    shutil.copyfile(kernel, program / "vmlinuz")
    shutil.copyfile(initrd, program / "initrd")
    lab_image.efi_program(program)
    image, size = work / "efi.img", (program / "lab.efi").stat().st_size + (2 << 20)
    with open(image, "wb") as file:
        file.truncate(-(-size // (1 << 20)) << 20)
    for argv in (
        ["mkfs.vfat", str(image)], ["mmd", "-i", str(image), "::EFI", "::EFI/BOOT"],
        ["mcopy", "-i", str(image), str(program / "lab.efi"), "::EFI/BOOT/BOOTX64.EFI"],
    ):  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)
    return image.read_bytes()


def _grub(work: Path) -> bytes:
    """GRUB for El Torito, with its configuration inside."""
    (work / "grub").mkdir()
    (work / "grub" / "grub.cfg").write_text(CONFIG, encoding="utf-8")
    subprocess.run(["tar", "--format=ustar", "-cf", str(work / "memdisk"), "-C", str(work), "grub"], check=True)
    subprocess.run(
        ["grub-mkimage", "-O", "i386-pc-eltorito", "-d", str(ELTORITO), "-m", str(work / "memdisk"), "-p", "(memdisk)/grub",
         "-o", str(work / "grub.img"), *GRUB_MODULES], check=True,
    )  # fmt: skip
    return (work / "grub.img").read_bytes()


def make_all(place: Path) -> tuple[Path, Path, Path]:
    """The stand-in's ISO, a made virtio-win.iso, and the directory of a stand-in for rhsrvany.exe."""
    place.mkdir(parents=True, exist_ok=True)
    iso = make_stand_in(place)
    drivers = make_virtio_win(make_tree(place / "virtio-win"), place / "virtio-win.iso")
    return iso, drivers, make_runner(place / "virt-tools")


if __name__ == "__main__":
    print("\n".join(map(str, make_all(Path(sys.argv[1]).resolve()))))
