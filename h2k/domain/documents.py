"""The one table of virt-v2v's documents: how each is read, our own form of a phase beside it, and what starts that."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.domain import kubevirt, qemu_script
from h2k.domain.guest_files import GuestFiles, described

Reader = Callable[[bytes, str, Path, Path], GuestFiles]


@dataclasses.dataclass(frozen=True)
class Document:
    """What virt-v2v writes with `-o mode`, beside the disks: NAME and the suffix.

    `form` makes our own form of one phase of its domain, and raises Refused where that can't be; `write` writes both into
    the report directory, and tells their paths by what they are; `start` is the command that starts the one that it calls
    `bootstrap`. A mode whose result libvirt starts has none of them.
    """

    mode: str
    suffix: str
    read: Reader
    form: Optional[Callable[[bytes, str], Any]] = None
    write: Optional[Callable[..., dict[str, str]]] = None
    bootstrap: str = ""
    start: str = ""


DOCUMENTS = (
    Document("local", ".xml", described),
    Document(
        "kubevirt", ".yaml", kubevirt.read_target, kubevirt.machine, kubevirt.write_machines, "bootstrap-machine", "kubectl apply -f"
    ),
    Document("qemu", ".sh", qemu_script.read_target, qemu_script.script, qemu_script.write_scripts, "bootstrap-script", "sh"),
)
