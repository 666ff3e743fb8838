"""NTFS facts from raw bytes: the dirty flag, $LogFile, and every way in which a boot sector or a record may be wrong."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.disk.ntfs import LINK, NtfsVolumeState, reparse_reason, volume_state

START = 4096
CLUSTER, RECORD = 4096, 1024
MFT, LOG = 2, 4  # in clusters
SIZE = START + 8 * CLUSTER
CLEAN, NO_CLIENT = 2, 0xFFFF


def record(*attributes: bytes) -> bytes:
    """A file record with its fixups made."""
    body = b"".join(attributes) + struct.pack("<II", 0xFFFFFFFF, 0)
    head = struct.pack("<4sHHQHHHHII", b"FILE", 48, 3, 0, 1, 1, 56, 1, 56 + len(body), RECORD)
    data = bytearray((head.ljust(56, b"\0") + body).ljust(RECORD, b"\0"))
    data[48:50] = b"\x07\x00"
    for sector in (1, 2):
        end = 512 * sector
        data[48 + 2 * sector : 50 + 2 * sector] = data[end - 2 : end]
        data[end - 2 : end] = data[48:50]
    return bytes(data)


def resident(kind: int, content: bytes) -> bytes:
    size = -(-(24 + len(content)) // 8) * 8
    return (struct.pack("<IIBBHHHIHH", kind, size, 0, 0, 24, 0, 0, len(content), 24, 0) + content).ljust(size, b"\0")


def runs(*pairs: tuple[int, int]) -> bytes:
    """A $DATA attribute of (clusters, first cluster relative to the last run) runs."""
    coded = b"".join(struct.pack("<BHi", 0x42, count, step) for count, step in pairs) + b"\0"
    size = -(-(64 + len(coded)) // 8) * 8
    return (struct.pack("<IIBBHHHQQHH4xQQQ", 0x80, size, 1, 0, 64, 0, 0, 0, 1, 64, 0, 8192, 8192, 8192) + coded).ljust(size, b"\0")


def page(lsn: int, in_use: int, flags: int, magic: bytes = b"RSTR") -> bytes:
    area = struct.pack("<QHHHH", lsn, 1, 0, in_use, flags)
    return (struct.pack("<4sHHQIIHHH", magic, 30, 9, 0, 4096, 4096, 64, 1, 1).ljust(64, b"\0") + area).ljust(4096, b"\0")


def volume(
    flags: int = 0, pages: tuple[bytes, bytes] = (b"\xff" * 4096, b"\xff" * 4096), log: bytes = runs((2, LOG)), boot: bytes = b""
) -> bytearray:
    content = bytearray(SIZE)
    sector = bytearray(512)
    sector[3:11] = b"NTFS    "
    struct.pack_into("<HB", sector, 11, 512, CLUSTER // 512)
    struct.pack_into("<Q", sector, 48, MFT)
    sector[64] = 0xF6  # 2 ** 10 bytes
    content[START : START + 512] = boot or sector
    information = resident(0x70, bytes(8) + bytes([3, 1]) + struct.pack("<H", flags) + bytes(4))
    at = START + MFT * CLUSTER
    content[at + 2 * RECORD : at + 3 * RECORD] = record(resident(0x10, bytes(48)), log)
    content[at + 3 * RECORD : at + 4 * RECORD] = record(resident(0x10, bytes(48)), information)
    for number, data in enumerate(pages):
        place = START + LOG * CLUSTER + 4096 * number
        content[place : place + 4096] = data
    return content


def state(content: bytes) -> NtfsVolumeState:
    return volume_state(lambda at, length: bytes(content[max(at, 0) : max(at + length, 0)]), START, "disk")


def test_clean() -> None:
    assert state(volume()) == NtfsVolumeState(False, False, "3.1")


@pytest.mark.parametrize("flags", [1, 0x8001])
def test_dirty(flags: int) -> None:
    assert state(volume(flags)).dirty


def test_other_flags_are_not_dirty() -> None:
    assert not state(volume(0x4086)).dirty


EMPTY = b"\xff" * 4096


@pytest.mark.parametrize(
    ("pages", "unclean"),
    [
        ((EMPTY, EMPTY), False),
        ((page(5, 0, 0), EMPTY), True),
        ((page(5, 0, 0), page(6, 0, 0)), True),
        ((page(5, 0, 0), page(6, NO_CLIENT, 0)), False),  # the newer one counts
        ((page(7, 0, 0), page(6, NO_CLIENT, 0)), True),
        ((page(5, 0, CLEAN), page(4, 0, 0)), False),
        ((page(5, NO_CLIENT, 0), EMPTY), False),
        ((page(5, 0, 0, b"CHKD"), EMPTY), False),
        ((bytes(4096), bytes(4096)), True),
        ((b"junk" * 1024, EMPTY), True),
        ((b"RSTR" + bytes(20) + b"\xff\xff" + bytes(4070), EMPTY), True),
    ],
)
def test_log(pages: tuple[bytes, bytes], unclean: bool) -> None:
    assert state(volume(pages=pages)).log_unclean is unclean


def test_log_in_two_runs() -> None:
    content = volume(pages=(page(5, NO_CLIENT, 0), EMPTY), log=runs((1, LOG), (1, 2)))
    place = START + (LOG + 2) * CLUSTER
    content[place : place + 4096] = page(6, 0, 0)
    assert state(content).log_unclean


@pytest.mark.parametrize("log", [resident(0x80, bytes(16)), resident(0x20, bytes(16)), runs(), runs((2, -100))])
def test_log_that_can_not_be_found_is_not_called_clean(log: bytes) -> None:
    assert state(volume(log=log)).log_unclean


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (3, b"XXXX", "no NTFS boot sector"),
        (11, b"\x00\x00", "impossible sizes"),
        (13, b"\x00", "impossible sizes"),
        (13, b"\x81", "impossible sizes"),
        (48, b"\xff" * 8, "damaged"),
        (64, b"\x00", "impossible sizes"),
        (64, b"\x80", "impossible sizes"),
        (MFT * CLUSTER + 3 * RECORD, b"BAAD", "file record 3: damaged"),
        (MFT * CLUSTER + 3 * RECORD + 4, b"\xff\xff", "file record 3: damaged"),
        (MFT * CLUSTER + 3 * RECORD + 510, b"\x00\x00", "file record 3: torn"),
        (MFT * CLUSTER + 3 * RECORD + 56 + 4, bytes(4), "without an end"),
        (MFT * CLUSTER + 3 * RECORD + 20, b"\xff\xff", "without an end"),
        (MFT * CLUSTER + 2 * RECORD + 56 + 4, b"\xff\xff", "without an end"),
    ],
)
def test_damage(at: int, data: bytes, words: str) -> None:
    content = volume()
    content[START + at : START + at + len(data)] = data
    with pytest.raises(BadData, match=f"^disk: .*{words}"):
        state(content)


def test_truncated() -> None:
    for size in range(0, START + (MFT + 1) * CLUSTER, 512):
        with pytest.raises(BadData, match=r"^disk: "):
            state(volume()[:size])


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 30))
def test_random_damage(seed: int, count: int) -> None:
    chance, content = random.Random(seed), volume()
    for _ in range(count):
        at = START + chance.choice((chance.randrange(90), chance.randrange(SIZE - START), MFT * CLUSTER + chance.randrange(4 * RECORD)))
        content[at : at + 2] = chance.randbytes(2)
    try:
        state(content)
    except BadData as bad:
        assert str(bad).startswith("disk: ")


@pytest.mark.parametrize(
    ("tag", "directory", "reason"),
    [
        (None, False, ""), (0x80000017, False, "WOF"), (0xA0000003, True, LINK), (0xA000000C, False, LINK),
        (0x80000013, False, "0x80000013"), (0x9000701A, True, ""),
    ],
)  # fmt: skip
def test_reparse_reason(tag: int, directory: bool, reason: str) -> None:
    why = reparse_reason(tag, directory)
    assert reason in why and bool(why) is bool(reason)
