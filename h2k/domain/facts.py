"""The facts of a libvirt domain, whoever described it: name, memory, CPUs, disks, network cards, firmware."""

from __future__ import annotations

import dataclasses
import re
import secrets
import uuid as uuid_module
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

MAX_DISKS = 64

MAX_NICS = 32

BUSES = ("virtio", "virtio-scsi", "sata")

LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclasses.dataclass(frozen=True)
class Topology:
    """How the virtual CPUs are spread; the product is the number of them."""

    sockets: int
    cores: int
    threads: int


@dataclasses.dataclass(frozen=True)
class DiskFacts:
    """One hard disk, no CD-ROM: `path` None when it is no file or block device, `format` None when not stated."""

    path: Optional[Path]
    format: Optional[str]
    bus: str
    target: str
    boot_order: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class NicFacts:
    """One network card: `kind` and `source` as libvirt's interface ("network", "bridge", "direct", "user")."""

    mac: Optional[str]
    model: Optional[str] = None
    kind: str = "network"
    source: Optional[str] = "default"
    slot: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class DomainFacts:
    """What a domain description says, whoever wrote it; `memory` in bytes, disks and NICs in its order."""

    name: str
    memory: int
    vcpus: int
    disks: tuple[DiskFacts, ...]
    nics: tuple[NicFacts, ...] = ()
    uuid: Optional[str] = None
    topology: Optional[Topology] = None
    firmware: str = "bios"
    secure_boot: bool = False
    tpm: Optional[str] = None
    nvram: Optional[Path] = None
    nvram_template: Optional[Path] = None
    cdrom: bool = False
    graphics: Optional[str] = None
    video: Optional[str] = None
    sound: Optional[str] = None
    os_id: Optional[str] = None


def complete(facts: DomainFacts, previous: Optional[DomainFacts] = None) -> DomainFacts:
    """The facts with a UUID and a MAC for each NIC: those of `previous` (an earlier bootstrap.xml of the same
    name), else new ones. libvirt would invent other ones at each define, and Windows would meet new hardware."""
    if previous is None or previous.name != facts.name:
        previous = dataclasses.replace(facts, uuid=None, nics=())
    taken = {nic.mac for nic in facts.nics if nic.mac is not None}
    nics = []
    for index, nic in enumerate(facts.nics):
        mac = nic.mac
        if mac is None and index < len(previous.nics) and previous.nics[index].mac not in taken:
            mac = previous.nics[index].mac
        if mac is None:
            mac = _new_mac(taken)
        taken.add(mac)
        nics.append(dataclasses.replace(nic, mac=mac))
    uuid = facts.uuid or previous.uuid or str(uuid_module.uuid4())
    return dataclasses.replace(facts, uuid=uuid, nics=tuple(nics))


def _new_mac(taken: Iterable[Optional[str]]) -> str:
    while True:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        if mac not in taken:
            return mac


def disk_name(prefix: str, number: int) -> str:
    """A target's name by its number from 0: sda … sdz, sdaa …."""
    return prefix + (chr(ord("a") + number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def is_mac(text: str) -> bool:
    """Whether it is a unicast MAC address in libvirt's form: six lower-case hexadecimal pairs with colons."""
    return bool(_MAC.fullmatch(text)) and int(text[:2], 16) % 2 == 0
