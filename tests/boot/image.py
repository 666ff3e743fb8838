"""What the lab boots: Debian's kernel with the lab's small Linux, as an EFI image, or as GRUB's files for BIOS."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "boot-lab"
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ntfs", "linux", "search", "normal", "echo", "test", "serial", "terminal",
                "memdisk", "tar", "configfile", "sleep")  # fmt: skip
PROGRAMS = ("hivexsh", "lowntfs-3g")
# hivex converts names and texts with glibc's iconv, whose converters are modules that ldd does not know.
GCONV = Path("/usr/lib/x86_64-linux-gnu/gconv")
CONVERTERS = ("gconv-modules", "gconv-modules.d/gconv-modules-extra.conf", "ISO8859-1.so", "UTF-16.so")
# Loaded always, and those of the controllers that a guest may have, loaded when PCI shows one.
ALWAYS = ("sd_mod", "fuse", "button", "evdev", "qemu_fw_cfg")
CONTROLLERS = ("ahci", "ata_piix", "virtio_pci", "virtio_blk", "virtio_scsi", "mptsas")
COMMAND_LINE = (
    "quiet loglevel=0 vt.global_cursor_default=0 consoleblank=0 console=tty0 rdinit=/init panic=0 no_timer_check "
    "tsc=reliable mitigations=off cryptomgr.notests random.trust_cpu=on initcall_blacklist=crypto_kdf108_init 8250.nr_uarts=2"
)
SECTION = 0x10000  # bytes; the distance of the sections that are added to the stub
GRUB_CONFIG = f"""\
search --no-floppy --set=root --file /h2k-lab-vmlinuz --hint=hd0,msdos1 --hint=hd0,msdos2
linux /h2k-lab-vmlinuz {COMMAND_LINE}
initrd /h2k-lab-initrd
boot
serial --unit=0 --speed=115200
terminal_output console serial
echo 'h2k-lab {{"stop":"No bootable device","why":"GRUB finds no /h2k-lab-vmlinuz"}}'
sleep 86400
"""


@dataclasses.dataclass(frozen=True)
class BootImage:
    """Files in the cache: `efi` the whole system as one EFI program; `kernel`, `initrd` and GRUB's `core` for BIOS."""

    efi: Path
    kernel: Path
    initrd: Path
    core: Path


@functools.cache
def boot_image() -> BootImage:
    """Builds them, or takes them from the cache, which knows them by all that they were made of."""
    kernel, modules = chosen_kernel()
    programs = [Path(p) for p in (_program(name) for name in PROGRAMS)]
    digest = hashlib.sha256("\n".join((COMMAND_LINE, GRUB_CONFIG, *GRUB_MODULES)).encode())
    for path in (Path(__file__), kernel, modules / "modules.dep", *programs, *_libraries(programs), _busybox(), STUB, GRUB / "boot.img",
                 *sorted((HERE / "guest").iterdir())):  # fmt: skip
        digest.update(path.read_bytes())
    directory = CACHE / digest.hexdigest()[:24]
    built = BootImage(*(directory / name for name in ("lab.efi", "vmlinuz", "initrd", "core.img")))
    if not directory.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            fresh = Path(work) / "new"
            fresh.mkdir()
            shutil.copyfile(kernel, fresh / "vmlinuz")
            (fresh / "initrd").write_bytes(gzip.compress(_initramfs(modules, programs), 1, mtime=0))
            efi_program(fresh)
            _grub_core(fresh)
            if not directory.exists():
                fresh.rename(directory)
    return built


