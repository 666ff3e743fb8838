"""What is a disk image and what is not, by content."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from h2k.base.errors import UsageError
from h2k.disk.recognize import SMALLEST, check_disk

MIB = 1024 * 1024


def at(offset: int, mark: bytes, size: int = MIB) -> bytes:
    """Bytes that look like nothing, with a mark among them."""
    data = bytearray(random.Random(7).randbytes(size))
    data[510:512] = b"\0\0"
    data[offset : offset + len(mark)] = mark
    return bytes(data)


DISKS = {
    "qcow2, small": b"QFI\xfb" + bytes(508),
    "vmdk": b"KDMV" + bytes(508),
    "vmdk, ESXi's old": b"COWD" + bytes(508),
    "vmdk, text": b"# Disk DescriptorFile\nversion=1\n",
    "vmdk, text with comments": b"# mine\nversion=1\ncreateType=\"monolithicFlat\"\n",
    "vhd": b"conectix" + bytes(504),
    "vhd, fixed": at(MIB - 512, b"conectix"),
    "vhdx": b"vhdxfile" + bytes(504),
    "vdi": at(64, b"\x7f\x10\xda\xbe"),
    "mbr": at(510, b"\x55\xaa"),
    "mbr, small": at(510, b"\x55\xaa", 4096),
    "gpt, its first sector gone": at(512, b"EFI PART"),
    "gpt of a 4Kn disk": at(4096, b"EFI PART"),
    "gpt, the backup alone": at(MIB - 512, b"EFI PART"),
    "ext4": at(0x438, b"\x53\xef"),
    "xfs": at(0, b"XFSB"),
    "lvm": at(512, b"LABELONE"),
    "mbr with boot code of GRUB's zip-like start": b"PK\3\4" + at(510, b"\x55\xaa")[4:],
}
OTHERS = {
    "empty": (b"", "empty"),
    "passwd": (b"root:x:0:0:root:/root:/bin/bash\n" * 40, "a text"),
    "a large text": (b"line of a log\n" * MIB, "a text"),
    "text in UTF-8": ("дом\n".encode() * 300_000, "a text"),
    "text in UTF-16": ("<domain/>" * 90_000).encode("utf-16"),
    "tiny": (b"\x01\x02junk\0", "7 bytes"),
    "noise": (at(0, b"", MIB), "no format that qemu knows"),
    "gzip": (b"\x1f\x8b\x08" + at(0, b"", MIB), "gzip"),
    "zip": (b"PK\3\4" + at(0, b"", MIB), "zip archive"),
    "tar": (at(257, b"ustar"), "tar archive"),
    "iso": (at(0x8001, b"CD001"), "CD-ROM"),
    "hive": (b"regf" + at(0, b"", MIB), "registry hive"),
    "program": (b"\x7fELF" + at(0, b"", MIB), "a program"),
}


@pytest.mark.parametrize("case", DISKS)
@pytest.mark.parametrize("name", ["image", "web.qcow2"])
def test_disks(case: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DISKS[case])
    assert check_disk(path) is None


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", ["image", "web.qcow2"])
def test_no_disks(case: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    entry = OTHERS[case]
    data, words = entry if isinstance(entry, tuple) else (entry, "a text")
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        check_disk(path)
    assert str(path) in str(caught.value) and "no disk image" in str(caught.value)


@pytest.mark.parametrize("name", ["g.raw", "g.IMG", "g.dd", "web-sda", "web-sdab", "web-flat.vmdk", "disk", "disk0"])
def test_a_raw_disk_by_its_name_alone_is_warned_about(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(at(0, b""))
    assert "taken for a raw disk" in (check_disk(path) or "")
    path.write_bytes(at(0, b"")[: SMALLEST - 512])
    with pytest.raises(UsageError, match="no disk image"):
        check_disk(path)
    path.write_bytes(b"just text\n" * 200_000)
    with pytest.raises(UsageError, match="a text"):
        check_disk(path)


def test_a_blank_disk_is_one(tmp_path: Path) -> None:
    with open(tmp_path / "data", "wb") as file:
        file.truncate(64 * MIB)
    assert "taken for a raw disk" in (check_disk(tmp_path / "data") or "")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path, "a directory"), (tmp_path / "pipe", "neither a file"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=words):
            check_disk(path)
    (tmp_path / "long").symlink_to("long")
    with pytest.raises(UsageError, match="long"):
        check_disk(tmp_path / "long")
