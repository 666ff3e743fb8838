"""Views: qcow2 files that h2k makes itself on what is no image file of its own, a part of an archive or an NBD export."""

from __future__ import annotations

import json
from pathlib import Path, PosixPath
from typing import Any, Optional

from h2k.base.errors import BadData, Refused
from h2k.base.run import CommandFailed, run

Node = dict[str, Any]
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


def _info(node: Node, name: str) -> dict[str, Any]:
    """What qemu-img says of the image; it opens nothing that the image may rest on."""
    argv = ["qemu-img", "info", "-U", "--output=json", "json:" + json.dumps(node)]
    try:
        found: dict[str, Any] = json.loads(run(argv, timeout=_TIMEOUT).stdout)
    except CommandFailed as e:
        why = (e.stderr.strip().splitlines()[-1:] or [str(e)])[0].rpartition("': ")[2]
        raise Refused(f"{name}: qemu can't open this image: {why}", hint="copy it from the source again") from e
    return found
