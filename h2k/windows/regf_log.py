"""Replays a dirty hive's transaction logs, as Windows does at load: the new format (HvLE, 8.1 and later) and the old (DIRT).

Source: the public regf specification (github.com/msuhanov/regf), "Format of transaction log files". Where it leaves a
choice, less is applied, and the result is handed out only if every cell of it is sound.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional, Union

from h2k.base.errors import BadData
from h2k.windows import regf
from h2k.windows.regf import BASE_BLOCK, BASE_SECTOR

MAX_LOG = 128 * 1024 * 1024  # bytes; real logs stay below the size of their hive
WAY_OUT = "boot the source once and shut it down with: shutdown /s /t 0 (fast startup off)"

_HIVE, _OLD, _NEW = 0, 1, 6  # file types, at offset 28
_PAGE = 512  # bytes: what one bit of an old log stands for; pages of a new one are multiples of it
_WORDS = 1 << 32  # sequence numbers wrap
_ENTRY = struct.Struct("<4sIIIIIQQ")  # signature, size, flags, sequence, hive bins size, pages, hash 1, hash 2
_ENTRY_UNIT = 512  # sizes and places of entries are multiples of this
_SEED = 0x82EF4D887A4E55C5  # of the Marvin32 hashes


@dataclasses.dataclass(frozen=True)
class Applied:
    """One log entry that was applied (an old log is a single one): its log, sequence, runs of pages and their bytes."""

    log: str
    sequence: int
    pages: int
    size: int


@dataclasses.dataclass(frozen=True)
class Replay:
    """A clean hive, what was applied to make it so, and why it ended there ('' when nothing was left over)."""

    data: bytes = dataclasses.field(repr=False)
    applied: tuple[Applied, ...]
    stopped: str

    @property
    def pages(self) -> int:
        """Runs of pages written, over all entries."""
        return sum(entry.pages for entry in self.applied)

    @property
    def size(self) -> int:
        """Bytes written, over all entries."""
        return sum(entry.size for entry in self.applied)


def replay(hive: bytes, logs: Mapping[str, bytes], name: str) -> Replay:
    """The hive with its logs ("LOG1", "LOG2", "LOG": whole files) replayed; a clean one is given back as it is.

    The data have equal sequences, the right checksum and no unsound cell. BadData when the logs are missing, not
    applicable, or lead to an unsound hive: the message names the hive and says of each log why it is not used.
    """
    if regf.state(hive) == "clean":
        return Replay(hive, (), "")
    if len(hive) < BASE_BLOCK:
        raise BadData(f"{name}: {len(hive)} bytes are too few for a hive", hint="restore it from a backup")
    work = _Work(hive, sum(map(len, logs.values())))
    useless: list[str] = []
    found = []
    for log in sorted(logs, key=lambda log: (not log[-1:].isdigit(), log)):  # LOG1, LOG2, LOG
        try:
            found.append(_read_log(log, logs[log], work))
        except BadData as bad:
            useless.append(bad.message)
    stopped = _apply_new(work, [log for log in found if isinstance(log, _NewLog)])
    if not work.applied:
        useless += filter(None, [stopped])
        stopped = _apply_old(work, [log for log in found if isinstance(log, _OldLog)], useless)
    if not work.applied:
        reasons = "; ".join(useless) or "there is none"
        raise BadData(f"{name}: dirty ({work.why}), and no log can be replayed: {reasons}", hint=WAY_OUT)
    data = work.finish()
    for problem in regf.check(data, name, deep=True):
        last = work.applied[-1]
        raise BadData(f"{problem}, after replaying {last.log} to sequence {last.sequence}", hint=WAY_OUT)
    return Replay(data, tuple(work.applied), stopped)


class _Work:
    """The hive being completed: pages are written into one copy of it, the base block last."""

    def __init__(self, hive: bytes, log_bytes: int) -> None:
        self.hive, self.sound = hive, regf.base_is_sound(hive)
        self.primary, self.secondary = struct.unpack_from("<II", hive, 4)
        self.why = f"sequences {self.primary}/{self.secondary}" if self.sound else "its base block is unsound"
        self.largest = len(hive) + log_bytes  # of the hive bins: a log holds each bin that it adds
        self.base = bytearray(hive[:BASE_BLOCK])
        self.file = io.BytesIO(hive)  # shares the bytes until the first write
        self.applied: list[Applied] = []

    def write(self, log: Log, sequence: int, bins: int, flags: int, pages: Sequence[tuple[int, memoryview]]) -> None:
        """Write pages at their hive bin offsets; the first log also gives its base block where the hive's is unsound."""
        if not self.applied and not self.sound:
            self.base[:BASE_SECTOR] = log.data[:BASE_SECTOR]
            struct.pack_into("<I", self.base, 28, _HIVE)
        for offset, page in pages:
            self.file.seek(BASE_BLOCK + offset)
            self.file.write(page)
        (had,) = struct.unpack_from("<I", self.base, 144)
        struct.pack_into("<II", self.base, 4, sequence, sequence)
        struct.pack_into("<I", self.base, 40, bins)
        struct.pack_into("<I", self.base, 144, had & ~1 | flags & 1)
        self.applied.append(Applied(log.name, sequence, len(pages), sum(len(page) for _, page in pages)))

    def finish(self) -> bytes:
        """The file, as long as its base block says at least."""
        struct.pack_into("<I", self.base, 508, regf.checksum(bytes(self.base[:BASE_SECTOR])))
        self.file.seek(0)
        self.file.write(self.base)
        (bins,) = struct.unpack_from("<I", self.base, 40)
        missing = BASE_BLOCK + bins - self.file.seek(0, io.SEEK_END)
        if missing > 0:
            self.file.write(bytes(missing))
        return self.file.getvalue()


