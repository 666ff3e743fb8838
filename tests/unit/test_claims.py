"""What image headers claim: tables of every format, told from the file's own bytes before QEMU reads a table."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Callable

import pytest

from h2k.base.errors import BadData, Refused
from h2k.disk.claims import MIB, check_claims

CLUSTER = 1 << 16


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "g.img"


def put(path: Path, *pieces: tuple[int, bytes], size: int = 8 * MIB) -> Path:
    """A sparse file of that size with these bytes in it."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at, data in pieces:
            file.seek(at)
            file.write(data)
    return path


def qcow2(
    l1: tuple[int, int] = (2 * CLUSTER, 8), counts: tuple[int, int] = (CLUSTER, 1), snapshots: tuple[int, int] = (0, 0), bits: int = 16,
    version: int = 3,
) -> tuple[int, bytes]:  # fmt: skip
    """The header: (offset, number) of each table."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, 0, 0, bits, 1 << 33)
    head += struct.pack(">IIQQIIQ", 0, l1[1], l1[0], counts[0], counts[1], snapshots[1], snapshots[0])
    return 0, head + struct.pack(">QQQII", 0, 0, 0, 4, 104) if version > 2 else head


def entries(*numbers: int, code: str = ">Q") -> bytes:
    return b"".join(struct.pack(code, number) for number in numbers)


def snapshot(at: int, size: int) -> bytes:
    return struct.pack(">QIHHIIQII", at, size, 0, 0, 0, 0, 0, 0, 0)


def bitmap(at: int, size: int) -> bytes:
    return struct.pack(">QIIBBHI", at, size, 0, 1, 16, 0, 0)


def bitmaps(count: int, at: int, size: int) -> tuple[int, bytes]:
    """The extension behind a qcow2's header."""
    return 104, struct.pack(">IIIIQQ", 0x23852875, 24, count, 0, size, at)


def vmdk(directory: int = 21, capacity: int = 1 << 21, grain: int = 128, table: int = 512) -> tuple[int, bytes]:
    return 0, struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, capacity, grain, 1, 20, table, 21, directory, 32)


def vhdx(bat: tuple[int, int], log: tuple[int, int] = (MIB, MIB)) -> list[tuple[int, bytes]]:
    region = b"regi" + struct.pack("<III", 0, 1, 0) + bytes.fromhex("6677c22d23f600429d64115e9bfd4a08") + struct.pack("<QII", *bat, 1)
    head = b"head" + bytes(44) + b"guid of the log." + struct.pack("<HHIQ", 0, 1, log[1], log[0])
    return [(0, b"vhdxfile"), (64 * 1024, head), (192 * 1024, region)]


def vhd(kind: int, table: int, blocks: int) -> list[tuple[int, bytes]]:
    footer = (b"conectix" + bytes(8) + struct.pack(">Q", 512)).ljust(60, b"\0") + struct.pack(">I", kind)
    return [(0, footer), (512, b"cxsparse" + bytes(8) + struct.pack(">QII", table, 0, blocks))]


