"""h2k-qemu-img: the repair on an overlay of the source, its proof, and only then qemu-img's copy."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

from lxml import etree

from h2k import __version__
from h2k.base.children import cleaned_up, temporary_directory
from h2k.base.errors import READY, REFUSED, H2kError, NotVerified, Unknown, UsageError
from h2k.base.files import SHARED, write_bytes
from h2k.base.host import guestfs_settings
from h2k.base.option_table import QEMU_IMG, request_words
from h2k.base.progress import with_bar
from h2k.base.run import not_called_by_h2k, pass_through
from h2k.base.run import run as run_command
from h2k.base.xml import parse_xml
from h2k.convert import qemu_img_command
from h2k.convert.after_boot import boot_too
from h2k.convert.disk_description import MARK, describe
from h2k.convert.h2k_options import help_text
from h2k.convert.log_replay import source_xml
from h2k.convert.qemu_img_command import ConvertCommand
from h2k.convert.readiness import needed, require_space
from h2k.convert.remote_source import nbd_view
from h2k.convert.source import require_free
from h2k.disk import direct_reader
from h2k.disk.image import probe
from h2k.disk.in_use import converting, require_unused
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
from h2k.engine import outcome as outcomes
from h2k.engine.edited import free_name
from h2k.engine.ending import guarded
from h2k.engine.examination import RESULT, Examination, refuse_damaged
from h2k.engine.outcome import LEFT_ALONE, WORDS, Outcome
from h2k.engine.pipeline import apply_all, finish_earlier, finished, look
from h2k.engine.proof import problems_of
from h2k.engine.report import digests_of
from h2k.engine.request import open_tools
from h2k.engine.runs import Run
from h2k.engine.write_domains import Domains, build_domains, next_commands, write_domains
from h2k.guest.boot_files import efi_partitions
from h2k.guest.changes import Change, SetValue, WriteFile, as_json, pending
from h2k.guest.guest import Guest
from h2k.windows.first_boot import SETTINGS, parse_settings
from h2k.windows.services import control_set_name
from h2k.windows.values import dword

Image = tuple[Path, str]
_TOLD = ("report.json", "plan.json")  # what the run on an earlier disk said; runs/ keeps it


def main_qemu_img(argv: Sequence[str]) -> int:
    """The wrapper h2k-qemu-img: qemu-img's arguments and ours in, exit status out."""
    run = Run(QEMU_IMG, tuple(argv))
    try:
        not_called_by_h2k("qemu-img")
        command = None if _own_question(argv) else qemu_img_command.parse(argv)
    except H2kError as e:
        error = e

        def fail() -> Outcome:
            raise error

        return guarded(run, fail)
    if command is None:
        return _answered(argv)
    places = Places.of(command)
    run.source, run.dry_run = command.source, command.h2k.dry_run
    if command.h2k.mode == "report" and not command.h2k.dry_run:
        return _watch(run, command, places)
    conversion = command
    return guarded(run, lambda: _whole(run, conversion, places))


def _own_question(argv: Sequence[str]) -> bool:
    return any(argument.lstrip("-") in ("h2k-help", "h2k-version") for argument in argv if argument.startswith("-"))


def _answered(argv: Sequence[str]) -> int:
    """What is not a conversion: our own help, or qemu-img's own business."""
    if _own_question(argv):
        helped = any(argument.endswith("h2k-help") for argument in argv)
        print(help_text(QEMU_IMG, "qemu-img") if helped else f"{QEMU_IMG} {__version__}")
        return READY
    return pass_through(["qemu-img", *argv])


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
        """The places of a conversion."""
        out = Path(command.target)
        in_place = command.no_create or (out.exists() and not out.is_file())
        base = Path(out.name) if out.is_block_device() else out
        state = Path(command.h2k.report) if command.h2k.report else base.with_name(f"{base.stem}.h2k")
        part = out if in_place else out.with_name(f".{out.name}.h2k-part")
        return cls(out, base.with_name(f"{base.stem}.xml"), state, part)


def _watch(run: Run, command: ConvertCommand, places: Places) -> int:
    """Report mode: qemu-img converts as ever; then look at the result and report, refuse nothing, write nothing."""
    status = pass_through(command.argv(command.source, command.source_format, command.target))
    if status != 0:
        return status
    run.records = places.state
    guarded(run, lambda: _watched(run, command, places))
    return status


