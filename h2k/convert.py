"""h2k-v2v: preflight, virt-v2v with the user's own arguments, the repair, the two domains, the report."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from h2k import v2v
from h2k.disk.image import probe
from h2k.domain import Choices, DomainFacts, bootstrap_xml, choose_firmware, complete, final_xml
from h2k.domain_source import read_domain_xml, read_vmx
from h2k.errors import FAILED, READY, REFUSED, H2kError, Refused, UsageError
from h2k.finding import Finding
from h2k.guest import Guest
from h2k.host import guestfs_settings, kvm_works, runner_programs
from h2k.pipeline import Look, Request, Tools, assess, fix, look, open_tools
from h2k.report import VERDICTS, Report, diff, table
from h2k.run import pass_through, run
from h2k.steps import Steps

XML_LIMIT = 16 * 1024 * 1024  # bytes of a domain XML or VMX that we are willing to parse
SCRATCH_SIZE = 64 * 1024 * 1024  # bytes; Windows only has to see the disk, to bind the driver


@dataclasses.dataclass(frozen=True)
class Target:
    """What a command works on: the images in the domain's order, the domain if known, the report directory."""

    images: tuple[tuple[Path, Optional[str]], ...]
    state: Path
    domain: Optional[DomainFacts] = None

    def writable(self) -> tuple[tuple[Path, str], ...]:
        """The images with their formats; a format that nobody named is asked of qemu-img."""
        return tuple((path, form or probe(path).format) for path, form in self.images)


def _small_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > XML_LIMIT:
            raise UsageError(f"{path}: larger than {XML_LIMIT} bytes; not a domain description")
        return path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from e


def open_target(arguments: Sequence[str], report_dir: Optional[str] = None) -> Target:
    """A libvirt domain XML, or disk images in the domain's order; UsageError when neither."""
    first = Path(arguments[0])
    if first.suffix.lower() == ".xml":
        if len(arguments) > 1:
            raise UsageError(f"{arguments[1]}: give one domain XML, or disk images", hint="h2k verify NAME.xml")
        domain = read_domain_xml(_small_file(first), str(first))
        images = _images(domain, first.parent)
    else:
        domain, images = None, tuple((Path(a), None) for a in arguments)
    state = Path(report_dir) if report_dir else first.parent / f"{first.stem}.h2k"
    return Target(images, state, domain)


def _images(domain: DomainFacts, base: Path) -> tuple[tuple[Path, Optional[str]], ...]:
    images = tuple((base / disk.path, disk.format) for disk in domain.disks if disk.path is not None)
    if not images:
        raise UsageError(f"{domain.name}: the domain names no disk image file")
    return images


def emit(tools: Tools, target: Target, seen: Look, steps: Steps) -> None:
    """Write bootstrap.xml and final.xml into the report directory, when the domain is known and nothing refuses."""
    if target.domain is None or seen.report.status not in (READY,):
        return
    target.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with steps.step("emit", "writing the domains"):
        for name, xml in _domains(tools, target, seen).items():
            path = target.state / f"{name}.xml"
            path.write_bytes(xml)
            seen.report.files[name] = str(path)


def _domains(tools: Tools, target: Target, seen: Look) -> dict[str, bytes]:
    assert target.domain is not None
    proposal = seen.proposal
    previous = target.state / "bootstrap.xml"
    earlier = read_domain_xml(_small_file(previous), str(previous)) if previous.exists() else None
    facts = complete(target.domain, previous=earlier)
    firmware = proposal.setting("firmware", facts.firmware)
    facts = dataclasses.replace(facts, firmware=firmware, disks=_absolute(facts, target))
    scratch = target.state / "scratch.qcow2"
    iso = tools.drivers_path if tools.drivers_path is not None and tools.drivers_path.is_file() else None
    choices = Choices(
        bus=tools.request.bus,
        bootstrap_bus=proposal.setting("bootstrap-bus", "sata"),
        boot_disk=int(seen.report.guest.get("boot_disk", 0)),
        nic_model=proposal.setting("bootstrap-nic", "e1000e"),
        scratch=scratch if tools.request.bus != "sata" else None,
        driver_iso=iso.resolve() if iso is not None else None,
        firmware=choose_firmware(secure_boot=facts.secure_boot) if firmware == "uefi" else None,
        utc=proposal.setting("clock", "localtime") == "utc",
        accelerated=kvm_works(),
    )
    if choices.scratch is not None and not scratch.exists():
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(scratch), str(SCRATCH_SIZE)])
    return {"bootstrap": bootstrap_xml(facts, choices), "final": final_xml(facts, choices)}


