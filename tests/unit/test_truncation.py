"""Whether an image file is all there, by its format's own tables."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData
from h2k.disk import truncation
from h2k.disk.truncation import check_whole
from tests.unit.helpers import in_time


def qcow2(*blocks: int, size: int = 1 << 20) -> io.BytesIO:
    """A qcow2 of 64 KiB clusters whose table of reference counts, in its second cluster, names these blocks."""
    data = bytearray(size)
    struct.pack_into(">4sIQIIQIIQQIIQ", data, 0, b"QFI\xfb", 3, 0, 0, 16, 1 << 40, 0, 0, 0, 1 << 16, 128, 0, 0)
    struct.pack_into(">I", data, 96, 4)
    struct.pack_into(f">{len(blocks)}Q", data, 1 << 16, *blocks)
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize("blocks", [[1 << 17] * 60_000, [n << 17 for n in range(1, 60_000)]], ids=["shared", "more than the file"])
def test_a_table_of_reference_counts_that_claims_more_than_there_is(blocks: list[int]) -> None:
    with in_time(), pytest.raises(EOFError, match=r"damaged: .* blocks of reference counts"):
        truncation._qcow2_end(qcow2(*blocks, size=9 << 20))
    with pytest.raises(EOFError, match="missing"):
        truncation._qcow2_end(qcow2(0xFF << 56, size=9 << 20))
    assert truncation._qcow2_end(qcow2(1 << 17, size=9 << 20)) == 0


def test_headers_that_no_image_has() -> None:
    """What the attack found: a VMDK whose grain tables have no entry, clusters of any size, a name that holds NUL."""
    sparse = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, 2048, 128, 1, 20, 0, 21, 26, 32).ljust(64 * 512, b"\0")
    assert truncation._vmdk_end(io.BytesIO(sparse)) == 0
    head = bytearray(qcow2(1 << 17, size=9 << 20).getvalue())
    struct.pack_into(">I", head, 20, 0x7FFFFFFF)
    with in_time(), pytest.raises(EOFError, match="damaged: clusters of"):
        truncation._qcow2_end(io.BytesIO(bytes(head)))


# A file of the disk


CLUSTER = 1 << 16
MIB = 1 << 20


def counted(last: int, order: int = 4, block: int = 0, features: int = 0, version: int = 3, clusters: int = 1) -> bytes:
    """The start of a qcow2 in which the last cluster that has a reference count is that one of the block's."""
    data = bytearray(4 * CLUSTER)
    struct.pack_into(">4sIQIIQIIQQII", data, 0, b"QFI\xfb", version, 0, 0, 16, 1 << 40, 0, 0, 0, CLUSTER, clusters, 0)
    struct.pack_into(">Q16xI", data, 72, features, order)
    struct.pack_into(">Q", data, CLUSTER + 8 * block, 2 * CLUSTER)
    bits = 1 << order
    data[2 * CLUSTER + last * bits // 8 + (bits // 8 - 1 if bits >= 8 else 0)] = 1 << (last * bits % 8)
    return bytes(data)


def sized(path: Path, start: bytes, size: int) -> Path:
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def whole(form: str, start: bytes, end: int, place: Path) -> None:
    """A file that reaches to `end` is whole, and one of a byte less is truncated."""
    check_whole({"format": form}, sized(place / "g", start, end), "top.img")
    with pytest.raises(BadData, match=f"top.img: .*/g is truncated: {end - 1} bytes, where its tables use {end}") as told:
        check_whole({"format": form}, sized(place / "g", start, end - 1), "top.img")
    assert told.value.hint


@pytest.mark.parametrize(("order", "last"), [(4, 100), (3, 100), (5, 100), (6, 100), (0, 103), (1, 103), (2, 101)])
def test_a_qcow2_reaches_to_its_last_counted_cluster(order: int, last: int, tmp_path: Path) -> None:
    """By the bytes of the counts: of those smaller than a byte the last of the byte is meant."""
    whole("qcow2", counted(last, order), last * CLUSTER - truncation.SLACK, tmp_path)


def test_a_later_block_of_counts_counts_from_its_own_place(tmp_path: Path) -> None:
    whole("qcow2", counted(3, block=1), (32768 + 3) * CLUSTER - truncation.SLACK, tmp_path)


def test_an_old_qcow2_has_counts_of_16_bits(tmp_path: Path) -> None:
    whole("qcow2", counted(100, 4, version=2, features=1), 100 * CLUSTER - truncation.SLACK, tmp_path)


@pytest.mark.parametrize("start", [counted(5), counted(100, features=1)], ids=["within the slack", "dirty"])
def test_a_qcow2_whose_counts_say_nothing(start: bytes, tmp_path: Path) -> None:
    check_whole({"format": "qcow2"}, sized(tmp_path / "g", start, 4 * CLUSTER), "top.img")


def test_a_qcow2_whose_own_tables_are_missing(tmp_path: Path) -> None:
    for size in (10, 60, 90, CLUSTER + 100, 2 * CLUSTER + 100):
        with pytest.raises(BadData, match=r"its tables at byte .* are missing"):
            check_whole({"format": "qcow2"}, sized(tmp_path / "g", counted(100), size), "top.img")


def vmdk(last: int, directory: int = 21, table: int = 26, capacity: int = 1 << 18, magic: bytes = b"KDMV") -> bytes:
    """A sparse extent whose last grain begins at that sector."""
    data = bytearray(64 * 512)
    struct.pack_into("<4sIIQQQQIQQQ", data, 0, magic, 1, 3, capacity, 128, 1, 20, 512, 21, directory, 32)
    struct.pack_into("<4I", data, 21 * 512, table, 0, 0, 0)
    struct.pack_into("<3I", data, 26 * 512, 0, last, 1)
    return bytes(data)


def vmdk_info(path: Path, size: int = 0) -> dict[str, Any]:
    extent: dict[str, Any] = {"filename": str(path), "virtual-size": size, **({} if size else {"cluster-size": 65536})}
    return {"format": "vmdk", "format-specific": {"data": {"extents": [extent]}}}


def test_a_vmdk_reaches_to_its_last_grain(tmp_path: Path) -> None:
    path = tmp_path / "g-s001.vmdk"
    for last, needed in ((3000, 3001 * 512), (0, 0), (1, 0)):  # 0: not allocated, 1: zeros
        check_whole(vmdk_info(path), sized(path, vmdk(last), max(needed, 64 * 512)), "g.vmdk")
    with pytest.raises(BadData, match=r"g\.vmdk: .*g-s001\.vmdk is truncated: 1536511 bytes, where its tables use 1536512"):
        check_whole(vmdk_info(path), sized(path, vmdk(3000), 3001 * 512 - 1), "g.vmdk")
    check_whole(vmdk_info(path), sized(path, vmdk(3000, magic=b"COWD"), 64 * 512), "g.vmdk")


def test_a_vmdk_that_streams_has_its_directory_named_at_the_end(tmp_path: Path) -> None:
    path, end = tmp_path / "g.vmdk", 4000 * 512
    start = vmdk(3000, directory=(1 << 64) - 1)
    with pytest.raises(BadData, match="truncated: its footer is missing"):
        check_whole(vmdk_info(path), sized(path, start, end), "g.vmdk")
    sized(path, start, end)
    with open(path, "r+b") as file:
        file.seek(end - 1024)
        file.write(vmdk(0)[:512])
    check_whole(vmdk_info(path), path, "g.vmdk")
    with open(path, "r+b") as file:
        file.seek(26 * 512 + 4)
        file.write(struct.pack("<I", 5000))
    with pytest.raises(BadData, match="where its tables use 2560512"):
        check_whole(vmdk_info(path), path, "g.vmdk")


@pytest.mark.parametrize("missing", [False, True])
def test_every_flat_extent_has_its_size(missing: bool, tmp_path: Path) -> None:
    path = tmp_path / "g-flat.vmdk"
    if missing:
        with pytest.raises(BadData, match=r"g\.vmdk: .*g-flat\.vmdk: No such file or directory"):
            check_whole(vmdk_info(path, MIB), path, "g.vmdk")
        return
    check_whole(vmdk_info(path, MIB), sized(path, b"", MIB), "g.vmdk")
    with pytest.raises(BadData, match="is truncated: 1048575 bytes"):
        check_whole(vmdk_info(path, MIB), sized(path, b"", MIB - 1), "g.vmdk")


def test_only_so_many_grain_tables_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sized(tmp_path / "g.vmdk", vmdk(3000), 64 * 512)
    monkeypatch.setattr(truncation, "_MAX_GRAIN_TABLES", 0)
    check_whole(vmdk_info(path), path, "g.vmdk")
    monkeypatch.setattr(truncation, "_MAX_GRAIN_TABLES", 1)
    with pytest.raises(BadData, match="truncated"):
        check_whole(vmdk_info(path), path, "g.vmdk")


def test_a_vdi_reaches_to_its_last_block(tmp_path: Path) -> None:
    start = bytearray(512)
    struct.pack_into("<I", start, 344, 8192)
    struct.pack_into("<4I", start, 376, MIB, 0, 40, 3)
    whole("vdi", bytes(start), 8192 + 3 * MIB, tmp_path)


def test_what_qemu_checks_itself_and_what_has_no_tables_is_not_opened() -> None:
    for form in ("raw", "vhdx", "vpc"):
        check_whole({"format": form}, Path("/nowhere"), "g")
