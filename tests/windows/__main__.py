"""`make windows`: from two ISOs to a table of evidence (docs/prove-on-windows.md).

    python3 -m tests.windows --windows-iso FILE --virtio-win-iso FILE [--faults LIST] [--firmware uefi|bios] …
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError
from h2k.base.host import guestfs_settings, kvm_works
from tests.windows import boots, convert, evidence, install, source, tables
from tests.windows.answer_file import Answers
from tests.windows.boots import STARTS
from tests.windows.convert import Converted, Tools
from tests.windows.evidence import Bench, Side
from tests.windows.faults import HEALTHY, RESULT, SOURCE, KitFault, chosen, guest_facts, put
from tests.windows.install import Installed, Wanted
from tests.windows.machine import Disk, Machine
from tests.windows.media import Media, choose, read_media, sha256_of
from tests.windows.releases import firmware_for
from tests.windows.steps import StepFailed, limit_of, run_logged, say

ROOT = Path(__file__).resolve().parents[2]
NAME = "source"
STAND_IN_DISK = 512 << 20  # bytes; what made guests have
STAND_IN_MEMORY = 768  # MiB
STAND_IN_POLICY = "timeouts: {settle: 5}\nvalidation: {minutes: 0}\n"


class Kit:
    """One run: the installed source, the tools, and where everything goes."""

    def __init__(self, wanted: Wanted, installed: Installed, tools: Tools, bench: Bench, results: Path) -> None:
        self.wanted, self.installed, self.tools, self.bench, self.results = wanted, installed, tools, bench, results
        self.work = results / "work"
        self._healthy: Optional[Converted] = None

    @property
    def machine(self) -> Machine:
        return self.wanted.machine

    def run(self, fault: KitFault) -> dict[str, Any]:
        """One fault, with h2k and without: its row, which is also in its directory. A row that is there is not made again."""
        place = self.results / "evidence" / fault.name.replace(":", "-")
        if (place / "row.json").exists():
            say(f"{fault.name}: done already: {place}")
            done: dict[str, Any] = json.loads((place / "row.json").read_text(encoding="utf-8"))
            return done
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        say(f"{fault.name}: {fault.fault.what if fault.fault else 'the guest as it was installed'}")
        began = time.monotonic()
        with self._cleared(fault) as work:
            sides = self._result(fault, work, place) if fault.into == RESULT else self._source(fault, work, place)
            row = self.bench.row(fault, *sides, evidence.close(place), round(time.monotonic() - began))
        evidence.write_row(place, row)
        say(f"{fault.name}: {tables.verdict(row)}{'; ' + '; '.join(tables.disagreements(row)) if tables.disagreements(row) else ''}")
        return row

    @contextlib.contextmanager
    def _cleared(self, fault: KitFault) -> Iterator[Path]:
        """A directory for the disks of one fault, gone at the end; the healthy result is kept for the others. What is left
        by a run that was ended goes on from its last conversion."""
        work = self.work / fault.name.replace(":", "-")
        work.mkdir(parents=True, exist_ok=True)
        try:
            yield work
        except StepFailed:
            shutil.rmtree(work, ignore_errors=True)
            raise
        if fault.name != HEALTHY:
            shutil.rmtree(work, ignore_errors=True)

    def _source(self, fault: KitFault, work: Path, place: Path) -> tuple[Side, Side]:
        """The fault is in the source: h2k-v2v on one side, virt-v2v alone on the other."""
        if fault.name == HEALTHY:
            self._source_asked(place / "source")
        vmx = self._vmx(fault, work)
        shutil.copyfile(work / "source.log", place / "source.log")
        converted = convert.h2k_v2v(vmx, work / "with", NAME, self.tools)
        evidence.keep(converted, place / "with")
        with_h2k = self._booted(converted, place / "with")
        if fault.name == HEALTHY:
            self._one_disk(vmx, work, place)
        control = convert.virt_v2v(vmx, work / "without", NAME, self.tools)
        evidence.keep(control, place / "without")
        return with_h2k, self._started(control, place / "without")

    def _result(self, fault: KitFault, work: Path, place: Path) -> tuple[Side, Side]:
        """The fault is in what h2k-v2v made of the healthy guest: `h2k fix` on one side, nothing on the other."""
        healthy = self._healthy_result(work)
        broken = self._copied(healthy, work / "broken")
        put(fault, broken.disks[0].path, self.wanted.media.stand_in)
        control = self._started(broken, place / "without")
        fixed = convert.h2k_fix(broken, self.tools)
        evidence.keep(fixed, place / "with")
        with_h2k = self._booted(fixed, place / "with")
        return with_h2k, Side(Converted("none", 0, broken.log), control.start, control.lab)

    def _vmx(self, fault: KitFault, work: Path) -> Path:
        """The source with the fault in it, as VMDKs."""
        answers, log = self.wanted.answers, work / "source.log"
        if (work / "source" / f"{NAME}.vmx").exists():  # written last
            return work / "source" / f"{NAME}.vmx"
        system = work / "system.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.installed.system, "-F", "qcow2", system]
        if run_logged(command, "image", log, limit_of("inspect", self.tools.kvm)) != 0:
            raise StepFailed("image", "no overlay of the installed disk", str(log))
        put(fault, system, self.wanted.media.stand_in)
        disks = [(system, f"{NAME}.vmdk"), (self.installed.data, f"{NAME}-1.vmdk")]
        text = source.vmx_text(
            NAME, answers.firmware, self.installed.bus, answers.release.version, answers.image.arch, self.machine.memory,
            [file for _, file in disks],
        )  # fmt: skip
        return source.write_source(text, NAME, disks, work / "source", log, self.tools.kvm)

    def _source_asked(self, place: Path) -> None:
        """The source's own answers, before anything was converted: what addresses, letters and drivers it had."""
        disks = [Disk(path, "qcow2") for path in (self.installed.system, self.installed.data)]
        start = boots.start(self.machine, disks, self.installed.bus, place, virtio=False)
        if not start.started:
            raise StepFailed("start", f"the source does not start: {start.outcome} {start.reason}", f"{place}/screen.png")

    def _one_disk(self, vmx: Path, work: Path, place: Path) -> None:
        """h2k-qemu-img on the healthy system disk: its start is kept as evidence, beside the row."""
        converted = convert.h2k_qemu_img(vmx.with_suffix(".vmdk"), vmx, work / "qemu-img", NAME, self.tools)
        evidence.keep(converted, place / "qemu-img")
        side = self._started(converted, place / "qemu-img")
        (place / "qemu-img" / "side.json").write_text(json.dumps(side.row(), indent=1), encoding="utf-8")
        shutil.rmtree(work / "qemu-img", ignore_errors=True)

    def _healthy_result(self, work: Path) -> Converted:
        """What h2k-v2v made of the healthy source, from this run's first fault or made anew; never written."""
        out = self.work / HEALTHY / "with"
        if self._healthy is None and not (out / f"{NAME}.h2k" / "report.json").exists():
            vmx = self._vmx(KitFault(HEALTHY, SOURCE), work)
            self._healthy = convert.h2k_v2v(vmx, out, NAME, self.tools)
        if self._healthy is None:
            disks, bus = convert.described(out / f"{NAME}.xml")
            self._healthy = Converted("h2k-v2v", 0, out.parent / "with-h2k-v2v.log", disks, bus, out / f"{NAME}.h2k")
        if self._healthy.status != 0 or not self._healthy.disks:
            raise StepFailed("convert", "the healthy guest was not converted: its faults can't be tried", str(self._healthy.log))
        return self._healthy

    def _copied(self, healthy: Converted, out: Path) -> Converted:
        """A copy of a conversion, whose descriptions name its own disks; the way back of its boots and repairs, which are
        other disks', is not copied."""
        old = healthy.disks[0].path.parent
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out, ignore=shutil.ignore_patterns("journal.json", "undo-*", "written.json", "lock", "boot", "backup"))
        for xml in (*out.glob("*.xml"), *(out / f"{NAME}.h2k").glob("*.xml")):
            xml.write_text(xml.read_text(encoding="utf-8").replace(f"{old}/", f"{out}/"), encoding="utf-8")
        disks, bus = convert.described(out / f"{NAME}.xml")
        if not disks or any(disk.path.parent != out for disk in disks):
            raise StepFailed("fault", "the copy's description names other disks than its own", f"{out}/{NAME}.xml")
        return Converted("h2k-v2v", 0, out.parent / "copy.log", disks, bus, out / f"{NAME}.h2k")

    def _booted(self, converted: Converted, place: Path) -> Side:
        """`h2k boot`, then the guest's own answers on its final hardware."""
        if converted.status != 0 or not converted.disks:
            return Side(converted)
        status = convert.h2k_boot(converted, self.tools) if self.tools.boots else None
        evidence.keep(converted, place)
        side = self._started(converted, place)
        return Side(converted, side.start, side.lab, status)

    def _started(self, converted: Converted, place: Path) -> Side:
        """The guest started on the bus that its description says, and the lab's word on the same disks."""
        if converted.status != 0 or not converted.disks:
            return Side(converted)
        bus = converted.bus or "virtio"
        board = "pc" if bus == "ide" else self.machine.board
        lab = boots.judge(converted.disks, self.machine.firmware, bus, place / "lab", board, self.tools.kvm)
        start = boots.start(self.machine, converted.disks, bus, place / "start", virtio=bus.startswith("virtio"))
        return Side(converted, start, lab)


