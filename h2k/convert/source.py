"""The source of a conversion, opened for the look before the copy wherever it can be read."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

from lxml import etree

from h2k.base.children import temporary_directory
from h2k.base.errors import H2kError, InUse, Unknown
from h2k.base.finding import Finding
from h2k.base.libvirt_connection import connected
from h2k.base.xml import parse_xml
from h2k.convert.remote_source import nbd_view, ssh_vmx
from h2k.convert.v2v_command import V2vCommand
from h2k.disk.image import ImageInfo, probe
from h2k.disk.in_use import require_unused
from h2k.disk.view import View
from h2k.domain.guest_files import GuestFiles, described, images_of, read_description
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.names import wrong_name
from h2k.domain.ova import Say, large_directory, opened_ova
from h2k.domain.vmx import read_vmx

LOCAL_URIS = (None, "", "qemu:///system", "qemu:///session")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:")
_OF_FILES = ("disk", "vmx", "ova", "libvirtxml")  # inputs whose arguments are files
# Of a disk without a description (virt-v2v's input_disk.ml).
ASSUMED = (
    "nothing describes the guest, and virt-v2v assumes 2048 MiB of memory, 1 CPU and one network card with a new MAC address "
    "(-i vmx or -i libvirtxml with a description of the guest says otherwise; or edit NAME.xml and run h2k domains)"
)
# What virt-v2v takes off a file's name to make the guest's (its name_from_disk.ml).
_SUFFIXES = (".img", ".ova", ".qcow2", ".raw", ".vmdk", ".vmx", "-sda")


@contextmanager
def open_source(command: V2vCommand, say: Say) -> Iterator[tuple[Optional[GuestFiles], str]]:
    """(the source's images and facts, ""), as long as this block lasts; or (None, why it can't be read beforehand).

    `say` hears what takes time or room. Errors are those of a source that is there and broken.
    """
    with ExitStack() as stack:
        try:
            found: tuple[Optional[GuestFiles], str] = _called(command, _open(command, stack, say)), ""
        except Unknown as unknown:
            found = None, unknown.message
        yield found


def _called(command: V2vCommand, source: GuestFiles) -> GuestFiles:
    """The source with the name that its result will have: -on stands above the description."""
    if command.output_name is None or source.domain is None:
        return source
    return dataclasses.replace(source, domain=dataclasses.replace(source.domain, name=command.output_name))


def is_missing(command: V2vCommand) -> bool:
    """Whether a file of the source is not there, which virt-v2v refuses before anything else."""
    files = [a for a in command.arguments if not _ADDRESS.match(a)] if command.input_mode in _OF_FILES else []
    return not all(Path(file).exists() for file in files)


def unknown_hives(command: V2vCommand, why: str) -> Finding:
    """What the report says of a source that could not be read beforehand."""
    return Finding(
        "hive-dirty",
        "warning",
        command.arguments[0] if command.arguments else f"-i {command.input_mode}",
        f"unknown: {why}; virt-v2v marks dirty hives clean, and what their logs held is lost",
        "shut the source down cleanly before it is copied: shutdown /s /t 0, fast startup off",
    )


def _open(command: V2vCommand, stack: ExitStack, say: Say) -> GuestFiles:
    arguments = command.arguments
    if not arguments:
        raise Unknown("no guest is named")
    if command.input_transport == "ssh" and command.input_mode == "vmx":
        work = _directory(stack)
        domain, views = stack.enter_context(ssh_vmx(arguments[0], command.password_file, work))
        return GuestFiles(tuple((view, "qcow2") for view in views), Path(), domain)
    if command.input_transport is not None:
        raise Unknown(f"the source is read through -it {command.input_transport}, by virt-v2v alone")
    if command.input_mode == "libvirt":
        return _libvirt(command)
    path = Path(arguments[0])
    if command.input_mode == "disk":
        say(ASSUMED)
        return GuestFiles(tuple(_disk(a, command.input_format, stack) for a in arguments), path.parent)
    if command.input_mode == "vmx" and "://" not in arguments[0]:
        domain = read_vmx(read_description(path), str(path))
        return GuestFiles(images_of(domain, path.parent), path.parent, domain)
    if command.input_mode == "libvirtxml":
        return _described(read_description(path), str(path), path.parent)
    if command.input_mode == "ova":
        ovf, images = stack.enter_context(opened_ova(path, say))
        domain = ovf.domain if ovf.named else dataclasses.replace(ovf.domain, name=name_from_disk(path))
        return GuestFiles(tuple((image, None) for image in images), path.parent, domain, ovf=ovf.document)
    raise Unknown(f"-i {command.input_mode} {arguments[0]}: h2k can't read this beforehand")


def _directory(stack: ExitStack) -> Path:
    return stack.enter_context(temporary_directory("h2k-source-", large_directory()))


def _disk(argument: str, form: Optional[str], stack: ExitStack) -> tuple[Path, Optional[str]]:
    """A disk of `-i disk`: a file, or an NBD export."""
    if not _ADDRESS.match(argument):
        return Path(argument), form
    if not argument.startswith("nbd"):
        raise Unknown(f"{argument}: h2k can't read this address beforehand")
    return nbd_view(argument, _directory(stack), form or "raw"), "qcow2"


def _described(xml: bytes, name: str, base: Path) -> GuestFiles:
    """Unknown unless every hard disk of the domain is here to be read: one of several could be the boot disk."""
    for disk in read_domain_xml(xml, name).disks:
        if disk.path is None:
            raise Unknown(f"the disk {disk.target} of {name} is neither a file nor a block device of this host")
    return described(xml, name, base, base)


def _libvirt(command: V2vCommand) -> GuestFiles:
    """The domain of a local libvirt, by name or UUID; another host's images are not here to be read."""
    if command.input_connection not in LOCAL_URIS:
        raise Unknown(f"the guest is another host's, {command.input_connection}, whose disks virt-v2v alone reads")
    name = command.arguments[0]
    try:
        with connected(command.input_connection) as connection:
            import libvirt

            found = _domain(connection, name)
            xml = volumes_as_files(connection, found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).encode(), name)
    except H2kError as e:
        raise H2kError(f"{name}: libvirt does not give this domain: {e.message}", hint="virsh list --all shows the names") from e
    return _described(xml, name, Path("/"))


