"""A large hive that is read in pages as they are needed: memory and bytes follow what is looked at, not its size.

A hive that is read whole has all its bin headers checked at once; here the bin of each cell that is read is checked first.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Callable

from h2k.windows.regf import BASE_BLOCK, Hive

PAGE = 64 * 1024  # bytes
KEPT = 128  # pages; 8 MiB
_BIN = struct.Struct("<4sII")
_UNIT = 4096  # bytes; bins begin at multiples


class Pages:
    """The bytes of a file, by slices; `read` gives the bytes at an offset, as many as are asked for or fewer at the end."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        if start >= end:
            return b""
        first, last = start // PAGE, (end - 1) // PAGE
        if first == last:
            return self._page(first)[start - first * PAGE : end - first * PAGE]
        found = b"".join(map(self._page, range(first, last + 1)))
        return found[start - first * PAGE : end - first * PAGE]

    def _page(self, number: int) -> bytes:
        if number in self._pages:
            self._pages.move_to_end(number)
        else:
            self._pages[number] = self._read(number * PAGE, min(PAGE, self._size - number * PAGE))
            if len(self._pages) > KEPT:
                self._pages.popitem(last=False)
        return self._pages[number]


class PagedHive(Hive):
    """A hive on pages. BadData for a cell in a bin that is not sound, as when all bins are checked."""

    def __init__(self, data: Pages, name: str) -> None:
        super().__init__(data, name)
        self._sound: set[int] = set()  # offsets / 4096 that sound bins cover

    def cell(self, offset: int) -> tuple[int, int]:
        if 0 <= offset < self.size and offset // _UNIT not in self._sound:
            self._check_bin(offset)
        return super().cell(offset)

    def _check_bin(self, offset: int) -> None:
        """Find the bin that holds this offset, by its header at or before it."""
        at = offset // _UNIT * _UNIT
        while at >= 0:
            signature, own, size = _BIN.unpack(self.data[BASE_BLOCK + at : BASE_BLOCK + at + _BIN.size])
            if signature == b"hbin" and own == at:
                break
            at -= _UNIT
        else:
            raise self.bad(0, "no hive bin header")
        if size % _UNIT or not size or at + size > self.size:
            raise self.bad(at, f"a hive bin of {size} bytes")
        if at + size <= offset:
            raise self.bad(at + size, "no hive bin header")
        self._sound.update(range(at // _UNIT, (at + size) // _UNIT))
