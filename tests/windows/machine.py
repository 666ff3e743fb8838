"""QEMU's command lines: the source (LSI SAS or SATA, e1000e, no VirtIO device), its installation, and the target (VirtIO)."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.boot.lab import Devices
from tests.windows.configuration import CARDS
from tests.windows.steps import StepFailed

# OVMF without Secure Boot's own build, by the distributions' names: Debian; EL and Fedora.
OVMF = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"), Path("/usr/share/edk2/ovmf/OVMF_VARS.fd")),
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What every boot of one guest has in common. `memory` in MiB; `kvm`: whether it works here; `nic`: of the source;
    `settle`: the seconds without a restart after which a guest that answers has settled."""

    firmware: str
    memory: int
    kvm: bool
    nic: str = "e1000e"
    settle: float = 150.0

    @property
    def board(self) -> str:
        """q35 for UEFI, pc for BIOS: what virt-v2v and VMware's guests of their time have."""
        return "q35" if self.firmware == "uefi" else "pc"


@dataclasses.dataclass(frozen=True)
class Disk:
    path: Path
    format: str


def source_bus(firmware: str, server: bool, build: int) -> str:
    """LSI SAS where firmware and Windows have a driver for it, else SATA: OVMF has none, nor have the newest Windows."""
    return "lsisas1068" if firmware == "bios" and build < 20348 and (server or build <= 19045) else "sata"


def argv(
    machine: Machine, place: Path, disks: Sequence[Disk], bus: str, cds: Sequence[Path] = (), virtio: bool = False, writes: bool = False
) -> list[str]:
    """One QEMU. Monitor, serial ports and firmware variables are files of `place`. Disks boot first, CDs after them.

    Without `writes` nothing reaches the disks. `virtio`: the NICs are VirtIO's and there is a VirtIO channel, as in final.xml.
    """
    command = [
        _program(), "-nodefaults", "-no-user-config", "-machine", f"{machine.board},accel={'kvm' if machine.kvm else 'tcg'}",
        "-cpu", "host" if machine.kvm else "max,la57=off", "-m", str(machine.memory), "-smp", "2" if machine.kvm else "1",
        "-rtc", "base=localtime", "-display", "none", "-vga", "std", "-action", "panic=none",
        "-qmp", f"unix:{place / 'qmp'},server=on,wait=off", "-device", "pvpanic",
        "-serial", f"file:{place / 'serial'}",
        "-chardev", f"socket,id=agent,path={place / 'agent'},server=on,wait=off", "-serial", "chardev:agent",
        "-chardev", f"file,id=debug,path={place / 'firmware.log'}", "-device", "isa-debugcon,iobase=0x402,chardev=debug",
    ]  # fmt: skip
    if machine.firmware == "uefi":
        code, variables = _ovmf()
        if not (place / "vars.fd").exists():
            shutil.copyfile(variables, place / "vars.fd")
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={place / 'vars.fd'}"]
    devices = Devices(machine.board)
    for index, disk in enumerate(disks):
        source = f"file={_quoted(disk.path)},format={disk.format},snapshot={'off' if writes else 'on'},discard=unmap"
        command += ["-drive", f"if=none,id=disk{index},{source}", *devices.disk(bus, f"disk{index}", index + 1)]
    command += _cds(machine, cds, len(disks) + 1, bus)
    command += _nics("virtio-net-pci" if virtio else machine.nic)
    if virtio:
        command += ["-device", "virtio-serial-pci,id=channels"]
        command += ["-chardev", "null,id=none", "-device", "virtserialport,chardev=none,name=org.qemu.guest_agent.0"]
    return command


def _cds(machine: Machine, cds: Sequence[Path], first: int, bus: str) -> list[str]:
    """CD drives: on the board's own controller, behind the disks' units."""
    command = []
    for index, cd in enumerate(cds):
        unit = index + (2 if bus in ("sata", "ide") and machine.board == "q35" else 0)
        at = f"bus=ide.{unit}" if machine.board == "q35" else f"bus=ide.{unit // 2},unit={unit % 2}"
        command += ["-drive", f"if=none,id=cd{index},media=cdrom,readonly=on,format=raw,file={_quoted(cd)}"]
        command += ["-device", f"ide-cd,{at},drive=cd{index},bootindex={first + index}"]
    return command


def _nics(model: str) -> list[str]:
    """The two cards of the source, by their MACs; their network ends at QEMU."""
    command = []
    for index, card in enumerate(CARDS):
        command += ["-netdev", f"user,id=net{index},restrict=on", "-device", f"{model},netdev=net{index},mac={card.mac},romfile="]
    return command


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def _program() -> str:
    """Debian's QEMU, or EL's, which is on nobody's PATH."""
    return shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm", path="/usr/libexec") or "qemu-system-x86_64"


def _ovmf() -> tuple[Path, Path]:
    for code, variables in OVMF:
        if code.exists() and variables.exists():
            return code, variables
    raise StepFailed("machine", "no OVMF on this host", "Debian: apt install ovmf; EL: dnf install edk2-ovmf")