def _absolute(facts: DomainFacts, target: Target) -> Any:
    paths = iter(path.resolve() for path, _ in target.images)
    return tuple(dataclasses.replace(d, path=next(paths)) if d.path is not None else d for d in facts.disks)


def main_v2v(argv: Sequence[str]) -> int:
    """The wrapper h2k-v2v: virt-v2v's arguments and ours in, exit status out."""
    try:
        command = v2v.parse(argv)
        if command.informational:
            return pass_through(["virt-v2v", *command.passed])
        return _convert(command)
    except H2kError as e:
        print(f"h2k-v2v: {e}", file=sys.stderr)
        return e.exit_status
    except KeyboardInterrupt:
        print("h2k-v2v: interrupted; the same command goes on or cleans up", file=sys.stderr)
        return FAILED


def _convert(command: v2v.V2vCommand) -> int:
    wishes = command.h2k
    request = Request(wishes.bus, wishes.drivers, wishes.plans, wishes.hooks, wishes.skip, wishes.accept)
    steps = Steps()
    reporting = wishes.mode == "report"
    if not reporting and command.output_mode != "local":
        raise UsageError(
            f"-o {command.output_mode or 'libvirt'}: h2k-v2v repairs what -o local wrote",
            hint="use -o local -os DIR; or --h2k-mode report to let virt-v2v run as ever",
        )
    settings = guestfs_settings()
    if settings:
        steps.say(settings)
    with open_tools(request) as tools:
        if tools.drivers_path is not None:
            os.environ["VIRTIO_WIN"] = str(tools.drivers_path)
        source = source_of(command)
        seen = _preflight(tools, source, steps) if source is not None else None
        if source is None:
            steps.say(f"-i {command.input_mode}: the source can't be read beforehand; its state is unknown")
        if seen is not None and not reporting and seen.proposal.refused:
            return _refused(seen, command, source, steps)
        if wishes.dry_run:
            if seen is not None:
                print_outcome(assess(seen), plan=True)
            return READY
        with steps.step("convert", "virt-v2v " + " ".join(command.passed)):
            status = pass_through(["virt-v2v", *command.passed])
        if status != 0:
            steps.say(f"virt-v2v ended with status {status}; nothing more was done")
            return status
        result = _result(command, source)
        if result is None:
            return status
        return _after(tools, result, source, command, steps)


def _preflight(tools: Tools, source: Target, steps: Steps) -> Look:
    with steps.step("preflight", f"reading the source: {', '.join(str(p) for p, _ in source.images)}"):
        seen = look(tools, source.images, "source", source.domain)
    runner = _runner_missing(tools, source, seen)
    if runner is not None and "first-boot-runner-missing" not in tools.request.accept:
        proposal = dataclasses.replace(seen.proposal, findings=(*seen.proposal.findings, runner))
        seen.report.findings.append(runner)
        return dataclasses.replace(seen, proposal=proposal)
    return seen


def _runner_missing(tools: Tools, source: Target, seen: Look) -> Optional[Finding]:
    """virt-v2v 2.2 fails without rhsrvany.exe or pvvxsvc.exe as soon as it needs a first-boot script: VMware Tools
    in the guest, or a guest-agent MSI in the virtio-win tree (measured)."""
    if not seen.windows or runner_programs() is not None or "arch" not in seen.report.guest:
        return None
    reasons = [f.subject for f in seen.proposal.findings if f.id == "hypervisor-tools-present"]
    if tools.drivers is not None and tools.drivers.has_guest_agent_msi(seen.report.guest["arch"]):
        reasons.append("the guest agent's MSI in the virtio-win tree")
    if not reasons:
        return None
    return Finding(
        "first-boot-runner-missing",
        "refused",
        "rhsrvany.exe",
        f"virt-v2v needs it for {' and '.join(reasons)}; neither rhsrvany.exe nor pvvxsvc.exe is on this host",
        "put rhsrvany.exe (Fedora/RHEL package mingw32-srvany-redistributable) into /usr/share/virt-tools "
        "or set VIRT_TOOLS_DATA_DIR",
    )


