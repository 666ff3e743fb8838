"""Files of a report directory that are their owner's to edit: an edited one is kept beside the new one, with a line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Callable, Optional

from h2k.base.files import PRIVATE, open_own, write_bytes, write_json

WRITTEN = "written.json"  # in NAME.h2k: what h2k wrote last, file name → SHA-256
_LIMIT = 64 * 1024  # bytes of that file
_MOST = 16 * 1024 * 1024  # bytes of a file that is kept


def write_editable(path: Path, data: bytes, say: Callable[[str], None], mode: int = PRIVATE) -> None:
    """Write a domain or a list of validation steps; what its owner made of the last one goes to NAME.edited first.

    Raises H2kError, and Refused for a file that somebody else could have put there.
    """
    known = _known(path.parent)
    before = _read(path)
    if before is not None and before != data and _digest(before) != known.get(path.name):
        copy = free_name(path.with_name(f"{path.name}.edited"), before)
        write_bytes(copy, before, mode)
        say(f"{path.name} had been edited: what it said is kept in {copy}")
    write_bytes(path, data, mode)
    write_json(path.parent / WRITTEN, {**known, path.name: _digest(data)})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> Optional[bytes]:
    try:
        with open(open_own(path), "rb") as file:
            return file.read(_MOST)
    except FileNotFoundError:
        return None


def _known(directory: Path) -> dict[str, str]:
    try:
        content = json.loads((_read(directory / WRITTEN) or b"{}")[:_LIMIT])
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def free_name(path: Path, content: bytes) -> Path:
    """The path, or one with a number, at which nothing is, or that content already."""
    number, found = 1, path
    while found.is_symlink() or (found.exists() and found.read_bytes() != content):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