def chosen_kernel() -> tuple[Path, Path]:
    """The readable kernel that has most of the modules, the newest of several, and its modules; a lack is told.

    Debian's cloud kernel has no AHCI, and others leave out old SAS controllers.
    """
    found, unreadable = [], []
    for path in Path("/boot").glob("vmlinuz-*"):
        modules = Path("/lib/modules") / path.name.removeprefix("vmlinuz-")
        if not os.access(path, os.R_OK):
            unreadable.append(str(path))
        elif (modules / "modules.dep").exists():
            found.append((path, modules, missing_modules(modules)))
    best = max(found, key=lambda kernel: (-len(kernel[2]), _numbers(kernel[0])), default=None)
    if best is None:
        why = f"{', '.join(unreadable)} can't be read: chmod +r" if unreadable else "install linux-image-amd64"
        raise FileNotFoundError(f"no kernel in /boot with its modules in /lib/modules: {why}")
    path, modules, missing = best
    if "ahci" in missing:
        raise FileNotFoundError(f"{path}: its modules lack {', '.join(missing)}: install linux-image-amd64, not the cloud kernel")
    if missing:
        print(f"boot lab: {path} has no {', '.join(missing)}: guests on such a controller will not boot", file=sys.stderr)
    return path, modules


def missing_modules(modules: Path) -> tuple[str, ...]:
    """Those that the lab wants of a kernel and that are neither there nor built in."""
    names = {module_name(line.partition(":")[0]) for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines()}
    built_in = modules / "modules.builtin"
    if built_in.exists():
        names |= {module_name(line) for line in built_in.read_text(encoding="utf-8").splitlines()}
    return tuple(name for name in (*ALWAYS, *CONTROLLERS) if name not in names)


def module_name(path: str) -> str:
    """"virtio_blk" of kernel/drivers/block/virtio_blk.ko.xz; modules are listed with - or _."""
    return Path(path.strip()).name.split(".ko")[0].replace("-", "_")


