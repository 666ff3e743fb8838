"""Machines that the tests of the descriptions share: facts and choices of all kinds, by names, and any bytes read."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any, Optional

from hypothesis import strategies as st

from h2k.base.errors import BadData, Refused
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts, Topology, complete
from h2k.domain.firmware import Firmware
from h2k.domain.libvirt_writer import Choices, final_xml

UUID = "5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11"
PLAIN = Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), False)
SECURE = Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"), True)
FIRMWARES: dict[str, Optional[Firmware]] = {"bios": None, "uefi": PLAIN, "secure": SECURE}


def make(
    firmware: str, machine: str, bus: str, many: int, nics: int, sectors: int = 512
) -> tuple[DomainFacts, Choices]:
    """A guest with `many` disks and `nics` cards, the last disk the boot disk, and the choices for it."""
    facts = DomainFacts(
        name="guest",
        uuid=UUID,
        memory=4 * 2**30,
        vcpus=4,
        disks=tuple(
            DiskFacts(Path(f"/var/lib/libvirt/images/guest-sd{'abcdefghijklmnopqrstuvwxyz'[n % 26]}"), "qcow2", "virtio", f"{n}")
            for n in range(many)
        ),
        nics=tuple(NicFacts(f"00:0c:29:00:00:{n:02x}", "virtio") for n in range(nics)),
        topology=Topology(2, 2, 1) if many == 1 else None,
        firmware="bios" if firmware == "bios" else "uefi",
        secure_boot=firmware == "secure",
        tpm="tpm-crb" if firmware == "secure" else None,
        cdrom=many > 1,
        sound="ich9" if many > 1 else None,
        os_id="http://microsoft.com/win/2k22" if many > 1 else None,
    )
    choices = Choices(
        bus=bus,
        bootstrap_bus="ide" if machine == "pc" else "sata",
        boot_disk=many - 1,
        nic_model="virtio" if many == 1 else "e1000e",
        scratch=None if bus == "sata" else Path("/var/lib/libvirt/images/guest.h2k/scratch.qcow2"),
        driver_iso=Path("/usr/share/virtio-win/virtio-win.iso"),
        firmware=FIRMWARES[firmware],
        utc=firmware == "secure",
        version=(10, 0) if many > 1 or firmware == "secure" else (6, 1),
        rng=many > 1,
        pvpanic=many > 1,
        sectors={many - 1: sectors} if sectors != 512 else {},
        utc_offset=3600 if many > 1 else None,
    )
    return facts, choices


BUSES = ("virtio", "virtio-scsi", "sata")
KINDS = [("bios", "q35"), ("secure", "q35"), ("bios", "pc")]
CASES = {
    f"{firmware}-{machine}-{bus}-{many}": make(firmware, machine, bus, many, many)
    for (firmware, machine), bus, many in itertools.product(KINDS, BUSES, (1, 3))
}
CASES.update(
    {
        "uefi-q35-virtio-1": make("uefi", "q35", "virtio", 1, 1),
        "uefi-q35-virtio-3": make("uefi", "q35", "virtio", 3, 3),
        "uefi-pc-virtio-1": make("uefi", "pc", "virtio", 1, 1),
        "uefi-q35-virtio-3-4kn": make("uefi", "q35", "virtio", 3, 1, sectors=4096),
        "uefi-q35-virtio-scsi-1-4kn": make("uefi", "q35", "virtio-scsi", 1, 1, sectors=4096),
    }
)


LIBVIRT_XML = """<domain type='kvm'><name>g</name><memory unit='MiB'>3072</memory><vcpu>3</vcpu>
<os firmware='efi'><type arch='x86_64'>hvm</type></os><devices>
<disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sdz'/></disk>
<disk type='{type}' device='disk'><driver name='qemu' type='vmdk'/><source {source}/><target dev='sda' bus='scsi'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface></devices></domain>"""


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """The data with some pieces overwritten, cut out or doubled."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = data
        for start, length, piece in edits:
            changed = changed[:start] + piece + changed[start + length :]
        return changed

    edit = st.tuples(st.integers(0, len(data)), st.integers(0, 40), st.binary(max_size=8) | st.sampled_from(
        [b'"', b"<", b">", b"\0", b"\n", b"-1", b"9" * 30, b"=", b"&x;", b"|00", b"\xff"]
    ))  # fmt: skip
    return st.lists(edit, max_size=4).map(apply)


def facts_or_bad_data(read: Any, data: bytes) -> None:
    """Whatever was read can be written, or is refused; nothing else may be raised."""
    try:
        facts = complete(read(data, "a"))
    except BadData as bad:
        assert str(bad).startswith("a")
        return
    with contextlib.suppress(Refused):
        final_xml(facts, Choices(firmware=PLAIN))
