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
    """One hard disk, no CD-ROM: `path` None when it is no file or block device, `format` None when not stated. `sector`:
    the bytes of its logical blocks."""

    path: Optional[Path]
    format: Optional[str]
    bus: str
    target: str
    boot_order: Optional[int] = None
    sector: int = 512


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


# What becomes of each fact of a source when virt-v2v has written its result: the result's own, the source's where the
# result has none (virt-v2v's documents leave it out), or the source's. A test holds that no fact is missing here.
RESULTS, EITHER, SOURCES = "result", "either", "source"
AFTER_VIRT_V2V = {
    "name": RESULTS, "memory": RESULTS, "vcpus": RESULTS, "disks": RESULTS, "firmware": RESULTS, "nvram": RESULTS,
    "nvram_template": RESULTS, "graphics": RESULTS, "video": RESULTS,
    "uuid": RESULTS,  # the source's may still be defined on the same libvirt
    "topology": EITHER, "tpm": EITHER, "cdrom": EITHER, "sound": EITHER, "os_id": EITHER,
    "nics": EITHER,  # their MACs, where both have as many
    "secure_boot": SOURCES,
}  # fmt: skip


def with_source(result: DomainFacts, source: DomainFacts) -> DomainFacts:
    """The facts of virt-v2v's result with what only the source told."""
    known = {name: getattr(source, name) for name, whose in AFTER_VIRT_V2V.items() if whose == SOURCES}
    for name, whose in AFTER_VIRT_V2V.items():
        if whose == EITHER:
            known[name] = getattr(result, name) or getattr(source, name)
    topology = known["topology"]
    if topology is not None and topology.sockets * topology.cores * topology.threads != result.vcpus:
        known["topology"] = None
    known["nics"] = result.nics
    if len(result.nics) == len(source.nics):
        known["nics"] = tuple(dataclasses.replace(n, mac=n.mac or s.mac) for n, s in zip(result.nics, source.nics))
    return dataclasses.replace(result, **known)


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
