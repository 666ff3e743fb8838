"""The boot cycle: bootstrap on an overlay, evidence that Windows bound VirtIO, final on the same, commit, production."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, Callable, Optional

from h2k.base.errors import FAILED, NOT_READY, READY, H2kError, NotVerified, Refused, UsageError
from h2k.base.files import require_own, write_bytes
from h2k.base.host import kvm_works
from h2k.base.libvirt_connection import DEFAULT_URI, Domain, LibvirtGone, Virt
from h2k.base.run import run
from h2k.base.steps import Steps, counted
from h2k.boot import disk_evidence, hardware
from h2k.boot.com1 import OWN_RESTARTS
from h2k.boot.definition import define_and_start
from h2k.boot.disk_evidence import Check
from h2k.boot.interrupts import Interrupts, Stopped
from h2k.boot.phase_domain import Description, marked, phase_xml, production_xml, read_description_of
from h2k.boot.preconditions import check_files, check_host, check_reach
from h2k.boot.record import BootReport, Evidence
from h2k.boot.screenshots import can_read
from h2k.boot.validate import read_steps, validate
from h2k.boot.watcher import Expected, Watcher
from h2k.config.policy import Policy
from h2k.disk.open_reader import open_reader
from h2k.disk.overlay import Companion, DiskSet
from h2k.engine.records import ready_record
from h2k.guest.driver_repairs import staged_first_boot
from h2k.guest.guest import Guest
from h2k.guest.virt_v2v_first_boot import allowed_restarts
from h2k.windows.first_boot import FirstBoot
from h2k.windows.first_boot_steps import limit_of

FREE_SPACE = 64 * 1024 * 1024  # bytes below which no boot is begun; Windows writes some hundred MiB in its first
SCRATCH_SIZE = 64 * 1024 * 1024  # bytes


@dataclasses.dataclass(frozen=True)
class BootRequest:
    """What the user asked for: the report directory NAME.h2k, libvirt's URI, and what is to be left out."""

    state: Path
    uri: str = DEFAULT_URI
    keep_overlay: bool = False
    skip_bootstrap: bool = False
    policy: Policy = dataclasses.field(default_factory=Policy)


def boot(request: BootRequest, steps: Steps, done: Callable[[str], None] = lambda what: None) -> BootReport:
    """Take a converted guest through both boots, commit what they wrote, and leave it running in production.

    NotVerified (with everything as it was, and the evidence in NAME.h2k/boot) when a boot fails, when the disks do not
    bear it out, or when somebody stops h2k before the commit; Refused or UsageError before anything is started. Once
    there is no way back, `done` hears what was done; what fails after that is in the report, and H2kError if h2k can't go on.
    """
    report = _ready_report(request.state)
    state = request.state.parent.resolve() / request.state.name
    require_own(state, state.lstat())
    final, bootstrap = read_description_of(state, "final"), read_description_of(state, "bootstrap")
    if (final.name, final.uuid) != (bootstrap.name, bootstrap.uuid):
        raise UsageError(f"{bootstrap.path} and {final.path} are two domains", hint="h2k domains NAME.xml writes them anew")
    for description in (final, bootstrap):
        check_files(description, state, disk_evidence.recorded_disks(report))
    cycle = _Cycle(request, state, bootstrap, final, disk_evidence.finding_ids(report), steps, done)
    return cycle.run()


def _ready_report(state: Path) -> dict[str, Any]:
    content = ready_record(state)
    if content is None:
        raise UsageError(f"{state}: no report directory of h2k", hint="h2k fix NAME.xml makes one; then h2k boot NAME.h2k")
    if content.get("status") != READY:
        raise Refused(f"{state}: the guest is not ready: {content.get('verdict', '')}", hint="h2k fix NAME.xml")
    return content


def agreed_limits(policy: Mapping[str, int], staged: Optional[FirstBoot]) -> dict[str, int]:
    """How long the host waits for each step, in seconds: as the policy says, and never less than what the guest was
    told when it was repaired, which may have been under another policy."""
    told = {step: limit_of(seconds) for step, seconds in (staged.limits if staged is not None else ())}
    return {step: max(limit, told.get(step, 0)) for step, limit in policy.items()}


