"""Converts the source: h2k-v2v, h2k-qemu-img, plain virt-v2v as the control; and `h2k fix` and `h2k boot` of the result."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError
from h2k.domain.libvirt_reader import read_domain_xml
from tests.windows.machine import Disk
from tests.windows.steps import limit_of, run_logged

ROOT = Path(__file__).resolve().parents[2]
RECORD_LIMIT = 16 << 20  # bytes of a record
REFUSED = 3
AGAIN = 20  # seconds until a guest that still runs is asked once more to shut down
NETWORK = "default"  # of libvirt; `h2k boot` keeps its link down
BUS_OF = {"virtio": "virtio", "scsi": "virtio-scsi", "sata": "sata", "ide": "ide"}


@dataclasses.dataclass(frozen=True)
class Tools:
    """What the commands need: the virtio-win ISO or directory, whether KVM works, further environment and policy."""

    virtio_win: Path
    kvm: bool
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    policy: Optional[Path] = None
    libvirt: tuple[str, ...] = ()  # what stands before a command that talks to libvirt
    boots: bool = True  # whether `h2k boot` is run

    def h2k_options(self, before: str = "--h2k-") -> list[str]:
        policy = [f"{before}policy", str(self.policy)] if self.policy is not None else []
        return [f"{before}drivers", str(self.virtio_win), *policy]


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion left: its exit status, and with status 0 the disks, the bus that they are for, and NAME.h2k."""

    tool: str
    status: int
    log: Path
    disks: tuple[Disk, ...] = ()
    bus: str = ""
    state: Optional[Path] = None

    @property
    def record(self) -> dict[str, Any]:
        """report.json of NAME.h2k; empty where there is none that can be read."""
        path = self.state / "report.json" if self.state is not None else None
        try:
            if path is None or path.stat().st_size > RECORD_LIMIT:
                return {}
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def h2k_v2v(vmx: Path, out: Path, name: str, tools: Tools) -> Converted:
    """The command that a user types."""
    argv = [
        ROOT / "wrappers" / "h2k-v2v", "-i", "vmx", vmx, "-o", "local", "-of", "qcow2", "-os", out, "-on", name,
        "--network", NETWORK, *tools.h2k_options(),
    ]  # fmt: skip
    return _converted("h2k-v2v", argv, out, name, tools)


def virt_v2v(vmx: Path, out: Path, name: str, tools: Tools) -> Converted:
    """The control: virt-v2v alone, with the same drivers."""
    argv = ["virt-v2v", "-i", "vmx", vmx, "-o", "local", "-of", "qcow2", "-os", out, "-on", name, "--network", NETWORK]
    return _converted("virt-v2v", argv, out, name, dataclasses.replace(tools, environment={
        **tools.environment, "VIRTIO_WIN": str(tools.virtio_win),
    }))  # fmt: skip


def h2k_qemu_img(vmdk: Path, vmx: Path, out: Path, name: str, tools: Tools) -> Converted:
    """The system disk alone, as h2k-qemu-img converts it."""
    target = out / f"{name}.qcow2"
    argv = [ROOT / "wrappers" / "h2k-qemu-img", "convert", "-O", "qcow2", vmdk, target, "--h2k-domain", vmx, *tools.h2k_options()]
    return _converted("h2k-qemu-img", argv, out, name, tools)


def _converted(tool: str, argv: list[Any], out: Path, name: str, tools: Tools) -> Converted:
    """Run a conversion; one that was run to its end by a run of the kit that was then ended is not run again."""
    log, ended = out.parent / f"{out.name}-{tool}.log", out.parent / f"{out.name}-{tool}.status"
    if ended.exists():
        status = int(ended.read_text(encoding="ascii"))
    else:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        status = run_logged(argv, "convert", log, limit_of("convert", tools.kvm), tools.environment)
        ended.write_text(f"{status}\n", encoding="ascii")
    state = out / f"{name}.h2k"
    found = Converted(tool, status, log, state=state if state.is_dir() else None)
    if status != 0:
        return found
    disks, bus = described(out / f"{name}.xml")
    return dataclasses.replace(found, disks=disks, bus=bus)


def described(xml: Path) -> tuple[tuple[Disk, ...], str]:
    """The disks of a libvirt description with its first disk's bus; nothing where it can't be read."""
    try:
        domain = read_domain_xml(xml.read_bytes(), xml.name)
    except (OSError, H2kError):
        return (), ""
    disks = tuple(Disk(xml.parent / disk.path, disk.format or "qcow2") for disk in domain.disks if disk.path is not None)
    return disks, BUS_OF.get(domain.disks[0].bus, "") if domain.disks else ""


def h2k_fix(converted: Converted, tools: Tools) -> Converted:
    """The same after `h2k fix`, with its exit status."""
    assert converted.state is not None
    log = converted.state.parent / "h2k-fix.log"
    argv = [ROOT / "wrappers" / "h2k", "fix", converted.state, *tools.h2k_options("--")]
    status = run_logged(argv, "fix", log, limit_of("fix", tools.kvm), tools.environment)
    return dataclasses.replace(converted, tool="h2k fix", status=status, log=log)


def h2k_boot(converted: Converted, tools: Tools) -> int:
    """`h2k boot`: both phases on libvirt; its exit status. The guest that it leaves running is shut down again."""
    assert converted.state is not None
    log = converted.state.parent / "h2k-boot.log"
    policy = ["--policy", str(tools.policy)] if tools.policy is not None else []
    argv = [*tools.libvirt, ROOT / "wrappers" / "h2k", "boot", converted.state, *policy]
    try:
        return run_logged(argv, "boot", log, limit_of("boot", tools.kvm), tools.environment)
    finally:
        _stop(converted.state.stem, log, tools)


def _stop(name: str, log: Path, tools: Tools) -> None:
    """Shut the domain down, or end it, and forget it; its disks stay. A button that is pressed while the firmware still
    runs is lost, so that it is pressed again."""
    end, asked = time.monotonic() + limit_of("shutdown", tools.kvm), -AGAIN
    while time.monotonic() < end and _runs(name, log, tools):
        if time.monotonic() - asked >= AGAIN:
            asked = time.monotonic()
            _virsh(("shutdown", name), log, tools)
        time.sleep(2)
    _virsh(("destroy", name), log, tools)
    _virsh(("undefine", "--nvram", name), log, tools)


def _runs(name: str, log: Path, tools: Tools) -> bool:
    command = [*tools.libvirt, "sh", "-c", 'virsh -q domstate "$1" 2>&1 | grep -q running', "sh", name]
    return run_logged(command, "shutdown", log, limit_of("answer", tools.kvm)) == 0


def _virsh(words: tuple[str, ...], log: Path, tools: Tools) -> None:
    run_logged([*tools.libvirt, "virsh", "-q", *words], "shutdown", log, limit_of("answer", tools.kvm))

