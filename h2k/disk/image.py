"""Disk images of any format that qemu knows: what they are, and their backing chain."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, Refused
from h2k.base.run import CommandFailed, run
from h2k.disk.checkpoints import check_checkpoints
from h2k.disk.claims import MEMORY, ONE_ARENA, check_claims
from h2k.disk.reach import check_backing, check_format, check_reach
from h2k.disk.truncation import check_whole
from h2k.disk.view import View

_CHECK_FOUND_CORRUPTION = 2  # exit status of qemu-img check
_CHECK_LIMIT, _CHECK_SPEED = 60.0, 20e6  # seconds, and bytes of the files a second, that qemu-img check may take
_CHECK_MEMORY = 64  # one more for so many bytes of its files: 8 for each cluster of the smallest, to count its uses
MAX_CHAIN = 32


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """An image: its format as qemu names it, its virtual size in bytes, and its files from top to base."""

    path: Path
    format: str
    size: int
    chain: tuple[Path, ...]


def probe(path: Path, format: Optional[str] = None) -> ImageInfo:
    """Ask qemu-img what the image is. Refused for a file that is missing, empty, unreadable or no image; BadData for one
    that is truncated, or whose chain can't be followed.

    Each image of the backing chain is looked at before qemu opens it: none but local files and devices are followed.
    A view alone may rest on something else. Refused, too, for an image that reaches beyond its directory (h2k.disk.reach),
    and for one that a checkpoint of Hyper-V made an old state (h2k.disk.checkpoints).
    """
    _check(path)
    if format is not None:
        check_format(format, path)
    layers: list[dict[str, Any]] = []
    chain: list[Path] = []
    here, form = path.absolute(), format
    while True:
        if not isinstance(path, View):
            check_checkpoints(here, str(path))
            check_reach(here, path, form or "")
            check_claims(here, str(path), form or "")
        layer = _info(path, here, form)
        check_whole(layer, here, str(path))
        layers.append(layer)
        chain.append(here)
        backing = layer.get("full-backing-filename") or layer.get("backing-filename")
        if not backing or isinstance(path, View):
            break
        here, form = Path(backing), layer.get("backing-filename-format")
        if not here.is_absolute() or not here.exists():
            raise BadData(f"{path}: its backing file {backing} is not here", hint="flatten it where it came from")
        if len(layers) == MAX_CHAIN or any(here.samefile(seen) for seen in chain):
            raise BadData(f"{path}: its backing chain has no end", hint="flatten it where it came from")
        _check(here)
        check_backing(path, chain[-1], here)
    if any(layer.get("encrypted") for layer in layers):
        raise Refused(f"{path}: the image is encrypted", hint="decrypt it with qemu-img convert")
    return ImageInfo(path, layers[0]["format"], layers[0]["virtual-size"], tuple(chain))


def _check(path: Path) -> None:
    """Refused for what can't be an image, or can't be read."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise Refused(f"{path}: a directory, not a disk image")
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
            raise Refused(f"{path}: neither a file nor a block device")
        if stat.S_ISREG(facts.st_mode) and facts.st_size == 0:
            raise Refused(f"{path}: the image is empty", hint="copy it from the source again")
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        raise Refused(f"{path}: {e.strerror}", hint="give the path of a disk image that you may read") from e


def _info(image: Path, layer: Path, format: Optional[str]) -> dict[str, Any]:
    """What qemu-img says of one image of a chain; an absolute path is never taken for a protocol."""
    argv = ["qemu-img", "info", "-U", "--output=json", *(["-f", format] if format else []), str(layer)]
    try:
        found: dict[str, Any] = json.loads(run(argv, timeout=60, memory=MEMORY, env=ONE_ARENA).stdout)
    except CommandFailed as e:
        if "log that needs to be replayed" in e.stderr:  # VHDX: qemu replays it where it may write, and nowhere else
            raise Refused(
                f"{image}: the VHDX was not closed cleanly: its log has still to be replayed",
                hint="shut the source down and copy it again, or on a copy: qemu-img check -r all COPY, and give h2k the copy",
            ) from e
        why = (e.stderr.strip().splitlines()[-1:] or [str(e)])[0].removeprefix("qemu-img: ")
        raise Refused(f"{image}: qemu can't open this image: {why}", hint="copy it from the source again") from e
    return found


def damage(info: ImageInfo) -> str:
    """What qemu-img check says against the image, '' when nothing: a copy that was cut short reads as zeros, not as an
    error. Leaked clusters are no damage; formats without a check have none. Seconds for large images."""
    if info.format == "vmdk":
        return ""  # probe has looked at all that qemu-img would, and qemu-img asks for each grain that a disk could have
    held = sum(file.stat().st_blocks * 512 if file.is_file() else info.size for file in info.chain)
    limit, memory = _CHECK_LIMIT + held / _CHECK_SPEED, MEMORY + held // _CHECK_MEMORY
    argv = ["qemu-img", "check", "-U", "-f", info.format, "--output=json", str(info.path)]
    try:
        done = run(argv, check=False, timeout=limit, memory=memory, env=ONE_ARENA)
    except CommandFailed:
        return f"qemu-img check finds no end in {limit:.0f} s"
    if done.returncode < 0 or b"Cannot allocate memory" in done.stderr:
        return f"qemu-img check needs more than {memory >> 20} MiB, which what its file holds does not explain"
    if done.returncode != _CHECK_FOUND_CORRUPTION:
        return ""
    try:
        found = json.loads(done.stdout).get("corruptions", 0)
    except ValueError:
        found = 0
    return f"qemu-img check finds {found or 'many'} errors in it"
