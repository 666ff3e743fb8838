"""Disk images of any format that qemu knows: what they are, and their backing chain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

from h2k.errors import BadData, Refused
from h2k.run import CommandFailed, run

MAX_CHAIN = 32


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """An image: its format as qemu names it, its virtual size in bytes, and its files from top to base."""

    path: Path
    format: str
    size: int
    chain: tuple[Path, ...]


def probe(path: Path, format: Optional[str] = None) -> ImageInfo:
    """Ask qemu-img what the image is. Refused for a file that is missing, empty, unreadable or no image."""
    try:
        if path.is_dir():
            raise Refused(f"{path}: a directory, not a disk image")
        if path.stat().st_size == 0 and path.is_file():
            raise Refused(f"{path}: the image is empty", hint="copy it from the source again")
        with open(path, "rb"):
            pass
    except OSError as e:
        raise Refused(f"{path}: {e.strerror}", hint="give the path of a disk image that you may read") from e
    argv = ["qemu-img", "info", "-U", "--output=json", "--backing-chain"]
    try:
        done = run([*argv, *(["-f", format] if format else []), f"file:{path}" if ":" in str(path) else str(path)], timeout=60)
    except CommandFailed as e:
        why = e.stderr.strip().splitlines()[-1:] or [str(e)]
        raise Refused(f"{path}: qemu can't open this image: {why[0]}", hint="copy it from the source again") from e
    layers: list[dict[str, Any]] = json.loads(done.stdout)
    if len(layers) > MAX_CHAIN:
        raise BadData(f"{path}: a backing chain of {len(layers)} images", hint="flatten it with qemu-img convert")
    for layer in layers:
        backing = layer.get("full-backing-filename", "")
        if ":" in backing and not Path(backing).exists():
            raise BadData(f"{path}: its backing file {backing} is not a local file", hint="flatten it on its host")
    top = layers[0]
    return ImageInfo(path, top["format"], top["virtual-size"], tuple(Path(layer["filename"]) for layer in layers))
