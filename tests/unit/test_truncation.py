"""Whether an image file is all there, by its format's own tables."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from h2k.disk import truncation

SECONDS = 60.0  # of the processor: what has no bound takes minutes, and a slow machine is no failure


@contextmanager
def in_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


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