def _watched(run: Run, command: ConvertCommand, places: Places) -> Outcome:
    image = (places.out, command.target_format)
    with open_tools(command.h2k.request) as run.tools:
        run.files = GuestFiles((image,), places.state, _domain(run, command, places, image))
        seen = look(run, RESULT)
        if not seen.proposal.refused:
            write_domains(run, build_domains(run, seen), seen.windows)
        return seen.outcome


def _whole(run: Run, command: ConvertCommand, places: Places) -> Outcome:
    outcome = _convert(run, command, places)
    return boot_too(run, outcome) if command.h2k.boot and not run.dry_run else outcome


def _convert(run: Run, command: ConvertCommand, places: Places) -> Outcome:
    _check(command, places)
    direct_reader.start_by_fork()
    with open_tools(command.h2k.request) as run.tools, _source(command) as image:
        domain = _domain(run, command, places, image)
        if not run.dry_run:
            run.records = places.state
        run.files = GuestFiles((image,), places.state, domain)
        with run.steps.step("preflight", f"reading the source: {command.source}"):
            seen = look(run, RESULT)
        looked, result = seen.outcome, _result_files(command, places, domain)
        domains = _domains(run, places, image, seen, result) if looked.status != REFUSED else {}
        if run.dry_run or looked.status == REFUSED:
            return _before_the_copy(run, command, seen, looked)
        if not seen.todo and seen.proposal.broken and not outcomes.only_domains_wrong(run.report.findings, 0):
            return dataclasses.replace(looked, sentence=f"{looked.sentence}; nothing was written")
        require_space(places.out.absolute().parent, needed([image], False), domain.name)
        run.files = result
        with converting(places.state):
            return _converted(run, command, places, image, domains, seen)


def _converted(run: Run, command: ConvertCommand, places: Places, image: Image, domains: Domains, seen: Examination) -> Outcome:
    """The repair and the copy, under the lock of the report directory."""
    assert run.domain is not None
    _finish_earlier(run, places)
    with _overlay(image, places) as overlay:
        if seen.windows:
            seen = _repaired(run, image, overlay, seen)
        elif not domains:
            run.records = None  # a disk of data is nobody's guest
            _copy(run, command, places, overlay)
            return Outcome(READY, LEFT_ALONE, "no operating system on this disk: it was copied as it is, without a domain")
        else:
            _in_place(run, command, overlay, run.domain)
        with run.steps.step("convert", f"qemu-img convert, from the overlay to {places.out}"):
            _copy(run, command, places, overlay, seen)
    return _finish(run, command, places, domains, seen)


def _domains(run: Run, places: Places, image: Image, seen: Examination, result: GuestFiles) -> Domains:
    """The domains as they will be written: what can be refused of them is refused before the copy. A disk of data has none."""
    if seen.windows:
        return build_domains(run, seen, result)
    assert run.domain is not None
    return {"final": _production(places, run.domain)} if _another_system(image) else {}


def _before_the_copy(run: Run, command: ConvertCommand, seen: Examination, looked: Outcome) -> Outcome:
    """How a run ends that does not come to the copy: refused, or a dry run."""
    if looked.status == REFUSED:
        return dataclasses.replace(looked, sentence=f"{looked.sentence}; nothing was written")
    return dataclasses.replace(dataclasses.replace(seen, side="source").outcome, next=_plan_of(command))


def _plan_of(command: ConvertCommand) -> tuple[str, ...]:
    """The command that shows every change as a diff, of a source that is a file: by its description, where one is named."""
    if command.source.startswith("nbd"):
        return ()
    words = request_words(dataclasses.asdict(command.h2k.request))
    return (shlex.join(["h2k", "plan", command.wanted.domain or command.source, *words]),)


def _result_files(command: ConvertCommand, places: Places, domain: DomainFacts) -> GuestFiles:
    """The guest as it will be: its one disk at its new place."""
    return GuestFiles(((places.out, command.target_format),), places.state, domain)


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
        require_free([(Path(source), form)])
        yield Path(source), probe(Path(source), form).format
        return
    with temporary_directory("h2k-source-", large_directory()) as work:
        try:
            view = nbd_view(source, Path(work), form or "raw")
        except Unknown as e:
            raise H2kError(e.message, hint="start the server, or give a file") from e
        yield view, "qcow2"


