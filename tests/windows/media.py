"""What an installation ISO holds: its digest, its label, and the Windows images in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.xml import parse_xml
from tests.windows.steps import StepFailed

SECTOR = 2048
STAND_IN_LABEL = "H2K_STAND_IN"  # of an ISO that is a stand-in for Windows' (tests/windows/stand_in.py)
WIMS = ("/sources/install.wim", "/sources/install.esd")
WIM_HEADER = 208  # bytes; [MS-WIM] is not published, "Windows Imaging File Format (WIM)", Microsoft, 2007, has the header
WIM_XML_LIMIT = 3 * 1024 * 1024  # bytes; a message of libguestfs carries 4 MiB
ARCHITECTURES = {"0": "x86", "9": "amd64"}  # WINDOWS/ARCH: PROCESSOR_ARCHITECTURE_* of winnt.h

Pread = Callable[[str, int, int], bytes]  # (path, size, offset) → bytes


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of an install.wim, as its XML describes it."""

    index: int
    name: str
    edition: str
    arch: str
    build: int
    server: bool
    language: str


@dataclasses.dataclass(frozen=True)
class Media:
    """An installation ISO. `stand_in`: it is none of Microsoft's, and what comes out proves nothing about Windows."""

    path: Path
    sha256: str
    label: str
    stand_in: bool
    images: tuple[Image, ...]


def volume_label(iso: Path) -> str:
    """The volume identifier of the primary volume descriptor (ECMA-119, 8.4); StepFailed for a file that has none."""
    with open(iso, "rb") as file:
        file.seek(16 * SECTOR)
        sector = file.read(SECTOR)
    if sector[:7] != b"\x01CD001\x01":
        raise StepFailed("media", f"{iso} is no ISO image", f"{iso}: download it again, and compare its SHA-256")
    return sector[40:72].decode("ascii", "replace").strip()


def sha256_of(path: Path, cache: Path) -> str:
    """The digest of a large file, kept in `cache` as long as its size and time stamp stay."""
    facts = path.stat()
    key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    known: dict[str, str] = {}
    if cache.exists():
        known = json.loads(cache.read_text(encoding="utf-8"))
    if key not in known:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(4 << 20):
                digest.update(block)
        known[key] = digest.hexdigest()
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known[key]


def wim_images(pread: Pread, path: str) -> tuple[Image, ...]:
    """The images that a WIM names in its XML data; StepFailed for what is no WIM."""
    header = pread(path, WIM_HEADER, 0)
    if len(header) < WIM_HEADER or header[:8] != b"MSWIM\0\0\0":
        raise StepFailed("media", f"{path} is no WIM", "the ISO: is it a Windows installation ISO?")
    size = int.from_bytes(header[72:79], "little")  # rhXmlData: 7 bytes of size, one of flags, the offset
    (offset,) = struct.unpack_from("<Q", header, 80)
    if size > WIM_XML_LIMIT:
        raise StepFailed("media", f"{path}: {size} bytes of XML data", "the ISO: compare its SHA-256 with Microsoft's")
    text = pread(path, size, offset).decode("utf-16", "replace")
    root = parse_xml(text.encode(), path)
    return tuple(found for found in map(_image, root.iterfind("IMAGE")) if found is not None)


def _image(element: Any) -> Optional[Image]:
    """An image of an XML; None for one that is no Windows (WinPE, Setup's own)."""

    def text(path: str) -> str:
        return (element.findtext(path) or "").strip()

    index, build = element.get("INDEX", ""), text("WINDOWS/VERSION/BUILD")
    if not (index.isdigit() and build.isdigit() and text("WINDOWS/ARCH") in ARCHITECTURES):
        return None
    return Image(
        index=int(index),
        name=text("NAME") or text("DISPLAYNAME"),
        edition=text("WINDOWS/EDITIONID"),
        arch=ARCHITECTURES[text("WINDOWS/ARCH")],
        build=int(build),
        server="server" in text("WINDOWS/PRODUCTTYPE").lower(),
        language=text("WINDOWS/LANGUAGES/DEFAULT") or text("WINDOWS/LANGUAGES/LANGUAGE") or "en-US",
    )


def choose(images: Sequence[Image], wanted: str) -> Image:
    """The image to install: `wanted` is an index or a name; without it the first that has a desktop."""
    for image in images:
        if wanted and wanted in (str(image.index), image.name):
            return image
    if wanted or not images:
        known = "; ".join(f"{i.index} {i.name}" for i in images) or "none"
        raise StepFailed("media", f"no image {wanted!r} in this ISO", f"EDITION=, one of: {known}")
    desktop = [i for i in images if not i.server or "desktop" in i.name.lower() or (i.build < 14393 and "core" not in i.name.lower())]
    return (desktop or list(images))[0]


def read_media(iso: Path, cache: Path) -> Media:
    """The ISO's digest, label and images. An appliance of libguestfs reads it: Windows' ISOs are UDF."""
    if not iso.is_file():
        raise StepFailed("media", f"{iso} is not there", "WINDOWS_ISO=")
    label, digest = volume_label(iso), sha256_of(iso, cache / "digests.json")
    known = cache / f"images-{digest[:24]}.json"
    if not known.exists():
        known.write_text(json.dumps([dataclasses.asdict(image) for image in _images_of(iso)], indent=1), encoding="utf-8")
    images = tuple(Image(**image) for image in json.loads(known.read_text(encoding="utf-8")))
    return Media(iso, digest, label, label == STAND_IN_LABEL, images)


def _images_of(iso: Path) -> tuple[Image, ...]:
    import guestfs

    appliance = guestfs.GuestFS(python_return_dict=True)
    try:
        appliance.add_drive_opts(str(iso), readonly=True, format="raw")
        appliance.launch()
        appliance.mount_ro("/dev/sda", "/")
        for path in WIMS:
            if appliance.is_file(path):
                return wim_images(appliance.pread, path)
    except RuntimeError as e:
        raise StepFailed("media", f"{iso} can't be read: {e}", "libguestfs-test-tool") from e
    finally:
        appliance.close()
    raise StepFailed("media", f"{iso} has no {' or '.join(WIMS)}", "the ISO: is it a Windows installation ISO?")
