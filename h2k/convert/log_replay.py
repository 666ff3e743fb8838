"""Dirty hives are replayed before virt-v2v can lose what their logs hold: on overlays, which it then reads as its source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.errors import NotVerified
from h2k.base.files import own_directory
from h2k.base.run import run
from h2k.base.steps import Steps
from h2k.convert import v2v_command
from h2k.convert.source import name_of
from h2k.disk.open_reader import open_reader
from h2k.disk.view import View
from h2k.domain.facts import DomainFacts, disk_name
from h2k.domain.guest_files import GuestFiles
from h2k.domain.libvirt_reader import with_images
from h2k.engine.apply import Backups, apply
from h2k.engine.proof import replayed_hives
from h2k.guest.changes import Change, ReplayLogs
from h2k.guest.guest import Guest


@contextmanager
def replayed(
    source: GuestFiles, changes: Sequence[Change], state: Path, steps: Steps, root: Optional[str] = None, writer: str = "auto"
) -> Iterator[tuple[Path, ...]]:
    """Overlays on the source's images in which the hives of `changes` have their logs applied; gone afterwards.
    `root` is virt-v2v's --root, `writer` the policy's.

    The source keeps its bytes. Raises NotVerified when a hive does not read back as the replay made it.
    """
    place = state / "source"
    overlays: list[Path] = []
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    try:
        own_directory(place, 0o700)
        for index, (path, form) in enumerate(source.writable()):
            overlay = place / str(index) / f"{path.stem}.qcow2"
            overlay.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(path.resolve()), str(overlay.resolve())])
            # An overlay on a view is a view itself: its backing chain was checked when the view was made.
            overlays.append(View(overlay.resolve()))
        with open_reader(source.images) as reader, steps.step("heal", f"replaying the logs of {_names(changes)}"):
            guest = Guest(reader, root)
            apply(overlays, guest, changes, Backups(state / "backup"), writer, steps.say)
            _prove(guest, overlays, changes)
        yield tuple(overlays)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def replays(changes: Sequence[Change]) -> tuple[ReplayLogs, ...]:
    """Those changes that virt-v2v must find made."""
    return tuple(c for c in changes if isinstance(c, ReplayLogs))


def _names(changes: Sequence[Change]) -> str:
    return " and ".join(c.hive for c in replays(changes))


def _prove(guest: Guest, overlays: Sequence[Path], changes: Sequence[Change]) -> None:
    with open_reader([(overlay, "qcow2") for overlay in overlays]) as reader:
        problems = replayed_hives(Guest(reader, guest.root), guest, changes)
    if problems:
        raise NotVerified(problems[0], hint="run the command again")


def command_for(command: v2v_command.V2vCommand, source: GuestFiles, overlays: Sequence[Path], state: Path) -> tuple[str, ...]:
    """virt-v2v's arguments with the overlays in place of the source.

    virt-v2v takes nothing but VMDK files for `-i vmx`, so that a VMX source is described to it by a libvirt XML of
    the same facts.
    """
    name = name_of(command, source) or "guest"
    if source.domain is None:
        return v2v_command.with_input(command, "disk", [str(o) for o in overlays], name, form="qcow2")
    if source.description is not None:
        xml = with_images(source.description, source.domain.name, overlays, "qcow2")
    else:
        xml = source_xml(source.domain, overlays)
    path = state / "source" / "domain.xml"
    path.write_bytes(xml)
    return v2v_command.with_input(command, "libvirtxml", [str(path)], name)


def source_xml(facts: DomainFacts, overlays: Sequence[Path]) -> bytes:
    """What virt-v2v reads of a domain: name, memory, CPUs, firmware, disks and network cards."""
    domain = etree.Element("domain", type="kvm")
    etree.SubElement(domain, "name").text = facts.name
    etree.SubElement(domain, "memory", unit="KiB").text = str(facts.memory // 1024)
    etree.SubElement(domain, "vcpu").text = str(facts.vcpus)
    os = etree.SubElement(domain, "os", **({"firmware": "efi"} if facts.firmware == "uefi" else {}))
    etree.SubElement(os, "type", arch="x86_64").text = "hvm"
    devices = etree.SubElement(domain, "devices")
    for index, overlay in enumerate(overlays):
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        etree.SubElement(disk, "driver", name="qemu", type="qcow2")
        etree.SubElement(disk, "source", file=str(overlay))
        etree.SubElement(disk, "target", dev=disk_name("sd", index), bus="scsi")
    for nic in facts.nics:
        interface = etree.SubElement(devices, "interface", type="bridge" if nic.kind == "bridge" else "network")
        etree.SubElement(interface, "source", **{"bridge" if nic.kind == "bridge" else "network": nic.source or "default"})
        if nic.mac is not None:
            etree.SubElement(interface, "mac", address=nic.mac)
    return bytes(etree.tostring(domain, pretty_print=True))