def _numbers(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", path.name)]


def _zstd(data: bytes) -> bytes:
    """Through the program: Python has no module for it before 3.14."""
    return subprocess.run([_program("zstd"), "-dcq"], input=data, check=True, capture_output=True).stdout


# How a module may be packed (Debian 12: not at all, 13: xz), and what unpacks it; busybox' insmod takes plain ones.
PACKED = {"": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress, ".zst": _zstd}


def unpacked(path: Path) -> tuple[str, bytes]:
    """A module's name without the suffix of its packing, and its content."""
    suffix = path.name.split(".ko")[-1]
    if suffix not in PACKED:
        raise ValueError(f"{path}: packed in a way that the boot lab does not know")
    return path.name[: len(path.name) - len(suffix)], PACKED[suffix](path.read_bytes())


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def _busybox() -> Path:
    """Debian's static one, which needs no library."""
    return Path(_program("busybox"))


def _module_files(modules: Path) -> dict[str, bytes]:
    """The modules with what they depend on, and modules.dep and modules.alias cut down to them: path → content."""
    paths, depends = {}, {}
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        path, _, needs = line.partition(":")
        paths[module_name(path)], depends[path] = path, needs.split()
    wanted = {paths[name] for name in (*ALWAYS, *CONTROLLERS) if name in paths}  # others are built into this kernel
    wanted |= {needed for path in wanted for needed in depends[path]}
    aliases = [
        line for line in (modules / "modules.alias").read_text(encoding="utf-8").splitlines() if line.split()[-1] in CONTROLLERS
    ]
    plain = {path: str(Path(path).with_name(unpacked(modules / path)[0])) for path in wanted}
    files = {plain[path]: unpacked(modules / path)[1] for path in sorted(wanted)}
    needs_of = {plain[path]: " ".join(plain[needed] for needed in depends[path]) for path in sorted(wanted)}
    files["modules.dep"] = "".join(f"{path}: {needs}\n" for path, needs in needs_of.items()).encode()
    files["modules.alias"] = "".join(f"{line}\n" for line in aliases).encode()
    return files


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """What ldd names for them, the loader among it."""
    done = subprocess.run(["ldd", *map(str, programs)], check=True, capture_output=True, text=True)
    return sorted({Path(found) for found in re.findall(r"(/\S+) \(0x", done.stdout)})


def _initramfs(modules: Path, programs: Sequence[Path]) -> bytes:
    files: dict[str, tuple[int, bytes]] = {"bin/busybox": (0o755, _busybox().read_bytes())}
    for path in (*programs, *_libraries(programs), *(GCONV / name for name in CONVERTERS)):
        files[f"bin/{path.name}" if path in programs else str(path)[1:]] = (0o755, path.read_bytes())
    for name, data in _module_files(modules).items():
        files[f"lib/modules/{modules.name}/{name}"] = (0o644, data)
    files["lab/modules"] = (0o644, " ".join(ALWAYS).encode() + b"\n")
    for path in sorted((HERE / "guest").iterdir()):
        files["init" if path.name == "init" else f"lab/{path.name}"] = (0o755, path.read_bytes())
    return newc(files, ("dev", "proc", "sys", "run", "windows", "boot-partition"))


def newc(files: dict[str, tuple[int, bytes]], directories: Iterable[str]) -> bytes:
    """A cpio archive of the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format)."""
    needed = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."} | set(directories)
    entries = [(name, stat.S_IFDIR | 0o755, b"", (0, 0)) for name in sorted(needed)]
    entries += [(name, stat.S_IFREG | mode, data, (0, 0)) for name, (mode, data) in files.items()]
    entries += [("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)), ("TRAILER!!!", 0, b"", (0, 0))]
    archive = bytearray()
    for number, (name, mode, data, (major, minor)) in enumerate(entries, 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        archive += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + encoded
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def efi_program(directory: Path) -> None:
    """systemd's EFI stub with command line, kernel and initramfs as sections (systemd-stub(7))."""
    (directory / "cmdline").write_bytes(COMMAND_LINE.encode() + b"\0")
    base, end = pe_extent(STUB.read_bytes())
    argv, address = ["objcopy"], end
    for section, file in ((".cmdline", "cmdline"), (".linux", "vmlinuz"), (".initrd", "initrd")):
        path = directory / file
        argv += ["--add-section", f"{section}={path}", "--change-section-vma", f"{section}={base + address:#x}"]
        address += -(-path.stat().st_size // SECTION) * SECTION
    done = subprocess.run([*argv, str(STUB), str(directory / "lab.efi")], check=True, capture_output=True, text=True)
    if "below image base" in done.stderr:  # objcopy ends with 0, and no firmware starts what it made
        raise RuntimeError(f"{STUB}: {done.stderr.strip()}")


def pe_extent(image: bytes) -> tuple[int, int]:
    """A 64-bit PE program's ImageBase, and the first free address above it for another section (PE format, Microsoft)."""
    header = struct.unpack_from("<I", image, 0x3C)[0]
    optional = header + 24
    if image[header : header + 4] != b"PE\0\0" or struct.unpack_from("<H", image, optional)[0] != 0x20B:
        raise ValueError(f"{STUB}: no 64-bit PE program")
    base, size = struct.unpack_from("<Q", image, optional + 24)[0], struct.unpack_from("<I", image, optional + 56)[0]
    return base, -(-size // SECTION) * SECTION


def _grub_core(directory: Path) -> None:
    """GRUB's core with the lab's configuration inside it, in a memdisk (whose option sets a prefix: ours comes later)."""
    (directory / "grub").mkdir()
    (directory / "grub" / "grub.cfg").write_text(GRUB_CONFIG, encoding="utf-8")
    subprocess.run(
        ["tar", "--format=ustar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf", str(directory / "memdisk"),
         "-C", str(directory), "grub"], check=True,
    )  # fmt: skip
    subprocess.run(
        ["grub-mkimage", "-O", "i386-pc", "-d", str(GRUB), "-m", str(directory / "memdisk"), "-p", "(memdisk)/grub",
         "-o", str(directory / "core.img"), *GRUB_MODULES], check=True,
    )  # fmt: skip


def grub_boot_code() -> bytes:
    """GRUB's MBR code: the 440 bytes before the disk signature, which load the core from sector 1."""
    return (GRUB / "boot.img").read_bytes()[:440]


