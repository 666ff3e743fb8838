"""A disk as a journal knows it, and a write to it, for the tests of signs of life."""

from __future__ import annotations

import os
from pathlib import Path

from h2k.disk.alive import Disk


def known(image: Path) -> list[Disk]:
    """The disk in a journal: found at 1 s, and never written."""
    return [{"path": str(image), "found": 10**9, "mtime": 10**9}]


def touch(image: Path, later: float) -> None:
    at = image.stat().st_mtime_ns + int(later * 1e9)
    os.utime(image, ns=(at, at))
