"""Is it a PE file, whole, and for which machine? Parsed by pefile, with its failures turned into ours."""

from __future__ import annotations

import dataclasses

from h2k.errors import BadData

MAX_SIZE = 64 * 1024 * 1024
MACHINES = {0x14C: "x86", 0x8664: "amd64", 0xAA64: "arm64"}
_SECURITY_DIRECTORY = 4  # IMAGE_DIRECTORY_ENTRY_SECURITY


@dataclasses.dataclass(frozen=True)
class PeFacts:
    """Machine type, size in bytes, and whether a certificate table is there (not whether it is valid)."""

    machine: str
    size: int
    signed: bool


def read_pe(data: bytes, name: str) -> PeFacts:
    """The facts of a PE file; BadData when it is empty, truncated or no PE."""
    import pefile

    if not data:
        raise BadData(f"{name}: the file is empty")
    if len(data) > MAX_SIZE:
        raise BadData(f"{name}: {len(data)} bytes are too many for a driver")
    try:
        pe = pefile.PE(data=data, fast_load=True)
    except (pefile.PEFormatError, ValueError, IndexError, AttributeError, TypeError) as e:
        raise BadData(f"{name}: not a PE file: {e}") from e
    end = max((s.PointerToRawData + s.SizeOfRawData for s in pe.sections), default=0)
    if not pe.sections or end > len(data):
        raise BadData(f"{name}: truncated: its sections need {end} bytes, the file has {len(data)}")
    directories = pe.OPTIONAL_HEADER.DATA_DIRECTORY
    signed = len(directories) > _SECURITY_DIRECTORY and directories[_SECURITY_DIRECTORY].Size > 0
    machine = int(pe.FILE_HEADER.Machine)
    return PeFacts(MACHINES.get(machine, f"{machine:#x}"), len(data), signed)
