"""The boot cycle with a host and disks of the tests' own: what happens in which order, and how each end leaves things."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest

from h2k.base.errors import FAILED, NOT_READY, READY, BadData, H2kError, NotVerified, Refused, UsageError
from h2k.base.libvirt_connection import LibvirtGone, State
from h2k.base.steps import Steps
from h2k.boot import cycle, disk_evidence
from h2k.boot.com1 import OWN_RESTARTS, Ending
from h2k.boot.cycle import BootRequest, boot
from h2k.boot.disk_evidence import Check, Evidence
from h2k.boot.record import BootReport
from h2k.boot.watcher import Observation
from h2k.config.policy import Policy
from h2k.windows.first_boot import FirstBoot

UUID = "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001"
MARKED = '<domain><metadata><h:boot xmlns:h="urn:h2k:boot:1" directory="{}"/></metadata></domain>'


class World:
    """A guest, its libvirt and its disks; `log` is what was done to them, in order."""

    def __init__(self, base: Path) -> None:
        self.log: list[str] = []
        self.state, self.disk = base / "g.h2k", base / "g-sda"
        self.state.mkdir(mode=0o711)
        self.disk.write_bytes(b"")
        self.running: Optional[str] = None  # the running domain's XML
        self.phase, self.stack = "idle", ["fix"]
        self.at: dict[str, Callable[[], None]] = {}  # what happens at a step of the log
        self.lock_taken = False
        self.endings: dict[str, Ending] = {}
        self.failed: dict[str, list[Check]] = {}
        self.defined: list[str] = []
        self.report = {"status": READY, "findings": [], "guest": {"disks": [{"path": str(self.disk)}]}}
        for phase in ("bootstrap", "final"):
            self.write(phase)

    def write(self, phase: str, more: str = "") -> None:
        (self.state / "report.json").write_text(json.dumps(self.report))
        (self.state / f"{phase}.xml").write_text(
            f"<domain type='kvm'><name>g</name><uuid>{UUID}</uuid><memory>1048576</memory><os><type>hvm</type></os><devices>"
            f"<disk type='file' device='disk'><driver type='raw'/><source file='{self.disk}'/><target dev='vda' bus='virtio'/></disk>"
            f"{more}</devices></domain>"
        )

    def did(self, what: str) -> None:
        self.log.append(what)
        if what in self.at:
            self.at[what]()

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.state / "boot/boot.json").read_text())
        return content


class Disks:
    """A DiskSet as far as the cycle uses it."""

    def __init__(self, world: World) -> None:
        self.world = world

    @contextmanager
    def held(self) -> Iterator[None]:
        if self.world.lock_taken:
            raise Refused("g.h2k: another h2k works on this guest")
        self.world.did("lock")
        yield
        self.world.did("unlock")

    how_far = property(lambda self: self.world.phase)
    history = property(lambda self: tuple(self.world.stack))
    overlays = property(lambda self: (self.world.state / "overlay-0.qcow2",))

    def recover(self) -> str:
        self.world.did("recover")
        if self.world.phase == "kept":
            return "kept"
        before, self.world.phase = self.world.phase, "idle"
        return "clean" if before == "idle" else "discarded"

    def create_overlays(self, kind: str) -> tuple[Path, ...]:
        self.world.did("overlays")
        self.world.phase = "applying"
        return tuple(self.overlays)

    def discard(self) -> None:
        self.world.did("discard")
        self.world.phase = "idle"

    def keep(self, companions: Sequence[Any]) -> None:
        self.world.did("keep")
        self.world.phase = "kept"

    def commit(self, companions: Sequence[Any] = ()) -> None:
        self.world.did("commit")
        self.world.phase = "idle"
        self.world.stack.append("boot")


class Virt:
    """A libvirt that has one domain, or none."""

    libvirt = SimpleNamespace(libvirtError=OSError)

    def __init__(self, world: World) -> None:
        self.world = world

    def lookup(self, _: str) -> Any:
        found = SimpleNamespace(UUIDString=lambda: UUID, name=lambda: "g", XMLDesc=lambda flags: self.world.running)
        return found if self.world.running is not None else None

    lookup_name = lookup

    def close(self) -> None:
        self.world.did("close")


class Domain:
    def __init__(self, virt: Virt, name: str, uuid: str) -> None:
        self.world = virt.world

    def state(self) -> State:
        self.world.did("state")
        return State("running" if self.world.running is not None else "gone")

    def start(self, xml: str) -> None:
        self.world.running = xml
        self.world.did("start " + ("bootstrap" if 'phase="bootstrap"' in xml else "final"))

    def destroy(self) -> None:
        self.world.running = None
        self.world.did("destroy")


class Watcher:
    def __init__(self, domain: Domain, name: str, *_: Any) -> None:
        self.world, self.seen = domain.world, Observation(name)

    def until_up(self, expected: Any) -> Ending:
        self.world.did(f"watch {self.seen.name}")
        self.seen.ending = self.world.endings.get(self.seen.name, Ending(True, "up"))
        return self.seen.ending

    def shut_down(self) -> None:
        self.world.did(f"shut down {self.seen.name}")
        self.world.running = None


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)

    def collect(images: Any, controllers: Any, signals: Any, stepped: bool, last: bool, logs: Path) -> Evidence:
        phase = logs.name.partition("-")[0]
        world.did(f"read {phase}")
        return Evidence(tuple(world.failed.get(phase, [Check("virtio-bound", "passed", "x", "y")])))

    def define(_: Any, name: str, uuid: str, xml: str, *__: Any) -> None:
        world.did("define")
        world.defined.append(xml)

    @contextmanager
    def reader(_: Any) -> Iterator[None]:
        yield

    for name, value in (
        ("Virt", lambda uri: Virt(world)), ("Domain", Domain), ("DiskSet", lambda images, state: Disks(world)), ("Watcher", Watcher),
        ("open_reader", reader), ("Guest", lambda reader: None), ("define_and_start", define), ("kvm_works", lambda: True),
        ("check_reach", lambda virt, paths: None), ("validate", lambda *_: [Check("running", "passed", "g", "running")]),
    ):  # fmt: skip
        monkeypatch.setattr(cycle, name, value)
    monkeypatch.setattr(cycle.hardware, "ask", lambda virt, xml: world.did("ask") or ())
    monkeypatch.setattr(disk_evidence, "collect", collect)
    monkeypatch.setattr(disk_evidence, "expects_signals", lambda guest: True)
    monkeypatch.setattr(cycle, "allowed_restarts", lambda guest: 2)
    monkeypatch.setattr(cycle, "staged_first_boot", lambda guest: None)
    return world


def go(world: World, done: Callable[[str], None] = lambda what: None, **wishes: Any) -> BootReport:
    return boot(BootRequest(world.state, policy=Policy(), **wishes), Steps(quiet=True), done)


def killed_with(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# The whole cycle


def test_the_order_of_a_good_cycle(world: World) -> None:
    report = go(world)
    did = [what for what in world.log if what != "state"]
    assert did == [
        "lock", "recover", "ask", "ask", "overlays", "start bootstrap", "watch bootstrap", "shut down bootstrap", "read bootstrap",
        "start final", "watch final", "shut down final", "read final", "commit", "define", "watch production", "close", "unlock",
    ]  # fmt: skip
    assert report.status == READY and report.reached == "production" and "committed" in report.verdict
    assert world.record["verdict"] == report.verdict and [p["phase"] for p in world.record["phases"]] == ["bootstrap", "final", "production"]


def test_the_disks_are_read_after_each_boot_and_decide(world: World) -> None:
    for phase, last in (("bootstrap", "read bootstrap"), ("final", "read final")):
        world.failed = {phase: [Check("virtio-bound", "failed", "virtio-blk", "Windows never met it")]}
        world.log.clear()
        with pytest.raises(NotVerified, match=f"{phase}: virtio-bound.*the disks are what they were"):
            go(world)
        assert "commit" not in world.log and world.log.index("discard") > world.log.index(last)


def test_a_boot_that_does_not_come_up(world: World) -> None:
    world.endings = {"final": Ending(False, "a reboot loop")}
    with pytest.raises(NotVerified, match="final: a reboot loop; the disks are what they were"):
        go(world)
    assert world.log.index("destroy") < world.log.index("discard") and "commit" not in world.log
    assert world.record["stage"] == "failed" and "a reboot loop" in world.record["verdict"]


def test_kept_overlays(world: World) -> None:
    report = go(world, keep_overlay=True)
    assert "commit" not in world.log and report.reached == "kept" and "overlay-0.qcow2" in world.defined[0]
    with pytest.raises(Refused, match="are kept"):
        go(world, keep_overlay=True)
    assert go(world).status == READY and "commit" in world.log and "overlay-0" not in world.defined[-1]


def test_no_room_for_the_overlays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle.shutil, "disk_usage", lambda path: SimpleNamespace(free=cycle.FREE_SPACE - 1))
    with pytest.raises(Refused, match="63 MiB free, no space for the overlays"):
        go(world)
    assert not {"ask", "overlays", "start bootstrap"} & set(world.log)


# Two at once


def test_nothing_is_looked_at_stopped_or_written_without_the_lock(world: World) -> None:
    """The first one's guest runs with our mark; the second finds the lock taken."""
    world.running, world.lock_taken = MARKED.format(world.state), True
    with pytest.raises(Refused, match="another h2k"):
        go(world)
    assert world.log == [] and world.running is not None and not (world.state / "boot").exists()


