"""-o kubevirt: virt-v2v's NAME.yaml read as the facts of a guest, and a virtual machine for each phase, made of its domain."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import yaml
from lxml import etree

from h2k.base.errors import BadData, Refused, UsageError
from h2k.base.files import SHARED, Write, write_bytes
from h2k.base.xml import parse_xml
from h2k.domain.facts import MAX_DISKS, MAX_NICS, DiskFacts, DomainFacts, NicFacts, Topology, disk_name, is_mac
from h2k.domain.guest_files import GuestFiles, images_of, read_description
from h2k.domain.libvirt_writer import GUEST
from h2k.domain.names import kubernetes_name
from h2k.domain.values import MEMORY_LIMIT, VCPU_LIMIT

log = logging.getLogger("h2k.files")

YAML_LIMIT = 256 * 1024  # bytes; virt-v2v's have about 2 KiB
PHASES = ("bootstrap", "final")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"([0-9]{1,15})([kMG]|[KMGT]i)?")
# KubeVirt's names for the enlightenments of the final domain: https://kubevirt.io/user-guide/compute/windows_virtio_drivers/
_HYPERV = {
    **{name: {} for name in ("relaxed", "vapic", "vpindex", "runtime", "synic", "frequencies", "tlbflush", "ipi")},
    "spinlocks": {"spinlocks": 8191},
    "synictimer": {"direct": {}},
}  # fmt: skip
_BUSES = {"virtio": "virtio", "sata": "sata", "scsi": "scsi"}
_READ_BUSES = {"scsi": "virtio-scsi"}  # the one SCSI controller that KubeVirt has
_STOP_SECONDS = 3600  # a Windows that installs updates while it shuts down is not to be killed


# Reading virt-v2v's


def read_target(document: bytes, name: str, base: Path, state: Path, disks: Sequence[Path] = ()) -> GuestFiles:
    """The guest of virt-v2v's YAML; formats are not in it. BadData when it is no virtual machine of KubeVirt.

    virt-v2v writes the disks of a guest on virtio-scsi or IDE and leaves them out of the YAML ("XXX ide, scsi, floppy" in
    its create_kubevirt_yaml.ml, 2.2 to 2.12): a YAML without disks is that of NAME-sda, NAME-sdb and so on beside it,
    or of `disks` where virt-v2v was told their places (-oo disk=FILE). UsageError when there are none.
    """
    facts = _facts(_load(document, name), name)
    if facts.disks:
        return GuestFiles(images_of(facts, base), state, facts)
    stem = Path(name).stem
    paths = tuple(disks) or disks_beside(base / stem)
    if not paths:
        raise UsageError(
            f"{name}: names no disk, as virt-v2v leaves those out that are not on virtio-blk, and {stem}-sda is not beside it",
            hint="give the disk images in their order: h2k fix DISK…, with --bus virtio-scsi where they are to be on that",
        )
    log.warning("%s names no disk; taken for its disks: %s", name, ", ".join(map(str, paths)))
    found = dataclasses.replace(facts, disks=tuple(DiskFacts(p, None, "", disk_name("vd", n)) for n, p in enumerate(paths)))
    return GuestFiles(images_of(found, base), state, found, beside=not disks)


def disks_beside(stem: Path) -> tuple[Path, ...]:
    """The disks that virt-v2v calls by the guest's name: STEM-sda, STEM-sdb and so on, up to the first that is not there."""
    names = (stem.with_name(f"{stem.name}-{disk_name('sd', number)}") for number in range(MAX_DISKS))
    return tuple(itertools.takewhile(Path.exists, names))


