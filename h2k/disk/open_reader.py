"""Chooses the reader of a guest's disks: the direct one, or libguestfs where its parts are missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from h2k.base.errors import H2kError, UsageError
from h2k.disk.image import ImageInfo, probe
from h2k.disk.reader import Reader

log = logging.getLogger("h2k.reader")


def open_reader(images: Sequence[tuple[Path, Optional[str]]], prefer: str = "direct") -> Reader:
    """Open (path, format or None) images read-only, through the direct reader, or through libguestfs where the direct
    reader's parts are missing or with H2K_READER=libguestfs. Refused for an image that can't be opened."""
    return reader_of([probe(path, form) for path, form in images], prefer)


def reader_of(infos: Sequence[ImageInfo], prefer: str = "direct") -> Reader:
    """The same for images that were asked for already."""
    how = os.environ.get("H2K_READER") or prefer
    if how not in ("direct", "libguestfs"):
        raise UsageError(f"H2K_READER={how}: no such reader", hint="it is direct or libguestfs")
    if how == "direct":
        from h2k.disk.direct_reader import DirectReader, missing

        lacking = missing()
        if not lacking:
            return DirectReader(infos)
        log.warning("%s not installed: reading through libguestfs, which takes longer", " and ".join(lacking))
    try:
        from h2k.disk.appliance_reader import ApplianceReader
    except ImportError as e:
        raise H2kError("the guestfs bindings are not installed, and they alone could read here", hint="see h2k doctor") from e
    return ApplianceReader(infos)