def test_what_a_killed_run_left_running_is_stopped_under_the_lock(world: World) -> None:
    world.running, world.phase = MARKED.format(world.state), "applying"
    go(world)
    assert world.log.index("lock") < world.log.index("destroy") < world.log.index("recover") < world.log.index("overlays")


def test_a_running_guest_is_left_alone(world: World) -> None:
    world.running = "<domain/>"
    with pytest.raises(Refused, match="is running"):
        go(world)
    assert "destroy" not in world.log and "recover" not in world.log


# Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", ["recover", "ask", "overlays", "start bootstrap", "watch bootstrap", "read bootstrap", "watch final", "read final"])
def test_told_to_stop_before_the_commit(at: str, number: signal.Signals, world: World) -> None:
    world.at = {at: killed_with(number)}
    with pytest.raises(NotVerified, match=f"stopped by {number.name}.*the disks are what they were") as caught:
        go(world)
    assert "h2k boot" in caught.value.hint and world.running is None
    assert "commit" not in world.log and world.phase == "idle"
    if at != "recover":
        assert number.name in world.record["verdict"] and "h2k boot" in world.record["verdict"] and world.record["stage"] == "failed"


def test_told_to_stop_between_the_last_look_and_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cycle._Cycle._companions
    monkeypatch.setattr(cycle._Cycle, "_companions", lambda self: killed_with(signal.SIGTERM)() or real(self))
    with pytest.raises(NotVerified, match=r"stopped by SIGTERM.*the disks are what they were"):
        go(world)
    assert world.phase == "idle" and "discard" in world.log and "commit" not in world.log


