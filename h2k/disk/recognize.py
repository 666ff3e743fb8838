"""Whether a file can be a guest's disk, told by its content: image formats by their marks, raw disks by what lies on them.

qemu calls everything raw that has no mark, a text file too, so that its word alone is not enough.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Optional

from h2k.base.errors import Refused, UsageError
from h2k.disk.formats import FOOTERS, MARKS

SMALLEST = 1024 * 1024  # bytes of a raw disk that has no partition table; no system fits on less
_HEAD = 128 * 1024  # bytes that are looked at
_SECTOR = 512

# What may lie on a raw disk without a partition table: MBR or boot sector, GPT, ext, XFS, Btrfs, LVM, swap.
_ON_DISKS = (
    (510, b"\x55\xaa"), (512, b"EFI PART"), (4096, b"EFI PART"), (0x438, b"\x53\xef"), (0, b"XFSB"), (0x10040, b"_BHRfS_M"),
    *((sector * _SECTOR, b"LABELONE") for sector in range(4)), (4086, b"SWAPSPACE2"), (4086, b"SWAP-SPACE"),
)  # fmt: skip
# Files that are often met beside disks, and what to do with them.
_OTHERS = (
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (0, b"BZh", "compressed with bzip2", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (0, b"PK\3\4", "a zip archive", "an OVA: h2k-v2v -i ova; else unpack it first"),
    (257, b"ustar", "a tar archive", "an OVA: h2k-v2v -i ova; else unpack it first"),
    (0x8001, b"CD001", "a CD-ROM's image", "give the guest's disks"),
    (0, b"\x7fELF", "a program", "give the guest's disks"),
    (0, b"MZ", "a program of Windows", "give the guest's disks"),
    (0, b"regf", "a registry hive", "give the disk that it lies on"),
    (0, b"%PDF", "a PDF", "give the guest's disks"),
)
_RAW_NAME = re.compile(r".*\.(raw|img|dd|bin|disk|flat)|.*-flat\.vmdk|.*-(s|v|h|xv)d[a-z]{1,2}|disk|disk[-.]?[0-9]{1,3}", re.IGNORECASE)
_HINT = "give NAME, NAME.xml, NAME.h2k, a description of the guest, or its disk images"


def check_disk(path: Path) -> Optional[str]:
    """None for what is a disk image or a block device, a line of warning for what only its name says to be one.

    UsageError for what is not there, a directory, a text, a program, an archive, and for bytes that nothing tells to
    be a disk. A file that can't be read is not judged: whoever opens it says so.
    """
    try:
        facts = path.stat()
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}", hint=_HINT) from e
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{path}: a directory, no disk image", hint=_HINT)
    if stat.S_ISBLK(facts.st_mode):
        return None
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{path}: neither a file nor a block device, so no disk image", hint=_HINT)
    if facts.st_size == 0:
        raise UsageError(f"{path}: empty, no disk image", hint="copy it from the source again")
    try:
        head, footer = _ends(path, facts.st_size)
    except PermissionError:
        return None
    except OSError as e:
        raise Refused(f"{path}: {e.strerror}", hint="look at the storage") from e
    return _judge(path, facts.st_size, head, footer)


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    """(the first bytes, the last sector)"""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, size - _SECTOR), os.SEEK_SET)
        return head, file.read(_SECTOR)


def _judge(path: Path, size: int, head: bytes, footer: bytes) -> Optional[str]:
    if _has(head, MARKS) or footer.startswith(FOOTERS) or _is_vmdk_text(head):
        return None
    for offset, mark, what, way in _OTHERS:
        if head.startswith(mark, offset) and not (offset < 510 and _has(head, _ON_DISKS[:1])):
            raise UsageError(f"{path}: {what}, no disk image", hint=way)
    if _has(head, _ON_DISKS) or footer.startswith(b"EFI PART"):
        return None
    if _is_text(head):
        raise UsageError(f"{path}: a text, no disk image", hint=_HINT)
    if size < SMALLEST:
        raise UsageError(f"{path}: {size} bytes and no image format that qemu knows: no disk image", hint=_HINT)
    if not head.strip(b"\0") or _RAW_NAME.fullmatch(path.name):
        return f"{path}: taken for a raw disk, though it has neither a partition table nor a file system that h2k knows"
    raise UsageError(
        f"{path}: no disk image: no format that qemu knows, no partition table and no file system",
        hint="if it is a raw disk all the same, call it NAME.raw",
    )


def _has(head: bytes, marks: tuple[tuple[int, bytes], ...]) -> bool:
    return any(head.startswith(mark, offset) for offset, mark in marks)


def _is_vmdk_text(head: bytes) -> bool:
    """A VMDK descriptor that names its extents; qemu takes comments before its version line."""
    start = head[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"# Disk DescriptorFile") or (b"version=" in start and b"createType=" in start)


def _is_text(head: bytes) -> bool:
    """Text of some encoding: no control characters but white space in the first block."""
    start = head[:4096]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return not any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in start)
