"""Images that reach beyond themselves: data files, extents and backing files that are none of the guest's.

An image comes with a guest, and names whatever files it likes; QEMU opens them as whoever runs it. So what an image's
header and descriptor name is read here first, and followed only beside the image (or below it), or below a directory
that the user allowed (--allow-under DIR). Layouts: QEMU's docs/interop/qcow2.txt, VMware's Virtual Disk Format 5.0.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from h2k.base.errors import BadData, Refused
from h2k.disk.formats import NAMES
from h2k.disk.image_bytes import Part

_DESCRIPTOR_LIMIT = 1024 * 1024  # bytes; QEMU reads no more
_MAX_EXTENTS = 4096
_SECTOR = 512
_DATA_FILE = 4  # qcow2's incompatible feature: the guest's data lie in another file
_EXTENT = re.compile(rb'^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+\w+\s+"([^"\n]*)"', re.MULTILINE)
_allowed: list[Path] = []


def allow_under(directories: Iterable[str]) -> None:
    """The directories into which images may reach, from now on: what the user's command line says."""
    _allowed[:] = [Path(directory).resolve() for directory in directories]


def check_format(format: str, path: Path) -> None:
    """Refused for what is no format of an image."""
    if format not in NAMES:
        raise Refused(f"{path}: {format[:40]!r} is no format of an image", hint="raw, qcow2, vmdk, vhdx, vpc or vdi")


def check_reach(image: Path, name: Path, format: str = "") -> None:
    """Refused when what the image's own header names lies elsewhere, asked before QEMU opens it: an external data file,
    a VMDK's extents. `name` is what messages call it. A raw image names nothing, whatever its bytes are."""
    if format == "raw":
        return
    try:
        with open(image, "rb") as file:
            part = Part(file)
            elsewhere, extents = data_file(part), extents_of(part, name)
    except OSError:
        return  # who opens it will say what is wrong
    if elsewhere:
        check_other(name, image, None, elsewhere)
    for extent in extents:
        check_other(name, image, Path(extent), f"an extent, {extent[:200]}")


def check_alone(part: Part, name: str) -> None:
    """BadData for an image of an archive or a server that names other files: they would be files of this host."""
    others = [data_file(part), *extents_of(part, Path(name))]
    if any(others):
        raise BadData(f"{name}: a {'VMDK' if not others[0] else 'qcow2'} that keeps its content in other files", hint="export the guest again, flattened")


def check_other(name: Path, image: Path, other: Optional[Path], what: str) -> None:
    """Refused unless `other`, which the image names, lies beside it, below it, or where the user allows it; None is
    never allowed but by a directory."""
    home = image.resolve().parent
    hint = "flatten it where it came from (qemu-img convert), or allow the directory with --h2k-allow-under DIR"
    if other is None:
        if any(home == place or place in home.parents for place in _allowed):
            return
        raise Refused(f"{name}: keeps its data in another file: {what}", hint=hint)
    try:
        there = (home / other).resolve()
    except (OSError, RuntimeError, ValueError) as e:  # too long, a circle of links, NUL
        raise BadData(f"{name}: names no file that could be: {what}", hint="export the guest again") from e
    climbs = other.is_absolute() or ".." in other.parts
    for place in [*([] if climbs else [home]), *_allowed]:
        if there == place or place in there.parents:
            return
    raise Refused(f"{name}: reaches beyond its directory: {what}", hint=hint)


def check_backing(name: Path, image: Path, backing: Path) -> None:
    """Refused for a backing file that is neither beside the image or below it nor allowed: another guest's, or a file
    of this host."""
    home, there = image.resolve().parent, backing.resolve()
    if not any(place in there.parents for place in [home, *_allowed]):
        raise Refused(
            f"{name}: its backing file {backing} lies in another directory",
            hint="flatten it where it came from (qemu-img convert), or allow the directory with --h2k-allow-under DIR",
        )


def data_file(part: Part) -> str:
    """What a qcow2 says of an external data file, "" for none."""
    head = part.head(104)
    if head[:4] != b"QFI\xfb" or struct.unpack_from(">I", head, 4)[0] < 3:
        return ""
    return "an external data file, its header says" if struct.unpack_from(">Q", head, 72)[0] & _DATA_FILE else ""


def extents_of(part: Part, name: Path) -> list[str]:
    """The files that a VMDK's descriptor names; none for what is no VMDK, or holds its data itself."""
    found = [match.decode("utf-8", "surrogateescape") for match in _EXTENT.findall(_descriptor(part))]
    if len(found) > _MAX_EXTENTS:
        raise BadData(f"{name}: a VMDK of {len(found)} extents", hint="export the guest again")
    return found


def _descriptor(part: Part) -> bytes:
    head = part.head(_SECTOR)
    if head[:4] == b"KDMV":
        capacity, _, start, size = struct.unpack_from("<QQQQ", head, 12)
        # QEMU reads no names from the descriptor in a sparse one that holds data
        return b"" if capacity else part.at(start * _SECTOR, min(size * _SECTOR, _DESCRIPTOR_LIMIT))
    if b"# Disk DescriptorFile" not in head and not _looks_like_text(head):
        return b""
    return part.at(0, _DESCRIPTOR_LIMIT)


def _looks_like_text(head: bytes) -> bool:
    """QEMU takes comments and blank lines before the version line."""
    return b"\0" not in head[:64] and re.match(rb"\s*(#[^\n]*\n\s*)*version=", head) is not None