class _Cycle:
    """One run of `h2k boot`; the methods stand in the order in which they run."""

    virt: Virt
    domain: Domain

    def __init__(
        self,
        request: BootRequest,
        state: Path,
        bootstrap: Description,
        final: Description,
        found: frozenset[str],
        steps: Steps,
        done: Callable[[str], None],
    ) -> None:
        self.request, self.state, self.bootstrap, self.final = request, state, bootstrap, final
        self.found, self.steps = found, steps
        self.done, self.stands = done, ""  # what was done that can't be taken back here
        self.limits: Mapping[str, int] = request.policy.timeouts
        self.interrupts = Interrupts()
        self.evidence = Evidence(state)
        self.disks = DiskSet(final.disks, state)
        self.report = BootReport(connect=request.uri, name=final.name)
        self.controllers: tuple[hardware.PciDevice, ...] = ()
        self.expected = Expected(heard="serial-port-taken" not in found)
        self.kvm = kvm_works()
        self.directory = quote(str(state))  # as a shell takes it, in the commands that are told

    def run(self) -> BootReport:
        """The whole cycle, or what an earlier run left of it, under the locks from the first look to the last."""
        try:
            with self.interrupts.caught(), self.disks.held(), self._connected():
                try:
                    return self._run()
                except Stopped as e:
                    with self.interrupts.held_back():
                        return self._stopped(str(e))
        except Stopped as e:
            raise NotVerified(f"{self.final.name}: stopped by {e}: nothing was begun", hint=f"h2k boot {self.directory}") from None
        except OSError as e:  # the report directory on a full or read-only file system
            error = f"{self.final.name}: {e.filename or self.state}: {e.strerror or e}"
            if not self.stands:
                raise Refused(error, hint="see that file system") from e
            self.report.status, self.report.verdict = FAILED, f"{self.stands}; but {error}"
            self._keep_report(self.report.reached)
            goes_on = "commits them" if self.report.reached == "kept" else "goes on with it"
            raise H2kError(error, hint=f"see that file system; h2k boot {self.directory} {goes_on}") from e

    @contextmanager
    def _connected(self) -> Iterator[None]:
        self.virt = Virt(self.request.uri)
        try:
            self.domain = Domain(self.virt, self.final.name, self.final.uuid)
            yield
        finally:
            self.virt.close()

    def _run(self) -> BootReport:
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

    def _stopped(self, name: str) -> BootReport:
        """Somebody told h2k to stop: how things stand, and the next command, in the record and on the screen."""
        if self.report.reached in ("committed", "kept", "production"):
            where = "on the kept overlays" if self.report.reached == "kept" else "committed"
            hint = f"h2k boot {self.directory} goes on with it" if where == "committed" else f"h2k validate {self.directory} looks at it"
            self.report.status = NOT_READY
            self.report.verdict = f"{where}, but stopped by {name} before production was validated: {hint}"
            self.evidence.keep(self.report)
            return self.report
        stands = self._back_to_what_was() if self.disks.how_far == "applying" else "the disks are what they were"
        error = NotVerified(f"{self.final.name}: stopped by {name}: {stands}", hint=f"h2k boot {self.directory} begins anew")
        self.report.verdict = str(error)
        self._keep_report("failed")
        raise error

    # Before

    def _recover(self) -> bool:
        """Clean up after an earlier run; True when it had committed, and only production is left to do."""
        earlier = self.evidence.earlier()
        self._check_taken(in_production=earlier.get("stage") == "committed")
        self.state.chmod(self.state.stat().st_mode | 0o011)  # QEMU's user has to pass through
        outcome = self.disks.recover()
        if outcome == "kept":
            return self._end_of_keeping()
        if outcome != "clean":
            self.steps.say(f"an unfinished run was found, and its overlays {outcome}")
        reached, commits = earlier.get("stage"), earlier.get("commits")
        more = isinstance(commits, int) and len(self.disks.history) > commits
        committed = "boot" in self.disks.history[-1:] and (
            reached == "committed" or (reached == "committing" and (more or outcome == "finished"))
        )
        if committed:
            self.steps.say("the boots had been committed; going on with production")
            self._no_way_back("committed")
        return committed

    def _check_taken(self, in_production: bool) -> None:
        """The domain's name and UUID are free, or ours; a domain that an earlier run left running is stopped."""
        by_name, by_uuid = self.virt.lookup_name(self.final.name), self.virt.lookup(self.final.uuid)
        if by_name is not None and by_name.UUIDString() != self.final.uuid:
            raise Refused(
                f"the name {self.final.name!r} is taken by another domain ({by_name.UUIDString()})",
                hint=f"virsh domrename {quote(self.final.name)} NEW, or convert with -on NAME",
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
            raise Refused(f"{self.final.name} is running", hint=f"shut it down first: virsh shutdown {quote(self.final.name)}")
        self.steps.say(f"an earlier run left {self.final.name} running on its overlay: stopping it")
        self.domain.destroy()

    def _end_of_keeping(self) -> bool:
        if self.request.keep_overlay:
            raise Refused(
                f"{self.state}: the overlays of an earlier run are kept",
                hint="h2k boot without --keep-overlay commits them, h2k rollback throws them away",
            )
        with self.steps.step("commit", "committing the overlays that were kept"):
            self._commit_disks()
        return True

    def _prepare(self) -> None:
        """Everything that can be refused before a domain is started; and the hardware, asked of QEMU itself."""
        for description in (self.bootstrap, self.final):
            check_host(self.virt, description)
        check_reach(self.virt, [self.state / "boot", *(path for path, _ in self.final.disks)])
        free = shutil.disk_usage(self.state).free
        if free < FREE_SPACE:
            raise Refused(f"{self.state}: {free >> 20} MiB free, no space for the overlays", hint="free some space")
        self.evidence.begin()
        self._keep_report("started")
        with self.steps.step("hardware", "asking QEMU which PCI ids both domains show"), open_reader(self.final.disks) as reader:
            guest = Guest(reader)
            findings = []
            for description in (self.bootstrap, self.final):
                found = hardware.disk_controllers(description.xml, hardware.ask(self.virt, description.xml))
                findings += hardware.compare(guest, description.phase, found)
                self.controllers = found
            self.limits = agreed_limits(self.request.policy.timeouts, staged_first_boot(guest))
            self.expected = dataclasses.replace(
                self.expected, done=disk_evidence.expects_signals(guest), restarts=OWN_RESTARTS + allowed_restarts(guest)
            )
        broken = [f for f in findings if f.state == "broken"]
        self.report.checks += [
            Check("hardware", "failed" if f in broken else "passed", f.subject, f.evidence) for f in findings
        ]
        if broken:
            self._keep_report("failed")
            raise Refused(f"{broken[0].id}, {broken[0].subject}: {broken[0].evidence}", hint=broken[0].repair)
        self._tell_what_is_not_seen()

    def _tell_what_is_not_seen(self) -> None:
        """What the boots will not show, said before them."""
        if not can_read():
            self.steps.say("Pillow is not installed (python3-pil): screenshots are kept unread")
        if not self.kvm:
            self.steps.say("KVM does not work here: copies of the domains are emulated, several times slower; final.xml stays")
        if not self.expected.heard:
            self.steps.say("COM1 is taken in the guest (serial-port-taken): COM2, the guest agent and the disks decide")
        if "boot-sequence-set" in self.found:
            self.steps.say("the first boot starts another entry than Windows' default (boot-sequence-set): it fails where that is no Windows")
        if "safe-mode-set" in self.found and self.expected.done:
            self.steps.say("the guest starts in safe mode (safe-mode-set): its first-boot steps do not run before that is taken out")
            self.expected = dataclasses.replace(self.expected, done=False)

    # The two boots

    def _boots(self) -> None:
        skip = self._skips_bootstrap()
        try:
            overlays = dict(zip([path for path, _ in self.final.disks], self.disks.create_overlays("boot")))
            self._keep_report("booting")
            nvram = self._working_nvram()
            stepped = self.expected.done
            if not skip:
                self._phase(self.bootstrap, {**overlays, **self._scratch()}, nvram)
                self._read_disks(self.bootstrap, stepped)
            self._phase(self.final, overlays, nvram)
            self._read_disks(self.final, stepped)
        except LibvirtGone as e:
            # Whether the guest runs can't be known: what it writes to stays, and so does the journal that names it.
            hint = f"{e.hint}; then h2k boot {self.directory} stops what still runs, and begins anew"
            self._give_up(f"{e.message}; the disks are what they were, and the overlays are left", hint, e)
        except (Exception, Stopped) as e:
            with self.interrupts.held_back():
                why = self._back_to_what_was()
                if isinstance(e, Refused) and not self.report.observed:
                    self.report.verdict = str(e)
                    self._keep_report("failed")
                    raise
                if isinstance(e, Stopped):
                    where = self.report.observed[-1].name if self.report.observed else "before the first boot"
                    self._give_up(f"stopped by {e} ({where}); {why}", f"h2k boot {self.directory} begins anew", e)
                if isinstance(e, NotVerified):
                    self._give_up(f"{e.message}; {why}", e.hint, e)
                if isinstance(e, (H2kError, OSError)):
                    self._give_up(f"{e.message if isinstance(e, H2kError) else e}; {why}", getattr(e, "hint", ""), e)
                self._keep_report("failed")
                raise

    def _give_up(self, what: str, hint: str, cause: BaseException) -> None:
        """End before the commit, with the reason in the record and as the one line on the screen."""
        error = NotVerified(f"{self.final.name}: {what}", hint=hint)
        self.report.verdict = str(error)
        self._keep_report("failed")
        raise error from cause

    def _skips_bootstrap(self) -> bool:
        """Whether the final domain may be booted at once: the policy allows it, and the disks prove that the guest
        has already met its VirtIO controller."""
        wish = self.request.policy.bootstrap
        if self.request.skip_bootstrap and wish == "required":
            raise Refused("the policy says that the bootstrap is required", hint="bootstrap: recommended, in policy.yaml")
        if not self.request.skip_bootstrap and wish != "skip-when-ready":
            return False
        seen = disk_evidence.collect(self.final.disks, self.controllers, (), False, True, self.evidence.path / "logs-before")
        failed = seen.failed
        if not failed and not self.expected.done:
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
        work = self.evidence.path / "nvram.fd"
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
            fresh[path] = self.evidence.path / f"scratch-{index}.qcow2"
            run(["qemu-img", "create", "-q", "-f", "qcow2", str(fresh[path]), str(SCRATCH_SIZE)])
        return fresh

    def _phase(self, description: Description, overlays: dict[Path, Path], nvram: Optional[Path]) -> None:
        name, evidence = description.phase, self.evidence.path
        ports = [evidence / f"{name}-com{number}.log" for number in ((1,) if self.expected.heard else (1, 2))]
        for port in ports:
            port.touch(mode=0o600)
        with self.steps.step(name, f"{name}: booting {self.final.name} on overlays, links down"):
            xml = phase_xml(description, overlays, ports, nvram, self.state, self.kvm)
            write_bytes(evidence / f"{name}.xml", xml)
            self.domain.start(xml.decode())
            watcher = Watcher(self.domain, name, evidence, ports, self.limits, self.steps)
            self.report.observed.append(watcher.seen)
            ending = watcher.until_up(dataclasses.replace(self.expected, channel=name == "final"))
            self._keep_report("booting")
            if not ending.good:
                raise NotVerified(f"{name}: {ending.why}", hint=f"the evidence is in {evidence}")
        with self.steps.step(f"{name}-shutdown", f"{name}: shutting down"):
            watcher.shut_down()

    def _read_disks(self, description: Description, stepped: bool) -> None:
        """What the disks say decides whether the cycle goes on, and not that something had been running."""
        phase, evidence = description.phase, self.evidence.path
        with self.steps.step(f"{phase}-disks", f"{phase}: reading the disks offline"):
            overlays = [(overlay, "qcow2") for overlay in self.disks.overlays]
            signals = [signal for seen in self.report.observed for signal in seen.signals]
            last = description is self.final
            found = disk_evidence.collect(overlays, self.controllers, signals, stepped, last, evidence / f"{phase}-logs")
        self.report.checks += found.checks
        self.expected = dataclasses.replace(self.expected, done=stepped and found.expects_signals)
        if found.failed:
            first = found.failed[0]
            raise NotVerified(f"{phase}: {first.name}: {first.subject}: {first.evidence}", hint=f"the evidence is in {evidence}")

    def _back_to_what_was(self) -> str:
        """Stop the domain and throw away all that the boots wrote, however far they came; returns how things stand."""
        stands = "the disks are what they were"
        try:
            if self.domain.state().active:
                self.domain.destroy()
        except H2kError as e:
            return f"{stands}, and the overlays are left, for the guest may still run on them: {e.message}"
        try:
            self.disks.discard()
            self.evidence.throw_away()
        except (H2kError, OSError) as e:
            return f"{stands}, and the overlays are left: {e}"
        return stands

    # From here on there is no way back

    def _companions(self) -> list[Companion]:
        work = self.evidence.path / "nvram.fd"
        return [Companion(work, self._nvram_home())] if work.exists() else []

    def _keep(self) -> None:
        with self.interrupts.held_back():
            try:
                self.disks.keep(self._companions())
            except (H2kError, OSError) as e:
                why = e.message if isinstance(e, H2kError) else str(e)
                self._give_up(f"the overlays could not be kept: {why}; {self._back_to_what_was()}", getattr(e, "hint", ""), e)
            self._no_way_back("kept")
        self.interrupts.check()

    def _commit(self) -> None:
        with self.steps.step("commit", "saving the undo data and committing both boots"):
            self.report.commits = len(self.disks.history)
            self._keep_report("committing")
            self._commit_disks(self._companions())

    def _commit_disks(self, companions: Sequence[Companion] = ()) -> None:
        """NotVerified when it fails, with what the disks are then; a signal waits until it is over."""
        with self.interrupts.held_back():
            try:
                self.disks.commit(companions=companions)
            except (H2kError, OSError) as e:
                how = {
                    "idle": ("the disks are what they were", f"h2k boot {self.directory} begins anew"),
                    "kept": ("the disks are what they were, and the overlays are kept", f"h2k boot {self.directory} commits them"),
                }
                half = ("some blocks are old and some are new", f"h2k boot {self.directory} ends it, h2k rollback takes it back")
                stands, hint = how.get(self.disks.how_far, half)
                if self.disks.how_far == "idle":
                    self.evidence.throw_away()
                because = e.message if isinstance(e, H2kError) else str(e)
                hint = f"{e.hint}; {hint}" if isinstance(e, H2kError) and e.hint else hint
                self._give_up(f"the boots could not be committed: {because}; {stands}", hint, e)
            self._no_way_back("committed")
        self.interrupts.check()

    def _no_way_back(self, reached: str) -> None:
        self.report.reached, self.stands = reached, f"both boots observed and {reached}"
        self.done(self.stands)
        if reached == "committed":
            self.report.commits = len(self.disks.history)
        self._keep_report(reached)

    def _production(self) -> BootReport:
        """Define the final domain, start it with its links up, and validate it."""
        kept = self.report.reached == "kept"
        overlays = dict(zip([path for path, _ in self.final.disks], self.disks.overlays)) if kept else {}
        where = "on the kept overlays" if kept else "committed"
        try:
            with self.steps.step("production", f"{self.final.name}: production, links up"):
                xml = production_xml(self.final, overlays, self._production_nvram(kept), self.kvm)
                define_and_start(self.virt, self.final.name, self.final.uuid, xml.decode(), self.state, self.steps)
                watcher = Watcher(self.domain, "production", self.evidence.path, (), self.limits, self.steps)
                self.report.observed.append(watcher.seen)
                ending = watcher.until_up(Expected(restarts=self.expected.restarts, channel=True))
            with self.steps.step("validate", "validating the network and the services"):
                steps = read_steps(self.state, self.request.policy)
                self.report.validation = validate(self.virt, self.final.name, steps, self.evidence.path)
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
        return self.evidence.path / "nvram.fd" if kept else self._nvram_home()

    def _keep_report(self, reached: str) -> None:
        self.report.reached = reached
        self.report.timings = self.steps.timings
        self.evidence.keep(self.report)
