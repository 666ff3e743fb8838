"""What a command works on: images, the domain that describes them, and the report directory; read, never written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

from h2k.base.errors import UsageError
from h2k.disk.image import probe
from h2k.domain.facts import DomainFacts
from h2k.domain.libvirt_reader import read_domain_xml

DESCRIPTION_LIMIT = 16 * 1024 * 1024  # bytes of a domain XML or VMX that we are willing to read


@dataclasses.dataclass(frozen=True)
class GuestFiles:
    """The images in the domain's order with their formats (None: ask qemu), the domain if known, the report directory.

    `description` is the libvirt XML that named the images, where one did; `document` the file that did, of any kind;
    `ovf` the bytes of an OVA's OVF. `beside`: the document names no disks, and these were found beside it by their names.
    """

    images: tuple[tuple[Path, Optional[str]], ...]
    state: Path
    domain: Optional[DomainFacts] = None
    description: Optional[bytes] = None
    document: Optional[Path] = None
    ovf: Optional[bytes] = None
    beside: bool = False

    def writable(self) -> tuple[tuple[Path, str], ...]:
        """The images with their formats; a format that nobody named is asked of qemu-img."""
        return tuple((path, form or probe(path).format) for path, form in self.images)


def read_description(path: Path) -> bytes:
    """The bytes of a domain description; UsageError when it can't be read or can't be one."""
    try:
        if path.stat().st_size > DESCRIPTION_LIMIT:
            raise UsageError(f"{path}: larger than {DESCRIPTION_LIMIT} bytes; not a domain description")
        return path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}", hint="give a file that you may read") from e


def described(xml: bytes, name: str, base: Path, state: Path) -> GuestFiles:
    """What a libvirt XML names; `name` is the file's or the domain's, for messages."""
    domain = read_domain_xml(xml, name)
    return GuestFiles(images_of(domain, base), state, domain, xml)


def images_of(domain: DomainFacts, base: Path) -> tuple[tuple[Path, Optional[str]], ...]:
    """The domain's image files; relative paths are relative to `base`. UsageError when it has none."""
    images = tuple((base / disk.path, disk.format) for disk in domain.disks if disk.path is not None)
    if not images:
        raise UsageError(f"{domain.name}: the domain names no disk image file")
    return images
