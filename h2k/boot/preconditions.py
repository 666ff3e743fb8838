"""What this host must have, and what a description may name, before a domain is started: each lack is told in one line."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Optional

from lxml import etree

from h2k.base.errors import Refused
from h2k.base.libvirt_connection import Virt
from h2k.base.xml import parse_xml
from h2k.boot.phase_domain import Description

SYS_NET = Path("/sys/class/net")
LIBVIRT_NVRAM = (Path("/var/lib/libvirt/qemu/nvram"), Path("~/.config/libvirt/qemu/nvram"))
ACL = "system.posix_acl_access"
_CHARACTER_DEVICES = ("serial", "console", "parallel", "channel", "smartcard", "redirdev")
_OF_THIS_HOST = ("file", "dev", "pipe")  # what QEMU, or virtlogd as root, opens on this host
_OWNER_AND_GROUP = re.compile(r"\+(\d+):\+(\d+)")


def check_host(virt: Virt, description: Description) -> None:
    """Refused when this host lacks what the domain needs: firmware, images, networks, bridges."""
    domain = parse_xml(description.xml, str(description.path))
    for what, element in (("firmware", domain.find("os/loader")), ("template", domain.find("os/nvram"))):
        name = (element.text if what == "firmware" else element.get("template")) if element is not None else None
        if name and not Path(name.strip()).is_file():
            raise Refused(f"{name}: the UEFI {what} of {description.path} is not here", hint="install ovmf (edk2-ovmf)")
    for disk in domain.findall("devices/disk/source"):
        image = disk.get("file") or disk.get("dev")
        if image and not Path(image).exists():
            raise Refused(f"{image}: named by {description.path}, and not there", hint="h2k fix NAME.xml writes it anew")
    for interface in domain.findall("devices/interface"):
        _check_network(virt, description, interface)


def _check_network(virt: Virt, description: Description, interface: etree._Element) -> None:
    source = interface.find("source")
    attributes: Mapping[Any, Any] = source.attrib if source is not None else {}
    if interface.get("type") == "network":
        name = str(attributes.get("network"))
        if not _network_active(virt, name):
            raise Refused(
                f"{description.name}: the network {name!r} is not active on this host",
                hint=f"virsh net-start {quote(name)}, or name another one in {description.path}",
            )
    if interface.get("type") in ("bridge", "direct"):
        name = str(attributes.get("bridge") or attributes.get("dev"))
        if not (SYS_NET / os.path.basename(name)).exists():  # noqa: PTH119
            raise Refused(f"{description.name}: this host has no {name!r} to connect it to", hint=f"see {description.path}")


def _network_active(virt: Virt, name: str) -> bool:
    def active(connection: Any) -> bool:
        return bool(connection.networkLookupByName(name).isActive())

    try:
        return virt.call(active)
    except virt.libvirt.libvirtError:
        return False


# What a description may name: it may have come with the disks, and be somebody else's


def check_files(description: Description, state: Path, recorded: Iterable[Path]) -> None:
    """Refused for a description that would have a boot write to a file that is not the guest's.

    `recorded` are the disks that the last run of h2k repaired or found healthy. final.xml must name all of them, and
    others are taken only where one of those, or the report directory `state`, lies.
    """
    domain = parse_xml(description.xml, str(description.path))
    for text in _reaches(domain, state):
        hint = f"take it out for the boots; virsh edit {quote(description.name)} puts it into the finished domain"
        raise Refused(f"{description.path}: {text}", hint=hint)
    disks, known = [path for path, _ in description.disks], [path.resolve() for path in recorded]
    for path in known:
        if path not in disks and description.phase == "final":
            raise Refused(f"{description.path}: {path}, a disk of the guest, is not in it", hint="h2k domains NAME.xml writes it anew")
    places = {state.parent, state, *(path.parent for path in known)}
    for path in disks:
        if known and path not in known and path.parent not in places:
            hint = f"put it beside the others, or repair the guest with it: h2k fix {quote(str(description.path))}"
            raise Refused(f"{description.path}: {path} is no disk that h2k has seen, and lies elsewhere", hint=hint)
    if description.nvram is not None:
        _check_nvram(description, state, places)
    if description.template is not None and not is_variable_store(description.template):
        raise Refused(f"{description.template}: no template for firmware variables", hint=f"see <nvram> in {description.path}")


def _reaches(domain: etree._Element, state: Path) -> Iterator[str]:
    """What of the domain writes to this host's files by itself, or lets QEMU's command line say so."""
    for device in _CHARACTER_DEVICES:
        for element in domain.findall(f"devices/{device}"):
            source = element.find("source")
            path = (source.get("path") if source is not None else None) or ""
            kind = element.get("type")
            if kind in _OF_THIS_HOST and not _below(Path(path), state):
                yield f"<{element.tag} type='{kind}'> opens {path or 'a file'} on this host"
            log = element.find("log")
            if log is not None:
                yield f"<{element.tag}> logs to {log.get('file')} on this host"
    for disk in domain.findall("devices/disk"):
        if disk.get("device", "disk") not in ("disk", "cdrom") and disk.find("source") is not None:
            yield f"<disk device='{disk.get('device')}'> is none of the guest's disks"
    loader = domain.find("os/loader")
    if loader is not None and loader.get("type") == "pflash" and loader.get("readonly") != "yes":
        yield f"<loader> {(loader.text or '').strip()} may be written by the guest"
    for element in domain.findall("devices/filesystem"):
        source = element.find("source")
        yield f"<filesystem> hands {source.get('dir') if source is not None else 'a directory'} of this host to the guest"
    for element in domain:
        if isinstance(element.tag, str) and element.tag.startswith("{") and "qemu" in element.tag:
            yield f"<{etree.QName(element).localname}> hands options to QEMU itself"
    emulator = (domain.findtext("devices/emulator") or "/usr/").strip()
    if not emulator.startswith("/usr/") or ".." in emulator:
        yield f"<emulator> is {emulator}, no program of this system"


def _below(path: Path, directory: Path) -> bool:
    return directory in path.resolve().parents


def _check_nvram(description: Description, state: Path, places: Iterable[Path]) -> None:
    """The firmware variables take the place of this file at the commit: it must be one, or be for this guest."""
    path = Path(str(description.nvram))
    named = path.parent.resolve() in [place.expanduser().resolve() for place in LIBVIRT_NVRAM] and path.name.startswith(description.name)
    if path.is_symlink() or not (path.parent.resolve() in places or named):
        raise Refused(
            f"{description.path}: <nvram> {path} is no place for this guest's firmware variables",
            hint=f"take the path out of <nvram>: they come to {state / 'nvram.fd'}",
        )
    if path.exists() and not is_variable_store(path):
        raise Refused(f"{path}: named as firmware variables by {description.path}, and holds something else", hint="see <nvram>")


def is_variable_store(path: Path) -> bool:
    """Whether a file begins with a firmware volume's header, as variables of OVMF do (UEFI PI specification, volume 3)."""
    try:
        with path.open("rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(44)[40:] == b"_FVH"
    except OSError:
        return False


# QEMU's user


def check_reach(virt: Virt, paths: Iterable[Path]) -> None:
    """Refused when the user that libvirt runs QEMU as can't pass a directory on the way to one of the paths. Files
    themselves do not matter: libvirt gives them to that user. An access list on a directory is not looked into."""
    who = _qemu_user(virt)
    if who is None or who[0] in (0, os.geteuid()):
        return
    uid, groups = who[0], {who[1], *_groups_of(who[0])}
    for path in paths:
        for directory in reversed(path.resolve().parents):
            if not _may_pass(directory, uid, groups):
                raise Refused(
                    f"{directory}: QEMU's user ({_name(uid)}) can't pass it, and {path} lies below",
                    hint=f"chmod o+x {quote(str(directory))}, or move the guest to /var/lib/libvirt/images",
                )


def _qemu_user(virt: Virt) -> Optional[tuple[int, int]]:
    """User and group id by libvirt's capabilities; None where it does not say."""
    try:
        text = virt.call(lambda connection: str(connection.getCapabilities()))
    except virt.libvirt.libvirtError:
        return None
    for model in parse_xml(text.encode(), "libvirt's capabilities").findall("host/secmodel"):
        if model.findtext("model") == "dac":
            for label in model.findall("baselabel"):
                found = _OWNER_AND_GROUP.fullmatch((label.text or "").strip())
                if found is not None:
                    return int(found[1]), int(found[2])
    return None


def _groups_of(uid: int) -> list[int]:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return []
    return [group.gr_gid for group in grp.getgrall() if name in group.gr_mem]


def _may_pass(directory: Path, uid: int, groups: set[int]) -> bool:
    try:
        facts = directory.stat()
        if ACL in os.listxattr(directory):
            return True
    except OSError:
        return True  # not ours to see: libvirt will say
    if facts.st_uid == uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    if facts.st_gid in groups:
        return bool(facts.st_mode & stat.S_IXGRP)
    return bool(facts.st_mode & stat.S_IXOTH)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
