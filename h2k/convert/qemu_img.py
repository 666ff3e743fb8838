"""h2k-qemu-img: the repair on an overlay of the source, its proof, and only then qemu-img's copy."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

from lxml import etree

from h2k.base.errors import FAILED, NOT_READY, READY, H2kError, NotVerified, Unknown, UsageError
from h2k.base.files import SHARED, write_bytes
from h2k.base.host import guestfs_settings, kvm_works
from h2k.base.progress import with_bar
from h2k.base.run import not_called_by_h2k, pass_through, run
from h2k.base.steps import Steps, counted
from h2k.base.xml import parse_xml
from h2k.convert import qemu_img_command
from h2k.convert.disk_description import MARK, describe
from h2k.convert.log_replay import source_xml
from h2k.convert.qemu_img_command import ConvertCommand
from h2k.convert.remote_source import nbd_view
from h2k.disk.image import probe
from h2k.disk.in_use import require_unused
from h2k.disk.open_reader import open_reader
from h2k.disk.other_systems import holds_another_system
from h2k.disk.overlay import DiskSet
from h2k.disk.view import View
from h2k.domain.facts import DiskFacts, DomainFacts, complete
from h2k.domain.firmware import choose_firmware
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.libvirt_writer import Choices, final_xml
from h2k.domain.ova import large_directory
from h2k.engine.apply import Backups, apply
from h2k.engine.catalogue import in_domain
from h2k.engine.pipeline import (
    Examination,
    Request,
    Tools,
    assess,
    examine,
    finish_earlier,
    open_tools,
    refuse_damaged,
    settle_in_domain,
    verify_overlay,
)
from h2k.engine.write_domains import emit, print_outcome
from h2k.guest.boot_files import efi_partitions
from h2k.guest.changes import Change, SetValue, as_json, pending
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name
from h2k.windows.values import dword

Image = tuple[Path, str]
_TOLD = ("report.json", "plan.json")  # of the report directory: what the run on an earlier disk said


def main_qemu_img(argv: Sequence[str]) -> int:
    """The wrapper h2k-qemu-img: qemu-img's arguments and ours in, exit status out."""
    try:
        not_called_by_h2k("qemu-img")
        command = qemu_img_command.parse(argv)
        if command is None:
            return pass_through(["qemu-img", *argv])
        places = Places.of(command)
        return _watch(command, places) if command.h2k.mode == "report" else _convert(command, places)
    except H2kError as e:
        print(f"h2k-qemu-img: {e}", file=sys.stderr)
        return e.exit_status
    except KeyboardInterrupt:
        print("h2k-qemu-img: interrupted; the same command begins again", file=sys.stderr)
        return FAILED


@dataclasses.dataclass(frozen=True)
class Places:
    """Where everything goes: the disk, NAME.xml and NAME.h2k beside it (for a block device in this directory), and the
    name under which the disk is written until it is proven; the disk itself where it can't be renamed."""

    out: Path
    xml: Path
    state: Path
    part: Path

    @classmethod
    def of(cls, command: ConvertCommand) -> Places:
        out = Path(command.target)
        in_place = command.no_create or (out.exists() and not out.is_file())
        base = Path(out.name) if out.is_block_device() else out
        state = Path(command.h2k.report) if command.h2k.report else base.with_name(f"{base.stem}.h2k")
        part = out if in_place else out.with_name(f".{out.name}.h2k-part")
        return cls(out, base.with_name(f"{base.stem}.xml"), state, part)


def _request(command: ConvertCommand) -> Request:
    ours, root = command.h2k, command.wanted.root
    return Request(ours.bus, ours.drivers, ours.plans, ours.hooks, ours.skip, ours.accept, ours.policies, root, ours.config)


def _watch(command: ConvertCommand, places: Places) -> int:
    """Report mode: qemu-img converts as ever; then look at the result and report, refuse nothing, write nothing."""
    steps = Steps()
    status = pass_through(command.argv(command.source, command.source_format, command.target))
    if status != 0:
        return status
    try:
        image = (places.out, command.target_format)
        domain = _domain(command, places, image, steps)
        with open_tools(_request(command)) as tools:
            seen = examine(tools, [image], "result", domain)
            report = assess(seen)
            emit(tools, GuestFiles((image,), places.state, domain), seen, steps, whatever=True)
            report.timings = steps.timings
            report.write(places.state)
            print_outcome(report)
    except H2kError as e:
        steps.say(str(e))
    return status


