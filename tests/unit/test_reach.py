"""Images that name files which are none of theirs: told by their own bytes, before QEMU opens what they name."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2k.base.errors import BadData, Refused
from h2k.disk.reach import allow_under, check_backing, check_format, check_reach

DESCRIPTOR = '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n{}\n'


@pytest.fixture(autouse=True)
def nothing_allowed() -> Iterator[None]:
    yield
    allow_under([])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "vm").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").touch()
    return tmp_path / "vm"


def qcow2(path: Path, features: int, version: int = 3) -> Path:
    head = bytearray(512)
    struct.pack_into(">4sI", head, 0, b"QFI\xfb", version)
    struct.pack_into(">Q", head, 72, features)
    path.write_bytes(bytes(head))
    return path


def vmdk(path: Path, *extents: str, start: str = "") -> Path:
    lines = "\n".join(f'RW 2048 FLAT "{extent}" 0' for extent in extents)
    path.write_bytes((start + DESCRIPTOR.format(lines)).encode())
    return path


def test_an_external_data_file(home: Path) -> None:
    check_reach(qcow2(home / "good", 0), home / "good")
    check_reach(qcow2(home / "old", 4, version=2), home / "old")  # there the bytes are something else
    image = qcow2(home / "g.qcow2", 4)
    with pytest.raises(Refused, match=r"g\.qcow2: keeps its data in another file.*--h2k-allow-under DIR"):
        check_reach(image, image)
    check_reach(image, image, "raw")  # whatever its bytes are, QEMU takes them for the disk's
    allow_under([str(home)])
    check_reach(image, image)


@pytest.mark.parametrize("extent", ["/etc/shadow", "../other/secret", "a/../../other/secret", "//etc/shadow", "link"])
def test_an_extent_elsewhere(extent: str, home: Path) -> None:
    (home / "link").symlink_to(home.parent / "other" / "secret")
    check_reach(vmdk(home / "good.vmdk", "g-flat.vmdk", "parts/g-s001.vmdk"), home / "good.vmdk")
    image = vmdk(home / "g.vmdk", "g-flat.vmdk", extent)
    with pytest.raises(Refused, match=r"g\.vmdk: reaches beyond its directory: an extent"):
        check_reach(image, image)
    allow_under([str(home.parent / "other"), "/etc"])
    check_reach(image, image)


def test_an_extent_that_could_be_no_file(home: Path) -> None:
    (home / "circle").symlink_to("circle")
    for extent in ("a\0b", "x" * 5000, "circle"):
        image = vmdk(home / "g.vmdk", extent)
        with contextlib.suppress(BadData):  # which of these resolve depends on the version of Python
            check_reach(image, image)
    with pytest.raises(BadData, match=r"g\.vmdk: names no file that could be"):
        check_reach(vmdk(home / "g.vmdk", "a\0b"), home / "g.vmdk")


def test_every_form_of_a_descriptor(home: Path) -> None:
    """As QEMU takes them: with comments and blank lines before it, and embedded in a sparse file without capacity."""
    bad = vmdk(home / "a.vmdk", "/etc/shadow", start="\n\n# x\n")
    with pytest.raises(Refused, match="an extent"):
        check_reach(bad, bad)
    text = vmdk(home / "b.vmdk", "/etc/shadow").read_bytes()
    bad.write_bytes(struct.pack("<4sII4Q", b"KDMV", 1, 0, 0, 128, 1, 2).ljust(512, b"\0") + text.ljust(1024, b"\0"))
    with pytest.raises(Refused, match="an extent"):
        check_reach(bad, bad)
    bad.write_bytes(struct.pack("<4sII4Q", b"KDMV", 1, 0, 4096, 128, 1, 2).ljust(512, b"\0") + text)
    check_reach(bad, bad)  # with a capacity it holds its data itself
    many = vmdk(home / "c.vmdk", *["x"] * 5000)
    with pytest.raises(BadData, match="5000 extents"):
        check_reach(many, many)


def test_a_backing_file_elsewhere(home: Path) -> None:
    image, below = home / "g.qcow2", home / "snapshots" / "base"
    check_backing(image, image, home / "base")
    check_backing(image, image, below)
    with pytest.raises(Refused, match=r"its backing file .* lies in another directory"):
        check_backing(image, image, home.parent / "other" / "secret")
    (home / "link").symlink_to(home.parent / "other" / "secret")
    with pytest.raises(Refused, match="another directory"):
        check_backing(image, image, home / "link")
    allow_under([str(home.parent / "other")])
    check_backing(image, image, home / "link")


@pytest.mark.parametrize("format", ["vvfat", "blkdebug", "json:{}", "nbd", "raw,file.filename=/etc/shadow", ""])
def test_what_is_no_format(format: str) -> None:
    with pytest.raises(Refused, match="no format of an image"):
        check_format(format, Path("/x"))
    for known in ("raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"):
        check_format(known, Path("/x"))
