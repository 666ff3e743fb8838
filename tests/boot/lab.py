"""The boot lab: makes a made guest bootable, boots it on any bus and firmware, and says how far Windows would have come."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from tests.boot.disk import SECTOR, as_file, boot_partition, opened, write_windows_file
from tests.boot.image import boot_image, grub_boot_code
from tests.boot.qmp import Qmp

OVMF_CODE, OVMF_VARS = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
BUSES = ("sata", "ide", "virtio", "virtio-scsi", "lsisas1068")
KNOBS = ("no-pnp", "hang", "reboot-loop", "only-first")
EFI_PATHS = ("EFI/Microsoft/Boot/bootmgfw.efi", "EFI/BOOT/BOOTX64.EFI")
# What firmware says when it has nothing to start: OVMF on the serial port, SeaBIOS on its debug port.
FIRMWARE_GAVE_UP = re.compile(r"No bootable (?:device|option)|UEFI Interactive Shell|Shell>")
NOTHING_ACTIVE = b"\xcd\x18"  # INT 18h: this disk does not boot, try the next
SAS_ADDRESS = 0x5000C50015EA7000  # without one Linux' mptsas sees no disk
POLL = 0.1  # seconds


@dataclasses.dataclass(frozen=True)
class LabResult:
    """What a boot showed.

    `stopped` is None, a stop code ("0x7B"), a loader status ("0xc000014c"), what the boot code in front of them prints
    ("BOOTMGR is missing"), or "firmware" when the firmware started nothing; `reason` is its one line. `steps` are the
    first-boot signals (step, state, detail) in order. `facts` are the lab's own lines. `resets` counts the guest's.
    """

    serial: str
    stopped: Optional[str]
    reason: str
    steps: tuple[tuple[str, str, str], ...]
    facts: dict[str, str]
    pvpanic: bool
    resets: int
    powered_off: bool
    screenshot: Optional[Path]

    @property
    def booted(self) -> bool:
        """Whether Windows' stand-in came to its desktop."""
        return self.stopped is None and any(step == "done" for step, _, _ in self.steps)


def install(disk: Path, fmt: str, firmware: str, workdir: Path) -> None:
    """Puts the lab's loader where the firmware looks: over both boot manager files of the ESP (one that is missing or no
    program stays so: the firmware must not find what is not there), or as GRUB in front of
    the first partition with its two files in the active one. The code of a protective MBR, zeros that a BIOS would run,
    gives back to the BIOS, as Windows' does where no partition is active. Partition table, disk signature, bootmgr and
    the Windows volume stay as they are. `workdir` holds a copy of the boot partition meanwhile."""
    image = boot_image()
    with opened(disk, fmt) as handle:
        extent = boot_partition(handle, firmware)
        with as_file(handle, extent, workdir / f"{disk.name}.boot-partition") as volume:
            if firmware == "uefi":
                for path in EFI_PATHS:
                    if _is_program(volume, path):
                        _run("mcopy", "-o", "-i", volume, image.efi, f"::{path}")
                handle.pwrite(NOTHING_ACTIVE, 0)
            else:
                _run("ntfscp", "-q", volume, image.kernel, "h2k-lab-vmlinuz")
                _run("ntfscp", "-q", volume, image.initrd, "h2k-lab-initrd")
        if firmware != "uefi":
            core = image.core.read_bytes()
            if SECTOR + len(core) > extent[0]:
                raise ValueError(f"{disk}: GRUB's {len(core)} bytes do not fit in front of the first partition")
            handle.pwrite(grub_boot_code(), 0)
            handle.pwrite(core + bytes(-len(core) % SECTOR), SECTOR)


def _is_program(volume: Path, path: str) -> bool:
    """Whether a file of a FAT volume is there and begins as a PE does."""
    done = subprocess.run(["mtype", "-i", str(volume), f"::{path}"], capture_output=True, stdin=subprocess.DEVNULL)
    return done.stdout[:2] == b"MZ"


def set_knobs(disk: Path, fmt: str, firmware: str, workdir: Path, knobs: Iterable[str]) -> None:
    """Makes the guest misbehave, by files on its Windows volume: `no-pnp` binds no device, `hang` stands still without
    a signal, `reboot-loop` restarts for ever, `only-first` stops with 0x7B at every boot but the first."""
    for knob in knobs:
        if knob not in KNOBS:
            raise ValueError(f"{knob!r} is none of {KNOBS}")
        write_windows_file(disk, fmt, firmware, workdir, f"h2k-lab-{knob}", b"\n")


def _run(*argv: Union[str, Path]) -> None:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}".strip())