def _convert(command: ConvertCommand, places: Places) -> int:
    steps = Steps()
    _check(command, places)
    settings = guestfs_settings()
    if settings:
        steps.say(settings)
    with open_tools(_request(command)) as tools, _source(command) as image:
        domain = _domain(command, places, image, steps)
        with steps.step("preflight", f"reading the source: {command.source}"):
            seen = examine(tools, [image], "result", domain)
        assess(seen)
        if seen.proposal.broken and not seen.todo and not seen.proposal.refused:
            settle_in_domain(seen)
        stopped = seen.proposal.refused or (seen.report.status == NOT_READY and not seen.todo)
        if stopped or command.h2k.dry_run:
            return _end_early(command, places, seen, steps)
        _finish_earlier(places, steps)
        with _overlay(image, places) as overlay:
            if seen.windows:
                seen = _repaired(tools, image, overlay, seen, domain, places, steps)
            elif not _another_system(image):
                steps.say("no operating system on this disk: it is copied as it is, and no domain is written")
                _copy(command, places, overlay)
                return READY
            else:
                _in_place(command, overlay, domain, steps)
            with steps.step("convert", f"qemu-img convert, from the overlay to {places.out}"):
                _copy(command, places, overlay, lambda part: _read_back(tools, part, domain, seen, steps))
        return _finish(tools, command, places, domain, seen, steps)


# Before the copy


def _check(command: ConvertCommand, places: Places) -> None:
    """UsageError where the result would take the place of something of the user's."""
    source = Path(command.source)
    if source.exists() and places.out.exists() and source.samefile(places.out):
        raise UsageError(f"{places.out}: source and target are one file")
    require_unused([places.out])
    if not places.out.parent.is_dir():
        raise UsageError(f"{places.out.parent}: no such directory")
    if places.xml.exists():
        with open(places.xml, "rb") as file:
            if file.read(len(MARK)) != MARK:
                raise UsageError(
                    f"{places.xml}: there already, and not h2k-qemu-img's; the domain would take its place",
                    hint="convert into another directory, or to another name",
                )


@contextmanager
def _source(command: ConvertCommand) -> Iterator[Image]:
    source, form = command.source, command.source_format
    if not source.startswith("nbd"):
        yield Path(source), probe(Path(source), form).format
        return
    with tempfile.TemporaryDirectory(prefix="h2k-source-", dir=large_directory()) as work:
        try:
            view = nbd_view(source, Path(work), form or "raw")
        except Unknown as e:
            raise H2kError(e.message, hint="start the server, or give a file") from e
        yield view, "qcow2"


def _domain(command: ConvertCommand, places: Places, image: Image, steps: Steps) -> DomainFacts:
    result = DiskFacts(places.out.absolute(), command.target_format, "virtio", "vda")
    found = describe(Path(command.source), command.wanted, result, places.out.stem, lambda: _firmware(command, image))
    if found.by is not None:
        steps.say(f"the guest is described by {found.by}")
    if found.others:
        others = ", ".join(map(str, found.others))
        steps.say(f"{places.xml.name} gets this disk alone; convert the guest's others too, and add them: {others}")
    return found.facts


def _firmware(command: ConvertCommand, image: Image) -> str:
    """What the disk is laid out for."""
    with open_reader([image]) as reader:
        guest = Guest(reader, command.wanted.root)
        if len(guest.system_roots) == 1:
            return guest.firmware
        return "uefi" if efi_partitions(reader.disks) else "bios"


def _another_system(image: Image) -> bool:
    with open_reader([image]) as reader:
        return holds_another_system(reader)


def _end_early(command: ConvertCommand, places: Places, seen: Examination, steps: Steps) -> int:
    """Refused, or not ready though nothing can be done, or a dry run: nothing is written."""
    report, dry_run = seen.report, command.h2k.dry_run
    report.timings = steps.timings
    if command.h2k.report is not None and not dry_run:
        report.write(places.state)
    print_outcome(report, plan=dry_run)
    if not dry_run or seen.proposal.refused:
        print("h2k-qemu-img: refused before the copy; nothing was written", file=sys.stderr)
        return report.status
    return READY


def _finish_earlier(places: Places, steps: Steps) -> None:
    """An unfinished run on the disk that is about to be replaced is finished or thrown away first."""
    if (places.state / "journal.json").exists() and places.out.exists():
        finish_earlier(DiskSet([(places.out, probe(places.out).format)], places.state), steps)


# On the overlay


