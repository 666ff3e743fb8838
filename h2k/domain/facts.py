"""The facts of a libvirt domain, whoever described it: name, memory, CPUs, disks, network cards, firmware."""

from __future__ import annotations

import dataclasses
import re
import secrets
import uuid as uuid_module
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

MAX_DISKS = 64

MAX_NICS = 32

BUSES = ("virtio", "virtio-scsi", "sata")

LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

SOURCE = "urn:h2k:source:1"  # the namespace of our note of what the source of a conversion told; libvirt keeps one element of each

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


XML = "xml"  # the key of a field's metadata for its place in libvirt's XML


def _in_xml(path: str, attribute: str, default: Optional[str] = None) -> Any:
    """A fact that an attribute of an element says; `default` where the element is there without it."""
    return dataclasses.field(default=None, metadata={XML: (path, attribute, default)})


@dataclasses.dataclass(frozen=True)
class DomainFacts:
    """What a domain description says, whoever wrote it; `memory` in bytes, disks and NICs in its order; `firmware` is
    "uefi", "bios", or "" where it does not tell.

    `sourced` names the fields that only the source of a conversion told, as h2k notes them in its own domains; None where
    nothing is noted.
    """

    name: str
    memory: int
    vcpus: int
    disks: tuple[DiskFacts, ...]
    nics: tuple[NicFacts, ...] = ()
    uuid: Optional[str] = None
    topology: Optional[Topology] = None
    firmware: str = "bios"
    secure_boot: bool = False
    tpm: Optional[str] = _in_xml("devices/tpm", "model", "tpm-tis")
    nvram: Optional[Path] = None
    nvram_template: Optional[Path] = None
    cdrom: bool = False
    graphics: Optional[str] = _in_xml("devices/graphics", "type")
    video: Optional[str] = _in_xml("devices/video/model", "type")
    sound: Optional[str] = _in_xml("devices/sound", "model")
    os_id: Optional[str] = _in_xml(f"metadata/{{{LIBOSINFO}}}libosinfo/{{{LIBOSINFO}}}os", "id")
    sourced: Optional[tuple[str, ...]] = None


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
    "sourced": RESULTS,  # with_source says it anew
}  # fmt: skip


def with_source(result: DomainFacts, source: DomainFacts) -> DomainFacts:
    """The facts of virt-v2v's result with what only the source told."""
    known = {name: getattr(source, name) for name in _OF_THE_SOURCE if AFTER_VIRT_V2V[name] == SOURCES or not getattr(result, name)}
    nics = result.nics
    if not nics and source.nics:  # virt-v2v takes no card away: its description does not tell them
        known["nics"] = tuple(dataclasses.replace(nic, kind="network", source="default") for nic in source.nics)
    elif len(result.nics) == len(source.nics):
        nics = tuple(dataclasses.replace(n, mac=n.mac or s.mac) for n, s in zip(result.nics, source.nics))
    return _told(dataclasses.replace(result, nics=nics), known)


def with_a_card(result: DomainFacts) -> DomainFacts:
    """The facts of a description that tells neither firmware nor cards, and of a machine of which nothing else is known:
    one card, as virt-v2v gives a guest that it knows no card of. Others are as they are."""
    if result.firmware or result.nics:
        return result
    return dataclasses.replace(result, nics=(NicFacts(None),), sourced=(*(result.sourced or ()), "nics"))


def remembered(result: DomainFacts, earlier: DomainFacts) -> DomainFacts:
    """The facts of a result that was converted before, with what only its source told then: `earlier` is h2k's own domain
    of that conversion, which has it. What the result itself tells by now stands above it, and what it told then and tells
    no more is gone: its owner took it away.

    A domain of an h2k that noted nothing counts as the source's wherever the result is silent.
    """
    if not _same_machine(result, earlier):
        return result
    noted = _OF_THE_SOURCE if earlier.sourced is None else [name for name in _OF_THE_SOURCE if name in earlier.sourced]
    kept = [name for name in noted if AFTER_VIRT_V2V[name] == SOURCES or not getattr(result, name)]
    if "nics" in (earlier.sourced or ()) and not result.nics:
        kept.append("nics")
    found = _told(result, {name: getattr(earlier, name) for name in kept})
    return found if earlier.sourced is None else dataclasses.replace(found, sourced=tuple(kept))


_OF_THE_SOURCE = tuple(name for name, whose in AFTER_VIRT_V2V.items() if whose in (EITHER, SOURCES) and name != "nics")


def _told(result: DomainFacts, known: dict[str, Any]) -> DomainFacts:
    """The result with these facts of the source, as far as they fit it, and a note of those that it has not itself."""
    topology = known.get("topology")
    if topology is not None and topology.sockets * topology.cores * topology.threads != result.vcpus:
        known = {**known, "topology": None}
    if known.get("secure_boot") and result.firmware == "bios":
        known = {**known, "secure_boot": False}
    sourced = tuple(name for name in known if known[name] != getattr(result, name))
    return dataclasses.replace(result, **known, sourced=sourced)


def _same_machine(one: DomainFacts, other: DomainFacts) -> bool:
    """Whether two descriptions are of one machine: by its name, or, where its owner renamed it, by its disks' names."""
    disks = [[disk.path.name for disk in facts.disks if disk.path is not None] for facts in (one, other)]
    return one.name == other.name or (disks[0] == disks[1] != [])


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
