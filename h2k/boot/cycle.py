"""The boot cycle: bootstrap on an overlay, evidence that Windows bound VirtIO, final on the same, commit, production."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import NOT_READY, NOT_VERIFIED, READY, H2kError, NotVerified, Refused, UsageError
from h2k.base.files import write_bytes, write_json
from h2k.base.libvirt_connection import DEFAULT_URI, Domain, Virt
from h2k.base.run import run
from h2k.base.steps import Steps, counted
from h2k.boot import disk_evidence, hardware
from h2k.boot.disk_evidence import Check
from h2k.boot.phase_domain import Description, check_host, marked, phase_xml, production_xml, read_description_of
from h2k.boot.validate import read_steps, validate
from h2k.boot.watcher import Phase, Watcher
from h2k.config.policy import Policy
from h2k.disk.open_reader import open_reader
from h2k.disk.overlay import Companion, DiskSet
from h2k.guest.guest import Guest

FREE_SPACE = 64 * 1024 * 1024  # bytes below which no boot is begun; Windows writes some hundred MiB in its first
REPORT_LIMIT = 64 * 1024 * 1024  # bytes of a report.json or boot.json


@dataclasses.dataclass(frozen=True)
class BootRequest:
    """What the user asked for: the report directory NAME.h2k, libvirt's URI, and what is to be left out."""

    state: Path
    uri: str = DEFAULT_URI
    keep_overlay: bool = False
    skip_bootstrap: bool = False
    policy: Policy = dataclasses.field(default_factory=Policy)


