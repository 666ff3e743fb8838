"""Undo data: what a commit replaces, what the disks hold of it, the room that the way there and back needs."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.files import PRIVATE, create, opened_directory
from h2k.base.run import run
from h2k.disk.blocks import Mark, Piece, copy_pieces, marks_of, pieces_of, sync
from h2k.disk.image import probe
from h2k.disk.journal import undo_file, undo_image

NVRAM_LIMIT = 64 * 1024 * 1024  # bytes; OVMF's variables are 0.5 to 4 MiB, ARM's 64
_FIRMWARE = ((40, b"_FVH"), (0, b"QFI\xfb"))  # a firmware volume (UEFI PI, volume 3), or one in a qcow2
_LABEL = "security.selinux"
_MARGIN = 4 * 1024 * 1024  # bytes for tables of qcow2 files, and for what others write meanwhile
Disk = dict[str, Any]


# What the disks hold


def found(path: Path) -> dict[str, Any]:
    """By what a write of somebody else is noticed: the file's size in bytes and its time stamp in nanoseconds."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime": status.st_mtime_ns}


def as_marks(marks: list[list[str]]) -> list[Mark]:
    """The marks of a journal."""
    return [Mark(*mark) for mark in marks]


def marks(disk: Disk) -> list[Mark]:
    """What the pieces of a disk hold now."""
    return marks_of(Path(disk["path"]), disk["format"], disk["pieces"])


def holds(disk: Disk, which: str) -> bool:
    """Whether the disk holds every piece as it was ("old") or became ("new")."""
    return all(now.digest == wanted[0] for now, wanted in zip(marks(disk), disk[which]))


def holds_any(disk: Disk) -> bool:
    """Whether the disk holds anything that only the commit can have put there: a piece that changed, and is not zeros,
    which every blank disk has."""
    return any(
        now.digest == new[0] != old[0] and now.digest != _zeros(piece[1])
        for now, new, old, piece in zip(marks(disk), disk["new"], disk["old"], disk["pieces"])
    )


@lru_cache(maxsize=64)
def _zeros(length: int) -> str:
    return Mark.of(bytes(length)).digest


def is_another(disk: Disk) -> bool:
    """Whether a disk that a commit has written holds none of the pieces that changed by it."""
    if found(Path(disk["path"]))["mtime"] == disk["mtime"]:
        return False
    end = max((at + length for at, length in disk["pieces"]), default=0)
    return probe(Path(disk["path"]), disk["format"]).size < end or not holds_any(disk)


def hand_down(undone: list[Disk], below: list[Disk]) -> None:
    """The disks are what the commit below left, if nobody had written in between: so they carry its time stamp."""
    for disk, earlier in zip(undone, below):
        if disk["path"] == earlier["path"] and disk["found"] == earlier["mtime"]:
            earlier["mtime"] = found(Path(disk["path"]))["mtime"]


def save_undo(directory: Path, depth: int, index: int, overlay: Path, disk: Disk) -> Disk:
    """Copy what the overlay will replace into the undo image; the disk with its pieces and their marks."""
    path, form, undo = Path(disk["path"]), disk["format"], undo_image(directory, depth, index)
    if found(path) != {"bytes": disk["bytes"], "mtime": disk["mtime"]}:
        raise Refused(f"{path}: somebody has written to it while h2k worked on an overlay of it")
    size = probe(overlay, "qcow2").size
    if size != probe(path, form).size:
        raise Refused(f"{overlay}: its size differs from that of {path}")
    pieces = pieces_of(overlay)
    undo.unlink(missing_ok=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(undo), str(size)])
    undo.chmod(PRIVATE)
    old = copy_pieces(path, form, undo, "qcow2", pieces)
    new = marks_of(overlay, "qcow2", pieces)
    sync(overlay)
    return {
        "path": str(path), "format": form, "found": disk["mtime"], "mtime": disk["mtime"], "pieces": pieces,
        "old": [dataclasses.astuple(m) for m in old], "new": [dataclasses.astuple(m) for m in new],
    }  # fmt: skip


# Room


def room_needed(directory: Path, disks: Sequence[tuple[Path, str]], overlays: Sequence[Path], extra: int) -> Iterator[tuple[Path, int]]:
    """(path, bytes) that a commit will take on the file system of each path: the undo data, and what the images lack.

    The way back needs no more than that: it writes only where the commit has written.
    """
    saved = extra
    for (path, form), overlay in zip(disks, overlays):
        pieces = pieces_of(overlay)
        data, own = _allocated(path, form)
        saved += _overlap(pieces, data)
        if path.is_file():
            yield path, sum(length for _, length in pieces) - _overlap(pieces, own)
    yield directory, saved


