"""What is asked before the copy, so that nothing fails after it: rights and space of the output, and libvirt."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from h2k.base.errors import Refused
from h2k.convert.outputs import Output
from h2k.convert.v2v_command import V2vCommand
from h2k.disk.image import probe
from h2k.domain.guest_files import GuestFiles
from h2k.domain.names import check_name
from h2k.engine.preconditions import require_writable_directory

GIB = 1024**3


def require_ready(command: V2vCommand, output: Output, source: Optional[GuestFiles], name: Optional[str]) -> None:
    """Refused before the copy for what would fail after it."""
    if name is not None:
        check_name(name)
    output.require()
    place = output.state(name or "guest")
    require_writable_directory(place.parent)
    if source is not None:
        preallocated = "preallocated" in command.passed
        require_space(place.parent, needed(source.images, preallocated), name or "the guest")


def needed(images: Sequence[tuple[Path, Optional[str]]], preallocated: bool) -> int:
    """Bytes that a copy takes at least: what the source's own files hold now, or all of a preallocated result. A raw
    file counts by its blocks; what a file system has trimmed or zeroed is less in the copy, so half of it is certain."""
    total = 0
    for path, form in images:
        if preallocated:
            total += probe(path, form).size
        elif path.is_file():
            total += path.stat().st_blocks * 512 // 2
    return total


def require_space(directory: Path, wanted: int, name: str) -> None:
    """Refused where the file system of `directory` has less room than the copy takes at least."""
    place = directory if directory.exists() else directory.absolute().parent
    free = shutil.disk_usage(place).free if place.exists() else wanted
    if free < wanted:
        raise Refused(
            f"{place}: {free / GIB:.1f} GiB are free, and {name} takes {wanted / GIB:.1f} GiB at least",
            hint="free some space, or give -os another directory",
        )
