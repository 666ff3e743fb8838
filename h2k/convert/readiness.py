"""What is asked before the copy, so that nothing fails after it: rights and space of the output, libvirt, the two domains."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from h2k.base.errors import Refused
from h2k.convert.outputs import Output
from h2k.convert.v2v_command import V2vCommand
from h2k.disk.image import probe
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.domain.guest_files import GuestFiles
from h2k.domain.names import check_name
from h2k.engine.examination import Examination
from h2k.engine.preconditions import require_writable_directory
from h2k.engine.runs import Run
from h2k.engine.write_domains import build_domains

GIB = 1024**3
_NOWHERE = Path("/nonexistent")  # files of the result that are not there yet


def require_ready(command: V2vCommand, output: Output, source: Optional[GuestFiles], name: Optional[str]) -> None:
    """Refused before the copy for what would fail after it."""
    if name is not None:
        check_name(name)
    output.require()
    place = output.state(name or "guest")
    require_writable_directory(place.parent)
    if source is not None:
        preallocated = "preallocated" in command.passed
        require_space(place.parent, needed(source.images, preallocated), name or "the guest")


def require_domains(run: Run, seen: Examination, output: Output, name: Optional[str]) -> None:
    """Refused before the copy for a machine of which the two domains could not be written after it: for want of a
    firmware on this host, or of room for its devices. They are built of what the source tells, and thrown away."""
    if not seen.windows:
        return
    images = tuple((_NOWHERE / f"disk{number}", "qcow2") for number, _ in enumerate(run.guest_files.images))
    disks = tuple(DiskFacts(path, form, "virtio", path.name) for path, form in images)
    # Of a disk without a description virt-v2v makes such a machine, see convert/source.py.
    domain = run.domain or DomainFacts(name or "guest", 2 * GIB, 1, disks, (NicFacts(None),))
    try:
        output.accepts(build_domains(run, seen, GuestFiles(images, _NOWHERE, dataclasses.replace(domain, disks=disks))))
    except Refused as e:
        raise Refused(f"{e.message}; nothing was written", hint=e.hint, commands=e.commands) from e


def needed(images: Sequence[tuple[Path, Optional[str]]], preallocated: bool) -> int:
    """Bytes that a copy takes at least: what the source's own files hold now, or all of a preallocated result. A raw
    file counts by its blocks; what a file system has trimmed or zeroed is less in the copy, so half of it is certain."""
    total = 0
    for path, form in images:
        if preallocated:
            total += probe(path, form).size
        elif path.is_file():
            total += path.stat().st_blocks * 512 // 2
    return total


def require_space(directory: Path, wanted: int, name: str) -> None:
    """Refused where the file system of `directory` has less room than the copy takes at least."""
    place = directory if directory.exists() else directory.absolute().parent
    free = shutil.disk_usage(place).free if place.exists() else wanted
    if free < wanted:
        raise Refused(
            f"{place}: {free / GIB:.1f} GiB are free, and {name} takes {wanted / GIB:.1f} GiB at least",
            hint="free some space, or give -os another directory",
        )