def _domain(run: Run, command: ConvertCommand, places: Places, image: Image) -> DomainFacts:
    """The facts of the guest as it will be. The bus that its description says is the run's, unless --h2k-bus is given."""
    result = DiskFacts(places.out.absolute(), command.target_format, "virtio", "vda")
    found = describe(Path(command.source), command.wanted, result, places.out.stem, lambda: _firmware(command, image))
    run.use_bus(found.bus or "virtio")
    if found.by is not None:
        run.steps.say(f"the guest is described by {found.by}")
    if found.assumed is not None:
        run.steps.say(found.assumed)
    if found.others:
        others = ", ".join(map(str, found.others))
        run.steps.say(f"{places.xml.name} gets this disk alone; convert the guest's others too, and add them: {others}")
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


def _finish_earlier(run: Run, places: Places) -> None:
    """An unfinished run on the disk that is about to be replaced is finished or thrown away first."""
    if (places.state / "journal.json").exists() and places.out.exists():
        finish_earlier(DiskSet([(places.out, probe(places.out).format)], places.state), run.steps)


# On the overlay


@contextmanager
def _overlay(image: Image, places: Places) -> Iterator[Path]:
    """An overlay on the source, below the report directory; gone afterwards, and so is an empty report directory."""
    place = places.state.resolve() / "source"
    shutil.rmtree(place, ignore_errors=True)
    overlay = place / f"{image[0].stem}.qcow2"
    try:
        overlay.parent.mkdir(mode=0o700, parents=True)
        run_command(["qemu-img", "create", "-q", "-f", "qcow2", "-F", image[1], "-b", str(image[0].resolve()), str(overlay)])
        yield View(overlay)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if places.state.is_dir() and not any(places.state.iterdir()):
            places.state.rmdir()


def _repaired(run: Run, image: Image, overlay: Path, seen: Examination) -> Examination:
    """The examination with the changes that were made on the overlay and proven; NotVerified when they do not hold."""
    with run.parts.open_reader([image]) as reader:
        guest = Guest(reader, run.opened.request.root)
        refuse_damaged(guest)
        todo = (*seen.todo, *pending(_stop_screen(guest, seen.todo), guest))
        seen = dataclasses.replace(seen, todo=todo)
        run.report.changes = [as_json(change, guest) for change in todo]
        run.report.digests = digests_of(todo)
        if not todo:
            return seen
        apply_all(run, guest, seen, [overlay])
    with run.steps.step("verify", "reading the overlay back through other code"):
        problems = problems_of(run.opened, [(overlay, "qcow2")], seen.todo, run.domain, run.parts.open_reader)
    if problems:
        raise NotVerified(f"the repair did not verify and was thrown away: {problems[0]}", hint="nothing was converted")
    return seen


def _stop_screen(guest: Guest, todo: Sequence[Change]) -> list[Change]:
    """A stop screen stays to be read, as after virt-v2v: no restart by itself. Only where the first boot that is staged
    now lets Windows restart again."""
    staged = [change.data for change in todo if isinstance(change, WriteFile) and change.path == SETTINGS]
    return [
        SetValue("SYSTEM", f"{control_set_name(number)}\\Control\\CrashControl", "AutoReboot", dword(0))
        for number, _ in (parse_settings(staged[0]).auto_reboot if staged else ())
    ]


def _in_place(run: Run, command: ConvertCommand, overlay: Path, domain: DomainFacts) -> None:
    """Hand the guest to virt-v2v-in-place, on the overlay; its failure is ours, with its status."""
    description = overlay.with_name("domain.xml")
    description.write_bytes(source_xml(domain, [overlay]))
    root = ["--root", command.wanted.root] if command.wanted.root else []
    guestfs_settings(run.steps.say)
    argv = ["virt-v2v-in-place", *root, "-i", "libvirtxml", str(description)]
    told = "not Windows: virt-v2v-in-place, on an overlay of the source"
    with run.steps.step("in-place", told), cleaned_up("h2k-v2v-") as environment:
        status = pass_through(argv, environment)
    if status != 0:
        raise _ended("virt-v2v-in-place", status)