def require_room(needs: Iterable[tuple[Path, int]]) -> None:
    """H2kError when a file system has less room than all that is needed there."""
    wanted: dict[int, tuple[Path, int]] = {}
    for path, size in needs:
        device = path.stat().st_dev
        wanted[device] = (path, size + (wanted[device][1] if device in wanted else 0))
    for path, size in wanted.values():
        facts = os.statvfs(path)
        free = facts.f_frsize * (facts.f_bfree if os.geteuid() == 0 else facts.f_bavail)
        if size and size + size // 64 + _MARGIN > free:
            raise H2kError(
                f"{path}: No space left for the commit and its way back: {_mib(size + _MARGIN)} are needed, {_mib(free)} are free;"
                " the disks are what they were",
                hint="free some space, then give the same command",
            )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _allocated(path: Path, form: str) -> tuple[list[Piece], list[Piece]]:
    """The extents of an image that hold data, and those that it holds itself and not what it rests on."""
    extents = json.loads(run(["qemu-img", "map", "-f", form, "--output=json", str(path)]).stdout)
    data = [e for e in extents if e["data"]]
    return [(e["start"], e["length"]) for e in data], [(e["start"], e["length"]) for e in data if e["depth"] == 0 and "offset" in e]


def _overlap(pieces: Sequence[Piece], extents: Sequence[Piece]) -> int:
    """How many bytes of the pieces lie in the extents; both in the order of their offsets."""
    total, first = 0, 0
    for at, length in pieces:
        while first < len(extents) and sum(extents[first]) <= at:
            first += 1
        for start, size in extents[first:]:
            if start >= at + length:
                break
            total += min(at + length, start + size) - max(at, start)
    return total


# Companions: firmware variables


def require_nvram(path: Path) -> None:
    """Refused unless firmware variables may stand at that path: a domain's XML, which anybody may have edited, names it,
    and a commit and its way back replace it."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        if path.suffix not in (".fd", ".qcow2", ".raw", ".bin"):
            raise Refused(f"{path}: not a name of firmware variables", hint="name a file NAME.fd in <nvram>") from None
        return
    wrong = ""
    if not stat.S_ISREG(facts.st_mode):
        wrong = "a link, or not a file"
    elif facts.st_size > NVRAM_LIMIT:
        wrong = f"{facts.st_size} bytes are too many for firmware variables"
    else:
        with open(path, "rb") as file:
            head = file.read(64)
        if head and not any(head[at : at + 4] == magic for at, magic in _FIRMWARE):
            wrong = "holds no firmware variables"
    if wrong:
        raise Refused(f"{path}: {wrong}, and <nvram> names it", hint="name the guest's own variables there, or a path where nothing is")


def save_file(directory: Path, depth: int, index: int, work: Path, path: Path) -> dict[str, Any]:
    """Keep a companion as it is, with its mode, owner and label, before `work` takes its place."""
    require_nvram(path)
    undo = undo_file(directory, depth, index)
    undo.unlink(missing_ok=True)
    there = path.exists()
    if there:
        _copy(path, undo, PRIVATE)
    sync(work)
    return {"work": str(work), "path": str(path), "undo": str(undo) if there else None, **(_attributes(path) if there else {})}


def place_file(source: Path, path: Path, attributes: Optional[dict[str, Any]] = None) -> None:
    """Put a companion in its place at one stroke, across file systems too, with the mode, owner and label of what is
    there, or those given; a new one is its owner's alone."""
    require_nvram(path)
    if path.exists():
        attributes = _attributes(path)
    new = path.with_name(f".{path.name}.h2k-new")
    new.unlink(missing_ok=True)
    try:
        _copy(source, new, PRIVATE)
        _give(new, attributes or {})
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)
    source.unlink()


def remove_file(path: Path) -> None:
    """Remove a companion that was not there before."""
    require_nvram(path)
    path.unlink(missing_ok=True)


def _copy(source: Path, target: Path, mode: int) -> None:
    """A copy under a name that nothing has, on the disk when this returns."""
    with opened_directory(target.parent) as directory, open(source, "rb") as old, open(create(directory, target.name, mode), "wb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())


def _attributes(path: Path) -> dict[str, Any]:
    facts = path.stat()
    known: dict[str, Any] = {"mode": stat.S_IMODE(facts.st_mode), "uid": facts.st_uid, "gid": facts.st_gid}
    with contextlib.suppress(OSError):
        known["label"] = base64.b64encode(os.getxattr(path, _LABEL)).decode()
    return known


def _give(path: Path, attributes: dict[str, Any]) -> None:
    """As far as we may: an ordinary user's files are the user's in any case."""
    with contextlib.suppress(OSError):
        os.chown(path, attributes.get("uid", -1), attributes.get("gid", -1))
    path.chmod(attributes.get("mode", PRIVATE) & 0o777)
    with contextlib.suppress(OSError, ValueError):
        if "label" in attributes:
            os.setxattr(path, _LABEL, base64.b64decode(attributes["label"]))
