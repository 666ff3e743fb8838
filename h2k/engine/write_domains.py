"""Writes the two domains into the report directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

from h2k.base.errors import READY
from h2k.base.files import SHARED, own_directory, write_bytes
from h2k.base.host import kvm_works
from h2k.base.run import run
from h2k.base.steps import Steps
from h2k.domain.facts import DiskFacts, DomainFacts, complete
from h2k.domain.firmware import choose_firmware
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.domain.libvirt_reader import read_domain_xml, with_images
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from h2k.engine.pipeline import Examination, Tools
from h2k.engine.report import Report
from h2k.engine.verdict import explain

SCRATCH_SIZE = 64 * 1024 * 1024  # bytes; Windows only has to see the disk, to bind the driver


def emit(tools: Tools, target: GuestFiles, seen: Examination, steps: Steps, whatever: bool = False) -> None:
    """Write bootstrap.xml and final.xml into the report directory, when the domain is known and the guest is ready
    (or `whatever` it is, for those who only watch); for a guest that is not Windows final.xml alone."""
    if target.domain is None or (seen.report.status != READY and not whatever):
        return
    own_directory(target.state)
    with steps.step("emit", "writing the domains" if seen.windows else "writing the domain"):
        domains = _domains(tools, target, target.domain, seen) if seen.windows else _production(target)
        for name, xml in domains.items():
            path = target.state / f"{name}.xml"
            write_bytes(path, xml, SHARED)
            seen.report.files[name] = str(path)


def _production(target: GuestFiles) -> dict[str, bytes]:
    """The one domain of a guest that is not Windows: what virt-v2v wrote, its images by their absolute paths."""
    if target.description is None:
        return {}
    return {"final": with_images(target.description, str(target.state), [path.resolve() for path, _ in target.images])}


def _domains(tools: Tools, target: GuestFiles, domain: DomainFacts, seen: Examination) -> dict[str, bytes]:
    proposal = seen.proposal
    previous = target.state / "bootstrap.xml"
    earlier = read_domain_xml(read_description(previous), str(previous)) if previous.exists() else None
    firmware = proposal.setting("firmware", domain.firmware)
    secure_boot = domain.secure_boot and proposal.setting("secure-boot", "on") == "on"
    facts = dataclasses.replace(
        complete(domain, previous=earlier), firmware=firmware, secure_boot=secure_boot, disks=_absolute(domain, target)
    )
    choices = Choices(
        bus=tools.request.bus,
        bootstrap_bus=proposal.setting("bootstrap-bus", "sata"),
        boot_disk=_boot_disk(domain, int(proposal.setting("boot-disk", str(seen.report.guest["boot_disk"])))),
        nic_model=proposal.setting("bootstrap-nic", "e1000e"),
        final_nic_model=proposal.setting("final-nic", "virtio"),
        scratch=_scratch(target.state) if tools.request.bus != "sata" else None,
        driver_iso=iso_for_cdrom(tools.drivers_path),
        firmware=choose_firmware(secure_boot=facts.secure_boot) if firmware == "uefi" else None,
        utc=proposal.setting("clock", "localtime") == "utc",
        accelerated=kvm_works(),
    )
    return {"bootstrap": bootstrap_xml(facts, choices), "final": final_xml(facts, choices)}


def _boot_disk(domain: DomainFacts, image: int) -> int:
    """The number of the domain's disk that is the guest's image `image`: disks that are no files are not images."""
    return [number for number, disk in enumerate(domain.disks) if disk.path is not None][image]


def _absolute(domain: DomainFacts, target: GuestFiles) -> tuple[DiskFacts, ...]:
    paths = iter(path.resolve() for path, _ in target.images)
    return tuple(dataclasses.replace(d, path=next(paths)) if d.path is not None else d for d in domain.disks)


def _scratch(state: Path) -> Path:
    """A small empty disk, made once."""
    path = state.resolve() / "scratch.qcow2"
    if not path.exists():
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SCRATCH_SIZE)])
    return path


def iso_for_cdrom(path: Optional[Path]) -> Optional[Path]:
    """The ISO of a virtio-win for the bootstrap's CD-ROM: the path itself, or what lies in the directory, as in the RPM's."""
    if path is not None and path.is_dir():
        path = path / "virtio-win.iso"
    return path.resolve() if path is not None and path.is_file() else None


def print_outcome(report: Report, plan: bool = False) -> None:
    """The verdict, the findings and where the files lie, for people."""
    explain(report.as_json(), plan=plan)
