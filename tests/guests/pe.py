"""Small valid PE files of any machine type, for drivers and loaders of made guests."""

from __future__ import annotations

import functools
import struct

from tests.guests.signing import sign_pe

MACHINES = {"x86": 0x14C, "amd64": 0x8664, "arm64": 0xAA64}


@functools.lru_cache(maxsize=2048)
def make_pe(machine: str, body: bytes = b"", signed: bool = False, by: str = "whql", digests: tuple[str, ...] = ("sha256",)) -> bytes:
    """A native-subsystem PE with one section holding `body`; if signed, by a chain of signing.py, with these digests."""
    wide = machine != "x86"
    section = (body or b"\xc3").ljust(512, b"\0")
    section += bytes(-len(section) % 512)
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    optional_size = 240 if wide else 224
    coff = struct.pack("<HHIIIHH", MACHINES[machine], 1, 0x60000000, 0, 0, optional_size, 0x22 if wide else 0x102)
    head = struct.pack("<HBBIIIII", 0x20B if wide else 0x10B, 14, 0, len(section), 0, 0, 0x1000, 0x1000)
    head += b"" if wide else struct.pack("<I", 0x2000)
    head += struct.pack("<Q" if wide else "<I", 0x140000000 if wide else 0x400000)
    head += struct.pack("<IIHHHHHHIIIIHH", 0x1000, 512, 10, 0, 10, 0, 10, 0, 0, 0x1000 + 0x1000, 512, 0, 1, 0)
    head += struct.pack("<QQQQ" if wide else "<IIII", 0x40000, 0x1000, 0x100000, 0x1000) + struct.pack("<II", 0, 16)
    table = struct.pack("<8sIIIIIIHHI", b".text", len(section), 0x1000, len(section), 512, 0, 0, 0, 0, 0x60000020)
    headers = dos + b"PE\0\0" + coff + head + bytes(128) + table
    data = headers.ljust(512, b"\0") + section
    return sign_pe(data, by, digests) if signed else data


def make_pe_with_broken_signature(machine: str, body: bytes) -> bytes:
    """A signed PE in whose certificate table zeros stand in place of the signature."""
    data = bytearray(make_pe(machine, body, signed=True))
    directory = 64 + 4 + 20 + (112 if machine != "x86" else 96) + 4 * 8  # IMAGE_DIRECTORY_ENTRY_SECURITY
    (table,) = struct.unpack_from("<I", data, directory)
    data[table + 8 :] = bytes(len(data) - table - 8)
    return bytes(data)