def prepared(options: argparse.Namespace) -> Wanted:
    """The media, looked at, and what is to be installed of them."""
    kvm = kvm_works()
    guestfs_settings(say)
    media = read_media(options.windows_iso.resolve(), options.work)
    image = choose(media.images, options.edition)
    answers = Answers(image, firmware_for(image, options.firmware))
    memory = STAND_IN_MEMORY if media.stand_in else answers.release.memory
    size = STAND_IN_DISK if media.stand_in else answers.release.disk << 30
    settle = 0.0 if media.stand_in else Machine.settle  # a stand-in does nothing more once it answers
    machine = Machine(answers.firmware, memory, kvm, answers.release.nic, settle)
    if media.stand_in:
        say("this ISO is a STAND-IN: what comes out says nothing about Windows")
    return Wanted(media, answers, machine, options.virtio_win_iso.resolve(), options.work / "cache", size)


def bench_of(wanted: Wanted, work: Path) -> Bench:
    digest = sha256_of(wanted.virtio_win, work / "digests.json")
    return Bench(wanted.media, wanted.answers, digest, wanted.bus, wanted.machine.kvm)


@contextlib.contextmanager
def tools_of(options: argparse.Namespace, media: Media, kvm: bool, virtio_win: Path) -> Iterator[Tools]:
    """The tools, with the libvirt that was asked for: the host's, one of the kit's own (as root), or none."""
    policy = None
    if media.stand_in:
        policy = options.work / "stand-in-policy.yaml"
        policy.write_text(STAND_IN_POLICY, encoding="utf-8")
    environment = {"VIRT_TOOLS_DATA_DIR": str(options.virt_tools)} if options.virt_tools else {}
    tools = Tools(virtio_win, kvm, environment, policy, boots=options.libvirt != "none")
    if options.libvirt != "own":
        yield tools
        return
    from tests.windows.own_libvirt import own

    with own() as before:
        yield Tools(virtio_win, kvm, environment, policy, before, True)