def _refused(seen: Look, command: v2v.V2vCommand, source: Optional[Target], steps: Steps) -> int:
    report = assess(seen)
    report.timings = steps.timings
    print_outcome(report)
    print("h2k-v2v: refused before the copy; nothing was written", file=sys.stderr)
    return REFUSED


def source_of(command: v2v.V2vCommand) -> Optional[Target]:
    """The source's images and domain facts, where it can be read directly; None where it can't."""
    if command.input_transport is not None or not command.arguments:
        return None
    path = Path(command.arguments[0])
    if command.input_mode == "disk":
        images = tuple((Path(a), command.input_format) for a in command.arguments)
        return Target(images, path.parent)
    if command.input_mode == "vmx":
        domain = read_vmx(_small_file(path), str(path))
    elif command.input_mode == "libvirtxml":
        domain = read_domain_xml(_small_file(path), str(path))
    else:
        return None
    return Target(_images(domain, path.parent), path.parent, domain)


def _result(command: v2v.V2vCommand, source: Optional[Target]) -> Optional[Target]:
    """What virt-v2v wrote: OS/NAME.xml with its disks, and NAME.h2k beside it."""
    if command.output_mode != "local" or command.output_storage is None:
        return None
    name = command.output_name
    if name is None and source is not None:
        name = source.domain.name if source.domain is not None else source.images[0][0].stem
    directory = Path(command.output_storage)
    xml = directory / f"{name}.xml"
    if not xml.exists():
        raise H2kError(f"{xml}: virt-v2v wrote no such domain", hint="run: h2k fix NAME.xml")
    state = Path(command.h2k.report) if command.h2k.report else directory / f"{name}.h2k"
    target = open_target([str(xml)], str(state))
    return dataclasses.replace(target, domain=_with_source(target.domain, source))


def _with_source(result: Optional[DomainFacts], source: Optional[Target]) -> Optional[DomainFacts]:
    """What virt-v2v's XML drops but the source knew: Secure Boot, TPM, and MACs where the NICs agree in number."""
    if result is None or source is None or source.domain is None:
        return result
    known = source.domain
    nics = result.nics
    if len(nics) == len(known.nics):
        nics = tuple(dataclasses.replace(n, mac=n.mac or k.mac) for n, k in zip(nics, known.nics))
    return dataclasses.replace(result, nics=nics, secure_boot=known.secure_boot, tpm=result.tpm or known.tpm)


def _after(
    tools: Tools, target: Target, source: Optional[Target], command: v2v.V2vCommand, steps: Steps
) -> int:
    if command.h2k.mode == "report":
        seen = look(tools, target.images, "result", target.domain)
        report = assess(seen)
    else:
        seen = fix(tools, target.writable(), target.state, steps, target.domain)
        report = seen.report
    emit(tools, target, seen, steps)
    report.timings = steps.timings
    report.write(target.state)
    print_outcome(report)
    if command.h2k.mode == "report":
        return READY
    return report.status


def print_outcome(report: Report, plan: bool = False) -> None:
    """The verdict, the findings and where the files lie, for people."""
    explain(report.as_json(), plan=plan)


def explain(report: dict[str, Any], plan: bool = False) -> None:
    """Print a report object: the verdict first, in one line."""
    guest = report.get("guest", {})
    name = guest.get("name", "")
    print(f"h2k: {VERDICTS.get(report['status'], '?')}: {report['verdict']}" + (f"  [{name}]" if name else ""))
    findings = [Finding(**f) for f in report.get("findings", [])]
    if guest.get("windows"):
        print(table(findings))
    if plan and report.get("changes"):
        print(diff(report["changes"]))
    for what in ("bootstrap", "final", "report"):
        if what in report.get("files", {}):
            print(f"  {what + ':':<11}{report['files'][what]}")
    if "bootstrap" in report.get("files", {}):
        print("  Boot bootstrap.xml first: it lets Windows bind its VirtIO devices; then final.xml is for production.")


__all__ = ["Guest", "Refused", "Target", "emit", "explain", "json", "main_v2v", "open_target", "source_of"]
