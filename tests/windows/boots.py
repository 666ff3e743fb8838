"""Starts a converted guest: whether Windows comes up and what it says, and whether the boot lab would have started it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

from tests.boot import lab
from tests.windows import machine
from tests.windows.agent import Agent, Seen, ask
from tests.windows.machine import Disk, Machine
from tests.windows.steps import StepFailed, limit_of, run_logged, say
from tests.windows.vm import Vm, lines

STARTS, STOPS, SILENT, RESTARTS, NOT_TRIED = "starts", "stops", "silent", "restarts", "not tried"
RESETS = 4  # restarts in one boot: no first boot of virt-v2v's and h2k's has more, but one that goes round does
STILL = 300.0  # seconds without a word on COM1 after a restart, without KVM
TRIES = 3  # starts of a guest that stood still
LAB_LIMIT = 600.0  # seconds for the lab's boot, which is emulated everywhere


class StandsStill(Exception):
    """Emulated firmware that never ends after a restart: OVMF of Debian 12 in QEMU 7.2 does so now and then, and a guest
    under SeaBIOS restarts again and again (both seen); the same guest's next start goes through."""


@dataclasses.dataclass(frozen=True)
class Start:
    """How a start went: STARTS (the agent answers), STOPS (a stop screen was told of), RESTARTS (again and again), SILENT
    (neither, until the time was up); with its reason, and what the guest said."""

    outcome: str
    reason: str = ""
    seen: Seen = dataclasses.field(default_factory=Seen)
    seconds: int = 0

    @property
    def started(self) -> bool:
        return self.outcome == STARTS


def start(vm_machine: Machine, disks: Sequence[Disk], bus: str, place: Path, virtio: bool) -> Start:
    """Start the guest on copies-on-write of its disks, ask it everything, and shut it down. Files go to `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    began = time.monotonic()
    for left in reversed(range(TRIES)):
        try:
            outcome, reason, seen = _once(vm_machine, disks, bus, place, virtio, STILL if left else float("inf"))
            if outcome != RESTARTS or vm_machine.kvm:
                break
            say(f"  {place.name}: {reason} under emulation{'; once more' if left else ''}")
        except StandsStill:
            say(f"  {place.name}: the firmware stands still after a restart; once more")
    found = Start(outcome, reason, seen, round(time.monotonic() - began))
    (place / "start.json").write_text(json.dumps(dataclasses.asdict(found), indent=1), encoding="utf-8")
    say(f"  {place.name}: {outcome}{f' ({reason})' if reason else ''}, {found.seconds} s")
    return found


def _once(vm_machine: Machine, disks: Sequence[Disk], bus: str, place: Path, virtio: bool, still: float) -> tuple[str, str, Seen]:
    with short_directory() as sockets:
        argv = machine.argv(vm_machine, sockets, disks, bus, virtio=virtio)
        try:
            with Vm("start", argv, sockets, limit_of("start", vm_machine.kvm) + limit_of("agent", vm_machine.kvm)) as vm:
                return _watched(vm, place, vm_machine, still)
        finally:
            for name in ("serial", "firmware.log", "qemu.log", *(path.name for path in sockets.glob("*.png"))):
                if (sockets / name).exists():
                    shutil.copyfile(sockets / name, place / name)


def _watched(vm: Vm, place: Path, of: Machine, still: float) -> tuple[str, str, Seen]:
    channel = _settled(vm, of, still)
    vm.picture("screen")
    stop = stopped(vm)
    if stop:
        return (*stop, Seen())
    if channel is None:
        return SILENT, f"no answer within {limit_of('start', of.kvm)} s", Seen()
    seen = ask(channel, place / "agent", limit_of("answer", of.kvm))
    channel.close()
    vm.picture("desktop")
    vm.shut_down(limit_of("shutdown", of.kvm))
    return STARTS, "", seen


def _settled(vm: Vm, of: Machine, still: float = float("inf")) -> Optional[Agent]:
    """The agent of a guest that has answered and then not restarted for a while; the first boot of virt-v2v
    restarts it after each script. None when it stopped, or never came so far. StandsStill after `still` seconds of silence."""
    check_speaks = _silence(vm, of, still)
    end = time.monotonic() + limit_of("start", of.kvm)
    while time.monotonic() < end:
        channel: list[Agent] = []

        def came(found: list[Agent] = channel) -> bool:
            check_speaks()
            return bool(stopped(vm)) or _answers(vm, found)

        if not vm.wait(came, end - time.monotonic()) or not channel:
            return None
        resets = vm.events.count("RESET")
        if not vm.wait(lambda before=resets: vm.events.count("RESET") > before, of.settle):  # type: ignore[misc]
            return channel[0] if not stopped(vm) else None
        channel[0].close()
    return None


def _silence(vm: Vm, of: Machine, still: float) -> Callable[[], None]:
    """What raises StandsStill once an emulated guest has restarted and then said nothing for so many seconds."""
    said, since = "", time.monotonic()

    def look() -> None:
        nonlocal said, since
        if of.kvm or "RESET" not in vm.events or vm.serial != said:
            said, since = vm.serial, time.monotonic()
        elif time.monotonic() - since > still:
            raise StandsStill

    return look


def _answers(vm: Vm, channel: list[Agent]) -> bool:
    """Whether the agent answers; then it is in `channel`."""
    try:
        connection = Agent(vm.place / "agent", 5)
    except OSError:
        return False
    if connection.synchronize(int(time.monotonic()) % 100000):
        channel.append(connection)
        return True
    connection.close()
    return False


def stopped(vm: Vm) -> Optional[tuple[str, str]]:
    """(outcome, reason) of a guest that gave up: told by pvpanic, by the stand-in's line, by the firmware, or by resets."""
    events, serial = vm.events, vm.serial
    told = [f"{each['stop']}: {each.get('why', '')}" for each in lines(serial, "h2k-lab") if "stop" in each]
    if told:
        return STOPS, told[-1][:200]
    if "GUEST_PANICKED" in events:
        return STOPS, "a stop screen, told by pvpanic"
    gave_up = lab.FIRMWARE_GAVE_UP.search(serial if (vm.place / "vars.fd").exists() else serial + _text(vm.place / "firmware.log"))
    if gave_up and not lines(serial, "h2k-lab"):
        return STOPS, f"firmware: {gave_up[0]}"
    if events.count("RESET") > RESETS:
        return RESTARTS, f"{events.count('RESET')} restarts"
    return None