# The copy, and what is written about it


def _copy(run: Run, command: ConvertCommand, places: Places, overlay: Path, seen: Optional[Examination] = None) -> None:
    """qemu-img's own copy, under another name until it is whole and, where it is a guest's, proven. What is said of an earlier
    disk of the same name goes first, so that no domain is ever beside a disk that it does not describe."""
    part = places.part
    try:
        if part != places.out:
            part.unlink(missing_ok=True)
        status = pass_through(with_bar(command.argv(str(overlay), "qcow2", str(part))))
        if status != 0:
            raise _ended("qemu-img convert", status)
        if seen is not None:
            _read_back(run, (part, command.target_format), seen)
        require_unused([places.out] if part != places.out else [])  # an hour may have passed since this was asked first
        _keep_edited(places, run.steps.say)
        for path in (places.xml, *(places.state / name for name in _TOLD)):
            path.unlink(missing_ok=True)
        if part != places.out:
            os.replace(part, places.out)
        run.committed = _done(run, seen).sentence if seen is not None else f"{places.out} is written"
    finally:
        if part != places.out:
            part.unlink(missing_ok=True)


def _keep_edited(places: Places, say: Callable[[str], None]) -> None:
    """What its owner made of an earlier NAME.xml stays beside the new one: unedited, it says what final.xml says."""
    final = places.state / "final.xml"
    found = places.xml.read_bytes() if places.xml.exists() else b""
    if found and found != MARK + b"\n" + (final.read_bytes() if final.exists() else b""):
        copy = free_name(places.xml.with_name(f"{places.xml.name}.edited"), found)
        write_bytes(copy, found, SHARED)
        say(f"{places.xml.name} had been edited: what it said is kept in {copy}")


def _ended(program: str, status: int) -> H2kError:
    """Another program's failure, with its status."""
    error = H2kError(f"{program} ended with status {status}; nothing was converted")
    error.exit_status = status
    return error


def _read_back(run: Run, part: Image, seen: Examination) -> None:
    """The converted disk proves what the overlay proved; the record tells of it from here on."""
    if not seen.windows:
        return
    with run.steps.step("read-back", "reading the converted disk"):
        problems = problems_of(run.opened, [part], seen.todo, run.domain, run.parts.open_reader)
    if problems:
        raise NotVerified(f"the converted disk does not read back: {problems[0]}", hint="check the host's storage")


def _finish(run: Run, command: ConvertCommand, places: Places, domains: Domains, seen: Examination) -> Outcome:
    for disk in run.report.guest["disks"]:
        disk.update(path=str(places.out), format=command.target_format)
    outcome = finished(run, seen, _done(run, seen), domains)
    write_bytes(places.xml, MARK + b"\n" + (places.state / "final.xml").read_bytes(), SHARED)
    run.report.files["domain"] = str(places.xml)
    return dataclasses.replace(outcome, next=next_commands(run, False))


def _done(run: Run, seen: Examination) -> Outcome:
    """How a conversion ended whose disk is in its place."""
    if not seen.windows:
        return Outcome(READY, WORDS[READY], "not Windows: converted by virt-v2v-in-place")
    if seen.todo:
        return outcomes.of_repair(run.report.findings, len(seen.todo), (), "repaired, verified and converted")
    return dataclasses.replace(outcomes.of_repair(run.report.findings, 0, ()), sentence="healthy, and converted")


def _production(places: Places, domain: DomainFacts) -> bytes:
    """The production domain of a guest that is not Windows: on VirtIO, without what is for Windows alone."""
    earlier = places.state / "final.xml"
    previous = read_domain_xml(read_description(earlier), str(earlier)) if earlier.exists() else None
    firmware = choose_firmware() if domain.firmware == "uefi" else None
    facts = dataclasses.replace(complete(domain, previous), secure_boot=False)
    root = parse_xml(final_xml(facts, Choices(firmware=firmware, utc=True)), "final.xml")
    for path in ("features/hyperv", "clock/timer[@name='hypervclock']", "devices/panic[@model='hyperv']"):
        for element in root.findall(path):
            element.getparent().remove(element)
    return bytes(etree.tostring(root))
