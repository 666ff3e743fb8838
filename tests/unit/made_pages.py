"""Records of made guests for pages: what a repair, a refusal and a boot leave in NAME.h2k, without any of them being run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Optional

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
STARTED = "2026-01-01T00:00:00+00:00"
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_PARTS = [
    {"number": 1, "start": 1048576, "size": 104857600, "type": _ESP, "active": False},
    {"number": 2, "start": 105906176, "size": 64424509440, "type": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "active": False},
]
DISKS = [
    {"path": "/srv/vm/web01-sda", "format": "qcow2", "size": 64 << 30, "scheme": "gpt", "id": "{1}", "partitions": _PARTS},
    {"path": "/srv/vm/web01-sdb", "format": "qcow2", "size": 500 << 30, "scheme": "gpt", "id": "{2}", "partitions": _PARTS[1:]},
]
GUEST = {
    "windows": True, "name": "Windows Server 2022 Standard x64 build 20348", "product": "Windows Server 2022 Standard", "build": 20348,
    "arch": "amd64", "firmware": "uefi", "boot_disk": 0, "disks": DISKS, "control_sets": {"current": 1, "default": 1},
    "hives": {"SYSTEM": "/Windows/System32/config/SYSTEM", "BCD": "/EFI/Microsoft/Boot/BCD"}, "online": [True, True],
    "letters": {"C:": {"disk": 0, "partition": 2}, "D:": {"disk": 1, "partition": 2}, "E:": {"disk": 1, "partition": 2}},
}  # fmt: skip
CHANGES = [
    {"diff": "~ SYSTEM\\ControlSet001\\Services\\viostor Start: 3 → 0"},
    {"diff": "+ SYSTEM\\ControlSet001\\Services\\viostor\\Parameters BusType: 10"},
    {"diff": "+ /Windows/System32/drivers/viostor.sys: 67072 bytes, sha256 ab12ab12ab12…, from viostor.inf"},
    {"diff": "- SOFTWARE\\Microsoft\\Made Old"},
]
NETWORK = {
    "adapters": [
        {"guid": "{a}", "hardware": "vmware", "name": "LAN", "description": "vmxnet3 Ethernet Adapter", "mac": "00:50:56:aa:bb:01",
         "addresses": ["192.0.2.10/24"], "addresses6": ["2001:db8::10/64"], "gateways": [{"address": "192.0.2.1"}], "dns": ["192.0.2.53"], "dns6": []},
        {"guid": "{b}", "hardware": "vmware", "name": "Backup", "description": "vmxnet3 Ethernet Adapter #2", "mac": None,
         "addresses": ["198.51.100.7/24"], "addresses6": [], "gateways": [], "dns": [], "dns6": []},
        {"guid": "{c}", "hardware": "", "name": "Loopback", "description": "a software adapter", "addresses": [], "addresses6": []},
    ],
    "leaving": ["{a}", "{b}"], "routes": [],
    "assignments": {"{a}": {"certain": True, "mac": "00:50:56:aa:bb:01", "why": "MAC 00:50:56:aa:bb:01 (NetworkSetup2)"},
                    "{b}": {"certain": False, "mac": None, "why": "its MAC address is not in the registry"}},
}  # fmt: skip
BOOT = {
    "status": 0, "verdict": "both boots went well, and Windows bound the VirtIO driver; committed", "stage": "production",
    "phases": [
        {"phase": "bootstrap", "up": True, "why": "the guest shut down by itself", "seconds": 90.0, "agent": False, "restarts": 1,
         "signals": [{"step": "start", "state": "ok", "detail": "", "at": 12.6}, {"step": "drivers", "state": "ok", "detail": "viostor bound", "at": 30.0},
                     {"step": "done", "state": "failed", "detail": "one step was left out", "at": 74.5}]},
        {"phase": "final", "up": True, "why": "it settled", "seconds": 41.2, "agent": True, "restarts": 0, "signals": []},
    ],
    "checks": [{"name": "virtio-bound", "state": "passed", "subject": "PCI\\VEN_1AF4&DEV_1001", "evidence": "viostor"},
               {"name": "hives-clean", "state": "unknown", "subject": "SYSTEM", "evidence": "not read"}],
    "validation": [],
}  # fmt: skip


def finding(id: str = "driver-not-boot-start", state: str = "repaired", subject: str = "ControlSet001\\Services\\viostor", evidence: str = "Start is 3", repair: str = "set to 0") -> dict[str, Any]:
    return {"id": id, "state": state, "subject": subject, "evidence": evidence, "repair": repair}


def guest_record(**more: Any) -> dict[str, Any]:
    """The record of a repair that went well."""
    content = {
        "schema": 1, "run": 1, "command": "h2k fix", "argv": ["fix", "g.xml"], "started": STARTED, "seconds": 1,
        "host": "h", "user": "u", "source": "web01.vmx", "status": 0, "word": "READY", "verdict": "repaired and verified: 4 changes",
        "next": ["h2k boot /srv/vm/web01.h2k", "h2k rollback /srv/vm/web01.h2k"], "accepted": [], "findings": [finding()],
        "changes": CHANGES, "settings": [{"name": "bootstrap-bus", "value": "sata", "why": "Windows has a boot driver for it"},
                     {"name": "clock", "value": "localtime", "why": f"ControlSet001\\{'Control' * 12} RealTimeIsUniversal"}],
        "files": {}, "timings": [], "versions": {"h2k": "1.0", "virt-v2v": ""}, "virtio_win": "", "disks": [],
        "digests": {"/Windows/System32/drivers/viostor.sys": "ab12" * 16, f"/Program Files/{'Long' * 30}/a.exe": "cd34" * 16}, "guest": GUEST,
        "source_machine": {"firmware": "uefi", "disks": [{"bus": "scsi", "target": "sda"}, {"bus": "scsi", "target": "sdb"}], "nics": []},
        **more,
    }  # fmt: skip
    copy: dict[str, Any] = json.loads(json.dumps(content))
    return copy


def domain_xml(bus: str, name: str = "web01", disks: int = 2) -> str:
    """A domain with so many disks on a bus, and one card."""
    prefix = "vd" if bus == "virtio" else "sd"
    shown = "\n".join(
        f"    <disk type='file' device='disk'>\n      <source file='/srv/vm/web01-sd{'ab'[n]}'/>\n      <target dev='{prefix}{'ab'[n]}' bus='{bus}'/>\n    </disk>"
        for n in range(disks)
    )
    card = "    <interface type='network'>\n      <mac address='00:50:56:aa:bb:01'/>\n      <model type='virtio'/>\n    </interface>"
    return f"<domain type='kvm'>\n  <name>{name}</name>\n  <memory unit='MiB'>8192</memory>\n  <devices>\n{shown}\n{card}\n  </devices>\n</domain>\n"


def keep_guest(place: Path) -> Path:
    """What lies beside the records: the two domains and the network."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "bootstrap.xml").write_text(domain_xml("sata", disks=1))
    (place / "final.xml").write_text(domain_xml("virtio"))
    (place / "network.json").write_text(json.dumps(NETWORK))
    return place