def _load(document: bytes, name: str) -> dict[str, Any]:
    if len(document) > YAML_LIMIT:
        raise BadData(f"{name}: larger than {YAML_LIMIT} bytes; no virtual machine of virt-v2v's")
    try:
        content = yaml.safe_load(document)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise BadData(f"{name}: no YAML: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(content, dict) or content.get("kind") not in ("VirtualMachine", "VirtualMachineInstance"):
        raise BadData(f"{name}: no VirtualMachine of KubeVirt", hint="give the NAME.yaml that virt-v2v -o kubevirt wrote")
    return content


def _facts(machine: dict[str, Any], name: str) -> DomainFacts:
    """What virt-v2v 2.2 writes is an instance, which tells neither firmware nor network cards, and has its processors among
    the resources; what 2.6 writes is a machine."""
    instance = machine.get("kind") == "VirtualMachineInstance"
    template = _at(machine, "spec") if instance else _at(machine, "spec", "template", "spec")
    domain = _at(template, "domain")
    cpu, efi = _at(domain, "cpu") or _at(domain, "resources", "cpu"), _at(domain, "firmware", "bootloader")
    counts = [_number(cpu.get(key, 1), name, VCPU_LIMIT) for key in ("sockets", "cores")]
    counts.append(_number(cpu.get("threads", cpu.get("thread", 1)), name, VCPU_LIMIT))  # virt-v2v's own spelling
    vcpus = counts[0] * counts[1] * counts[2]
    memory = _at(domain, "resources", "requests").get("memory") or _at(domain, "memory").get("guest") or "2048Mi"
    label = _at(machine, "metadata", "labels").get("libguestfs.org/osinfo")
    return DomainFacts(
        name=str(_at(machine, "metadata").get("name") or Path(name).stem),
        memory=_bytes(memory, name),
        vcpus=vcpus if vcpus <= VCPU_LIMIT else counts[1],
        topology=Topology(*counts) if 1 < vcpus <= VCPU_LIMIT else None,
        firmware="uefi" if "efi" in efi else "" if instance else "bios",
        secure_boot=_at(efi, "efi").get("secureBoot") is True,
        tpm="tpm-crb" if "tpm" in _at(domain, "devices") else None,
        disks=_disks(template, name),
        nics=_nics(template, name),
        os_id=_os_id(label) if isinstance(label, str) else None,
    )


def _os_id(label: str) -> str:
    """libosinfo's short id, which is all that a label can hold, as the address that a libvirt XML has."""
    return f"http://microsoft.com/win/{label[3:]}" if label.startswith("win") else f"http://libosinfo.org/{label}"


def _at(content: Any, *keys: str) -> dict[str, Any]:
    """The mapping at that place, an empty one where there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def _list(content: dict[str, Any], key: str, name: str, limit: int) -> Sequence[dict[str, Any]]:
    found = content.get(key)
    items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    if len(items) > limit:
        raise BadData(f"{name}: more than {limit} {key}")
    return items


def _disks(template: dict[str, Any], name: str) -> tuple[DiskFacts, ...]:
    paths = {str(v.get("name")): _at(v, "hostDisk").get("path") for v in _list(template, "volumes", name, 2 * MAX_DISKS)}
    disks = [d for d in _list(_at(template, "domain", "devices"), "disks", name, MAX_DISKS) if "cdrom" not in d]
    found = []
    for index, disk in enumerate(disks):
        path, bus = paths.get(str(disk.get("name"))), _at(disk, "disk").get("bus")
        where = Path(path) if isinstance(path, str) and path else None
        bus = bus if isinstance(bus, str) else "virtio"
        found.append(DiskFacts(where, None, _READ_BUSES.get(bus, bus), disk_name("vd", index)))
    return tuple(found)


def _nics(template: dict[str, Any], name: str) -> tuple[NicFacts, ...]:
    networks = {str(n.get("name")): n for n in _list(template, "networks", name, MAX_NICS)}
    found = []
    for nic in _list(_at(template, "domain", "devices"), "interfaces", name, MAX_NICS):
        network = networks.get(str(nic.get("name")), {})
        source = network.get("networkName") or _at(network, "multus").get("networkName") or "default"
        mac = str(nic.get("macAddress", "")).lower()
        kind = "bridge" if "bridge" in nic else "network"
        found.append(NicFacts(mac if is_mac(mac) else None, kind=kind, source=str(source)))
    return tuple(found)


def _number(value: Any, name: str, limit: int) -> int:
    if not isinstance(value, int) or not 1 <= value <= limit:
        raise BadData(f"{name}: {str(value)[:40]!r} is not a number from 1 to {limit}")
    return value


def _bytes(value: Any, name: str) -> int:
    match = _QUANTITY.fullmatch(str(value)[:40])
    size = int(match.group(1)) * _UNITS[match.group(2) or ""] if match is not None else 0
    if not 1 << 20 <= size <= MEMORY_LIMIT:
        raise BadData(f"{name}: {str(value)[:40]!r} is not an amount of memory")
    return size


# Writing ours


def write_machines(state: Path, write: Write = write_bytes) -> dict[str, str]:
    """Write bootstrap.yaml and final.yaml into the report directory, from the domains there; their paths by what they are."""
    machines = {phase: machine(read_description(state / f"{phase}.xml"), phase) for phase in PHASES}
    written = {}
    for phase, content in machines.items():
        path = state / f"{phase}.yaml"
        note = f"# The {phase} phase. kubectl apply -f {phase}.yaml, then virtctl start.\n"
        write(path, (note + yaml.safe_dump(content, sort_keys=False, default_flow_style=False)).encode(), SHARED)
        written[f"{phase}-machine"] = str(path)
    return written


def machine(xml: bytes, phase: str) -> dict[str, Any]:
    """The VirtualMachine of a phase, halted: one name and one UUID in both, so that the second takes the first's place.

    Refused when the guest can only start from IDE, which KubeVirt has not.
    """
    domain = parse_xml(xml, f"{phase}.xml")
    given = domain.findtext("name")
    name = kubernetes_name(given)
    disks, volumes = _volumes(domain, name)
    interfaces, networks = _interfaces(domain)
    devices: dict[str, Any] = {"disks": disks, "interfaces": interfaces}
    devices["inputs"] = [{"name": "tablet", "type": "tablet", "bus": "usb"}]
    if domain.find("devices/tpm") is not None:
        devices["tpm"] = {"persistent": True}
    if domain.find("devices/rng") is not None:
        devices["rng"] = {}
    loader = domain.find("os/loader")
    secure = loader is not None and loader.get("secure") == "yes"
    topology = domain.find("cpu/topology")
    spec: dict[str, Any] = {
        "domain": {
            "machine": {"type": "q35"},
            "firmware": {
                "uuid": domain.findtext("uuid"),
                "bootloader": {"bios": {}} if loader is None else {"efi": {"secureBoot": secure, "persistent": True}},
            },
            "cpu": {key: int(topology.get(key)) for key in ("sockets", "cores", "threads")},
            "memory": {"guest": f"{int(domain.findtext('memory')) // 1024}Mi"},
            "clock": _clock(domain, phase),
            "features": _features(phase, secure),
            "devices": devices,
        },
        "networks": networks,
        "volumes": volumes,
        "terminationGracePeriodSeconds": _STOP_SECONDS,
    }
    if domain.find("iothreads") is not None:
        spec["domain"]["ioThreadsPolicy"] = "shared"
    template = {"metadata": {"labels": {"kubevirt.io/domain": name, "h2k/phase": phase}}, "spec": spec}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": {"h2k/phase": phase}, "annotations": {"h2k/name": given}},
        "spec": {"runStrategy": "Halted", "template": template},
    }


def _volumes(domain: etree._Element, name: str) -> tuple[list[Any], list[Any]]:
    """Disks and volumes. The scratch disk of the bootstrap is an emptyDisk; a CD-ROM is not taken along, for what the
    first boot installs is on the disk already."""
    disks: list[Any] = []
    volumes: list[Any] = []
    for disk in domain.findall("devices/disk[@device='disk']"):
        bus, source = disk.find("target").get("bus"), disk.find("source")
        if bus not in _BUSES:
            raise Refused(
                f"{name}: the guest can only start from {bus.upper()}, which KubeVirt has not",
                hint="make its SATA driver boot-start: see bootstrap-controller-not-boot-start",
            )
        path = source.get("file") or source.get("dev")
        scratch = Path(path).name == "scratch.qcow2"
        volume = "scratch" if scratch else f"disk-{len(disks)}"
        entry: dict[str, Any] = {"name": volume, "disk": {"bus": _BUSES[bus]}}
        if disk.find("boot") is not None:
            entry["bootOrder"] = 1
        sizes = disk.find("blockio")
        if sizes is not None:
            sector = int(sizes.get("logical_block_size"))
            entry["blockSize"] = {"custom": {"logical": sector, "physical": sector}}
        disks.append(entry)
        where: dict[str, Any] = {"hostDisk": {"path": path, "type": "Disk"}}
        volumes.append({"name": volume, **({"emptyDisk": {"capacity": "64Mi"}} if scratch else where)})
    return disks, volumes


def _interfaces(domain: etree._Element) -> tuple[list[Any], list[Any]]:
    """The first card of a plain network is the pod's; all others are networks that Multus knows by their names."""
    interfaces: list[Any] = []
    networks: list[Any] = []
    for index, nic in enumerate(domain.findall("devices/interface")):
        source = nic.find("source")
        where: Optional[str] = (source.get("network") or source.get("bridge") or source.get("dev")) if source is not None else None
        pod = index == 0 and nic.get("type") in ("network", "user")
        entry: dict[str, Any] = {"name": f"net-{index}", "masquerade" if pod else "bridge": {}}
        entry["model"] = nic.find("model").get("type")
        entry["macAddress"] = nic.find("mac").get("address")
        interfaces.append(entry)
        named: dict[str, Any] = {"multus": {"networkName": where or "default"}}
        networks.append({"name": f"net-{index}", **({"pod": {}} if pod else named)})
    return interfaces, networks


def _clock(domain: etree._Element, phase: str) -> dict[str, Any]:
    """KubeVirt has no local time: Windows' offset from UTC, from which the clock goes on as the guest sets it."""
    timers: dict[str, Any] = {"hpet": {"present": False}, "pit": {"tickPolicy": "delay"}, "rtc": {"tickPolicy": "catchup"}}
    if phase == "final":
        timers["hyperv"] = {}
    local = domain.find("clock").get("offset") == "localtime"
    note = domain.find(f"metadata/{{{GUEST}}}clock") if local else None
    return {"utc": {} if note is None else {"offsetSeconds": int(note.get("utc-offset"))}, "timer": timers}


def _features(phase: str, secure: bool) -> dict[str, Any]:
    features: dict[str, Any] = {"acpi": {}, "apic": {}}
    if secure:
        features["smm"] = {"enabled": True}
    features["hyperv"] = _HYPERV if phase == "final" else {"relaxed": {}}
    return features