@dataclasses.dataclass(frozen=True)
class _NewLog:
    """A log of entries, `first` being the sequence of the first."""

    name: str
    data: memoryview
    first: int


@dataclasses.dataclass(frozen=True)
class _OldLog:
    """A log of dirty pages: the bits that say which, the pages, and the hive bins size they belong to."""

    name: str
    data: memoryview
    sequence: int
    bins: int
    bits: memoryview
    pages: memoryview


Log = Union[_NewLog, _OldLog]


def _read_log(name: str, data: bytes, work: _Work) -> Log:
    """A log that is sound and belongs to this hive; BadData says why it is or does not."""
    if not data:
        raise BadData(f"{name} is empty")
    if len(data) > MAX_LOG:
        raise BadData(f"{name} has {len(data)} bytes, more than {MAX_LOG}")
    if not regf.base_is_sound(data):
        raise BadData(f"{name} has no sound base block")
    primary, secondary = struct.unpack_from("<II", data, 4)
    (kind,) = struct.unpack_from("<I", data, 28)
    bins, clustering = struct.unpack_from("<II", data, 40)
    if primary != secondary:
        raise BadData(f"{name} was being written, its sequences are {primary}/{secondary}")
    if kind not in (_OLD, _NEW) or clustering != 1:
        raise BadData(f"{name} is of type {kind} with sectors of {clustering} * 512 bytes, which is no known log")
    own, other = _file_name(work.hive), _file_name(data)
    if work.sound and own and other and own != other:
        raise BadData(f"{name} is the log of another hive ({other}, not {own})")
    view = memoryview(data)
    return _new_log(name, view, primary, work) if kind == _NEW else _old_log(name, view, primary, bins, work)


def _file_name(base_block: bytes) -> str:
    """The last part of the hive's path, of which a base block and its copies in the logs keep the last 31 characters."""
    text = base_block[48:112].decode("utf-16-le", "replace").split("\0", 1)[0]
    return regf.printable(text.rsplit("\\", 1)[-1].lower())