@contextmanager
def _overlay(image: Image, places: Places) -> Iterator[Path]:
    """An overlay on the source, below the report directory; gone afterwards, and so is an empty report directory."""
    place = places.state.resolve() / "source"
    shutil.rmtree(place, ignore_errors=True)
    overlay = place / f"{image[0].stem}.qcow2"
    try:
        overlay.parent.mkdir(mode=0o700, parents=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", image[1], "-b", str(image[0].resolve()), str(overlay)])
        yield (View if isinstance(image[0], View) else Path)(overlay)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if places.state.is_dir() and not any(places.state.iterdir()):
            places.state.rmdir()


def _repaired(
    tools: Tools, image: Image, overlay: Path, seen: Examination, domain: DomainFacts, places: Places, steps: Steps
) -> Examination:
    """The look with the changes that were made on the overlay and proven; NotVerified when they do not hold."""
    with open_reader([image]) as reader:
        guest = Guest(reader, tools.request.root)
        refuse_damaged(guest)
        todo = (*seen.todo, *pending(_stop_screen(guest), guest))
        seen = dataclasses.replace(seen, todo=todo)
        seen.report.changes = [as_json(change, guest) for change in todo]
        if not todo:
            return seen
        backups = Backups(places.state / "backup")
        if guest.has_hive("BCD"):
            backups.keep("BCD", guest.hive_bytes("BCD"))
        with steps.step("apply", f"{counted(len(todo), 'change')} on an overlay of the source, in one libguestfs session"):
            apply([overlay], guest, todo, backups)
    with steps.step("verify", "reading the overlay back through other code"):
        problems = verify_overlay(tools, [overlay], seen, domain)
    if problems:
        raise NotVerified(f"the repair did not verify and was thrown away: {problems[0]}", hint="nothing was converted")
    return seen


def _stop_screen(guest: Guest) -> list[Change]:
    """A stop screen stays to be read, as after virt-v2v: no restart by itself."""
    return [
        SetValue("SYSTEM", f"{control_set_name(number)}\\Control\\CrashControl", "AutoReboot", dword(0))
        for number in guest.control_sets.boot
    ]


def _in_place(command: ConvertCommand, overlay: Path, domain: DomainFacts, steps: Steps) -> None:
    """Hand the guest to virt-v2v-in-place, on the overlay; its failure is ours, with its status."""
    description = overlay.with_name("domain.xml")
    description.write_bytes(source_xml(domain, [overlay]))
    root = ["--root", command.wanted.root] if command.wanted.root else []
    argv = ["virt-v2v-in-place", *root, "-i", "libvirtxml", str(description)]
    with steps.step("in-place", "not Windows: virt-v2v-in-place, on an overlay of the source"):
        status = pass_through(argv)
    if status != 0:
        raise _ended("virt-v2v-in-place", status)


# The copy, and what is written about it


def _copy(
    command: ConvertCommand, places: Places, overlay: Path, prove: Optional[Callable[[Image], None]] = None
) -> None:
    """qemu-img's own copy, under another name until it is whole and `prove` has seen it. What is said of an earlier
    disk of the same name goes first, so that no domain is ever beside a disk that it does not describe."""
    part = places.part
    try:
        if part != places.out:
            part.unlink(missing_ok=True)
        status = pass_through(with_bar(command.argv(str(overlay), "qcow2", str(part))))
        if status != 0:
            raise _ended("qemu-img convert", status)
        if prove is not None:
            prove((part, command.target_format))
        require_unused([places.out] if part != places.out else [])  # an hour may have passed since this was asked first
        for path in (places.xml, *(places.state / name for name in _TOLD)):
            path.unlink(missing_ok=True)
        if part != places.out:
            os.replace(part, places.out)
    finally:
        if part != places.out:
            part.unlink(missing_ok=True)


def _ended(program: str, status: int) -> H2kError:
    """Another program's failure, with its status."""
    error = H2kError(f"{program} ended with status {status}; nothing was converted")
    error.exit_status = status
    return error


def _read_back(tools: Tools, part: Image, domain: DomainFacts, seen: Examination, steps: Steps) -> None:
    """The converted disk is as the overlay was; the report tells of it from here on."""
    if not seen.windows:
        return
    with steps.step("read-back", "reading the converted disk"):
        after = examine(tools, [part], "result", domain)
    if after.proposal.refused or after.todo or not all(in_domain(f.id) for f in after.proposal.broken):
        why = assess(after).verdict
        raise NotVerified(f"the converted disk does not read back: {why}", hint="check the host's storage")
    seen.report.guest = after.report.guest


def _finish(
    tools: Tools, command: ConvertCommand, places: Places, domain: DomainFacts, seen: Examination, steps: Steps
) -> int:
    report = seen.report
    report.status = READY
    if not seen.windows:
        report.verdict = "not Windows: converted by virt-v2v-in-place"
    elif seen.todo:
        report.verdict = f"repaired, verified and converted: {counted(len(seen.todo), 'change')}"
    else:
        report.verdict = "healthy, and converted"
    report.findings = [f.with_state("repaired") if f.state == "broken" else f for f in report.findings]
    for disk in report.guest["disks"]:
        disk.update(path=str(places.out), format=command.target_format)
    description = None if seen.windows else _production(places, domain)
    target = GuestFiles(((places.out, command.target_format),), places.state, domain, description)
    emit(tools, target, seen, steps)
    write_bytes(places.xml, MARK + b"\n" + (places.state / "final.xml").read_bytes(), SHARED)
    report.files["domain"] = str(places.xml)
    report.timings = steps.timings
    report.write(places.state)
    print_outcome(report)
    return report.status


def _production(places: Places, domain: DomainFacts) -> bytes:
    """The production domain of a guest that is not Windows: on VirtIO, without what is for Windows alone."""
    earlier = places.state / "final.xml"
    previous = read_domain_xml(read_description(earlier), str(earlier)) if earlier.exists() else None
    firmware = choose_firmware() if domain.firmware == "uefi" else None
    facts = dataclasses.replace(complete(domain, previous), secure_boot=False)
    root = parse_xml(final_xml(facts, Choices(firmware=firmware, utc=True, accelerated=kvm_works())), "final.xml")
    for path in ("features/hyperv", "clock/timer[@name='hypervclock']", "devices/panic[@model='hyperv']"):
        for element in root.findall(path):
            element.getparent().remove(element)
    return bytes(etree.tostring(root))
