"""Views: qcow2 files that h2k makes itself on what is no image file of its own, a part of an archive or an NBD export."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any, Optional

from h2k.base.errors import BadData, Refused
from h2k.base.run import CommandFailed, run
from h2k.disk.claims import MEMORY, ONE_ARENA, check_part
from h2k.disk.image_bytes import Part
from h2k.disk.reach import check_alone

Node = dict[str, Any]
_START, _BLOCK = 1 << 20, 1 << 16  # bytes of what lies elsewhere: headers, and what a descriptor may have
_FURTHEST = 1 << 62  # bytes; no image is larger
_TIMEOUT = 60.0  # seconds for qemu-img to open what a view rests on


class View(PosixPath):
    """The path of a view, or of an overlay that h2k made. What it rests on was examined when it was made: h2k named it,
    not a guest, so that it may lie anywhere and be more than a local file."""


def slice_of(archive: Path, offset: int, length: int) -> Node:
    """The block node for `length` bytes of a file, as qemu describes it (its raw driver's offset and size).

    qemu wants whole sectors; tar pads its members to them, and what is behind them is not read.
    """
    file = {"driver": "file", "filename": str(archive.resolve())}
    return {"driver": "raw", "offset": offset, "size": -(-length // 512) * 512, "file": file}


def make_view(path: Path, storage: Node, name: str, format: Optional[str] = None) -> View:
    """An empty overlay at `path` on the image in `storage`, a block node; `name` tells people what that is.

    Without `format` qemu looks what the image is, as virt-v2v lets it. Refused for what qemu can't open, for an
    encrypted image, and for one that rests on another: an archive's or a server's content must name no file here.
    """
    if format != "raw":  # asked before qemu opens what it names
        with _start_of(storage, path.parent, name) as part:
            check_alone(part, name)
            check_part(part, name)
    found = _info({"driver": format, "file": storage} if format else {"file": storage}, name)
    if found.get("encrypted"):
        raise Refused(f"{name}: the image is encrypted", hint="decrypt it with qemu-img convert")
    other = found.get("backing-filename") or found.get("format-specific", {}).get("data", {}).get("data-file")
    if other:
        raise BadData(f"{name}: it rests on another file, {str(other)[:80]}", hint="flatten it where it came from")
    base = "json:" + json.dumps({"driver": found["format"], "file": storage})
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", found["format"], "-b", base, str(path)], timeout=_TIMEOUT)
    path.chmod(0o600)
    return View(path)


@contextlib.contextmanager
def _start_of(storage: Node, work: Path, name: str) -> Iterator[Part]:
    """The image's own bytes: of a part of a file all of them, of what lies elsewhere the first MiB."""
    if storage["driver"] == "raw":
        with open(storage["file"]["filename"], "rb") as file:
            yield Part(file, storage["offset"], storage["size"])
        return
    copy = work / "start"
    node = "json:" + json.dumps({"driver": "raw", "file": storage})
    try:
        run(["qemu-img", "dd", "-O", "raw", f"bs={_BLOCK}", f"count={_START // _BLOCK}", f"if={node}", f"of={copy}"], timeout=_TIMEOUT)
    except CommandFailed as e:
        raise _unreadable(name, e) from e
    try:
        with open(copy, "rb") as file:
            yield Part(file, size=_FURTHEST, known=file.seek(0, os.SEEK_END))
    finally:
        copy.unlink()


def _info(node: Node, name: str) -> dict[str, Any]:
    """What qemu-img says of the image; it opens nothing that the image may rest on."""
    argv = ["qemu-img", "info", "-U", "--output=json", "json:" + json.dumps(node)]
    try:
        found: dict[str, Any] = json.loads(run(argv, timeout=_TIMEOUT, memory=MEMORY, env=ONE_ARENA).stdout)
    except CommandFailed as e:
        raise _unreadable(name, e) from e
    return found


def _unreadable(name: str, error: CommandFailed) -> Refused:
    why = (error.stderr.strip().splitlines()[-1:] or [str(error)])[0].rpartition("': ")[2]
    return Refused(f"{name}: qemu can't open this image: {why}", hint="copy it from the source again")
