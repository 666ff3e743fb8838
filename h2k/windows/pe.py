"""Is it a PE file, whole, and for which machine? Parsed by pefile, with its failures turned into ours."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import Any, Optional

from h2k.base.errors import BadData

MAX_SIZE = 64 * 1024 * 1024
MACHINES = {0x14C: "x86", 0x8664: "amd64", 0xAA64: "arm64"}
_SECURITY_DIRECTORY = 4  # IMAGE_DIRECTORY_ENTRY_SECURITY; its "address" is an offset in the file
_CHECKSUM = 64  # the checksum's place in the optional header, in PE32 and PE32+ alike
_CERTIFICATE_HEADER = 8  # bytes of WIN_CERTIFICATE before the signature itself


@dataclasses.dataclass(frozen=True)
class PeFacts:
    """Machine type, size in bytes, and whether a certificate table is there (not whether it is valid)."""

    machine: str
    size: int
    signed: bool


@dataclasses.dataclass(frozen=True)
class CertificateTable:
    """Where a file's certificate table lies, and the two fields that change when it is signed: the checksum and the
    table's own directory entry (offsets in the file)."""

    offset: int
    size: int
    checksum: int
    entry: int

    def digest(self, data: bytes, algorithm: str) -> bytes:
        """The digest of the file that a signature covers: all of it but those two fields and the table."""
        found = hashlib.new(algorithm)
        begin = 0
        for at, length in ((self.checksum, 4), (self.entry, 8), (self.offset, self.size)):
            found.update(data[begin:at])
            begin = at + length
        found.update(data[begin:])
        return found.digest()


def read_pe(data: bytes, name: str) -> PeFacts:
    """The facts of a PE file; BadData when it is empty, truncated or no PE."""
    pe, end = _parse(data, name)
    machine = int(pe.FILE_HEADER.Machine)
    return PeFacts(MACHINES.get(machine, f"{machine:#x}"), len(data), _table(pe, data, end, name) is not None)


def certificate_table(data: bytes, name: str) -> Optional[CertificateTable]:
    """The certificate table of a PE file, None without one; BadData as read_pe."""
    pe, end = _parse(data, name)
    return _table(pe, data, end, name)


def unsigned_digest(data: bytes, name: str, algorithm: str = "sha256") -> bytes:
    """The digest of a file without a certificate table, as one that is signed has it; BadData as read_pe."""
    pe, _ = _parse(data, name)
    directories = pe.OPTIONAL_HEADER.DATA_DIRECTORY
    checksum = pe.OPTIONAL_HEADER.get_file_offset() + _CHECKSUM
    entry = directories[_SECURITY_DIRECTORY].get_file_offset() if len(directories) > _SECURITY_DIRECTORY else len(data)
    return CertificateTable(len(data), 0, checksum, entry).digest(data, algorithm)


def _parse(data: bytes, name: str) -> tuple[Any, int]:
    """(the file as pefile has it, where its sections end)."""
    import pefile

    if not data:
        raise BadData(f"{name}: the file is empty")
    if len(data) > MAX_SIZE:
        raise BadData(f"{name}: {len(data)} bytes are too many for a driver")
    try:
        pe = pefile.PE(data=data, fast_load=True)
    except (pefile.PEFormatError, ValueError, LookupError, AttributeError, TypeError, OverflowError, struct.error) as e:
        raise BadData(f"{name}: not a PE file: {e}") from e
    # A section without a place in the file (uninitialised data) needs nothing of it.
    end = max((s.PointerToRawData + s.SizeOfRawData for s in pe.sections if s.PointerToRawData), default=0)
    if not end or end > len(data):
        raise BadData(f"{name}: truncated: its sections need {end} bytes, the file has {len(data)}")
    return pe, end


def _table(pe: Any, data: bytes, end: int, name: str) -> Optional[CertificateTable]:
    """The certificate table, None where none lies in the file; BadData when the file ends in the middle of it."""
    directories = pe.OPTIONAL_HEADER.DATA_DIRECTORY
    if len(directories) <= _SECURITY_DIRECTORY:
        return None
    table = directories[_SECURITY_DIRECTORY]
    offset, size = int(table.VirtualAddress), int(table.Size)
    if not offset or size < _CERTIFICATE_HEADER:
        return None
    if offset + size > len(data):
        if offset >= end:  # signing appends the table, so the file was whole once
            raise BadData(f"{name}: truncated: its signature ends at {offset + size}, the file has {len(data)} bytes")
        return None
    length = int.from_bytes(data[offset : offset + 4], "little")
    if not _CERTIFICATE_HEADER < length <= size:
        return None
    return CertificateTable(offset, size, pe.OPTIONAL_HEADER.get_file_offset() + _CHECKSUM, table.get_file_offset())
