"""A VHDX that was not closed: its log has an entry that has still to be replayed (MS-VHDX 2.3)."""

from __future__ import annotations

import struct
import subprocess
import uuid
from pathlib import Path

_HEADERS = (64 * 1024, 128 * 1024)
_HEADER, _ENTRY = 4096, 4096  # bytes that their checksums are over


def make_dirty_vhdx(path: Path) -> Path:
    """An empty disk with one log entry that describes nothing; qemu opens it for writing alone."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", str(path), "64M"], check=True)
    guid = uuid.UUID(int=1).bytes_le
    with open(path, "r+b") as file:
        size, log = file.seek(0, 2), 0
        for at in _HEADERS:
            file.seek(at)
            header = bytearray(file.read(_HEADER))
            header[48:64] = guid
            log = struct.unpack_from("<Q", header, 72)[0]
            _write(file, at, header)
        entry = bytearray(_ENTRY)
        struct.pack_into("<4sIIIQII16sQQ", entry, 0, b"loge", 0, _ENTRY, 0, 1, 0, 0, guid, size, size)
        _write(file, log, entry)
    return path


def _write(file, at: int, block: bytearray) -> None:  # type: ignore[no-untyped-def]
    block[4:8] = bytes(4)
    block[4:8] = struct.pack("<I", _crc32c(block))
    file.seek(at)
    file.write(block)


def _crc32c(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF
