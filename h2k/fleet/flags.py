"""What makes a guest special to move: flags of its description (shared disks, snapshots, passthrough), roles of its Windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from lxml import etree

from h2k.base.errors import H2kError
from h2k.base.xml import parse_xml
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name

_KEY = re.compile(r'^\s*([A-Za-z0-9_.:]+)\s*=\s*"?([^"\r\n]*)"?', re.MULTILINE)
_TRUE = ("true", "yes", "on", "1")
_NOT_SHARED = ("", "none", "sharing-none", "nosharing", "sharingnone")  # of a VMX, and of vSphere's own names in an OVF
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
_DISK = "17"  # CIM's resource type of a hard disk
_ANY_USB = ("autoconnectdevices", "true")  # vSphere's setting of a USB controller
_SUBTYPES = (("vmware.vtpm", TPM), ("vmware.pci.passthrough", PASSTHROUGH), ("vmware.scsi.passthrough", PASSTHROUGH))


def flags_of_vmx(text: str) -> list[str]:
    """What a VMX shows that the owner must decide about, before or after the move."""
    keys = {key.lower(): value.strip() for key, value in _KEY.findall(text)}  # the last of a name holds
    return list(dict.fromkeys(_of_keys(keys.items())))


def _of_keys(keys: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The flags of a VMX's keys, in small letters."""
    for key, value in keys:
        part = key.rpartition(".")
        if part[2] == "filename" and _SNAPSHOT.search(value):
            yield SNAPSHOT
        elif part[2] in ("sharedbus", "sharing") and value.lower() not in _NOT_SHARED:
            yield SHARED
        elif part[2] == "devicetype" and "raw" in value.lower() and "cdrom" not in value.lower():
            yield RAW
        elif re.fullmatch(r"pcipassthru[0-9]+\.present", key) and value.lower() in _TRUE:
            yield PASSTHROUGH
        elif key == "vtpm.present" and value.lower() in _TRUE:
            yield TPM
        elif re.fullmatch(r"nvme[0-9]+:[0-9]+\.filename", key):
            yield NVME
        elif (re.fullmatch(r"usb\.autoconnect\.device[0-9]+", key) and value) or (key, value.lower()) == _ANY_USB:
            yield USB


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


def flags_of_ovf(data: bytes, name: str) -> list[str]:
    """The same of an OVF by what VMware and VirtualBox write: items of the hardware with vSphere's subtypes, settings of
    vSphere and of the VMX, VirtualBox's own machine. Nothing of one that can't be parsed."""
    try:
        envelope = parse_xml(data, name)
    except H2kError:
        return []
    return list(dict.fromkeys(_of_envelope(envelope)))


def _of_envelope(envelope: etree._Element) -> Iterator[str]:
    keys: list[tuple[str, str]] = []
    controllers, parents = set(), set()
    for element in envelope.iter(etree.Element):
        kind, facts = _local(element.tag), {_local(key): str(value) for key, value in element.attrib.items()}
        if kind in ("Config", "ExtraConfig"):
            keys.append((facts.get("key", "").lower(), facts.get("value", "")))
        elif kind in ("Item", "StorageItem"):
            values = {_local(child.tag): (child.text or "").strip() for child in element.iterchildren(etree.Element)}
            subtype = values.get("ResourceSubType", "").lower()
            if subtype in ("vmware.nvme.controller", "nvme"):
                controllers.add(values.get("InstanceID"))
            if values.get("ResourceType") == _DISK:
                parents.add(values.get("Parent"))
            yield from (flag for start, flag in _SUBTYPES if subtype.startswith(start))
        elif _of_element(kind, facts, element):
            yield _of_element(kind, facts, element)
    if controllers & parents - {None}:
        yield NVME
    yield from _of_keys(keys)


def _of_element(kind: str, facts: Mapping[str, str], element: etree._Element) -> str:
    """The flag of a disk of the OVF, or of an element of VirtualBox's machine; "" for any other."""
    parent = element.getparent()
    within = _local(parent.tag) if parent is not None else ""
    if (kind == "Disk" and facts.get("parentRef")) or (kind, within) == ("Snapshot", "Machine"):
        return SNAPSHOT
    if kind == "HardDisk" and facts.get("type", "").lower() == "shareable":
        return SHARED
    if kind == "TrustedPlatformModule" and facts.get("type", "").lower() not in ("", "none"):
        return TPM
    if kind == "DeviceFilter" and facts.get("active", "").lower() in _TRUE:
        return USB
    return PASSTHROUGH if kind == "HostPci" and len(element) else ""


def _local(tag: object) -> str:
    """A name without its namespace: writers disagree about those of OVF."""
    return str(tag).rpartition("}")[2]


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