def test_told_to_stop_before_the_lock_is_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "Virt", lambda uri: killed_with(signal.SIGTERM)())
    with pytest.raises(NotVerified, match="stopped by SIGTERM: nothing was begun"):
        go(world)


def test_a_file_system_that_takes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.at = {"ask": raising(OSError(28, "No space left on device", "/tmp/x"))}
    with pytest.raises(Refused, match="/tmp/x: No space left"):
        go(world)


def test_told_to_stop_while_cleaning_up(world: World) -> None:
    world.at = {"watch final": killed_with(signal.SIGTERM), "destroy": killed_with(signal.SIGTERM), "discard": killed_with(signal.SIGINT)}
    with pytest.raises(NotVerified, match="stopped by SIGTERM"):
        go(world)
    assert world.log.count("discard") == 1 and world.phase == "idle"


FULL = OSError(28, "No space left on device", "/tmp/x")


@pytest.mark.parametrize(("keep", "reached"), [(False, "committed"), (True, "kept")])
@pytest.mark.parametrize("at", ["define", "watch production", "close", "unlock"])
def test_a_file_system_that_takes_nothing_after_the_boots_is_no_refusal(at: str, keep: bool, reached: str, world: World) -> None:
    world.at, heard = {at: raising(FULL)}, []
    with pytest.raises(H2kError, match=r"/tmp/x: No space left") as caught:
        go(world, heard.append, keep_overlay=keep)
    assert caught.value.exit_status == FAILED and "h2k boot" in caught.value.hint
    assert heard == [f"both boots observed and {reached}"] and "discard" not in world.log
    assert world.record["verdict"].startswith(f"{heard[0]}; but g: /tmp/x") and world.record["status"] == FAILED


def test_nor_is_it_one_where_an_earlier_run_had_committed(world: World) -> None:
    world.at = {"define": raising(FULL)}
    with pytest.raises(H2kError):
        go(world)
    heard: list[str] = []
    with pytest.raises(H2kError) as caught:
        go(world, heard.append)
    assert caught.value.exit_status == FAILED and heard == ["both boots observed and committed"]
    world.at = {}
    assert go(world).status == READY and world.stack == ["fix", "boot"]