def _text(path: Path) -> str:
    """What SeaBIOS says. (OVMF speaks on COM1; its debug port names the shell in passing.)"""
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose sockets' names are short enough, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="h2k-kit-") as path:
        yield Path(path)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the boot lab says of the same disks: `outcome` as of Start, its reason."""

    outcome: str
    reason: str = ""

    @property
    def started(self) -> bool:
        return self.outcome == STARTS


def lab_outcome(seen: lab.LabResult) -> str:
    """The lab's result in the words of a start."""
    if seen.booted or seen.stopped is not None:
        return STARTS if seen.booted else STOPS
    return RESTARTS if seen.resets > RESETS else SILENT


def judge(disks: Sequence[Disk], firmware: str, bus: str, place: Path, board: str, kvm: bool) -> Judged:
    """Start the boot lab on copies-on-write of the same disks (docs/lab.md): it is the stand-in that is judged here."""
    place.mkdir(parents=True, exist_ok=True)
    overlays, log = [], place / "lab.log"
    for index, disk in enumerate(disks):
        overlay = place / f"lab-{index}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk.path.resolve(), "-F", disk.format, overlay]
        if run_logged(command, "lab", log, limit_of("inspect", kvm)) != 0:
            raise StepFailed("lab", "no overlay", str(log))
        overlays.append(overlay)
    try:
        with short_directory() as work:
            lab.install(overlays[0], "qcow2", firmware, work)
        seen = lab.boot(overlays, firmware, bus, LAB_LIMIT, machine=board, resets=RESETS + 1, screenshot=place / "lab.png")
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as e:
        say(f"  lab: not tried: {e}")
        return Judged(NOT_TRIED, str(e)[:200])
    finally:
        for overlay in overlays:
            overlay.unlink(missing_ok=True)
    outcome = lab_outcome(seen)
    (place / "lab-serial").write_text(seen.serial, encoding="utf-8")
    say(f"  {place.name}: the lab {outcome}{f' ({seen.reason})' if seen.reason else ''}")
    return Judged(outcome, f"{seen.stopped}: {seen.reason}"[:200] if seen.stopped else "")

