"""NTFS facts that are read from raw bytes or decided by a reparse tag, the same whoever reads the files.

Layouts: the NTFS documentation of the Linux-NTFS project; tags: Microsoft's [MS-FSCC] 2.1.2.1.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Optional

from h2k.base.errors import BadData
from h2k.disk.partition import ReadAt

LINK = "a link, which is not followed"
ENCRYPTED = "encrypted (EFS)"
FIRST_USER_RECORD = 16  # the records below are NTFS's own files ($MFT, $LogFile …), which no Windows path names
_WOF = 0x80000017
_NAME_SURROGATE = 0x20000000  # junctions, symbolic links, mount points
_LOGFILE, _VOLUME = 2, 3
_VOLUME_INFORMATION, _DATA, _END = 0x70, 0x80, 0xFFFFFFFF
_DIRTY, _IS_CLEAN, _NO_CLIENT = 1, 2, 0xFFFF
_PAGE = 4096
_CLUSTERS = {512 << n for n in range(13)}  # up to 2 MiB


@dataclasses.dataclass(frozen=True)
class NtfsVolumeState:
    """$Volume's dirty flag, whether $LogFile has open transactions, and the NTFS version."""

    dirty: bool
    log_unclean: bool
    version: str


def reparse_reason(tag: Optional[int], directory: bool) -> str:
    """Why what has this reparse tag (None: no reparse point) can't be read as it is; '' when it can."""
    if tag is None:
        return ""
    if tag == _WOF:
        return "WOF-compressed (compact /exe), which nothing on this host decompresses"
    if tag & _NAME_SURROGATE:
        return LINK
    return "" if directory else f"a reparse point with tag 0x{tag:08x}, whose content lies elsewhere"


def volume_state(read: ReadAt, start: int, name: str) -> NtfsVolumeState:
    """The state of the NTFS volume that begins at byte `start`; BadData for a damaged boot sector or file record.

    ReadAt reads the whole disk. $Volume and $LogFile are records 3 and 2, always in the first extent of the MFT.
    """
    boot = read(start, 512)
    if len(boot) < 512 or boot[3:11] != b"NTFS    ":
        raise BadData(f"{name}: no NTFS boot sector")
    (sector,) = struct.unpack_from("<H", boot, 11)
    cluster = sector * _count(boot[13])
    (mft,) = struct.unpack_from("<Q", boot, 48)
    size = _record_size(boot[64], cluster)
    if sector not in (512, 1024, 2048, 4096) or cluster not in _CLUSTERS or size not in (512, 1024, 2048, 4096):
        raise BadData(f"{name}: the NTFS boot sector has impossible sizes")

    def record(number: int) -> bytes:
        return _fixed(read(start + mft * cluster + number * size, size), size, f"{name}: NTFS file record {number}")

    version, flags = "unknown", 0
    for kind, attribute in _attributes(record(_VOLUME), name):
        if kind == _VOLUME_INFORMATION and not attribute[8]:
            (at,) = struct.unpack_from("<H", attribute, 20)
            if at + 12 <= len(attribute):
                version, flags = f"{attribute[at + 8]}.{attribute[at + 9]}", attribute[at + 10]
    pages = [read(start + at, _PAGE) for at in _log_pages(record(_LOGFILE), cluster, name)]
    return NtfsVolumeState(bool(flags & _DIRTY), _log_unclean(pages), version)


def _count(byte: int) -> int:
    """Sectors in a cluster: up to 128, or a negative power of two for larger clusters."""
    return byte if byte <= 128 else 1 << (256 - byte)


def _record_size(byte: int, cluster: int) -> int:
    """Bytes in a file record: a number of clusters, or a negative power of two of bytes."""
    return byte * cluster if byte < 128 else 1 << (256 - byte)


def _fixed(raw: bytes, size: int, name: str) -> bytes:
    """A multi-sector record with the last two bytes of its sectors put back, which guard against torn writes."""
    at, count = struct.unpack_from("<HH", raw.ljust(8, b"\0"), 4)
    if len(raw) != size or raw[:4] != b"FILE" or count != size // 512 + 1 or at < 40 or at + 2 * count > 510:
        raise BadData(f"{name}: damaged")
    data = bytearray(raw)
    for sector in range(1, count):
        if raw[sector * 512 - 2 : sector * 512] != raw[at : at + 2]:
            raise BadData(f"{name}: torn in the middle of a write")
        data[sector * 512 - 2 : sector * 512] = raw[at + 2 * sector : at + 2 * sector + 2]
    return bytes(data)


def _attributes(record: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """(type, the attribute with its header) of a file record."""
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 8 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _END:
            return
        if length < 24 or length % 8 or at + length > len(record):
            break
        yield kind, record[at : at + length]
        at += length
    raise BadData(f"{name}: an NTFS file record without an end")


def _log_pages(record: bytes, cluster: int, name: str) -> list[int]:
    """Where the two restart pages of $LogFile lie, in bytes from the volume's start.

    Empty when another record holds its extents, which a log that is made once, at format time, never needs.
    """
    for kind, attribute in _attributes(record, name):
        if kind == _DATA and attribute[8] and len(attribute) >= 64:
            (at,) = struct.unpack_from("<H", attribute, 32)
            return _places(attribute[at:], cluster)
    return []


def _places(runs: bytes, cluster: int) -> list[int]:
    found: list[int] = []
    at = position = begin = 0  # in the run list; bytes of the file; clusters of the volume
    while at < len(runs) and runs[at] and len(found) < 2:
        length_size, offset_size = runs[at] & 15, runs[at] >> 4
        length = int.from_bytes(runs[at + 1 : at + 1 + length_size], "little")
        begin += int.from_bytes(runs[at + 1 + length_size : at + 1 + length_size + offset_size], "little", signed=True)
        if begin < 0 or not offset_size:
            break
        while len(found) < 2 and len(found) * _PAGE < position + length * cluster:
            found.append(begin * cluster + len(found) * _PAGE - position)
        position += length * cluster
        at += 1 + length_size + offset_size
    return found


def _log_unclean(pages: list[bytes]) -> bool:
    """Whether the newer restart area of $LogFile has clients and lacks the volume-is-clean flag.

    A log filled with 0xFF, as ntfs-3g and mkntfs leave it, is clean; so is one that chkdsk has marked (CHKD). One that
    has no restart page at all can't be shown to be clean.
    """
    areas = []
    for page in pages:
        if page[:4] in (b"RSTR", b"CHKD") and len(page) == _PAGE:
            (at,) = struct.unpack_from("<H", page, 24)
            if 48 <= at <= _PAGE - 16:
                lsn, _, _, in_use, flags = struct.unpack_from("<QHHHH", page, at)
                areas.append((lsn, page[:4] == b"RSTR" and in_use != _NO_CLIENT and not flags & _IS_CLEAN))
    if areas:
        return max(areas)[1]
    return not pages or any(page.strip(b"\xff") for page in pages)