@pytest.mark.parametrize("error", [FULL, H2kError("the journal can't be written", hint="free some space")])
def test_overlays_that_can_not_be_kept_are_thrown_away(error: Exception, world: World) -> None:
    world.at, heard = {"keep": raising(error)}, []
    with pytest.raises(NotVerified, match=r"the overlays could not be kept: .*; the disks are what they were"):
        go(world, heard.append, keep_overlay=True)
    assert heard == [] and world.phase == "idle" and world.record["stage"] == "failed"


def test_before_there_is_no_way_back_nothing_is_said_to_be_done(world: World) -> None:
    heard: list[str] = []
    world.failed = {"final": [Check("virtio-bound", "failed", "virtio-blk", "Windows never met it")]}
    with pytest.raises(NotVerified):
        go(world, heard.append)
    assert heard == []


@pytest.mark.parametrize("at", ["commit", "define", "watch production"])
def test_told_to_stop_from_the_commit_on(at: str, world: World) -> None:
    world.at = {at: killed_with(signal.SIGTERM)}
    report = go(world)
    assert report.status == NOT_READY and world.stack == ["fix", "boot"] and "discard" not in world.log
    assert "committed, but stopped by SIGTERM" in report.verdict and "h2k boot" in report.verdict
    assert world.record["verdict"] == report.verdict and world.record["stage"] == "committed"
    world.at = {}
    assert go(world).status == READY and world.stack == ["fix", "boot"], "the next command goes on with production"


def test_told_to_stop_while_production_runs_on_kept_overlays(world: World) -> None:
    world.at = {"watch production": killed_with(signal.SIGINT)}
    report = go(world, keep_overlay=True)
    assert report.status == NOT_READY and "on the kept overlays, but stopped by SIGINT" in report.verdict
    assert world.phase == "kept"


# libvirt and the host


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("at", ["watch bootstrap", "shut down final"])
def test_libvirt_gone_for_good(at: str, world: World) -> None:
    """One wait, in libvirt_connection; here nothing is thrown away below a guest that may run on."""
    world.at = {at: raising(LibvirtGone("libvirt is gone and did not come back", "systemctl start libvirtd"))}
    with pytest.raises(NotVerified, match=r"libvirt is gone.*the disks are what they were, and the overlays are left") as caught:
        go(world)
    assert "discard" not in world.log and "destroy" not in world.log and world.phase == "applying"
    assert "h2k boot" in caught.value.hint and "libvirt is gone" in world.record["verdict"]


def test_a_guest_that_cannot_be_stopped_keeps_its_overlay(world: World) -> None:
    world.endings = {"final": Ending(False, "it stands still")}
    world.at = {"destroy": raising(H2kError("can't be stopped"))}
    with pytest.raises(NotVerified, match=r"the overlays are left.*can't be stopped"):
        go(world)
    assert "discard" not in world.log


def test_a_domain_that_does_not_start(world: World) -> None:
    world.at = {"start bootstrap": raising(H2kError("g does not start", "see libvirt's log"))}
    with pytest.raises(NotVerified, match="g does not start; the disks are what they were"):
        go(world)
    assert world.phase == "idle"


@pytest.mark.parametrize("phase, words", [("idle", "the disks are what they were"), ("committing", "some blocks are old and some are new")])
def test_a_commit_that_fails(phase: str, words: str, world: World) -> None:
    def fail() -> None:
        world.phase = phase
        raise H2kError("no space left", "free some space")

    world.at = {"commit": fail}
    with pytest.raises(NotVerified, match=f"could not be committed: no space left; {words}") as caught:
        go(world)
    assert "free some space" in caught.value.hint and "h2k boot" in caught.value.hint
    assert "no space left" in world.record["verdict"] and "define" not in world.log


def test_a_refusal_before_the_first_boot_stays_one(world: World) -> None:
    world.at = {"overlays": raising(Refused("g-sda: in use"))}
    with pytest.raises(Refused, match="in use"):
        go(world)
    assert world.record["stage"] == "failed" and "in use" in world.record["verdict"]


def test_production_that_fails_is_reported_and_never_rolled_back(world: World) -> None:
    world.endings = {"production": Ending(False, "it panicked")}
    report = go(world)
    assert report.status == NOT_READY and "committed, but in production" in report.verdict and "discard" not in world.log


