"""The bytes of an image as they lie in its file: what its header says is read before QEMU opens it."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO, Optional


class Part:
    """Bytes of an image: of a whole file, of a part of one, or (`known` bytes of `size`) the start of what lies elsewhere."""

    def __init__(self, file: BinaryIO, start: int = 0, size: Optional[int] = None, known: Optional[int] = None) -> None:
        end = file.seek(0, os.SEEK_END)
        facts = os.fstat(file.fileno())
        self._file, self._start = file, start
        self.size = size if size is not None else end - start
        self.known = known if known is not None else self.size
        self.allocated = facts.st_blocks * 512 if stat.S_ISREG(facts.st_mode) else self.size

    def at(self, offset: int, length: int) -> bytes:
        """Those bytes, fewer where it ends."""
        if offset >= self.known or length <= 0:
            return b""
        self._file.seek(self._start + offset)
        return self._file.read(min(length, self.known - offset))

    def head(self, length: int) -> bytes:
        """The first bytes, with zeros behind the end."""
        return self.at(0, length).ljust(length, b"\0")

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are at hand."""
        return offset + length <= self.known