@dataclasses.dataclass
class BootReport:
    """How a boot cycle went, in the shape of boot/boot.json.

    `stage` is how far it came: "started", "booting", "committing", "committed", "kept", "production", or "failed".
    """

    status: int = NOT_VERIFIED
    verdict: str = ""
    stage: str = "started"
    commits: int = 0
    phases: list[Phase] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    validation: list[Check] = dataclasses.field(default_factory=list)
    timings: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report object."""
        return {
            "status": self.status,
            "verdict": self.verdict,
            "stage": self.stage,
            "commits": self.commits,
            "phases": [phase.as_json() for phase in self.phases],
            "checks": [check.as_json() for check in self.checks],
            "validation": [check.as_json() for check in self.validation],
            "timings": self.timings,
        }


def boot(request: BootRequest, steps: Steps) -> BootReport:
    """Take a converted guest through both boots, commit what they wrote, and leave it running in production.

    NotVerified (with everything as it was, and the evidence in NAME.h2k/boot) when a boot or the gate fails; Refused
    or UsageError before anything is started. What fails after the commit is in the report: there is no way back then.
    """
    state = request.state.resolve()
    _check_ready(state)
    final, bootstrap = read_description_of(state, "final"), read_description_of(state, "bootstrap")
    if (final.name, final.uuid) != (bootstrap.name, bootstrap.uuid):
        raise UsageError(f"{bootstrap.path} and {final.path} are two domains", hint="h2k domains NAME.xml writes them anew")
    with _interruptible():
        virt = Virt(request.uri)
        try:
            return _Cycle(request, state, bootstrap, final, virt, steps).run()
        finally:
            virt.close()


def _check_ready(state: Path) -> None:
    content = _read_json(state / "report.json")
    if content is None:
        raise UsageError(f"{state}: no report directory of h2k", hint="h2k fix NAME.xml makes one; then h2k boot NAME.h2k")
    if content.get("status") != READY:
        raise Refused(f"{state}: the guest is not ready: {content.get('verdict', '')}", hint="h2k fix NAME.xml")


def _read_json(path: Path) -> Optional[dict[str, Any]]:
    try:
        if path.stat().st_size > REPORT_LIMIT:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make a SIGTERM or SIGHUP clean up as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Cycle:
    """One run of `h2k boot`; the methods stand in the order in which they run."""

    def __init__(
        self, request: BootRequest, state: Path, bootstrap: Description, final: Description, virt: Virt, steps: Steps
    ) -> None:
        self.request, self.state, self.bootstrap, self.final = request, state, bootstrap, final
        self.virt, self.steps = virt, steps
        self.evidence = state / "boot"
        self.domain = Domain(virt, final.name, final.uuid)
        self.disks = DiskSet(final.disks, state)
        self.report = BootReport()
        self.controllers: tuple[hardware.PciDevice, ...] = ()
        self.expects_done = False

    def run(self) -> BootReport:
        """The whole cycle, or what an earlier run left of it."""
        with self.steps.step("recover", f"looking for what an earlier run of {self.final.name} left"):
            go_on = self._recover()
        if not go_on:
            self._prepare()
            self._boots()
            if self.request.keep_overlay:
                self._keep()
            else:
                self._commit()
        return self._production()

    # Before

    def _recover(self) -> bool:
        """Clean up after an earlier run; True when it had committed, and only production is left to do."""
        earlier = _read_json(self.evidence / "boot.json") or {}
        self._check_taken(in_production=earlier.get("stage") == "committed")
        with contextlib.suppress(FileNotFoundError):
            self.state.chmod(self.state.stat().st_mode | 0o011)  # QEMU's user has to pass through
        outcome = self.disks.recover()
        if outcome == "kept":
            return self._end_of_keeping()
        if outcome != "clean":
            self.steps.say(f"an unfinished run was found, and its overlays {outcome}")
        committed = "boot" in self.disks.history[-1:] and (
            earlier.get("stage") == "committed"
            or (earlier.get("stage") == "committing" and len(self.disks.history) > int(earlier.get("commits", 0)))
        )
        if committed:
            self.steps.say("the boots had been committed; going on with production")
            self.report.commits = len(self.disks.history)
        return committed

    def _check_taken(self, in_production: bool) -> None:
        """The domain's name and UUID are free, or ours; a domain that an earlier run left running is stopped."""
        by_name, by_uuid = self.virt.lookup_name(self.final.name), self.virt.lookup(self.final.uuid)
        if by_name is not None and by_name.UUIDString() != self.final.uuid:
            raise Refused(
                f"the name {self.final.name!r} is taken by another domain ({by_name.UUIDString()})",
                hint=f"virsh domrename {self.final.name} NEW, or convert with -on NAME",
            )
        if by_uuid is not None and by_uuid.name() != self.final.name:
            raise Refused(
                f"the UUID {self.final.uuid} is taken by another domain, {by_uuid.name()!r}",
                hint=f"undefine it, or remove <uuid> from {self.final.path} and {self.bootstrap.path}",
            )
        if by_uuid is None or not self.domain.state().active:
            return
        if not marked(by_uuid.XMLDesc(0), self.state):
            if in_production:
                return  # killed while it validated
            raise Refused(f"{self.final.name} is running", hint=f"shut it down first: virsh shutdown {self.final.name}")
        self.steps.say(f"an earlier run left {self.final.name} running on its overlay: stopping it")
        self.domain.destroy()

    def _end_of_keeping(self) -> bool:
        if self.request.keep_overlay:
            raise Refused(
                f"{self.state}: the overlays of an earlier run are kept",
                hint="h2k boot without --keep-overlay commits them, h2k rollback throws them away",
            )
        with self.steps.step("commit", "committing the overlays that were kept"):
            self.disks.commit()
        self.report.commits = len(self.disks.history)
        return True

    def _prepare(self) -> None:
        """Everything that can be refused before a domain is started; and the hardware, asked of QEMU itself."""
        for description in (self.bootstrap, self.final):
            check_host(self.virt, description)
        free = shutil.disk_usage(self.state).free
        if free < FREE_SPACE:
            raise Refused(f"{self.state}: {free >> 20} MiB free, no space for the overlays", hint="free some space")
        shutil.rmtree(self.evidence, ignore_errors=True)
        self.evidence.mkdir(mode=0o711)
        self.evidence.chmod(0o711)
        self._keep_report("started")
        with self.steps.step("hardware", "asking QEMU which PCI ids both domains show"), open_reader(self.final.disks) as reader:
            guest = Guest(reader)
            findings = []
            for description in (self.bootstrap, self.final):
                found = hardware.disk_controllers(description.xml, hardware.ask(self.virt, description.xml))
                findings += hardware.compare(guest, description.phase, found)
                self.controllers = found
            self.expects_done = disk_evidence.expects_signals(guest)
        broken = [f for f in findings if f.state == "broken"]
        self.report.checks += [
            Check("hardware", "failed" if f in broken else "passed", f.subject, f.evidence) for f in findings
        ]
        if broken:
            self._keep_report("failed")
            raise Refused(f"{broken[0].id}, {broken[0].subject}: {broken[0].evidence}", hint=broken[0].repair)

    # The two boots

    def _boots(self) -> None:
        skip = self._skips_bootstrap()
        overlays = dict(zip([path for path, _ in self.final.disks], self.disks.create_overlays("boot")))
        try:
            self._keep_report("booting")
            nvram = self._working_nvram()
            stepped = self.expects_done
            if not skip:
                self._phase(self.bootstrap, {**overlays, **self._scratch()}, nvram)
                self._gate(self.bootstrap, stepped)
            self._phase(self.final, overlays, nvram)
            self._gate(self.final, stepped)
        except BaseException as e:
            self._back_to_what_was()
            self.report.verdict = str(e)
            self._keep_report("failed")
            if isinstance(e, (H2kError, OSError)) and not isinstance(e, NotVerified):
                raise NotVerified(f"{self.final.name}: {e}; the disks are what they were") from e
            raise

    def _skips_bootstrap(self) -> bool:
        """Whether the final domain may be booted at once: the policy allows it, and the disks prove that the guest
        has already met its VirtIO controller."""
        wish = self.request.policy.bootstrap
        if self.request.skip_bootstrap and wish == "required":
            raise Refused("the policy says that the bootstrap is required", hint="bootstrap: recommended, in policy.yaml")
        if not self.request.skip_bootstrap and wish != "skip-when-ready":
            return False
        seen = disk_evidence.collect(self.final.disks, self.controllers, (), False, True, self.evidence / "logs-before")
        failed = seen.failed
        if not failed and not self.expects_done:
            self.steps.say("VirtIO is bound already: the bootstrap is skipped")
            self.report.checks += seen.checks
            return True
        why = f"{failed[0].subject}: {failed[0].evidence}" if failed else "its first-boot steps have not run"
        if self.request.skip_bootstrap:
            raise Refused(f"{self.final.name} is not ready for the final domain: {why}", hint="boot it without --skip-bootstrap")
        self.steps.say(f"the bootstrap is needed: {why}")
        return False

    def _working_nvram(self) -> Optional[Path]:
        """A copy of the firmware variables that both boots work on; the guest's own stay as they are until the commit."""
        if not self.final.uefi:
            return None
        home = self._nvram_home()
        source = home if home.exists() else self.final.template
        if source is None:
            raise Refused(f"{home}: the firmware variables are gone", hint=f"name a template in {self.final.path}")
        work = self.evidence / "nvram.fd"
        shutil.copyfile(source, work)
        work.chmod(0o600)
        return work

    def _nvram_home(self) -> Path:
        return self.final.nvram if self.final.nvram is not None else self.state / "nvram.fd"

    def _scratch(self) -> dict[Path, Path]:
        """A fresh disk in place of the bootstrap's scratch disk."""
        extra = [path for path, _ in self.bootstrap.disks if path not in [p for p, _ in self.final.disks]]
        fresh = {}
        for index, path in enumerate(extra):
            fresh[path] = self.evidence / f"scratch-{index}.qcow2"
            run(["qemu-img", "create", "-q", "-f", "qcow2", str(fresh[path]), str(64 * 1024 * 1024)])
        return fresh

    def _phase(self, description: Description, overlays: dict[Path, Path], nvram: Optional[Path]) -> None:
        name = description.phase
        com1 = self.evidence / f"{name}-com1.log"
        com1.touch(mode=0o600)
        with self.steps.step(name, f"{name}: booting {self.final.name} on overlays, links down"):
            xml = phase_xml(description, overlays, com1, nvram, self.state)
            write_bytes(self.evidence / f"{name}.xml", xml)
            self.domain.start(xml.decode())
            watcher = Watcher(self.domain, name, self.evidence, com1, self.request.policy.timeouts, self.steps)
            self.report.phases.append(watcher.phase)
            ending = watcher.until_up(self.expects_done, channel=name == "final")
            self._keep_report("booting")
            if not ending.good:
                raise NotVerified(f"{name}: {ending.why}", hint=f"the evidence is in {self.evidence}")
        with self.steps.step(f"{name}-shutdown", f"{name}: shutting down"):
            watcher.shut_down()

    def _gate(self, description: Description, stepped: bool) -> None:
        """What the disks say decides, and not that something had been running."""
        phase = description.phase
        with self.steps.step(f"{phase}-gate", f"{phase}: reading the disks offline"):
            overlays = [(overlay, "qcow2") for overlay in self.disks.overlays]
            signals = [signal for seen in self.report.phases for signal in seen.signals]
            last = description is self.final
            found = disk_evidence.collect(overlays, self.controllers, signals, stepped, last, self.evidence / f"{phase}-logs")
        self.report.checks += found.checks
        self.expects_done = found.expects_signals
        if found.failed:
            first = found.failed[0]
            raise NotVerified(
                f"{phase}: {first.name}: {first.subject}: {first.evidence}",
                hint=f"the disks are what they were; the evidence is in {self.evidence}",
            )

    def _back_to_what_was(self) -> None:
        """Stop the domain and throw away all that the boots wrote, however far they came."""
        try:
            if self.domain.state().active:
                self.domain.destroy()
        finally:
            self.disks.discard()
            for path in (self.evidence / "nvram.fd", *self.evidence.glob("scratch-*.qcow2")):
                path.unlink(missing_ok=True)

    # From here on there is no way back

    def _companions(self) -> list[Companion]:
        work = self.evidence / "nvram.fd"
        return [Companion(work, self._nvram_home())] if work.exists() else []

    def _keep(self) -> None:
        self.disks.keep(self._companions())
        self._keep_report("kept")

    def _commit(self) -> None:
        with self.steps.step("commit", "saving the undo data and committing both boots"):
            self.report.commits = len(self.disks.history)
            self._keep_report("committing")
            self.disks.commit(companions=self._companions())
            self.report.commits = len(self.disks.history)
            self._keep_report("committed")

    def _production(self) -> BootReport:
        """Define the final domain, start it with its links up, and validate it."""
        kept = self.report.stage == "kept"
        overlays = dict(zip([path for path, _ in self.final.disks], self.disks.overlays)) if kept else {}
        where = "on the kept overlays" if kept else "committed"
        try:
            with self.steps.step("production", f"{self.final.name}: production, links up"):
                xml = production_xml(self.final, overlays, self._production_nvram(kept))
                self._define_and_start(xml.decode())
                watcher = Watcher(self.domain, "production", self.evidence, None, self.request.policy.timeouts, self.steps)
                self.report.phases.append(watcher.phase)
                ending = watcher.until_up(False, channel=True)
            with self.steps.step("validate", "validating the network and the services"):
                steps = read_steps(self.state, self.request.policy)
                self.report.validation = validate(self.virt, self.final.name, steps, self.evidence)
        except H2kError as e:
            self.report.validation.append(Check("production", "failed", self.final.name, str(e)))
        else:
            state = "passed" if ending.good else "failed"
            self.report.validation.insert(0, Check("production", state, self.final.name, ending.why))
        failed = [check for check in self.report.validation if check.state == "failed"]
        unknown = sum(check.state == "unknown" for check in self.report.validation)
        self.report.status = NOT_READY if failed else READY
        self.report.verdict = (
            f"{where}, but in production {failed[0].name} failed: {failed[0].subject}: {failed[0].evidence}"
            if failed
            else f"both boots observed and {where}; {self.final.name} runs on VirtIO"
            + (f" ({counted(unknown, 'step')} could not be observed)" if unknown else "")
        )
        self._keep_report("kept" if kept else "production")
        return self.report

    def _production_nvram(self, kept: bool) -> Optional[Path]:
        if not self.final.uefi:
            return None
        return self.evidence / "nvram.fd" if kept else self._nvram_home()

    def _define_and_start(self, xml: str) -> None:
        lv = self.virt.libvirt

        def define(connection: Any) -> None:
            domain = connection.defineXML(xml)
            if not domain.isActive():
                domain.create()

        try:
            self.virt.call(define)
        except lv.libvirtError as e:
            raise self.virt.failure(f"{self.final.name} does not start in production", e) from e

    def _keep_report(self, stage: str) -> None:
        self.report.stage = stage
        self.report.timings = self.steps.timings
        with contextlib.suppress(H2kError):  # a full disk must not hide why the boot failed
            write_json(self.evidence / "boot.json", self.report.as_json())


def explain(report: BootReport) -> Iterator[str]:
    """The report for people, a line at a time: the verdict first, and each check once, as it stood at last."""
    word = {READY: "BOOTED", NOT_READY: "BOOTED, NOT VALIDATED"}.get(report.status, "NOT VERIFIED")
    yield f"h2k: {word}: {report.verdict}"
    for phase in report.phases:
        yield f"  {phase.name:<11}{phase.seconds:7.1f} s  {phase.ending.why if phase.ending else 'not ended'}"
    last = {(check.name, check.subject): check for check in (*report.checks, *report.validation)}
    for check in last.values():
        yield f"  {check.state:<8} {check.name:<22} {check.subject}: {check.evidence}"
    for phase in report.phases:
        shown = phase.files.get("screen-stop") or phase.files.get("screen-last")
        if shown is not None:
            yield f"  {phase.name + ':':<12}{os.path.relpath(shown)}"