def boot(
    disks: Union[Path, Sequence[Path]],
    firmware: str,
    bus: str,
    timeout: float = 300,
    *,
    fmt: str = "qcow2",
    machine: Optional[str] = None,
    keep_writes: bool = False,
    scratch: Optional[str] = None,
    power_button: bool = False,
    last_known_good: bool = False,
    resets: int = 3,
    screenshot: Optional[Path] = None,
) -> LabResult:
    """Boots the guest in QEMU, under TCG, until it stops, comes to its desktop, has restarted `resets` times, or
    `timeout` seconds have passed.

    The first disk boots. Devices sit where libvirt puts them: virtio behind a root port of q35 (modern ids), in a slot
    of pc's one bus (transitional ids). `machine` defaults to pc for IDE, else to q35. Nothing is written to the disks
    unless `keep_writes`. `scratch` adds an empty disk on that bus, as the bootstrap has it. With `power_button` the
    desktop is asked to shut down over ACPI. `last_known_good` takes that choice of the boot menu of Windows 7.
    `screenshot` is the PNG to write at the end.
    """
    paths = [disks] if isinstance(disks, Path) else list(disks)
    with tempfile.TemporaryDirectory(prefix="h2k-lab-") as work:
        argv = _qemu(Path(work), paths, fmt, firmware, bus, machine or ("pc" if bus == "ide" else "q35"), keep_writes, scratch)
        if last_known_good:
            argv += ["-fw_cfg", "name=opt/h2k-lab/last-known-good,string=1"]
        with open(Path(work) / "qemu.log", "wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            run = _Run(Path(work), process, time.monotonic() + timeout)
            return run.watch(power_button, resets, screenshot)
        finally:
            process.kill()
            process.wait()


def _qemu(
    work: Path, disks: Sequence[Path], fmt: str, firmware: str, bus: str, machine: str, keep_writes: bool, scratch: Optional[str]
) -> list[str]:
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", f"{machine},accel=tcg", "-cpu", "max,la57=off",
        "-m", "768", "-smp", "1", "-display", "none", "-vga", "std", "-nic", "none", "-action", "panic=none",
        "-serial", f"file:{work / 'serial'}", "-qmp", f"unix:{work / 'qmp'},server=on,wait=off", "-device", "pvpanic",
        "-chardev", f"file,id=debug,path={work / 'debug'}", "-device", "isa-debugcon,iobase=0x402,chardev=debug",
    ]  # fmt: skip
    if firmware == "uefi":
        shutil.copyfile(OVMF_VARS, work / "vars.fd")
        argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"]
        argv += ["-drive", f"if=pflash,format=raw,unit=1,file={work / 'vars.fd'}"]
    devices = Devices(machine)
    for index, disk in enumerate(disks):
        source = f"file={_quoted(disk)},format={fmt},snapshot={'off' if keep_writes else 'on'},cache=unsafe"
        argv += ["-drive", f"if=none,id=disk{index},{source}", *devices.disk(bus, f"disk{index}", index + 1)]
    if scratch is not None:
        argv += ["-drive", "if=none,id=scratch,driver=null-co,size=64M,read-zeroes=on", *devices.disk(scratch, "scratch")]
    return argv


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


class Devices:
    """The -device options of disks, each controller once, in the places that libvirt gives them."""

    def __init__(self, machine: str) -> None:
        self.q35 = machine == "q35"
        self.ports = 0
        self.units: dict[str, int] = {}

    def disk(self, bus: str, drive: str, bootindex: Optional[int] = None) -> list[str]:
        """The options that hang `drive` on the bus; ValueError for a bus that the machine can't have."""
        order = f",bootindex={bootindex}" if bootindex is not None else ""
        unit = self.units.get(bus, 0)
        self.units[bus] = unit + 1
        if bus == "virtio":
            return self._pci(f"virtio-blk-pci,drive={drive}{order}")
        if bus == "virtio-scsi":
            controller = [] if unit else self._pci("virtio-scsi-pci,id=scsi")
            return [*controller, "-device", f"scsi-hd,bus=scsi.0,scsi-id={unit},drive={drive}{order}"]
        if bus == "lsisas1068":
            controller = [] if unit else self._pci("mptsas1068,id=sas")
            return [*controller, "-device", f"scsi-hd,bus=sas.0,scsi-id={unit},wwn={SAS_ADDRESS + unit:#x},drive={drive}{order}"]
        if bus == "sata" and not self.q35:
            controller = [] if unit else ["-device", "ich9-ahci,id=sata"]
            return [*controller, "-device", f"ide-hd,bus=sata.{unit},drive={drive}{order}"]
        if bus == "sata":
            return ["-device", f"ide-hd,bus=ide.{unit},drive={drive}{order}"]
        if bus == "ide" and not self.q35:
            return ["-device", f"ide-hd,bus=ide.{unit // 2},unit={unit % 2},drive={drive}{order}"]
        raise ValueError(f"{bus!r} on {'q35' if self.q35 else 'pc'}: the lab has no such disk")

    def _pci(self, device: str) -> list[str]:
        if not self.q35:
            return ["-device", device]
        self.ports += 1
        port = f"pcie-root-port,id=port{self.ports},chassis={self.ports},addr=0x2.{self.ports - 1:#x}"
        multi = ",multifunction=on" if self.ports == 1 else ""
        return ["-device", f"{port}{multi}", "-device", f"{device},bus=port{self.ports}"]