# What comes in


def test_a_directory_that_is_not_ours_or_a_link(world: World) -> None:
    world.state.chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        go(world)
    world.state.chmod(0o711)
    link = world.state.with_name("l.h2k")
    link.symlink_to(world.state)
    with pytest.raises(Refused, match="a link"):
        boot(BootRequest(link), Steps(quiet=True))
    (world.state / "boot").symlink_to(world.state.parent)
    with pytest.raises(Refused, match="boot: a link"):
        go(world)
    assert world.log == []


def test_no_report_not_ready_and_two_domains(world: World) -> None:
    final = (world.state / "final.xml").read_text()
    (world.state / "final.xml").write_text(final.replace(UUID, UUID[:-1] + "2"))
    with pytest.raises(UsageError, match="two domains"):
        go(world)
    (world.state / "final.xml").write_text(final.replace("<driver type='raw'/>", ""))
    with pytest.raises(BadData, match="no <driver type>"):
        go(world)
    world.report["status"] = NOT_READY
    world.write("final")
    with pytest.raises(Refused, match="not ready"):
        go(world)
    (world.state / "report.json").unlink()
    with pytest.raises(UsageError, match="no report directory"):
        go(world)
    assert world.log == []


def test_a_description_that_reaches_for_the_host(world: World) -> None:
    world.write("final", "<serial type='file'><source path='/etc/cron.d/x'/></serial>")
    with pytest.raises(Refused, match=r"opens /etc/cron\.d/x"):
        go(world)
    assert world.log == []


@pytest.mark.parametrize("finding, heard, done", [("serial-port-taken", False, True), ("safe-mode-set", True, False), ("disk-dynamic", True, True)])
def test_boots_without_signals(finding: str, heard: bool, done: bool, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = Watcher.until_up
    monkeypatch.setattr(Watcher, "until_up", lambda self, expected: seen.append(expected) or real(self, expected))
    world.report["findings"] = [{"id": finding, "state": "warning"}]
    world.write("final")
    go(world)
    assert (seen[0].heard, seen[0].done, seen[0].channel, seen[0].restarts) == (heard, done, False, OWN_RESTARTS + 2)
    assert seen[1].channel
    ports = (world.state / "boot/bootstrap.xml").read_text().count("<serial")
    assert ports == (1 if heard else 2)


@pytest.mark.parametrize(
    ("finding", "told"),
    [
        ("boot-sequence-set", ["the first boot starts another entry than Windows' default"]),
        ("safe-mode-set", ["the guest starts in safe mode"]),
        ("serial-port-taken", ["COM1 is taken in the guest"]),
        ("disk-dynamic", []),
    ],
)
def test_what_the_boots_will_not_show_is_said_before_them(
    finding: str, told: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steps, "say", lambda self, text: world.log.append(text))
    world.report["findings"] = [{"id": finding, "state": "warning"}]
    world.write("final")
    go(world)
    before = world.log[: world.log.index("overlays")]
    assert [line.partition(f" ({finding})")[0] for line in before if f"({finding})" in line] == told


def test_hardware_that_leads_nowhere_is_refused_before_the_boots(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from h2k.base.finding import Finding

    monkeypatch.setattr(cycle.hardware, "compare", lambda *_: [Finding("device-id-unbound", "broken", "x", "unbound", "h2k fix")])
    with pytest.raises(Refused, match="device-id-unbound"):
        go(world)
    assert "overlays" not in world.log and world.record["stage"] == "failed"


@pytest.mark.parametrize(("budget", "waits"), [(2880, 3600), (80, 900)], ids=["longer", "shorter"])
def test_the_host_waits_for_what_the_guest_was_told(budget: int, waits: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that was repaired under a policy with other time-outs, and is booted without it."""
    staged = FirstBoot("virtio", limits=(("drivers", budget), ("no such step", 5)))
    monkeypatch.setattr(cycle, "staged_first_boot", lambda guest: staged)
    given: list[Any] = []
    monkeypatch.setattr(Watcher, "__init__", lambda self, *told: given.append(told[4]) or setattr(self, "world", told[0].world) or setattr(self, "seen", Observation(told[1])))
    go(world)
    assert len(given) == 3 and all(limits == {**Policy().timeouts, "drivers": waits} for limits in given)
