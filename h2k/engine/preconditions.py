"""What is asked before the first write: rights and space, so that nothing is refused half-way."""

from __future__ import annotations

import os
from pathlib import Path

from h2k.base.errors import Refused
from h2k.domain.guest_files import GuestFiles

SUDO = "run it with sudo"


def require_rights(files: GuestFiles) -> None:
    """Refused where this user may not write the images or the report directory."""
    for path, _ in files.images:
        if path.exists() and not os.access(path, os.W_OK):
            raise Refused(f"{path}: this user may not write it", hint=_way_out(path))
    require_writable_directory(files.state)


def require_writable_directory(directory: Path) -> None:
    """Refused where this user may not write a directory, or make it where it is not there yet."""
    place = directory if directory.exists() else directory.absolute().parent
    if place.exists() and not os.access(place, os.W_OK | os.X_OK):
        raise Refused(f"{place}: this user may not write there", hint=_way_out(place))


def _way_out(path: Path) -> str:
    """sudo where the file is another user's; else it was made read-only, and h2k takes that for a wish."""
    if os.geteuid() != 0 and path.stat().st_uid != os.geteuid():
        return SUDO
    return "give h2k a copy that it may write"