def _domain(connection: Any, name: str) -> Any:
    """libvirt's domain of that name or UUID."""
    import libvirt

    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError:
        return connection.lookupByUUIDString(name)


def require_shut_down(command: V2vCommand, files: GuestFiles) -> None:
    """InUse while the guest runs: a domain of this host's libvirt, or images that somebody has open for writing. virt-v2v
    would say so after half a minute, or copy what is being written."""
    if command.input_mode == "libvirt":
        with connected(command.input_connection) as connection:
            if _domain(connection, command.arguments[0]).isActive():
                raise InUse(command.arguments[0], "the domain runs, or is paused")
    require_free(files.images)


def require_free(images: Iterable[tuple[Path, Optional[str]]]) -> None:
    """InUse when somebody has one of the images, or what it rests on, open for writing."""
    require_unwritten([probe(path, form) for path, form in images if not isinstance(path, View)])


def require_unwritten(infos: Iterable[ImageInfo]) -> None:
    """The same of images that were asked for already: qemu-img is started for each file of a chain."""
    of_files = [info.chain for info in infos if not isinstance(info.path, View)]
    require_unused([layer for chain in of_files for layer in chain], reading=True)


def volumes_as_files(connection: Any, xml: bytes, name: str) -> bytes:
    """The domain with the volumes of libvirt's pools named by their files, as virt-v2v looks them up too."""
    domain = parse_xml(xml, name)
    for disk in domain.iterfind("devices/disk[@type='volume']"):
        source = disk.find("source")
        if source is None:
            continue
        pool = connection.storagePoolLookupByName(source.get("pool", ""))
        file = pool.storageVolLookupByName(source.get("volume", "")).path()
        disk.set("type", "file")
        source.attrib.clear()
        source.set("file", file)
    return bytes(etree.tostring(domain))


def name_from_disk(path: Path) -> str:
    """The guest's name that virt-v2v makes of a file's."""
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def name_of(command: V2vCommand, source: Optional[GuestFiles]) -> Optional[str]:
    """The name that virt-v2v gives the result: -on, else the source's; None where only virt-v2v knows it.

    Of a source that could not be read it is what the command line says: a guest of libvirt is called what it is asked for
    by (virt-v2v's input_libvirt.ml), and a libvirt XML says its name whatever its disks are.
    """
    if command.output_name is not None:
        return command.output_name
    if source is not None and source.domain is not None:
        return source.domain.name
    if not command.arguments:
        return None
    first = command.arguments[0]
    if command.input_mode == "libvirt":
        return None if _is_uuid(first) else first
    if command.input_mode == "libvirtxml":
        return _name_in(Path(first))
    return name_from_disk(Path(first)) if command.input_mode == "disk" else None


def likely_names(command: V2vCommand, source: Optional[GuestFiles]) -> tuple[str, ...]:
    """The names that the result may get, the likeliest first; none where nothing tells. They are for questions in which a
    wrong name does no harm: who uses the disks that are about to be replaced, who else converts to them."""
    known = name_of(command, source)
    first = command.arguments[0] if command.arguments else ""
    if command.output_name is not None or not first:
        guesses: tuple[Optional[str], ...] = (known,)
    elif command.input_mode == "disk" and _ADDRESS.match(first):
        # virt-v2v 2.12 passes addresses over, and says "unknown" where it has nothing else (its input_disk.ml).
        files = [a for a in command.arguments if not _ADDRESS.match(a)]
        guesses = (known, name_from_disk(Path(files[0])) if files else "unknown")
    elif known is None and command.input_mode in ("vmx", "ova"):
        # What the VMX or the OVF says decides, and it could not be read: the file's name is what they are mostly called.
        guesses = (name_from_disk(Path(_path_of(first))),)
    else:
        guesses = (known,)
    return tuple(dict.fromkeys(guess for guess in guesses if guess is not None and not wrong_name(guess)))


def _path_of(argument: str) -> str:
    """The path of a file, or of an address as libxml2 reads it for virt-v2v."""
    try:
        return unquote(urlsplit(argument).path) if _ADDRESS.match(argument) else argument
    except ValueError:
        return ""


def _is_uuid(text: str) -> bool:
    """Whether libvirt may take it for a UUID, which virt-v2v looks up before it looks for a name."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _name_in(path: Path) -> Optional[str]:
    """The name in a libvirt XML; None where it can't be read, which the look at the source tells."""
    try:
        return read_domain_xml(read_description(path), str(path)).name
    except H2kError:
        return None