def booted_guest(place: Path, picture: Optional[bytes] = None) -> tuple[Path, list[dict[str, Any]]]:
    """A guest that was repaired and booted, with a screenshot of each phase."""
    keep_guest(place)
    (place / "boot").mkdir(exist_ok=True)
    for phase in ("bootstrap", "final"):
        (place / "boot" / f"{phase}-last.png").write_bytes(picture or PNG)
    first = guest_record(findings=many_findings(), changes=many_changes()) if picture is not None else guest_record()
    boot = guest_record(
        run=2, command="h2k boot", word="BOOTED", verdict=BOOT["verdict"], boot=BOOT, findings=[], changes=[], guest={}, settings=[], digests={},
        next=["h2k rollback /srv/vm/web01.h2k"], seconds=140,
    )  # fmt: skip
    return place, [first, boot]


def refused_guest(place: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A guest that was refused: encrypted, and its Windows was not read further."""
    place.mkdir(parents=True, exist_ok=True)
    found = [
        finding("volume-encrypted", "refused", "disk 0, partition 2", "BitLocker: it can be read by nobody without its key", "manage-bde -off C: on the source, or give --key"),
        finding("hive-dirty", "refused", "SYSTEM", "it has logs that were not written back, and the volume can't be read", "shut the guest down cleanly: shutdown /s /t 0"),
    ]  # fmt: skip
    guest = {"windows": True, "firmware": "uefi", "boot_disk": 0, "disks": DISKS[:1]}
    record = guest_record(
        command="h2k-v2v", status=3, word="REFUSED", verdict="2 findings stop it: volume-encrypted, hive-dirty; nothing was written", findings=found,
        changes=[], settings=[], digests={}, guest=guest, next=["h2k explain volume-encrypted"], source_machine={},
    )  # fmt: skip
    return place, [record]


def many_findings() -> list[dict[str, Any]]:
    """What a usual guest of VMware has, and a repair mends."""
    services = "ControlSet001\\Services"
    return [
        finding("bootstrap-controller-not-boot-start", subject=f"{services}\\storahci", evidence="StartOverride 0=3 keeps the loader from loading it", repair="deleted"),
        finding("device-id-unbound", subject="PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", evidence="no entry in DriverDatabase", repair="bound to viostor"),
        finding("device-id-unbound", subject="PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01", evidence="no entry in DriverDatabase", repair="bound to viostor"),
        finding("driver-file-missing", subject="/Windows/System32/drivers/viostor.sys", evidence="missing", repair="the package's file"),
        finding("driver-not-boot-start", subject=f"{services}\\viostor", evidence="missing", repair="Type 1, Start 0"),
        finding("driver-parameters-missing", subject=f"{services}\\viostor", evidence="not as the INF says: ErrorControl, Group, Parameters\\BusType", repair="as viostor.inf says"),
        finding("nic-driver-missing", subject="/Windows/System32/drivers/netkvm.sys", evidence="missing", repair="the package's file"),
        finding("nic-driver-missing", subject=f"{services}\\netkvm", evidence="missing", repair="Type 1, Start 1"),
        finding("hive-dirty", subject="SYSTEM", evidence="SYSTEM.LOG1: 3 entries were not written back", repair="replayed"),
        finding("nic-ghost", subject="LAN {6f3c8a52-1d5b-4c0e-9a37-5c1f0e8b7d21}", evidence="vmxnet3 Ethernet Adapter of vmware: PCI\\VEN_15AD&DEV_07B0", repair="removed; its driver and service stay"),
        finding("nic-static-stranded", subject="LAN {6f3c8a52-1d5b-4c0e-9a37-5c1f0e8b7d21}", evidence="192.0.2.10/24, gateway 192.0.2.1 on a card of vmware, which the KVM domain does not have", repair="carried to 00:50:56:aa:bb:01 at first boot"),
        finding("hypervisor-tools-present", "warning", "VMware Tools", "SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Uninstall", "remove them once the guest runs on KVM"),
    ]  # fmt: skip


def many_changes() -> list[dict[str, Any]]:
    """Some eighty changes of a few kinds."""
    services = [f"+ SYSTEM\\ControlSet001\\Services\\{name} Value{n}: {n}" for name in ("viostor", "netkvm", "vioscsi") for n in range(12)]
    files = [f"+ /Windows/INF/oem{n}.inf: 4096 bytes, sha256 ab12ab12ab12…, from virtio-win" for n in range(40)]
    return [{"diff": line} for line in (*services, *files)] + CHANGES


def screen() -> bytes:
    """A picture of a screen, 640 × 480: a desktop with a window, and no letters, whose shapes differ between machines."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (640, 480), (0, 90, 158))
    draw = ImageDraw.Draw(image)
    draw.rectangle((120, 90, 520, 340), fill=(243, 243, 243), outline=(60, 60, 60))
    draw.rectangle((120, 90, 520, 118), fill=(32, 32, 32))
    draw.rectangle((0, 448, 640, 480), fill=(20, 24, 32))
    draw.rectangle((8, 456, 24, 472), fill=(90, 180, 255))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
