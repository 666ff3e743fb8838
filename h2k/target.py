"""What a command works on: images, the domain that describes them, and the report directory; read, never written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from h2k.disk.image import probe
from h2k.domain import DomainFacts
from h2k.domain_source import read_domain_xml, read_vmx
from h2k.errors import H2kError, UsageError
from h2k.v2v import V2vCommand

DESCRIPTION_LIMIT = 16 * 1024 * 1024  # bytes of a domain XML or VMX that we are willing to read
LOCAL_URIS = (None, "", "qemu:///system", "qemu:///session")


@dataclasses.dataclass(frozen=True)
class Target:
    """The images in the domain's order with their formats (None: ask qemu), the domain if known, the report directory.

    `description` is the libvirt XML that named the images, where one did.
    """

    images: tuple[tuple[Path, Optional[str]], ...]
    state: Path
    domain: Optional[DomainFacts] = None
    description: Optional[bytes] = None

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


def open_target(arguments: Sequence[str], report_dir: Optional[str] = None) -> Target:
    """A libvirt domain XML, or disk images in the domain's order; UsageError when neither."""
    first = Path(arguments[0])
    state = Path(report_dir) if report_dir else first.parent / f"{first.stem}.h2k"
    if first.suffix.lower() != ".xml":
        return Target(tuple((Path(a), None) for a in arguments), state)
    if len(arguments) > 1:
        raise UsageError(f"{arguments[1]}: give one domain XML, or disk images", hint="h2k verify NAME.xml")
    return _described(read_description(first), str(first), first.parent, state)


def _described(xml: bytes, name: str, base: Path, state: Path) -> Target:
    domain = read_domain_xml(xml, name)
    return Target(images_of(domain, base), state, domain, xml)


def images_of(domain: DomainFacts, base: Path) -> tuple[tuple[Path, Optional[str]], ...]:
    """The domain's image files; relative paths are relative to `base`. UsageError when it has none."""
    images = tuple((base / disk.path, disk.format) for disk in domain.disks if disk.path is not None)
    if not images:
        raise UsageError(f"{domain.name}: the domain names no disk image file")
    return images


def source_of(command: V2vCommand) -> Optional[Target]:
    """The source's images and domain facts, where it can be read directly; None where it can't."""
    if command.input_transport is not None or not command.arguments:
        return None
    if command.input_mode == "libvirt":
        return _libvirt_source(command)
    path = Path(command.arguments[0])
    if command.input_mode == "disk":
        if any(":" in a.split("/")[0] for a in command.arguments):  # nbd://… and other addresses
            return None
        return Target(tuple((Path(a), command.input_format) for a in command.arguments), path.parent)
    if command.input_mode == "vmx" and "://" not in str(command.arguments[0]):
        domain = read_vmx(read_description(path), str(path))
        return Target(images_of(domain, path.parent), path.parent, domain)
    if command.input_mode == "libvirtxml":
        return _described(read_description(path), str(path), path.parent, path.parent)
    return None


def _libvirt_source(command: V2vCommand) -> Optional[Target]:
    """The domain of a local libvirt, by name or UUID; another host's images are not here to be read."""
    if command.input_connection not in LOCAL_URIS:
        return None
    import libvirt

    name = command.arguments[0]
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.openReadOnly(command.input_connection or None)
        try:
            found = connection.lookupByName(name)
        except libvirt.libvirtError:
            found = connection.lookupByUUIDString(name)
        xml = found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).encode()
    except libvirt.libvirtError as e:
        raise H2kError(f"{name}: libvirt does not give this domain: {e}", hint="virsh list --all shows the names") from e
    return _described(xml, name, Path("/"), Path())


def name_of(command: V2vCommand, source: Optional[Target]) -> Optional[str]:
    """The name that virt-v2v gives the result: -on, else the source's; None where only virt-v2v knows it."""
    if command.output_name is not None:
        return command.output_name
    if source is None:
        return None
    return source.domain.name if source.domain is not None else source.images[0][0].stem


def result_of(command: V2vCommand, name: str) -> tuple[Path, Path]:
    """(OS/NAME.xml, the report directory) of a conversion to -o local."""
    directory = Path(command.output_storage or ".")
    state = Path(command.h2k.report) if command.h2k.report else directory / f"{name}.h2k"
    return directory / f"{name}.xml", state
