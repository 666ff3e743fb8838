"""Every fault in made guests: found under its id, answered, checked again; and what virt-v2v itself says about it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from h2k.base.errors import READY, REFUSED
from h2k.base.host import guestfs_settings
from h2k.base.steps import Steps
from h2k.domain.facts import DomainFacts
from h2k.domain.guest_files import GuestFiles
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.engine.catalogue import ENTRIES
from h2k.engine.ending import record_of, told
from h2k.engine.examination import Examination
from h2k.engine.finding_entry import DOMAIN, FIRST_BOOT, REFUSE, REPAIR
from h2k.engine.outcome import Outcome
from h2k.engine.pipeline import examine, fix
from h2k.engine.request import Request, open_tools
from h2k.engine.runs import Run
from h2k.guest.changes import WriteFile
from tests.guests import build, virtio_win
from tests.guests.faults import FAULTS, NEW, OLD, Fault, GuestFacts, break_disk
from tests.guests.surgery import Surgery

ROOT = Path(__file__).resolve().parents[2]
WRITERS = ("auto", "direct", "appliance")


@dataclasses.dataclass(frozen=True)
class Row:
    """One fault on one guest: what h2k found (ids), how it ended, and whether that is what the table promises."""

    fault: str
    guest: str
    found: str
    answer: str
    again: str
    ok: bool
    v2v: str = ""
    after: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """A broken guest: its disks, and the domain that goes with them."""

    fault: Fault
    guest: str
    disks: tuple[Path, ...]
    drivers: Path
    domain: Optional[DomainFacts]

    @property
    def images(self) -> list[tuple[Path, str]]:
        return [(disk, "qcow2") for disk in self.disks]


def facts(name: str) -> GuestFacts:
    """A made guest, as the table asks about it."""
    about = build.descriptions()[name]
    return GuestFacts(name, about["firmware"], about["version"], len(about["sets"]))


Found = tuple[str, str, str]


def found_in(seen: Examination) -> set[Found]:
    """(id, subject, evidence) of the findings that are more than a remark."""
    return {(f.id, f.subject, f.evidence) for f in seen.proposal.findings if f.state != "ok"}


class Bench:
    """A place where guests are broken: virtio-win trees, and guests that h2k has repaired, each made once. `writer`
    stands in the policy of every repair."""

    def __init__(self, work: Path, skip: Sequence[str] = (), writer: str = "auto") -> None:
        self.work, self.skip, self.writer = work, tuple(skip), writer
        guestfs_settings()
        self._trees: dict[str, Path] = {}
        self._baseline: dict[Path, set[Found]] = {}

    def drivers(self, variant: str = "") -> Path:
        """A made virtio-win: whole, or "zero" (empty storage drivers), "omit" (no directory for any Windows here), or
        signed as make_tree's `signed` says ("none", "test", "sha256")."""
        if variant not in self._trees:
            tree = self.work / f"virtio-win-{variant or 'whole'}"
            zero = ["viostor.sys"] if variant == "zero" else []
            signed = variant if variant in ("none", "test", "sha256") else "whql"
            virtio_win.make_tree(tree, omit=["2k22", "w7"] if variant == "omit" else [], zero=zero, signed=signed)
            self._trees[variant] = tree
        return self._trees[variant]

    def repaired(self, name: str) -> Path:
        """A made guest after h2k fix: boot-ready, with nothing left to do."""
        target = self.work / "repaired" / f"{name}.qcow2"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(build.cached()[name].disks[0], target)
            files = GuestFiles(((target, "qcow2"),), self.work / "repaired" / f"{name}.h2k")
            _, outcome = self._fixed(files, self._request(self.drivers()))
            assert outcome.status == READY, f"{name}: {outcome.sentence}"
        return target

    def _fixed(self, files: GuestFiles, request: Request) -> tuple[Run, Outcome]:
        """h2k fix, without its end."""
        run = Run("h2k fix", steps=Steps(quiet=True), files=files)
        with open_tools(request) as run.tools:
            return run, fix(run)

    def _repaired_case(self, case: Case) -> tuple[Run, Outcome]:
        files = GuestFiles(tuple(case.images), case.disks[0].with_suffix(".h2k"), case.domain)
        return self._fixed(files, self._asked(case))

    def _asked(self, case: Case) -> Request:
        return self._request(case.drivers, case.fault.policy, case.fault.bus)

    def _request(self, drivers: Path, policy: str = "", bus: str = "") -> Request:
        policies = tuple(self._policy(text) for text in (f"writer: {self.writer}\n", policy) if text)
        return Request(bus=bus or None, drivers=str(drivers), skip=self.skip, policies=policies)

    def _policy(self, text: str) -> str:
        file = self.work / f"policy-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
        if not file.exists():
            file.write_text(text, encoding="utf-8")
        return str(file)

    def base(self, fault: Fault, name: str) -> Path:
        return self.repaired(name) if fault.base == "repaired" else build.cached()[name].disks[0]

    def breaks(self, fault: Fault, name: str, also: Iterable[Fault] = ()) -> Case:
        """A copy of the guest with the fault in it (and with the others, for repairs that go together)."""
        place = Path(tempfile.mkdtemp(prefix=fault.name.replace(":", "-") + "-", dir=self.work))
        disks = [place / f"{name}.qcow2"]
        shutil.copy(self.base(fault, name), disks[0])
        with Surgery(disks[0]) as disk:
            for each in (fault, *also):
                each.inject(disk)
        for each in (fault, *also):
            if each.extra is not None and len(disks) == 1:
                disks.append(each.extra(disks[0], place / "data.qcow2"))
        domain = fault.domain(disks) if fault.domain is not None else None
        return Case(fault, name, tuple(disks), self.drivers(fault.drivers), domain)

    def new_in(self, seen: Examination, fault: Fault, name: str) -> set[str]:
        """The ids of what is found, but not without the fault: real hives have findings of their own."""
        base = self.base(fault, name)
        if base not in self._baseline:
            with open_tools(self._request(self.drivers())) as tools:
                self._baseline[base] = found_in(examine(tools, [(base, "qcow2")], "result", None))
        return {found for found, _, _ in found_in(seen) - self._baseline[base]}

    # What h2k says and does

    def find(self, case: Case) -> tuple[Examination, set[str]]:
        """(the look, the ids that the fault brought)."""
        with open_tools(self._asked(case)) as tools:
            seen = examine(tools, case.images, "result", case.domain)
        return seen, self.new_in(seen, case.fault, case.guest)

    def check(self, fault: Fault, name: str, repair: bool = True) -> Row:
        """Break, find, answer, check again; without `repair` a repair is left out, and everything else is done."""
        if fault.wrapper:
            return self._wrapper(fault, name)
        case = self.breaks(fault, name)
        try:
            seen, found = self.find(case)
            expected = fault.finding in found and found - {fault.finding} <= fault.also
            shown = ", ".join(sorted(found, key=lambda i: i != fault.finding)) or "nothing"
            if fault.answer == REPAIR and not repair:
                ready = not seen.proposal.refused and bool(seen.todo)
                return Row(fault.name, name, shown, "to repair", "later", expected and ready)
            answer, again, ok = self._answer(case, seen)
            return Row(fault.name, name, shown, answer, again, expected and ok)
        finally:
            shutil.rmtree(case.disks[0].parent)

    def _answer(self, case: Case, seen: Examination) -> tuple[str, str, bool]:
        """(what h2k did, what a second look says, whether both are right)."""
        before = digests(case.disks)
        if case.fault.answer == REPAIR:
            return self.repair(case)
        if case.fault.answer == DOMAIN:
            return self._repair_domain(case, before)
        run, outcome = self._repaired_case(case)
        assert run.seen is not None
        same = digests(case.disks) == before
        unchanged = "bytes unchanged" if same else "BYTES CHANGED"
        if case.fault.answer == REFUSE:
            refused = outcome.status == REFUSED
            named = case.fault.finding in {f.id for f in run.seen.proposal.refused}
            return ("refused" if refused else f"status {outcome.status}"), unchanged, refused and named and same
        warned = {f.state for f in run.report.findings if f.id == case.fault.finding} == {"warning"}
        if case.fault.answer == FIRST_BOOT:
            staged = any(isinstance(c, WriteFile) and case.fault.finding.split("-")[0].encode() in c.data for c in run.seen.todo)
            return "warned, a step staged" if staged else "NO STEP", "verified", warned and staged and outcome.status == READY
        if case.fault.bus:  # nobody repaired the guest for that bus before: it is, in spite of the warning
            card = run.seen.proposal.setting("final-nic", "")
            return ("warned" if warned else "not warned"), f"the card is {card}", warned and card == "e1000e" and outcome.status == READY
        return ("warned" if warned else "not warned"), unchanged, warned and same and outcome.status == READY

    def check_group(self, group: Sequence[Fault], name: str) -> Row:
        """Several faults in one guest: all found, all repaired in one run, and nothing found afterwards."""
        first = next((f for f in group if f.extra is not None), group[0])
        case = self.breaks(first, name, [f for f in group if f is not first])
        try:
            _, found = self.find(case)
            wanted = {f.finding for f in group}
            allowed = wanted.union(*(f.also for f in group))
            answer, again, ok = self.repair(case)
            names = ", ".join(f.name for f in group)
            return Row(names, name, ", ".join(sorted(found)), answer, again, ok and wanted <= found <= allowed)
        finally:
            shutil.rmtree(case.disks[0].parent)

    def repair(self, case: Case) -> tuple[str, str, bool]:
        """Repair the case's disks and look again."""
        _, outcome = self._repaired_case(case)
        if outcome.status != READY:
            return f"status {outcome.status}", outcome.sentence, False
        with open_tools(self._asked(case)) as tools:
            again = examine(tools, case.images, "result", case.domain)
        left = self.new_in(again, case.fault, case.guest)
        clean = not left and not again.todo
        return "repaired", "nothing found" if clean else f"still {', '.join(sorted(left)) or 'to do'}", clean

    def _repair_domain(self, case: Case, before: list[str]) -> tuple[str, str, bool]:
        """The disks stay; the domain that h2k writes has nothing wrong."""
        run, outcome = self._repaired_case(case)
        final = case.disks[0].with_suffix(".h2k") / "final.xml"
        if not final.exists():
            return f"status {outcome.status}", outcome.sentence, False
        with open_tools(self._asked(case)) as tools:
            again = examine(tools, case.images, "result", read_domain_xml(final.read_bytes(), str(final)))
        left = self.new_in(again, case.fault, case.guest)
        same = digests(case.disks) == before
        said = {f.state for f in run.report.findings if f.id == case.fault.finding} == {"repaired"}
        evidence = "nothing found in final.xml" if not left else f"still {', '.join(sorted(left))}"
        return "repaired in the domain", evidence + ("" if same else ", BYTES CHANGED"), not left and same and said

    def _wrapper(self, fault: Fault, name: str) -> Row:
        """Findings of h2k-v2v itself: the wrapper refuses before the copy, and the source stays."""
        case = self.breaks(fault, name)
        out, nowhere = case.disks[0].parent / "out", case.disks[0].parent / "nowhere"
        out.mkdir()
        nowhere.mkdir()
        before = digests(case.disks)
        argv = [ROOT / "wrappers" / "h2k-v2v", "-i", "disk", case.disks[0], "-o", "local", "-os", out]
        with fault.during(case.disks[0]):
            done = subprocess.run(
                [*map(str, argv), "--h2k-drivers", str(case.drivers)], capture_output=True, text=True, check=False,
                env={**os.environ, "VIRT_TOOLS_DATA_DIR": str(nowhere)}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        found = fault.finding in done.stdout + done.stderr
        same = digests(case.disks) == before and {path.suffix for path in out.iterdir()} <= {".h2k"}
        shutil.rmtree(out.parent)
        refused = done.returncode == REFUSED
        shown = fault.finding if found else done.stderr.strip()[-80:]
        return Row(
            fault.name, name, shown, "refused" if refused else f"status {done.returncode}",
            "bytes unchanged" if same else "BYTES CHANGED", found and refused and same,
        )  # fmt: skip

    # What virt-v2v says and does

    def ask_v2v(self, fault: Fault, name: str) -> tuple[str, str]:
        """(what virt-v2v says to this source, what h2k finds in what it wrote)."""
        if fault.domain is not None or fault.wrapper:
            return "not asked: the disk has no fault", ""
        case = self.breaks(fault, name)
        out = case.disks[0].parent / "out"
        out.mkdir()
        tools = virtio_win.make_runner(case.disks[0].parent / "virt-tools")
        env = {**os.environ, "VIRTIO_WIN": str(case.drivers), "VIRT_TOOLS_DATA_DIR": str(tools), "LC_ALL": "C.UTF-8"}
        argv = ["virt-v2v", "-i", "disk", str(case.disks[0]), "-o", "local", "-os", str(out), "-on", "g", "-of", "qcow2"]
        if len(case.disks) > 1:
            argv[3:4] = map(str, case.disks)
        try:
            status, said = _run_alone(argv, env)
            if status != 0:
                return f"stops: {_last(said, 'error')}", ""
            warned = [line for line in said.splitlines() if "warning:" in line]
            images = sorted(out.glob("g-sd?"))
            with open_tools(self._request(self.drivers())) as opened:
                seen = examine(opened, [(image, "qcow2") for image in images], "result", None)
            left = [f for f in seen.proposal.findings if f.id == fault.finding and f.state != "ok"]
            return _last("\n".join(warned), "warning") if warned else "nothing", "still there" if left else "gone"
        finally:
            shutil.rmtree(case.disks[0].parent)


def _run_alone(argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """(exit status, both outputs). A virt-v2v that fails may leave its qemu-nbd behind, with our pipe or file open: it
    gets a file, and a process group that ends with it."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True) as child:
            status = child.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        log.seek(0)
        return status, log.read()


def _last(text: str, word: str) -> str:
    lines = [line for line in text.splitlines() if word in line] or text.strip().splitlines()[-1:] or ["?"]
    return lines[0].partition(f"{word}:")[2].strip()[:70] or lines[0][:70]


def digests(paths: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def groups(name: str, rows: Optional[Sequence[tuple[Fault, str]]] = None) -> list[list[Fault]]:
    """The first repair of each finding on a guest, in groups that go into one copy of it together."""
    firsts: dict[str, Fault] = {}
    for fault, guest in rows if rows is not None else pairs():
        if guest == name and fault.answer == REPAIR:
            firsts.setdefault(fault.finding, fault)
    found: list[list[Fault]] = []
    for fault in firsts.values():
        fitting = (group for group in found if not any(_clash(fault, other) for other in group))
        group = next(fitting, None)
        if group is None:
            found.append([fault])
        else:
            group.append(fault)
    return found


# Two of one set touch the same file, key or card.
_CLASHES = (
    {"driver-file-missing", "driver-file-invalid", "driver-unsigned"},
    {"device-id-unbound", "device-class-wrong"},
    {"bcd-default-missing", "bcd-device-unresolved"},
    {"nic-ghost", "nic-static-stranded", "network-profile-stale", "network-setting-dropped"},
)


def _clash(one: Fault, other: Fault) -> bool:
    """Whether one would hide or undo the other: the edit of a dirty hive makes it clean, a policy is for all, and
    control sets that are broken alike do not differ."""
    both = {one.finding, other.finding}
    alone = "hive-dirty" in both or one.policy != other.policy
    alike = "control-set-differs" in both and any(i.startswith(("driver-", "device-id", "device-class")) for i in both)
    return alone or alike or any(both <= clash for clash in _CLASHES)


def pairs(names: Optional[Sequence[str]] = None) -> list[tuple[Fault, str]]:
    """(fault, guest) as `make test` has them."""
    chosen = [f for f in FAULTS if not names or f.name in names or f.finding in names]
    return [(fault, guest) for fault in chosen for guest in fault.guests]


def others(names: Optional[Sequence[str]], guests: Sequence[str]) -> list[tuple[Fault, str]]:
    """The faults that make sense on these guests as well."""
    chosen = [f for f in FAULTS if not names or f.name in names or f.finding in names]
    return [
        (fault, guest)
        for guest in guests
        for fault in chosen
        if guest not in fault.guests and fault.fits(facts(guest)) and not fault.drivers and not fault.wrapper
    ]


def table(rows: Sequence[Row], v2v: bool) -> str:
    """The matrix as people read it."""
    heads = ["", "fault", "guest", "found", "answer", "checked again"]
    lines = [[("ok" if r.ok else "FAIL"), r.fault, r.guest, r.found, r.answer, r.again] for r in rows]
    if v2v:
        heads += ["virt-v2v says", "after it"]
        lines = [[*line, r.v2v, r.after] for line, r in zip(lines, rows)]
    widths = [max(len(line[n]) for line in [heads, *lines]) for n in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in [heads, *lines])


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.guests.faults matrix [--all] [--v2v] [--only NAME …] [--guests NAME …] [--writer NAME] [--jobs N]"""
    parser = argparse.ArgumentParser(prog="python3 -m tests.guests.faults matrix", description=__doc__)
    parser.add_argument("--all", action="store_true", help="also on every other made guest, with repairs in groups")
    parser.add_argument("--v2v", action="store_true", help="also run the real virt-v2v on each")
    parser.add_argument("--only", nargs="+", help="these findings or faults")
    parser.add_argument("--guests", nargs="+", default=[], help="also on these made guests")
    parser.add_argument("--skip", nargs="+", default=[], help="leave these hooks out")
    parser.add_argument("--writer", choices=WRITERS, default="auto", help="who carries the repairs out")
    parser.add_argument("--jobs", type=int, default=2)
    wishes = parser.parse_args(argv)
    more = list(dict.fromkeys([*wishes.guests, *(g for g in build.descriptions() if wishes.all and g not in (NEW, OLD))]))
    with tempfile.TemporaryDirectory(prefix="h2k-faults-") as work:
        bench = Bench(Path(work), wishes.skip, wishes.writer)
        rows = _run(bench, pairs(wishes.only), others(wishes.only, more), wishes.v2v, wishes.jobs)
    print(file=sys.stderr)
    print(table(rows, wishes.v2v))
    bad = [row for row in rows if not row.ok]
    missing = sorted({e.id for e in ENTRIES} - {f.finding for f in FAULTS})
    print(f"\n{len(rows)} rows, {len(rows) - len(bad)} hold, {len(bad)} do not", end="")
    print(f"; no fault for: {', '.join(missing)}" if missing else "; every finding has its fault")
    return 1 if bad or (missing and not wishes.only) else 0


def _run(
    bench: Bench, main_rows: list[tuple[Fault, str]], more: list[tuple[Fault, str]], v2v: bool, jobs: int
) -> list[Row]:
    """All rows: those of the two main guests one by one, those of further guests with their repairs in groups."""

    def show(row: Row) -> Row:
        failed = f"\nFAIL {row.fault} on {row.guest}: found {row.found}; {row.answer}; {row.again}\n"
        print("." if row.ok else failed, end="", flush=True, file=sys.stderr)
        return row

    def one(pair: tuple[Fault, str]) -> Row:
        row = bench.check(*pair)
        if v2v and pair[1] == pair[0].guests[0]:
            says, after = bench.ask_v2v(*pair)
            row = dataclasses.replace(row, v2v=says, after=after)
        return show(row)

    together = [(name, group) for name in dict.fromkeys(g for _, g in more) for group in groups(name, more)]
    with ThreadPoolExecutor(jobs) as pool:
        for variant in {fault.drivers for fault, _ in main_rows}:
            bench.drivers(variant)
        list(pool.map(bench.repaired, dict.fromkeys(guest for _, guest in [*main_rows, *more])))
        rows = list(pool.map(one, main_rows))
        found = list(pool.map(lambda pair: show(bench.check(pair[0], pair[1], repair=False)), more))
        repaired = list(pool.map(lambda pair: show(bench.check_group(pair[1], pair[0])), together))
    return [*rows, *found, *repaired]


def try_one(fault: Fault) -> int:
    """Break a copy of a made guest that stays, and print where it is and what h2k says."""
    work = ROOT / "build" / "faults"
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(work)
    case = bench.breaks(fault, fault.guests[0])
    seen, _ = bench.find(case)
    print(f"{fault.name}: {fault.what}, in a copy of {case.guest}:")
    for disk in case.disks:
        print(f"  {disk}")
    run = Run("h2k verify", report=seen.report)
    told(record_of(run, seen.outcome), plan=True)
    if fault.wrapper:
        print("  The fault is the host's: h2k-v2v reports it, before the copy.")
    return 0


__all__ = ["Bench", "Row", "break_disk", "groups", "main", "others", "pairs", "table", "try_one"]
