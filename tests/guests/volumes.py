"""Small NTFS and FAT volumes with everything in them that a reader may meet: one libguestfs launch, the rest byte by byte."""

from __future__ import annotations

import dataclasses
import io
import random
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, cast

from tests.guests.surgery import REPARSE_POINT, STANDARD_INFORMATION, Ntfs, Surgery, _attribute, run

MIB = 1024 * 1024
COMPRESSED, ENCRYPTED, REPARSE = 0x800, 0x4000, 0x400
UTILITY_STREAM = 0x100
MOUNT_POINT = 0xA0000003
SHORT_NAME = "LONGNA~1.TXT"


@dataclasses.dataclass(frozen=True)
class Made:
    """Volumes as files, and what is in them: {path: bytes}, and {path: a word of the reason} for what can't be read."""

    plain: Path
    packed: Path
    files: Mapping[str, bytes]
    unreadable: Mapping[str, str]


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no file system compresses."""
    return random.Random(seed).randbytes(size)


def text(lines: int) -> bytes:
    """Bytes that compress well."""
    return b"".join(b"line %d of a text that repeats itself\n" % n for n in range(lines))


def ntfs(path: Path) -> Ntfs:
    """Surgery on an NTFS volume that is a file of its own."""
    return Ntfs(cast(Surgery, None), path, 0, path.stat().st_size)


def format_ntfs(path: Path, size: int) -> Path:
    """An empty NTFS volume."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkntfs", "-q", "-F", "-L", "made", path)
    return path


def set_flags(volume: Ntfs, number: int, flags: int) -> None:
    """File attribute flags in $STANDARD_INFORMATION of a record."""

    def change(record: bytearray) -> int:
        at = _attribute(record, STANDARD_INFORMATION)
        place = at + struct.unpack_from("<H", record, at + 20)[0] + 32
        struct.pack_into("<I", record, place, struct.unpack_from("<I", record, place)[0] | flags)
        return 1

    assert volume._edit_record(number, change)


def add_attribute(volume: Ntfs, path: str, kind: int, data: bytes, flags: int, name: str = "") -> None:
    """Add an attribute to a file or directory, and set its flags."""
    number, _, _ = volume._find(path)
    with tempfile.NamedTemporaryFile() as local:
        local.write(data)
        local.flush()
        run("ntfscp", "-q", "-i", "-a", kind, *(["-N", name] if name else []), volume.file, local.name, number)
    set_flags(volume, number, flags)


def make_volumes(directory: Path) -> Made:
    """An ordinary volume of 24 MiB, and one of 12 MiB whose files NTFS compresses."""
    plain, packed = format_ntfs(directory / "plain", 24 * MIB), format_ntfs(directory / "packed", 12 * MIB)
    set_flags(ntfs(packed), 5, COMPRESSED)  # of the root directory; what is made in it inherits the flag
    files = {
        "/Windows/System32/config/SYSTEM": noise(3 * MIB + 17),
        "/Windows/System32/drivers/viostor.sys": noise(70_000, 2),
        "/Ünïcödé 漢字/Straße.txt": b"umlauts\n" * 1000,
        "/Long name file.txt": b"long",
        "/empty": b"",
        "/resident": b"r" * 300,
        "/stream.txt": b"unnamed",
        "/sparse.bin": b"start".ljust(2_000_000, b"\0") + b"end",
        "/fragments.bin": b"".join(b"%4d" % n + bytes(65_536 - 4) for n in range(200)),
        **{f"/many/file number {n}": b"" for n in range(400)},
    }
    _fill(plain, packed, files)
    volume = ntfs(plain)
    run("ntfscp", "-q", "-N", "other", plain, _local(directory, noise(5000, 3)), "/stream.txt")
    volume.compress("Windows/wof.dll")
    target = "\\??\\C:\\Windows".encode("utf-16-le")
    mount_point = struct.pack("<HHHH", 0, len(target), len(target) + 2, 0) + target + bytes(4)
    junction = struct.pack("<IHH", MOUNT_POINT, len(mount_point), 0) + mount_point
    add_attribute(volume, "Junction", REPARSE_POINT, junction, REPARSE)
    add_attribute(volume, "cloud.txt", REPARSE_POINT, struct.pack("<IHHI", 0x80000013, 4, 0, 0), REPARSE)
    add_attribute(volume, "secret.txt", UTILITY_STREAM, bytes(600), ENCRYPTED, "$EFS")
    unreadable = {"/Windows/wof.dll": "WOF", "/Junction": "link", "/cloud.txt": "0x80000013", "/secret.txt": "EFS"}
    return Made(plain, packed, files, unreadable)


