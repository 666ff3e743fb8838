"""Checkpoints of Hyper-V: files beside a disk that hold what was written since, so that the disk alone is an old state.

Hyper-V calls them NAME_GUID.avhdx beside NAME.vhdx (.avhd beside .vhd). A disk without them can be read, which is the
danger: everything since the checkpoint is missing, and nothing in the disk says so.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Optional

from h2k.base.errors import Refused

SUFFIXES = (".avhdx", ".avhd")
MERGE = "on the Hyper-V host, merge it into its parent (delete the checkpoint and wait; or Hyper-V Manager, Edit Disk, Merge), and copy that disk"
_PARENTS = (".vhdx", ".vhd")
_NAME = re.compile(r"(.+)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.a(vhdx?)", re.IGNORECASE | re.DOTALL)


def parent_name(name: str) -> Optional[str]:
    """The name in small letters of the disk that a checkpoint's file of that name belongs to, None for another file's."""
    found = _NAME.fullmatch(name)
    return f"{found[1]}.{found[2]}".lower() if found is not None else None


def is_checkpoint(path: Path) -> bool:
    """Whether a file's name is that of a checkpoint."""
    return path.suffix.lower() in SUFFIXES


def checkpoint_beside(disk: Path) -> Optional[Path]:
    """A checkpoint's file that lies beside a VHD or VHDX of that name, the first by name."""
    if disk.suffix.lower() not in _PARENTS:
        return None
    place = Path(os.path.realpath(disk))
    try:
        with os.scandir(place.parent) as entries:
            found = min((e.name for e in entries if parent_name(e.name) == place.name.lower()), default=None)
    except OSError:
        return None  # whoever opens the disk says what is wrong
    return place.parent / found if found is not None else None


def check_checkpoints(disk: Path, name: str) -> None:
    """Refused for a disk that is an old state of its guest."""
    newer = checkpoint_beside(disk)
    if newer is not None:
        raise Refused(
            f"{name}: an old state of the disk: what was written since a checkpoint of Hyper-V lies in {newer}",
            hint=f"{MERGE}; if that file is a leftover of another time, move it out of the directory",
        )