def _later(one: int, other: int) -> int:
    """By how much one sequence number is later than another; below 0 when it is earlier."""
    return (one - other + _WORDS // 2) % _WORDS - _WORDS // 2


# The new format: entries that follow one another by exactly 1, over one log or two.


def _new_log(name: str, data: memoryview, first: int, work: _Work) -> _NewLog:
    if work.sound and _later(first, work.secondary) < 0:
        raise BadData(f"{name} begins at sequence {first}, which the hive has been past (at {work.secondary})")
    return _NewLog(name, data, first)


def _order(one: _NewLog, other: _NewLog) -> int:
    return _later(one.first, other.first)


def _apply_new(work: _Work, logs: list[_NewLog]) -> str:
    """Apply the entries of the logs, the earlier log first; why it ended before they did."""
    logs = sorted(logs, key=functools.cmp_to_key(_order))
    unused = ""
    if not work.sound and len(logs) > 1:  # the hive gets the base block of the latest log, and Windows goes by that one alone
        names = ", ".join(log.name for log in logs[:-1])
        unused, logs = f"{names} not used: with an unsound base block {logs[-1].name} alone counts", logs[-1:]
    expected: Optional[int] = None
    for log in logs:
        if expected is not None and log.first != expected:
            return f"{log.name} begins at sequence {log.first}, {expected} would follow"
        try:
            for entry in _entries(log, work.largest):
                work.write(log, entry.sequence, entry.bins, entry.flags, entry.pages)
                expected = (entry.sequence + 1) % _WORDS
        except BadData as bad:
            return bad.message
    return unused


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One entry of a new log: its pages by their hive bin offsets."""

    sequence: int
    bins: int
    flags: int
    pages: list[tuple[int, memoryview]]


def _entries(log: _NewLog, largest: int) -> Iterator[_Entry]:
    """The entries from the log's first on; BadData where one that should follow does not or is not sound.

    What follows the last entry may be nothing, or an earlier entry that was applied long ago: that is no fault.
    """
    at, expected = BASE_SECTOR, log.first
    while at + _ENTRY.size <= len(log.data):
        signature, size, flags, sequence, bins, count, hash_1, hash_2 = _ENTRY.unpack_from(log.data, at)
        started = at > BASE_SECTOR
        if started and (signature != b"HvLE" or _later(sequence, log.first) < 0):
            return
        where = f"{log.name}, entry at {at:#x}"
        if signature != b"HvLE":
            raise BadData(f"{where}: no signature")
        if sequence != expected:
            raise BadData(f"{where}: sequence {sequence} where {expected} would follow")
        if size % _ENTRY_UNIT or size < _ENTRY_UNIT or size > len(log.data) - at:
            raise BadData(f"{where}: {size} bytes announced, {len(log.data) - at} are left")
        if bins % 4096 or not 0 < bins <= largest:
            raise BadData(f"{where}: {bins} bytes of hive bins")
        if marvin32(log.data[at : at + 32]) != hash_2:
            raise BadData(f"{where}: hash 2 is wrong")
        if marvin32(log.data[at + 40 : at + size]) != hash_1:
            raise BadData(f"{where}: hash 1 is wrong")
        yield _Entry(sequence, bins, flags, list(_pages(log.data[at : at + size], count, bins, where)))
        at, expected = at + size, (expected + 1) % _WORDS
    if at == BASE_SECTOR:
        raise BadData(f"{log.name} has no entry")


def _pages(entry: memoryview, count: int, bins: int, where: str) -> Iterator[tuple[int, memoryview]]:
    at = _ENTRY.size + 8 * count
    if not count or at > len(entry):
        raise BadData(f"{where}: {count} pages")
    for offset, size in struct.iter_unpack("<II", entry[_ENTRY.size : at]):
        if not size or size % _PAGE or offset % _PAGE or at + size > len(entry) or offset + size > bins:
            raise BadData(f"{where}: a page of {size} bytes for offset {offset:#x}")
        yield offset, entry[at : at + size]
        at += size


def marvin32(data: Union[bytes, memoryview]) -> int:
    """The Marvin32 hash (two DWORDs as one QWORD) with the seed of registry logs; the length is a multiple of 4."""
    low, high = _SEED & 0xFFFFFFFF, _SEED >> 32
    for (word,) in struct.iter_unpack("<I", bytes(data) + b"\x80\0\0\0\0\0\0\0"):
        # Rotations of 20, 9, 27 and 19 bits; bits above 31 are cut off only where a right shift would bring them back.
        low = low + word & 0xFFFFFFFF
        high ^= low
        low = (low << 20 | low >> 12) + high & 0xFFFFFFFF
        high = (high << 9 | high >> 23) & 0xFFFFFFFF ^ low
        low = (low << 27 | low >> 5) + high & 0xFFFFFFFF
        high = (high << 19 | high >> 13) & 0xFFFFFFFF
    return high << 32 | low


# The old format: a bit for each dirty page. One log, in whole, belongs to the hive as last written.


def _old_log(name: str, data: memoryview, sequence: int, bins: int, work: _Work) -> _OldLog:
    at = 12 if work.sound else BASE_BLOCK + 20  # the first hive bin keeps a copy of the time
    if data[12:20] != work.hive[at : at + 8]:
        raise BadData(f"{name} was written for another state of the hive (the last-written times differ)")
    if bins % 4096 or not 0 < bins <= work.largest:
        raise BadData(f"{name} is for {bins} bytes of hive bins")
    vector = BASE_SECTOR + 4
    end = vector + bins // _PAGE // 8
    if bytes(data[BASE_SECTOR:vector]) != b"DIRT" or end > len(data):
        raise BadData(f"{name} has no dirty vector")
    bits, pages = data[vector:end], data[(end + _PAGE - 1) // _PAGE * _PAGE :]
    marked = sum(bin(byte).count("1") for byte in bits)
    if not marked or marked * _PAGE > len(pages):
        raise BadData(f"{name} marks {marked} pages and has {len(pages) // _PAGE}")
    return _OldLog(name, data, sequence, bins, bits, pages)


def _apply_old(work: _Work, logs: list[_OldLog], useless: list[str]) -> str:
    """Apply the first log of which something can be applied; why it ended before its pages did."""
    for log in logs:
        pages, stopped = _dirty_bins(log, work.hive)
        if pages:
            sequence = work.primary if work.sound else log.sequence
            flags = int.from_bytes(log.data[144:148], "little")
            work.write(log, sequence, log.bins, flags, pages)
            return stopped
        useless.append(stopped)
    return ""


def _dirty_bins(log: _OldLog, hive: bytes) -> tuple[list[tuple[int, memoryview]], str]:
    """The dirty pages bin by bin, up to the first dirty bin whose header is wrong; and what is wrong with it."""
    pages: list[tuple[int, memoryview]] = []
    taken = end = 0  # pages of the log used so far; where the bin ends
    dirty: list[tuple[int, memoryview]] = []
    for offset in range(0, log.bins, _PAGE):
        number = offset // _PAGE
        page = None
        if log.bits[number >> 3] >> (number & 7) & 1:
            page = log.pages[taken * _PAGE : (taken + 1) * _PAGE]
            taken += 1
        if offset == end:
            pages += dirty
            dirty = []
            header = page if page is not None else memoryview(hive)[BASE_BLOCK + offset : BASE_BLOCK + offset + 12]
            signature, own, size = struct.unpack_from("<4sII", header) if len(header) >= 12 else (b"", 0, 0)
            if signature != b"hbin" or own != offset or size < 4096 or size % 4096 or offset + size > log.bins:
                return pages, f"{log.name}: no sound hive bin at {offset:#x}"
            end = offset + size
        if page is not None:
            dirty.append((offset, page))
    return pages + dirty, ""
