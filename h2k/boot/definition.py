"""The definition of the production domain in libvirt: what its owner had defined is kept as a file, and given back."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any, Optional

from h2k.base.errors import H2kError
from h2k.base.files import write_bytes
from h2k.base.libvirt_connection import Virt
from h2k.base.steps import Steps

BEFORE = "definition-before.xml"  # in NAME.h2k: what libvirt had defined before production


def define_and_start(virt: Virt, name: str, uuid: str, xml: str, state: Path, steps: Steps) -> None:
    """Define the domain persistently and start it, unless it runs. Another definition of it goes to NAME.h2k first.

    H2kError with libvirt's reason.
    """
    before = _defined(virt, uuid)
    copy = state / BEFORE
    if before is not None:
        write_bytes(free_name(copy, before), before)
    lv = virt.libvirt

    def define(connection: Any) -> None:
        domain = connection.defineXML(xml)
        if not domain.isActive():
            domain.create()

    try:
        virt.call(define)
    except lv.libvirtError as e:
        raise virt.failure(f"{name} does not start in production", e) from e
    if before is None:
        return
    if _defined(virt, uuid) == before:
        free_name(copy, before).unlink(missing_ok=True)
    else:
        steps.say(f"{name} was defined otherwise: its former definition is kept in {free_name(copy, before)}")


def _defined(virt: Virt, uuid: str) -> Optional[bytes]:
    """The persistent definition, with its secrets; None where there is none."""
    domain, lv = virt.lookup(uuid), virt.libvirt
    if domain is None or not domain.isPersistent():
        return None
    try:
        return bytes(domain.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE | lv.VIR_DOMAIN_XML_SECURE).encode())
    except lv.libvirtError as e:
        raise virt.failure("its definition", e) from e


def free_name(path: Path, content: bytes) -> Path:
    """The path, or one with a number, at which that content is already, or nothing."""
    number, found = 1, path
    while found.is_symlink() or (found.exists() and found.read_bytes() != content):
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def forget(virt: Virt, name: str, uuid: str, state: Path) -> str:
    """Take a definition back that names overlays in NAME.h2k, which are gone: the one before it is defined again, or
    none. Returns what was done, "" when nothing was to do."""
    now, lv = _defined(virt, uuid), virt.libvirt
    if now is None or f"{state}/overlay-".encode() not in now:
        return ""
    copies = sorted(state.glob("definition-before*.xml"), key=lambda path: path.stat().st_mtime_ns)
    text = copies[-1].read_text(encoding="utf-8") if copies else None

    def change(connection: Any) -> None:
        if text is not None:
            connection.defineXML(text)
        else:
            connection.lookupByUUIDString(uuid).undefineFlags(lv.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)

    try:
        virt.call(change)
    except lv.libvirtError as e:
        raise H2kError(f"{name}: its definition names overlays that are gone: {e}", hint=f"virsh undefine {quote(name)}") from e
    return f"{name} is defined as it was before the boots" if text is not None else f"{name} is not defined any more"