SOUND: dict[str, list[tuple[int, bytes]]] = {
    "qcow2": [qcow2(snapshots=(3 * CLUSTER, 2)), (2 * CLUSTER, entries(4 * CLUSTER | 1 << 63, 0, 0, 5 * CLUSTER)),
              (3 * CLUSTER, snapshot(6 * CLUSTER, 8) + snapshot(7 * CLUSTER, 8)), (6 * CLUSTER, entries(4 * CLUSTER)), (7 * CLUSTER, entries(4 * CLUSTER))],
    "qcow2 with bitmaps": [qcow2(), bitmaps(1, 3 * CLUSTER, 32), (3 * CLUSTER, bitmap(4 * CLUSTER, 8))],
    "qcow2, version 2": [qcow2(version=2)],
    "qcow": [(0, struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", 1, 0, 0, 0, 1 << 33, 12, 9, 0, 0, 48))],
    "qed": [(0, struct.pack("<4sIIIQQQQ", b"QED\0", CLUSTER, 4, 1, 0, 0, 0, CLUSTER)), (CLUSTER, entries(5 * CLUSTER, 9 * CLUSTER, code="<Q"))],
    "vmdk": [vmdk(), (21 * 512, entries(30, 0, 40, 0, code="<I"))],
    "vmdk of an old server": [(0, struct.pack("<4sIIIIII", b"COWD", 1, 3, 1 << 20, 1, 4, 64))],
    "vhdx": vhdx((2 * MIB, MIB)),
    "vhd": vhd(3, 2048, 1000),
    "vdi": [(64, b"\x7f\x10\xda\xbe"), (340, struct.pack("<I", 512)), (384, struct.pack("<I", 1000))],
    "parallels": [(0, b"WithoutFreeSpace"), (32, struct.pack("<I", 1000))],
    "cloop": [(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"), (128, struct.pack(">II", 65536, 1000))],
    "raw": [(0, b"\x33\xc0")],
}  # fmt: skip


@pytest.mark.parametrize("pieces", SOUND.values(), ids=SOUND)
def test_a_sound_one(pieces: list[tuple[int, bytes]], image: Path) -> None:
    check_claims(put(image, *pieces), "g.img")


QCOW1 = b"QFI\xfb" + struct.pack(">IQIIQBBHIQ", 1, 0, 0, 0, 1 << 60, 9, 6, 0, 0, 48)
HOSTILE: dict[str, tuple[list[tuple[int, bytes]], str]] = {
    "clusters of any size": ([qcow2(bits=40)], "damaged: clusters"),
    "an L1 table behind the end": ([qcow2(l1=(8 * MIB - 8, 8))], "truncated: its L1 table"),
    "an L1 table of GiB": ([qcow2(l1=(CLUSTER, 1 << 31))], "its L1 table claims 17179869184 bytes"),
    "an L1 table that names one L2 table": ([qcow2(l1=(CLUSTER, 4096)), (CLUSTER, entries(*([3 * CLUSTER] * 4096)))], "one of its L2 tables is used twice"),
    "counts of TiB": ([qcow2(counts=(CLUSTER, 1 << 31))], "reference counts claims"),
    "counts behind the end": ([qcow2(counts=(8 * MIB, 1))], "truncated: its table of reference counts"),
    "a million snapshots": ([qcow2(snapshots=(CLUSTER, 1 << 20))], "1048576 snapshots"),
    "snapshots behind the end": ([qcow2(snapshots=(8 * MIB - 50, 2))], "truncated: its snapshots"),
    "one table of many snapshots": ([qcow2(snapshots=(3 * CLUSTER, 2)), (3 * CLUSTER, snapshot(4 * CLUSTER, 8) * 2)], "table of snapshots makes no sense"),
    "a snapshot of MiB of extra data": ([qcow2(snapshots=(3 * CLUSTER, 1)), (3 * CLUSTER, snapshot(0, 0)[:36] + b"\xff" * 4)], "table of snapshots makes no sense"),
    "a snapshot's table of GiB": ([qcow2(snapshots=(3 * CLUSTER, 1)), (3 * CLUSTER, snapshot(CLUSTER, 1 << 30))], "its L1 table claims"),
    "many bitmaps": ([qcow2(), bitmaps(5000, CLUSTER, 64)], "5000 bitmaps"),
    "a directory of bitmaps of GiB": ([qcow2(), bitmaps(1, CLUSTER, 1 << 30)], "directory of bitmaps claims"),
    "a bitmap of GiB": ([qcow2(), bitmaps(1, 3 * CLUSTER, 32), (3 * CLUSTER, bitmap(4 * CLUSTER, 1 << 27))], "table of a bitmap claims"),
    "qcow: a table of GiB": ([(0, QCOW1)], "its L1 table claims"),
    "qcow: clusters of any size": ([(0, QCOW1[:32] + b"\x20\x20" + QCOW1[34:])], "damaged: clusters"),
    "qed: a table of GiB": ([(0, struct.pack("<4sIIIQQQQ", b"QED\0", 1 << 26, 16, 1, 0, 0, 0, CLUSTER))], "its L1 table claims 1073741824"),
    "qed: one L2 table": ([SOUND["qed"][0], (CLUSTER, entries(5, 5, code="<Q"))], "used twice"),
    "vmdk: a directory of GiB": ([vmdk(capacity=1 << 60)], "grain directory claims"),
    "vmdk: a directory behind the end": ([vmdk(directory=1 << 20)], "truncated: its grain directory"),
    "vmdk: one table": ([vmdk(), (21 * 512, entries(30, 30, code="<I"))], "one of its grain tables is used twice"),
    "vmdk: tables of nothing": ([vmdk(table=0)], "damaged: grains"),
    "vmdk: grains of nothing": ([vmdk(grain=0)], "damaged: grains"),
    "vmdk of an old server": ([(0, struct.pack("<4sIIIIII", b"COWD", 1, 3, 1 << 20, 1, 4, 1 << 30))], "grain directory claims"),
    "vmdk of a new server": ([(0, struct.pack("<QQ", 0xCAFEBABE, 0)), (128, struct.pack("<QQ", 1, 1 << 30))], "grain directory claims"),
    "vhdx: a table of GiB": (vhdx((2 * MIB, 0xFFF00000)), "block allocation table claims"),
    "vhdx: a table behind the end": (vhdx((8 * MIB, MIB)), "truncated: its block allocation table"),
    "vhdx: a log of GiB": (vhdx((2 * MIB, MIB), (MIB, 0xFFF00000)), "its log claims"),
    "vhd: a table of GiB": (vhd(3, 2048, 1 << 29), "block allocation table claims"),
    "vdi: a map of GiB": ([SOUND["vdi"][0], (384, struct.pack("<I", 0x3FFFFFFF))], "block map claims"),
    "parallels: a map of GiB": ([(0, b"WithouFreSpacExt"), (32, struct.pack("<I", 1 << 28))], "block map claims"),
    "cloop: a table of GiB": ([SOUND["cloop"][0], (132, struct.pack(">I", 1 << 28))], "table of blocks claims"),
}


@pytest.mark.parametrize(("pieces", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_one(pieces: list[tuple[int, bytes]], words: str, image: Path) -> None:
    with pytest.raises(BadData, match=words) as told:
        check_claims(put(image, *pieces), "g.img")
    assert str(told.value).startswith("g.img: ") and told.value.hint
    check_claims(image, "g.img", "raw")  # whatever its bytes are, QEMU takes them for the disk's


def test_a_differencing_vhd_is_no_disk(image: Path) -> None:
    """QEMU takes it for a fixed one, and what is in the file for what is on the disk."""
    with pytest.raises(Refused, match=r"a differencing VHD.*merge it into its parent"):
        check_claims(put(image, *vhd(4, 2048, 1000)), "g.img")


@pytest.mark.parametrize(("flags", "entry", "refused"), [(2, 5, True), (3, 1, True), (1, 1, False), (2, 1024, False)])
def test_a_differencing_vhdx_is_no_disk(flags: int, entry: int, refused: bool, image: Path) -> None:
    """By the flag in its parameters, wherever among the entries of the metadata they stand."""
    region = b"regi" + struct.pack("<III", 0, 1, 0) + bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e") + struct.pack("<QII", 3 * MIB, MIB, 1)
    parameters = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b") + struct.pack("<III", 65536, 8, 4)
    pieces = [(3 * MIB, b"metadata"), (3 * MIB + 32 * entry, parameters), (3 * MIB + 65536, struct.pack("<II", MIB, flags))]
    put(image, (0, b"vhdxfile"), (192 * 1024, region), *pieces)
    if refused:
        with pytest.raises(Refused, match=r"a differencing VHDX.*merge it into its parent"):
            check_claims(image, "g.img")
    else:
        check_claims(image, "g.img")


def test_snapshots_that_name_more_than_can_be_checked(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(image, *SOUND["qcow2"])
    own = 4 * image.stat().st_blocks * 512
    monkeypatch.setattr("h2k.disk.claims._WORK", 4 * CLUSTER - own)
    check_claims(image, "g.img")  # two tables of its own, one of each snapshot
    monkeypatch.setattr("h2k.disk.claims._WORK", 4 * CLUSTER - own - 1)
    with pytest.raises(BadData, match=r"its states name 4 tables .* \(delete snapshots"):
        check_claims(image, "g.img")


def test_a_file_of_holes_is_not_counted_for_minutes(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(image, *SOUND["qcow2"], size=6 << 40)
    check_claims(image, "g.img")
    with pytest.raises(BadData, match=r"nearly all of them holes"):
        check_claims(put(image, *SOUND["qcow2"], size=(6 << 40) + (1 << 30)), "g.img")


def test_more_tables_than_h2k_reads(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.disk.claims._MAX_TABLES", 1)
    with pytest.raises(BadData, match="2 L2 tables, more than h2k reads"):
        check_claims(put(image, *SOUND["qcow2"]), "g.img")


@pytest.mark.parametrize("end", ["footer", "none"])
def test_a_vmdk_that_streams_has_its_directory_at_its_end(end: str, image: Path) -> None:
    footer = (8 * MIB - 1024, vmdk(capacity=1 << 60)[1]) if end == "footer" else (0, b"")
    put(image, vmdk(directory=(1 << 64) - 1), footer)
    if end == "footer":
        with pytest.raises(BadData, match="grain directory claims"):
            check_claims(image, "g.img")
    else:
        check_claims(image, "g.img")  # truncated, as h2k.disk.truncation says


def extents(*names: str) -> bytes:
    lines = "\n".join(f'RW 2048 SPARSE "{name}"' for name in names)
    return f'# Disk DescriptorFile\nversion=1\ncreateType="twoGbMaxExtentSparse"\n{lines}\n'.encode()


def test_the_extents_of_a_vmdk_count_together(image: Path) -> None:
    size = 16 * MIB + 64 * 1024
    make: Callable[[str], Path] = lambda name: put(image.with_name(name), vmdk(capacity=(1 << 22) * 128 * 512), size=size)  # noqa: E731
    image.write_bytes(extents(*(make(f"s{n}").name for n in range(8)), "none"))
    check_claims(image, "g.img")
    image.write_bytes(extents(*(make(f"s{n}").name for n in range(9))))
    with pytest.raises(BadData, match=r"g\.img: its grain directory claims"):
        check_claims(image, "g.img")
    image.write_bytes(extents("q"))
    put(image.with_name("q"), qcow2(bits=40))  # QEMU takes an extent for nothing but a VMDK
    check_claims(image, "g.img")