def _local(directory: Path, data: bytes) -> Path:
    path = directory / "local"
    path.write_bytes(data)
    return path


def _fill(plain: Path, packed: Path, files: Mapping[str, bytes]) -> None:
    import guestfs

    from h2k.base.host import guestfs_settings

    guestfs_settings()
    appliance: Any = guestfs.GuestFS(python_return_dict=True)
    for image in (plain, packed):
        appliance.add_drive_opts(str(image), format="raw", cachemode="unsafe")
    appliance.launch()
    appliance.mount(appliance.list_devices()[0], "/")
    holed = ("/sparse.bin", "/fragments.bin")
    later = {f"/{name}": b"w" * 3000 for name in ("Windows/wof.dll", "cloud.txt", "secret.txt")}
    appliance.tar_in(_archive(plain, {**{p: d for p, d in files.items() if p not in holed}, **later}), "/")
    appliance.mkdir("/Junction")
    appliance.write("/sparse.bin", b"start")
    appliance.pwrite("/sparse.bin", b"end", len(files["/sparse.bin"]) - 3)
    appliance.touch("/fragments.bin")
    appliance.truncate_size("/fragments.bin", len(files["/fragments.bin"]))
    for at in range(0, len(files["/fragments.bin"]), 65_536):  # so many that the runs need a second file record
        appliance.pwrite("/fragments.bin", files["/fragments.bin"][at : at + 4], at)
    appliance.lsetxattr("system.ntfs_dos_name", SHORT_NAME, len(SHORT_NAME), "/Long name file.txt")
    appliance.umount("/")
    appliance.mount_options("compression", appliance.list_devices()[1], "/")
    appliance.mkdir("/Windows")
    appliance.write("/Windows/packed.txt", text(40_000))
    appliance.write("/Windows/noise.bin", noise(300_001, 4))
    appliance.shutdown()
    appliance.close()


def _archive(beside: Path, files: Mapping[str, bytes]) -> str:
    archive = beside.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(archive)


def make_fat(path: Path, size: int, files: Mapping[str, bytes], kind: Optional[int] = None) -> Path:
    """A FAT volume of `kind` 12, 16 or 32 (mkfs.vfat chooses otherwise), by mtools."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkfs.vfat", *(["-F", kind] if kind else []), path)
    made: set[str] = set()
    for name, data in files.items():
        parts = name.strip("/").split("/")
        for depth in range(1, len(parts)):
            directory = "/".join(parts[:depth])
            if directory not in made:
                run("mmd", "-i", path, f"::/{directory}")
                made.add(directory)
        run("mcopy", "-i", path, _local(path.parent, data), f"::/{name.strip('/')}")
    return path


def assemble(path: Path, size: int, table: Mapping[int, bytes], volumes: Mapping[int, Path]) -> Path:
    """A raw disk of a partition table and {offset: volume}."""
    with open(path, "wb") as disk:
        disk.truncate(size)
        for at, data in table.items():
            disk.seek(at)
            disk.write(data)
    for at, volume in volumes.items():
        subprocess.run(
            ["dd", f"if={volume}", f"of={path}", "bs=64K", f"seek={at}", "oflag=seek_bytes", "conv=notrunc,sparse", "status=none"],
            check=True,
        )
    return path
