"""The installed Windows as VMware hands it over: a VMX and a VMDK for each disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.windows.configuration import CARDS
from tests.windows.steps import StepFailed, limit_of, run_logged

GUEST_OS = {"6.1": "windows7", "6.2": "windows8", "6.3": "windows8", "10.0": "windows9"}  # VMware's guestOS, for clients


def vmx_text(name: str, firmware: str, bus: str, version: str, arch: str, memory: int, disks: Sequence[str]) -> str:
    """The VMX of a source: its controller, disks by file name, and the two e1000e cards by their MACs."""
    guest_os = GUEST_OS.get(version, "windows9") + ("-64" if arch == "amd64" else "")
    values = [
        (".encoding", "UTF-8"), ("config.version", "8"), ("virtualHW.version", "19"), ("displayName", name),
        ("guestOS", guest_os), ("memsize", str(memory)), ("numvcpus", "2"),
    ]  # fmt: skip
    if firmware == "uefi":
        values.append(("firmware", "efi"))
    controller = "sata0" if bus == "sata" else "scsi0"
    values.append((f"{controller}.present", "TRUE"))
    if controller == "scsi0":
        values.append(("scsi0.virtualDev", "lsisas1068"))
    for index, file in enumerate(disks):
        values += [(f"{controller}:{index}.present", "TRUE"), (f"{controller}:{index}.fileName", file)]
    for index, card in enumerate(CARDS):
        values += [
            (f"ethernet{index}.present", "TRUE"), (f"ethernet{index}.virtualDev", "e1000e"),
            (f"ethernet{index}.networkName", "VM Network"), (f"ethernet{index}.addressType", "static"),
            (f"ethernet{index}.address", card.mac),
        ]  # fmt: skip
    return "".join(f'{key} = "{value}"\n' for key, value in values)


def write_source(text: str, name: str, disks: Sequence[tuple[Path, str]], place: Path, log: Path, kvm: bool) -> Path:
    """The VMX and its VMDKs in a directory of their own; `disks` are (image, name of its VMDK)."""
    place.mkdir(parents=True, exist_ok=True)
    for image, file in disks:
        command = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicSparse", image, place / file]
        status = run_logged(command, "image", log, limit_of("image", kvm))
        if status != 0:
            raise StepFailed("image", f"qemu-img ended with {status}", str(log))
    vmx = place / f"{name}.vmx"
    vmx.write_text(text, encoding="utf-8")
    return vmx
