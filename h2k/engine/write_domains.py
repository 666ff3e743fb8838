"""Builds the two domains of a guest before anything is written to it, and writes them when it is ready."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Optional

from h2k.base.files import SHARED, own_directory
from h2k.base.run import run as run_command
from h2k.domain.documents import DOCUMENTS
from h2k.domain.facts import DiskFacts, DomainFacts, complete
from h2k.domain.firmware import choose_firmware
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.domain.libvirt_reader import read_domain_xml, with_images
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from h2k.engine.edited import write_editable
from h2k.engine.examination import Examination
from h2k.engine.machine_choices import machine_choices
from h2k.engine.runs import Run

SCRATCH_SIZE = 64 * 1024 * 1024  # bytes; Windows only has to see the disk, to bind the driver
SCRATCH = "scratch.qcow2"
Domains = dict[str, bytes]  # "bootstrap" and "final", or "final" alone, as libvirt XML


def build_domains(run: Run, seen: Examination, files: Optional[GuestFiles] = None) -> Domains:
    """Both domains as they will be written, or final alone for a guest that is not Windows; nothing where no
    description of the guest is known. `files` are the guest's as they will be, where they are not the run's yet. Raises
    Refused for what can't be a domain: a name, a firmware, a bus."""
    files = files or run.guest_files
    if files.domain is None:
        return {}
    if not seen.windows:
        return _production(files)
    facts, choices = _decided(run, files.domain, seen, files)
    return {"bootstrap": bootstrap_xml(facts, choices), "final": final_xml(facts, choices)}


def write_domains(run: Run, domains: Domains, windows: bool) -> None:
    """Write the domains into the report directory, and the bootstrap's scratch disk. Raises H2kError and OSError."""
    if not domains:
        return
    state = run.guest_files.state
    own_directory(state)
    with run.steps.step("emit", "writing the domains" if windows else "writing the domain"):
        if windows and run.opened.bus != "sata":
            _make_scratch(state)
        for name, xml in domains.items():
            path = state / f"{name}.xml"
            write_editable(path, xml, run.steps.say, SHARED)
            run.report.files[name] = str(path)


def next_commands(run: Run, committed: bool) -> tuple[str, ...]:
    """The commands that the owner can give now: boot it, take it back."""
    directory, files = shlex.quote(str(run.guest_files.state)), run.report.files
    own = [f"{form.start} {shlex.quote(files[form.bootstrap])}" for form in DOCUMENTS if form.bootstrap in files]
    boot = tuple(own[-1:]) or ((f"h2k boot {directory}",) if "bootstrap" in files else ())
    return (*boot, f"h2k rollback {directory}") if committed else boot


def _production(files: GuestFiles) -> Domains:
    """The one domain of a guest that is not Windows: what virt-v2v wrote, its images by their absolute paths."""
    if files.description is None:
        return {}
    return {"final": with_images(files.description, str(files.state), [path.resolve() for path, _ in files.images])}


def _decided(run: Run, domain: DomainFacts, seen: Examination, files: GuestFiles) -> tuple[DomainFacts, Choices]:
    """The facts of the guest's machine and the choices for its two phases, by the hooks' settings."""
    proposal, bus = seen.proposal, run.opened.bus
    previous = files.state / "bootstrap.xml"
    earlier = read_domain_xml(read_description(previous), str(previous)) if previous.exists() else None
    firmware = proposal.setting("firmware", domain.firmware)
    secure_boot = domain.secure_boot and proposal.setting("secure-boot", "on") == "on"
    facts = dataclasses.replace(
        complete(domain, previous=earlier), firmware=firmware, secure_boot=secure_boot, disks=_absolute(domain, files)
    )
    choices = Choices(
        bus=bus,
        bootstrap_bus=proposal.setting("bootstrap-bus", "sata"),
        boot_disk=_boot_disk(domain, int(proposal.setting("boot-disk", str(seen.report.guest.get("boot_disk", 0))))),
        nic_model=proposal.setting("bootstrap-nic", "e1000e"),
        final_nic_model=proposal.setting("final-nic", "virtio"),
        scratch=files.state.resolve() / SCRATCH if bus != "sata" else None,
        driver_iso=iso_for_cdrom(run.opened.drivers_path),
        firmware=choose_firmware(secure_boot=facts.secure_boot) if firmware == "uefi" else None,
        utc=proposal.setting("clock", "localtime") == "utc",
        **machine_choices(proposal, seen.report.guest, domain),
    )
    return facts, choices


def _boot_disk(domain: DomainFacts, image: int) -> int:
    """The number of the domain's disk that is the guest's image `image`: disks that are no files are not images."""
    return [number for number, disk in enumerate(domain.disks) if disk.path is not None][image]


def _absolute(domain: DomainFacts, files: GuestFiles) -> tuple[DiskFacts, ...]:
    paths = iter(path.resolve() for path, _ in files.images)
    return tuple(dataclasses.replace(d, path=next(paths)) if d.path is not None else d for d in domain.disks)


def _make_scratch(state: Path) -> None:
    """A small empty disk, made once."""
    path = state.resolve() / SCRATCH
    if path.is_symlink():
        path.unlink()
    if not path.exists():
        run_command(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SCRATCH_SIZE)])


def iso_for_cdrom(path: Optional[Path]) -> Optional[Path]:
    """The ISO of a virtio-win for the bootstrap's CD-ROM: the path itself, or what lies in the directory, as in the RPM's."""
    if path is not None and path.is_dir():
        path = path / "virtio-win.iso"
    return path.resolve() if path is not None and path.is_file() else None