class _Run:
    """One running QEMU, watched through its serial file and its monitor."""

    def __init__(self, work: Path, process: subprocess.Popen[bytes], deadline: float) -> None:
        self.work, self.process, self.deadline = work, process, deadline
        while True:
            try:
                self.qmp = Qmp(work / "qmp", 60)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"QEMU did not start: {(work / 'qemu.log').read_text()}") from None
                time.sleep(POLL)

    def watch(self, power_button: bool, resets: int, screenshot: Optional[Path]) -> LabResult:
        """Until the boot has come to one of its ends."""
        with self.qmp:
            while time.monotonic() < self.deadline and self._alive():
                seen = self._read(None)
                if seen.stopped or seen.booted or seen.resets >= resets:
                    break
                time.sleep(POLL)
            if screenshot is not None and self._alive():
                time.sleep(POLL)  # the line comes just before the screen's last character is drawn
                self.qmp.execute("screendump", filename=str(screenshot), format="png")
            if power_button and self._alive():
                self.qmp.execute("system_powerdown")
                while time.monotonic() < self.deadline and self._alive():
                    time.sleep(POLL)
            self._alive()
            return self._read(screenshot)

    def _alive(self) -> bool:
        """Asks for QEMU's state, so that its events come along; False once it has ended."""
        try:
            self.qmp.execute("query-status")
        except OSError:
            self.qmp.drain()
            return False
        return self.process.poll() is None

    def _read(self, screenshot: Optional[Path]) -> LabResult:
        serial = _text(self.work / "serial")
        facts: dict[str, str] = {}
        for line in _objects(serial, "h2k-lab"):
            facts.update({str(key): str(value) for key, value in line.items()})
        steps = [(str(s.get("step")), str(s.get("state")), str(s.get("detail", ""))) for s in _objects(serial, "h2k-boot")]
        stopped, reason = facts.get("stop"), facts.get("why", "")
        # The lab's own line says the same of GRUB, and may be here in part only.
        gave_up = FIRMWARE_GAVE_UP.search(re.sub("h2k-lab .*", "", serial) + _text(self.work / "debug"))
        if stopped is None and gave_up and not facts:
            stopped, reason = "firmware", gave_up[0]
        names = [event.get("event") for event in self.qmp.events]
        return LabResult(
            serial=serial,
            stopped=stopped,
            reason=reason,
            steps=tuple(steps),
            facts=facts,
            pvpanic="GUEST_PANICKED" in names,
            resets=sum(1 for e in self.qmp.events if e.get("event") == "RESET" and e["data"].get("guest")),
            powered_off="SHUTDOWN" in names,
            screenshot=screenshot if screenshot is not None and screenshot.exists() else None,
        )


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""


def _objects(serial: str, word: str) -> list[dict[str, Any]]:
    """The JSON objects of the whole lines that begin with `word`; a line that is cut off comes again, complete."""
    found = []
    for match in re.finditer(rf"{word} (\{{.*\}})\r?\n", serial):
        try:
            found.append(json.loads(match[1]))
        except ValueError:
            continue
    return found


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.boot.lab install DISK FIRMWARE | boot DISK FIRMWARE BUS [SCREENSHOT.png]"""
    if len(argv) == 3 and argv[0] == "install":
        disk = Path(argv[1])
        install(disk, "qcow2", argv[2], disk.parent)
        return 0
    if len(argv) in (4, 5) and argv[0] == "boot":
        seen = boot(Path(argv[1]), argv[2], argv[3], screenshot=Path(argv[4]) if len(argv) == 5 else None)
        print(seen.serial)
        print(json.dumps(dataclasses.asdict(dataclasses.replace(seen, serial="")), indent=2, default=str))
        return 0 if seen.booted else 1
    print(main.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
