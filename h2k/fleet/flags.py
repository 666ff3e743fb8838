"""What makes a guest special to move: flags of its description (shared disks, snapshots, passthrough), roles of its Windows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from h2k.base.errors import H2kError
from h2k.base.xml import parse_xml
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name

_KEY = re.compile(r'^\s*([A-Za-z0-9_.:]+)\s*=\s*"?([^"\r\n]*)"?', re.MULTILINE)
_TRUE = ("true", "yes", "on", "1")
_SNAPSHOT = re.compile(r"-[0-9]{6}\.vmdk$", re.IGNORECASE)
SNAPSHOT, SHARED, RAW, PASSTHROUGH, TPM, USB, NVME = (
    "snapshot", "shared disk", "raw device mapping", "passthrough device", "virtual TPM", "USB device", "NVMe disk",
)  # fmt: skip
# What a service of that name makes of the guest; start 4 is disabled.
_ROLES = (
    ("NTDS", "domain controller"), ("ClusSvc", "cluster node"), ("MSSQLSERVER", "SQL Server"), ("vmms", "Hyper-V host"),
    ("MSExchangeIS", "Exchange server"), ("DHCPServer", "DHCP server"), ("CertSvc", "certificate authority"),
)  # fmt: skip
_DISABLED = 4


def flags_of_vmx(text: str) -> list[str]:
    """What a VMX shows that the owner must decide about, before or after the move."""
    keys = {key.lower(): value.strip() for key, value in _KEY.findall(text)}

    def true(key: str) -> bool:
        return keys.get(key, "").lower() in _TRUE

    found = []
    for key, value in keys.items():
        part = key.rpartition(".")
        if part[2] == "filename" and _SNAPSHOT.search(value):
            found.append(SNAPSHOT)
        elif part[2] in ("sharedbus", "sharing") and value.lower() not in ("", "none", "sharing-none"):
            found.append(SHARED)
        elif part[2] == "devicetype" and "raw" in value.lower() and "cdrom" not in value.lower():
            found.append(RAW)
        elif re.fullmatch(r"pcipassthru[0-9]+\.present", key) and true(key):
            found.append(PASSTHROUGH)
        elif re.fullmatch(r"nvme[0-9]+:[0-9]+\.filename", key):
            found.append(NVME)
        elif re.fullmatch(r"usb\.autoconnect\.device[0-9]+", key) and value:
            found.append(USB)
    if true("vtpm.present"):
        found.append(TPM)
    return list(dict.fromkeys(found))


def flags_of_domain(data: bytes, name: str) -> list[str]:
    """The same of a libvirt domain XML; nothing of one that can't be parsed, which the look at the guest tells."""
    try:
        domain = parse_xml(data, name)
    except H2kError:
        return []
    found = []
    for path, flag in (
        ("devices/disk/shareable", SHARED), ("devices/hostdev[@type='pci']", PASSTHROUGH), ("devices/hostdev[@type='usb']", USB),
        ("devices/hostdev[@type='scsi']", RAW), ("devices/disk[@device='lun']", RAW), ("devices/tpm", TPM),
        ("devices/disk/target[@bus='nvme']", NVME), ("devices/disk[@snapshot='external']", SNAPSHOT),
    ):  # fmt: skip
        if domain.find(path) is not None:
            found.append(flag)
    return list(dict.fromkeys(found))


def roles_of(guest: Guest) -> list[str]:
    """The roles worth knowing before the move, by the services of the control set that boots."""
    return list(dict.fromkeys(_roles(guest)))


def _roles(guest: Guest) -> Iterator[str]:
    services = f"{control_set_name(guest.control_sets.default)}\\Services"
    for service, role in _ROLES:
        if guest.system.dword(f"{services}\\{service}", "Start", _DISABLED) != _DISABLED:
            yield role
    key = guest.system.key(services)
    for sub in key.subkeys() if key is not None else ():
        if sub.name.upper().startswith("MSSQL$"):
            yield "SQL Server"
