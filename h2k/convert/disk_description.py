"""The facts of a guest of which only a disk is given: from the user, and from the description beside the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

from h2k.base.errors import H2kError, UsageError
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.domain.guest_files import read_description
from h2k.domain.libvirt_reader import read_domain_xml, storage_bus
from h2k.domain.names import check_name
from h2k.domain.ovf import read_ovf
from h2k.domain.vmx import read_vmx

SUFFIXES = (".vmx", ".ovf", ".xml")
MAX_CANDIDATES = 64  # descriptions in one directory that are looked at
MARK = b"<!-- written by h2k-qemu-img -->"  # begins a domain that is a result, and so describes no source
# What virt-v2v assumes of a disk without a description (its input_disk.ml).
MEMORY, VCPUS = 2048 * 1024**2, 1


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user says of the guest: `memory` in bytes, `domain` the file of a description, `root` as virt-v2v's."""

    name: Optional[str] = None
    memory: Optional[int] = None
    vcpus: Optional[int] = None
    firmware: Optional[str] = None
    domain: Optional[str] = None
    root: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Described:
    """The facts, the file that told them, if one did, and the guest's other disks, which are not among them.
    `assumed` is a line for people where no file did. `bus` is the one of virtio and virtio-scsi that the file says."""

    facts: DomainFacts
    by: Optional[Path] = None
    others: tuple[Path, ...] = ()
    assumed: Optional[str] = None
    bus: Optional[str] = None


def describe(disk: Path, wanted: Wanted, result: DiskFacts, name: str, firmware: Callable[[], str]) -> Described:
    """The facts of the guest of `disk`, with `result` as its one disk: what the user says, then the description, then
    what virt-v2v assumes. `name` is what the guest is called, and `firmware` what the disk is laid out for, where
    nobody tells."""
    found = (Path(wanted.domain), read_facts(Path(wanted.domain))) if wanted.domain else find_facts(disk)
    others: tuple[Path, ...] = ()
    if found is not None:
        facts = dataclasses.replace(found[1], nics=tuple(map(_movable, found[1].nics)))
        places = [d.path for d in facts.disks if d.path is not None]
        others = tuple(p for p in places if len(places) > 1 and not _same(found[0].parent / p, disk))
    else:
        facts = DomainFacts(name, MEMORY, VCPUS, (), (NicFacts(None),), firmware=wanted.firmware or firmware())
    facts = dataclasses.replace(
        facts,
        name=wanted.name or facts.name,
        memory=wanted.memory or facts.memory,
        vcpus=wanted.vcpus or facts.vcpus,
        topology=None if wanted.vcpus else facts.topology,
        firmware=wanted.firmware or facts.firmware,
        disks=(result,),
    )
    check_name(facts)
    if found is None:
        return Described(facts, assumed=_assumed(facts, wanted))
    return Described(facts, found[0], others, bus=_bus(found[0]))


def _bus(description: Path) -> Optional[str]:
    """The bus that a libvirt XML gives the disk that the guest starts from. SATA is not taken, as after virt-v2v: it stands
    for want of a VirtIO driver (handles.known_bus)."""
    if description.suffix.lower() != ".xml":
        return None
    bus = storage_bus(read_description(description), str(description))
    return bus if bus != "sata" else None


def _assumed(facts: DomainFacts, wanted: Wanted) -> str:
    """What is taken for granted of a guest that nothing describes, and how to say it otherwise."""
    taken = {
        "name": (wanted.name, f"the name {facts.name}"),
        "memory": (wanted.memory, f"{facts.memory >> 20} MiB of memory"),
        "vcpus": (wanted.vcpus, f"{facts.vcpus} CPU"),
    }
    open_ones = [text for said, text in taken.values() if said is None]
    options = ", ".join(f"--h2k-{name}" for name, (said, _) in taken.items() if said is None)
    what = ", ".join([*open_ones, "one network card with a new MAC address"])
    return f"nothing describes the guest; assumed: {what} (--h2k-domain FILE{f', {options}' if options else ''} say otherwise)"


def _movable(nic: NicFacts) -> NicFacts:
    """The card on libvirt's default network: another hypervisor's networks and bridges are not on this host."""
    return dataclasses.replace(nic, kind="network", source="default")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def read_facts(path: Path) -> DomainFacts:
    """The facts in a description, by its suffix; UsageError for another one, BadData for what it is not."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: neither .vmx nor .ovf nor .xml", hint="give a description of the guest")
    data = read_description(path)
    if suffix == ".vmx":
        return read_vmx(data, str(path))
    return read_ovf(data, str(path)).domain if suffix == ".ovf" else read_domain_xml(data, str(path))


def find_facts(disk: Path) -> Optional[tuple[Path, DomainFacts]]:
    """The description beside a disk: the one that names it; of several, or when none does, the one of the same stem.

    None when there is none, or when it could be any of several: no guess. A description of the disk's own stem that
    can't be read is an error, for what it says would be missed.
    """
    found = list(_readable(disk)) if disk.is_file() else []
    naming = [entry for entry in found if _names(*entry, disk)]
    for entries in (naming, [e for e in naming if _akin(e[0], disk)], [e for e in found if _akin(e[0], disk)]):
        if len(entries) == 1:
            return entries[0]
    return None


def _readable(disk: Path) -> Iterator[tuple[Path, DomainFacts]]:
    candidates = sorted(p for p in disk.parent.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    candidates.sort(key=lambda p: not _akin(p, disk))
    for path in candidates[:MAX_CANDIDATES]:
        try:
            if not _ours(path):
                yield path, read_facts(path)
        except H2kError:
            if _akin(path, disk):
                raise


def _akin(path: Path, disk: Path) -> bool:
    """Whether both have one stem. VMware's own parts of a disk, NAME-flat and NAME-s001, are not asked for."""
    return path.stem == disk.stem


def _ours(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(MARK)) == MARK


def _names(path: Path, facts: DomainFacts, disk: Path) -> bool:
    return any(_same(path.parent / d.path, disk) for d in facts.disks if d.path is not None)