def run(options: argparse.Namespace) -> int:
    """The whole way; the exit status: 0 when every row is there."""
    wanted = prepared(options)
    faults = chosen(options.faults, guest_facts(wanted.answers))
    say(f"{len(faults)} guests: {', '.join(each.name for each in faults)}")
    installed = install.install(wanted)
    results = options.work / "results" / results_name(wanted)
    rows, failed = [], []
    with tools_of(options, wanted.media, wanted.machine.kvm, wanted.virtio_win) as tools:
        kit = Kit(wanted, installed, tools, bench_of(wanted, options.work), results)
        for fault in faults:
            try:
                rows.append(kit.run(fault))
            except StepFailed as e:
                failed.append(f"{fault.name}: {e}")
                say(f"FAILED {failed[-1]}")
            write(rows, results)
        if not options.keep:
            shutil.rmtree(kit.work, ignore_errors=True)
    print(tables.markdown(tables.merge([rows])), end="")
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    print(f"table: {results}/table.json; evidence: {results}/evidence", file=sys.stderr)
    return 1 if failed or not any(row["with"]["outcome"] == STARTS for row in rows) else 0


def results_name(wanted: Wanted) -> str:
    """The directory of a run's results: another ISO's rows are never taken for this one's."""
    image, answers = wanted.answers.image, wanted.answers
    return f"{answers.release.key}-{image.arch}-{answers.firmware}-{wanted.media.sha256[:8]}"


def write(rows: Sequence[dict[str, Any]], results: Path) -> None:
    """table.json and table.md of what is there so far."""
    ordered = tables.merge([rows])
    (results / "table.json").write_text(json.dumps(tables.table(ordered), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (results / "table.md").write_text(tables.markdown(ordered), encoding="utf-8")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.windows", description=__doc__.splitlines()[0])
    parser.add_argument("--windows-iso", type=Path, required=True, metavar="FILE", help="an installation ISO, evaluation edition")
    parser.add_argument("--virtio-win-iso", type=Path, required=True, metavar="FILE", help="virtio-win.iso")
    parser.add_argument("--faults", default="", metavar="LIST", help='names with commas, "all", or nothing for an evening\'s')
    parser.add_argument("--firmware", default="", choices=["", "uefi", "bios"], help="[default: uefi where Windows starts under it]")
    parser.add_argument("--edition", default="", metavar="INDEX|NAME", help="the image of the ISO [default: the first with a desktop]")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "windows", metavar="DIR", help="cache and results")
    parser.add_argument("--libvirt", default="system", choices=["system", "own", "none"], help="where `h2k boot` runs")
    parser.add_argument("--virt-tools", type=Path, metavar="DIR", help="rhsrvany.exe's directory, where it is not the usual one")
    parser.add_argument("--keep", action="store_true", help="keep the converted disks")
    options = parser.parse_args(argv)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def main(argv: Sequence[str]) -> int:
    """Exit status 0: every row is there; 1: a step failed, and its line says what to look at."""
    try:
        return run(parse(argv))
    except (StepFailed, H2kError) as e:
        print(f"FAILED {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
