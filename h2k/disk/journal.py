"""The journal of a report directory: what is being done to the disks, what was, and what each piece held before and after.

journal.json: {"phase", "work", "stack"}. `work` is what is going on (None when idle): its kind, the disks as they were
found, then, from the commit on, for each disk the pieces that change with their marks before and after. So a fresh disk
at the same path is never taken for the one that an old journal is about. `stack` is what was committed, oldest first;
each entry has its undo images beside the journal.

A journal says which files are written, so that it is hostile until it is checked: it must be ours, bounded, of the
right shape, and it names no files but the disks: undo data and companions have fixed names.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.files import open_own, require_own, write_bytes
from h2k.disk.blocks import PIECE

PHASES = ("idle", "applying", "kept", "committing", "rolling-back")
JOURNAL_LIMIT = 256 * 1024 * 1024  # bytes; a boot that rewrote 10 GiB has a journal of about 30 MiB
_AFRESH = "move the report directory away to begin afresh"
_MAX_DISKS, _MAX_COMMITS, _MAX_PIECES = 64, 1000, 1_000_000
_MAX_PATH = 4096  # characters
_FORMAT = re.compile(r"[a-z0-9_-]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PAGES = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BEGUN = ("committing", "rolling-back")
Journal = dict[str, Any]


class JournalFile:
    """journal.json of a report directory: read under its bounds, written at one stroke."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "journal.json"
        self._spare = directory / "journal.spare"

    def exists(self) -> bool:
        """Whether there is one, be it good or not."""
        return os.path.lexists(self.path)

    def load(self) -> Journal:
        """The journal, an idle one where there is none. Refused for one that is not ours or makes no sense."""
        try:
            require_own(self.directory, self.directory.lstat())
            with open(open_own(self.path), "rb") as file:
                if os.fstat(file.fileno()).st_size > JOURNAL_LIMIT:
                    raise ValueError(f"larger than {JOURNAL_LIMIT} bytes")
                content = json.loads(file.read(JOURNAL_LIMIT))
            return checked(content, self.directory)
        except FileNotFoundError:
            return {"phase": "idle", "work": None, "stack": []}
        except (OSError, ValueError, RecursionError) as e:
            raise Refused(f"{self.path}: can't be read: {str(e)[:200]}", hint=_AFRESH) from e

    def store(self, phase: str, work: Optional[dict[str, Any]], stack: list[dict[str, Any]]) -> Journal:
        """Write it. H2kError when it can't be, or when it could not be read back for its size."""
        journal = {"phase": phase, "work": work, "stack": stack}
        data = json.dumps(journal).encode()
        if len(data) > JOURNAL_LIMIT:
            raise H2kError(
                f"{self.path}: would take {len(data)} bytes, more than can be read back: too much changed at once",
                hint="copy the disks, then move the report directory away",
            )
        write_bytes(self.path, data)
        return journal

    def reserve(self, size: int) -> None:
        """Keep room for a journal of about `size` bytes to be written twice, whatever fills the file system."""
        handle = os.open(self._spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, 2 * size + 256 * 1024)
        except OSError as e:
            self._spare.unlink()
            raise H2kError(f"{self.path}: no room for it: {e.strerror}", hint="free some space, then give the same command") from e
        finally:
            os.close(handle)

    def use_reserve(self) -> None:
        """Give that room free: it is needed now."""
        self._spare.unlink(missing_ok=True)


def checked(content: Any, directory: Path) -> Journal:
    """The content of a journal.json if it has the right shape; ValueError says what is wrong with it."""
    _is(isinstance(content, dict) and set(content) >= {"phase", "work", "stack"}, "not phase, work and stack")
    phase, work, stack = content["phase"], content["work"], content["stack"]
    _is(phase in PHASES, f"phase {str(phase)[:40]!r}")
    _is(isinstance(stack, list) and len(stack) <= _MAX_COMMITS, "stack")
    for number, entry in enumerate(stack):
        _check_entry(entry, directory, number, whole=True)
    _is((work is None) == (phase == "idle"), "work")
    if work is not None:
        _check_entry(work, directory, len(stack), whole=phase in _BEGUN)
    journal: Journal = content
    return journal


def _is(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"{what} makes no sense")


def _number(value: Any, most: int = 1 << 63) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _check_entry(entry: Any, directory: Path, number: int, whole: bool) -> None:
    """One commit; `whole` when its pieces are known."""
    _is(isinstance(entry, dict) and isinstance(entry.get("kind"), str) and len(entry["kind"]) <= 40, "kind")
    _is(_number(entry.get("depth", number), 1 << 20), "depth")
    disks, files = entry.get("disks"), entry.get("files", [])
    _is(isinstance(disks, list) and 0 < len(disks) <= _MAX_DISKS, "disks")
    for disk in disks:
        _check_disk(disk, whole)
    _is(isinstance(files, list) and len(files) <= 1, "files")
    for index, file in enumerate(files):
        _check_file(file, directory, entry.get("depth", number), index)


def _check_disk(disk: Any, whole: bool) -> None:
    _is(isinstance(disk, dict) and _path(disk.get("path")), "a disk's path")
    _is(isinstance(disk.get("format"), str) and bool(_FORMAT.fullmatch(disk["format"])), "a disk's format")
    _is(_number(disk.get("mtime")), "a disk's time")
    if not whole:
        _is(_number(disk.get("bytes")), "a disk's size")
        return
    pieces = disk.get("pieces")
    _is(isinstance(pieces, list) and len(pieces) <= _MAX_PIECES and _number(disk.get("found")), "a disk's pieces")
    for piece in pieces:
        _is(isinstance(piece, list) and len(piece) == 2 and all(map(_number, piece)) and 0 < piece[1] <= PIECE, "a piece")
    for which in ("old", "new"):
        marks = disk.get(which)
        _is(isinstance(marks, list) and len(marks) == len(pieces) and all(map(_mark, marks)), f"the marks ({which})")


def _mark(mark: Any) -> bool:
    if not isinstance(mark, list) or len(mark) != 2 or not all(isinstance(text, str) for text in mark):
        return False
    return bool(_DIGEST.fullmatch(mark[0]) and len(mark[1]) <= 2048 and _PAGES.fullmatch(mark[1]) and len(mark[1]) % 4 == 0)


def _path(path: Any) -> bool:
    return isinstance(path, str) and path.startswith("/") and len(path) <= _MAX_PATH and "\0" not in path and ".." not in path.split("/")


def _check_file(file: Any, directory: Path, depth: int, index: int) -> None:
    """A companion: its copies have fixed names, so that a journal can't name a file to be deleted or moved."""
    _is(isinstance(file, dict) and _path(file.get("path")), "a companion's path")
    _is(file.get("work") == str(work_file(directory)), "a companion's work file")
    _is(file.get("undo") in (None, str(undo_file(directory, depth, index))), "a companion's undo file")


def work_file(directory: Path) -> Path:
    """Where the boots work on a copy of the firmware variables: the one companion that disks have."""
    return directory / "boot" / "nvram.fd"


def undo_image(directory: Path, depth: int, index: int) -> Path:
    """The undo data of a disk by the number of the commit."""
    return directory / f"undo-{depth}-{index}.qcow2"


def undo_file(directory: Path, depth: int, index: int) -> Path:
    """The undo data of a companion."""
    return directory / f"undo-{depth}-file{index}"
