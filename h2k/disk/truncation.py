"""Whether an image file is all there: qemu opens a truncated qcow2, vmdk or vdi, and reads what is missing as zeros.

Each format's own tables say how far the file must reach. qemu itself checks vhdx and vpc when it opens them; a raw
image has only its partition table. Layouts: QEMU's docs/interop/qcow2.txt, VMware's Virtual Disk Format 5.0, QEMU's
block/vdi.c.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Callable

from h2k.base.errors import BadData
from h2k.disk.claims import vmdk_directory

SLACK = 1024 * 1024  # bytes of a qcow2 that may have been counted, and not yet written, when its host crashed
_MAX_REFCOUNT_TABLE = 8 * 1024 * 1024  # bytes; QEMU's own limit
_MAX_DIRECTORY = 4 * 1024 * 1024  # grain tables that a VMDK may have; its claims were checked before
_MAX_GRAIN_TABLES = 65_536  # that are looked at: 2 TiB of data with the usual grains, a second
_SECTOR = 512
_FURTHEST = 1 << 62  # bytes; no file is larger
_AT_END = (1 << 64) - 1
_QCOW2_DIRTY = 1
_End = Callable[[BinaryIO], int]  # how many bytes a file must have


def check_whole(info: Mapping[str, Any], path: Path, name: str) -> None:
    """BadData when the image that `qemu-img info` describes uses bytes that its files no longer have.

    `name` is what messages call it: the top of the chain that `path` belongs to.
    """
    if info["format"] == "vmdk":
        for extent in info["format-specific"]["data"]["extents"]:
            flat: _End = partial(_flat_end, size=extent["virtual-size"])
            _check(Path(extent["filename"]), name, _vmdk_end if "cluster-size" in extent else flat)
    elif info["format"] in _ENDS:
        _check(path, name, _ENDS[info["format"]])


def _check(file: Path, name: str, needed: _End) -> None:
    try:
        with open(file, "rb") as handle:
            end, size = needed(handle), handle.seek(0, os.SEEK_END)
    except (OSError, EOFError) as e:
        raise BadData(f"{name}: {file}: {e.strerror if isinstance(e, OSError) else e}", hint="copy it from the source again") from e
    if end > size:
        raise BadData(f"{name}: {file} is truncated: {size} bytes, where its tables use {end}", hint="copy it from the source again")


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    if offset < _FURTHEST:
        file.seek(offset)
    data = file.read(length) if offset < _FURTHEST else b""
    if len(data) != length:
        raise EOFError(f"truncated: its tables at byte {offset} are missing")
    return data


def _qcow2_end(file: BinaryIO) -> int:
    """The last cluster that has a reference count, whose table has one entry for each cluster of the file."""
    version, cluster_bits = struct.unpack(">I12xI", _at(file, 4, 20))
    table, clusters = struct.unpack(">QI", _at(file, 48, 12))
    order = 4
    if version >= 3:
        features, order = struct.unpack(">Q16xI", _at(file, 72, 28))
        if features & _QCOW2_DIRTY:
            return 0
    if not 9 <= cluster_bits <= 21 or order > 6:  # QEMU's own limits
        raise EOFError(f"damaged: clusters of 2^{cluster_bits} bytes, counts of 2^{order} bits")
    cluster: int = 1 << cluster_bits
    size = min(clusters * cluster, _MAX_REFCOUNT_TABLE)
    blocks = struct.unpack(f">{size // 8}Q", _at(file, table, size))
    used = [block & ~511 for block in blocks if block]
    if len(set(used)) != len(used) or len(used) * cluster > file.seek(0, os.SEEK_END) + cluster:
        raise EOFError(f"damaged: {len(used)} blocks of reference counts, more than it has room for, or one of them twice")
    for number in range(len(blocks) - 1, -1, -1):
        counts = _at(file, blocks[number] & ~511, cluster).rstrip(b"\0") if blocks[number] else b""
        if counts:
            last = number * (cluster * 8 >> order) + ((len(counts) * 8 - 1) >> order)
            # Without the slack a cluster that was counted for a write that never came would look like a loss.
            return max(0, last * cluster - SLACK)
    return 0


def _flat_end(_: BinaryIO, size: int) -> int:
    return size


def _vmdk_end(file: BinaryIO) -> int:
    """The last grain of a sparse extent; one that streams has its header again at the end of the file."""
    header = _at(file, 0, 80)
    if header[:4] != b"KDMV":
        return 0
    if vmdk_directory(header) == _AT_END:
        header = _at(file, max(0, file.seek(0, os.SEEK_END) - 2 * _SECTOR), 80)
        if header[:4] != b"KDMV":
            raise EOFError("truncated: its footer is missing")
    capacity, grain = struct.unpack_from("<QQ", header, 12)
    (entries,) = struct.unpack_from("<I", header, 44)
    tables = -(-capacity // max(1, grain * entries))
    if not 0 < tables <= _MAX_DIRECTORY or not 0 < entries <= 4096:
        return 0
    directory = struct.unpack(f"<{tables}I", _at(file, vmdk_directory(header) * _SECTOR, tables * 4))
    last, grains = 0, struct.Struct(f"<{entries}I")
    used: Iterator[int] = filter(None, directory)
    for table in itertools.islice(used, _MAX_GRAIN_TABLES):
        last = max(last, *grains.unpack(_at(file, table * _SECTOR, entries * 4)))
    end: int = (last + 1) * _SECTOR if last > 1 else 0  # 0: not allocated, 1: zeros
    return end


def _vdi_end(file: BinaryIO) -> int:
    """The last block: blocks are allocated one after the other."""
    (data,) = struct.unpack("<I", _at(file, 344, 4))
    block, _, _, allocated = struct.unpack("<4I", _at(file, 376, 16))
    end: int = data + block * allocated
    return end


_ENDS = {"qcow2": _qcow2_end, "vdi": _vdi_end}
