"""Installs Windows without a hand, once: kept by the ISO's SHA-256, the image, the firmware and what the kit puts in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tests.windows import configuration, machine
from tests.windows.answer_check import errors
from tests.windows.answer_file import Answers
from tests.windows.media import Media
from tests.windows.steps import StepFailed, limit_of, run_logged, say
from tests.windows.vm import Vm, lines

SETUP_READS = 16 << 20  # bytes read from the CD when Setup certainly runs, and no key is wanted any more
PRESSING = 120  # seconds after the start during which a key is pressed: "Press any key to boot from CD or DVD"
PICTURES = 60.0  # seconds between two pictures of the screen
DATA_GIB = 4
SIGNAL = "h2k-kit"


@dataclasses.dataclass(frozen=True)
class Installed:
    """The disks of a Windows that was installed and shut down: never written again. `log`: where it is told how."""

    system: Path
    data: Path
    log: Path
    cached: bool
    bus: str
    seconds: int


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to install, on what, and where to keep it. `disk` is the size of the system disk in bytes."""

    media: Media
    answers: Answers
    machine: machine.Machine
    virtio_win: Path
    cache: Path
    disk: int

    @property
    def bus(self) -> str:
        image = self.answers.image
        return machine.source_bus(self.answers.firmware, image.server, image.build)

    def key(self, files: Mapping[str, bytes]) -> str:
        """The name of the installation in the cache."""
        parts = hashlib.sha256()
        for name, data in sorted(files.items()):
            parts.update(name.encode() + b"\0" + data)
        parts.update(f"{self.bus} {self.machine.nic} {self.disk}".encode())
        image = self.answers.image
        return f"{self.media.sha256[:16]}-{image.index}-{self.answers.firmware}-{parts.hexdigest()[:8]}"


def install(wanted: Wanted) -> Installed:
    """The installed disks, from the cache or from a new installation."""
    files = configuration.contents(wanted.answers)
    wrong = errors(files["autounattend.xml"])
    if wrong:
        raise StepFailed("install", f"the answer file is wrong: {wrong[0]}", "tests/windows/answer_check.py")
    place = wanted.cache / wanted.key(files)
    if not (place / "installed.json").exists():
        _install(wanted, files, place)
        known = False
    else:
        say(f"installed already: {place}")
        known = True
    about = json.loads((place / "installed.json").read_text(encoding="utf-8"))
    return Installed(place / "system.qcow2", place / "data.qcow2", place, known, wanted.bus, int(about["seconds"]))


def _install(wanted: Wanted, files: Mapping[str, bytes], place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    log, image = place / "install.log", wanted.answers.image
    config = configuration.make_iso(files, place / "config.iso", log)
    disks = []
    for name, size in (("system", wanted.disk), ("data", DATA_GIB << 30)):
        disks.append(machine.Disk(place / f"{name}.qcow2", "qcow2"))
        run_logged(["qemu-img", "create", "-q", "-f", "qcow2", disks[-1].path, size], "install", log, limit_of("inspect", True))
    cds = [wanted.media.path, config, wanted.virtio_win]
    argv = machine.argv(wanted.machine, place, disks, wanted.bus, cds, writes=True)
    say(f"installing {image.name} ({image.build}) under {wanted.answers.firmware}; the screen: {place}/screen.png")
    started = time.monotonic()
    with Vm("install", argv, place, limit_of("install", wanted.machine.kvm)) as vm:
        watch = _Watch(vm, f"cd{0}", started)
        vm.wait(lambda: "SHUTDOWN" in vm.events or bool(_failed(vm.serial)), limit_of("install", wanted.machine.kvm), watch.look)
        serial, done = vm.serial, "SHUTDOWN" in vm.events
        if not done:
            vm.picture("screen")
    seconds = round(time.monotonic() - started)
    _judge(serial, done, place)
    _went_to(*(disk.path for disk in disks))
    about = {"seconds": seconds, "iso": wanted.media.sha256, "stand_in": wanted.media.stand_in, "image": dataclasses.asdict(image)}
    (place / "installed.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    say(f"installed in {seconds} s")


class _Watch:
    """What is done while Setup runs: a key for the CD's question, a picture now and then."""

    def __init__(self, vm: Vm, cd: str, started: float) -> None:
        self.vm, self.cd, self.started = vm, cd, started
        self.pictured = started

    def look(self) -> None:
        now = time.monotonic()
        if now - self.started < PRESSING and "RESET" not in self.vm.events and self.vm.read_from(self.cd) < SETUP_READS:
            self.vm.press("ret")
        if now - self.pictured > PICTURES:
            self.pictured = now
            self.vm.picture("screen")


def _failed(serial: str) -> list[str]:
    """The steps that the guest says failed, with why."""
    told = lines(serial, SIGNAL)
    return [f"{each.get('step')}: {each.get('why', 'failed')}" for each in told if each.get("state") == "failed"]


def _went_to(system: Path, data: Path) -> None:
    """StepFailed when Setup took the data disk for disk 0; both were empty before."""
    if data.stat().st_blocks > system.stat().st_blocks:
        raise StepFailed("install", f"Setup wrote to the data disk, {data.name}, as disk 0", f"{data.parent}/screen.png")


def _judge(serial: str, done: bool, place: Path) -> None:
    """StepFailed unless the guest told that its set-up is done, and shut down."""
    told, failed = lines(serial, SIGNAL), _failed(serial)
    if failed:
        raise StepFailed("install", f"the guest's set-up says: {'; '.join(failed)[:300]}", f"{place}/serial and {place}/screen.png")
    if not done:
        steps = ", ".join(str(each.get("step")) for each in told) or "nothing"
        raise StepFailed("install", f"not done in time; the guest told of: {steps[:200]}", f"{place}/screen.png")
    if not any(each.get("step") == "done" for each in told):
        raise StepFailed("install", "the guest shut down before its set-up was done", f"{place}/screen.png and {place}/serial")
