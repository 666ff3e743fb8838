"""Writes one libvirt domain in two phases: bootstrap.xml for the first boot, final.xml for production on VirtIO."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.errors import Refused
from h2k.domain.facts import BUSES, LIBOSINFO, MAX_DISKS, MAX_NICS, SOURCE, DomainFacts, Topology, disk_name
from h2k.domain.firmware import Firmware
from h2k.domain.names import check_name

GUEST = "urn:h2k:guest:1"  # the namespace of what we note of a guest in its domain's metadata

BOOTSTRAP_BUSES = ("sata", "ide")

_SATA_PORTS = 6  # of an ich9-ahci controller

_CDROM_PORT = 5  # the last port of q35's own controller, so that the disks count from 0

_FIRST_PORT_SLOT = 0x02  # pcie.0: 0x00 host bridge, 0x01 video

_FIRST_AHCI_SLOT = 0x10  # pcie.0, above MAX_DISKS + MAX_NICS + 4 + FREE_PORTS root ports, eight a slot

FREE_PORTS = 4  # root ports of q35 that are left for what is plugged in later: without one, QEMU refuses

_USB_SLOT = 0x1D  # pcie.0, where ICH9 has its USB controllers

_FIRST_PC_SLOT = 0x03  # pci.0: 0x00 host bridge, 0x01 PIIX3 functions, 0x02 video

_LAST_PC_SLOT = 0x1F


@dataclasses.dataclass(frozen=True)
class Choices:
    """What was decided for the two domains.

    `boot_disk` counts the domain's disks from 0; `scratch` is the small disk that lets Windows bind the driver of
    `bus`; `firmware` is for UEFI guests alone; `serial` is a file for COM1, None a pty. `version` is Windows' own, 6.1 to 10.0. `rng` and `pvpanic`: their drivers are staged or
    installed. `sectors` has the bytes of a sector for each disk, by its number, that has not 512. `utc_offset` is what
    the guest's local time is ahead of UTC, in seconds, for those who know no local time.
    """

    bus: str = "virtio"
    bootstrap_bus: str = "sata"
    boot_disk: int = 0
    nic_model: str = "virtio"
    final_nic_model: str = "virtio"
    scratch: Optional[Path] = None
    scratch_format: str = "qcow2"
    driver_iso: Optional[Path] = None
    firmware: Optional[Firmware] = None
    utc: bool = False
    serial: Optional[Path] = None
    version: tuple[int, int] = (6, 1)
    rng: bool = False
    pvpanic: bool = False
    sectors: Mapping[int, int] = dataclasses.field(default_factory=dict)
    utc_offset: Optional[int] = None

    def __post_init__(self) -> None:
        if self.bus not in BUSES or self.bootstrap_bus not in BOOTSTRAP_BUSES:
            raise ValueError(f"bus {self.bus!r} is none of {BUSES}, or {self.bootstrap_bus!r} none of {BOOTSTRAP_BUSES}")

    @property
    def machine(self) -> str:
        """The machine type of both phases, so that virtio devices keep their PCI ids: PIIX IDE is i440fx's."""
        return "pc" if self.bootstrap_bus == "ide" else "q35"

    @property
    def xhci(self) -> bool:
        """Whether Windows has a driver for USB 3 of its own: from 8 and 2012 on."""
        return self.version >= (6, 2)

    def large_sectors(self, index: Optional[int]) -> bool:
        """Whether the disk has sectors that QEMU's SATA and IDE disks can't have: theirs are of 512 bytes."""
        return index is not None and self.sectors.get(index, 512) != 512


def bootstrap_xml(facts: DomainFacts, choices: Choices, links_up: bool = False) -> bytes:
    """The domain of the first boot: disks on a bus that the guest starts from, the VirtIO ISO, the scratch disk on
    `choices.bus`, network links down unless told otherwise. `facts` from complete(). Raises Refused."""
    return _Writer(facts, choices, final=False, links_up=links_up).xml()


def final_xml(facts: DomainFacts, choices: Choices, links_up: bool = True) -> bytes:
    """The domain of production: disks on `choices.bus`, virtio-net, Hyper-V enlightenments, the guest agent's channel,
    and nothing that only the bootstrap needs. `facts` from complete(). Raises Refused."""
    return _Writer(facts, choices, final=True, links_up=links_up).xml()


@dataclasses.dataclass(frozen=True)
class _Pci:
    """A PCI address in domain 0."""

    bus: int
    slot: int
    function: int = 0


def _pci_slots(facts: DomainFacts, choices: Choices) -> dict[str, _Pci]:
    """Where each device of either phase sits: the same device, the same place, so that the guest meets it once.

    On q35 each sits alone behind a pcie-root-port (bus 1 and up), where QEMU's virtio devices show their modern PCI
    ids; on i440fx in a slot of pci.0, where they show the transitional ones.
    """
    devices = [f"nic{index}" for index in range(len(facts.nics))]
    if choices.bus != "sata":
        devices.append("storage")
    devices += ["agent", "balloon"]
    if choices.machine == "pc":
        devices += ["sound"] if facts.sound else []
        devices += [f"ahci{n}" for n in range(-(-len(facts.disks) // _SATA_PORTS))] if choices.bus == "sata" else []
    if choices.bus == "virtio":
        devices += [f"disk{n}" for n in range(len(facts.disks)) if n != choices.boot_disk]
    devices += ["rng"]  # reserved, so that nothing moves when its driver comes
    if choices.machine == "pc" and choices.xhci:
        devices += ["usb"]
    if choices.machine == "q35":
        return {device: _Pci(port, 0) for port, device in enumerate(devices, start=1)}
    if _FIRST_PC_SLOT + len(devices) - 1 > _LAST_PC_SLOT:
        raise Refused(
            f"{facts.name}: {len(devices)} devices do not fit on i440fx's one PCI bus", hint="use --h2k-bus virtio-scsi"
        )
    return {device: _Pci(0, slot) for slot, device in enumerate(devices, start=_FIRST_PC_SLOT)}


class _Writer:
    """Builds one phase's XML, from top to bottom as libvirt prints it."""

    def __init__(self, facts: DomainFacts, choices: Choices, final: bool, links_up: bool) -> None:
        _check(facts, choices)
        self.facts, self.choices, self.final, self.links_up = facts, choices, final, links_up
        self.q35 = choices.machine == "q35"
        self.slots = _pci_slots(facts, choices)
        self.names: dict[str, int] = {}

    def xml(self) -> bytes:
        """The document, UTF-8, indented."""
        # What is delivered is for a host with KVM, whatever the host of the conversion can do.
        domain = etree.Element("domain", {"type": "kvm"})
        self._general(domain)
        self._os(domain)
        self._features(domain)
        self._cpu(domain)
        self._clock(domain)
        _add(domain, "on_poweroff", "destroy")
        _add(domain, "on_reboot", "restart")
        _add(domain, "on_crash", "restart" if self.final else "destroy")
        pm = _add(domain, "pm")
        _add(pm, "suspend-to-mem", enabled="no")
        _add(pm, "suspend-to-disk", enabled="no")
        devices = _add(domain, "devices")
        self._disks(devices)
        self._controllers(devices)
        self._nics(devices)
        self._others(devices)
        etree.indent(domain)
        return bytes(etree.tostring(domain, encoding="utf-8", xml_declaration=False, pretty_print=True))

    def _general(self, domain: etree._Element) -> None:
        facts = self.facts
        _add(domain, "name", facts.name)
        _add(domain, "uuid", facts.uuid)
        offset = None if self.choices.utc else self.choices.utc_offset
        metadata = _add(domain, "metadata")
        if facts.os_id:
            info = etree.SubElement(metadata, f"{{{LIBOSINFO}}}libosinfo", nsmap={"libosinfo": LIBOSINFO})
            etree.SubElement(info, f"{{{LIBOSINFO}}}os", {"id": facts.os_id})
        if offset is not None:
            etree.SubElement(metadata, f"{{{GUEST}}}clock", {"utc-offset": str(offset)}, nsmap={"h2k": GUEST})
        note = {"told": " ".join(facts.sourced or ()), "lacks": " ".join(self._lacking())}
        etree.SubElement(metadata, f"{{{SOURCE}}}source", {k: v for k, v in note.items() if v or k == "told"}, nsmap={"h2ks": SOURCE})
        _add(domain, "memory", str(facts.memory // 1024), unit="KiB")
        _add(domain, "currentMemory", str(facts.memory // 1024), unit="KiB")
        _add(domain, "vcpu", str(facts.vcpus))
        if self.choices.bus != "sata":
            _add(domain, "iothreads", "1")

    def _lacking(self) -> Iterator[str]:
        """The facts that this phase's XML looks to have, and the machine has not: noted, for who reads it back."""
        if not self.facts.cdrom and self._iso is not None:
            yield "cdrom"
        if not self.facts.secure_boot and self._uefi is not None and self._uefi.smm:
            yield "secure_boot"

    @property
    def _iso(self) -> Optional[Path]:
        """The VirtIO ISO in the drive, which only the bootstrap has."""
        return None if self.final else self.choices.driver_iso

    def _os(self, domain: etree._Element) -> None:
        os = _add(domain, "os")
        _add(os, "type", "hvm", arch="x86_64", machine=self.choices.machine)
        firmware = self._uefi
        if firmware is None:
            return
        secure = {"secure": "yes"} if firmware.smm else {}
        _add(os, "loader", str(firmware.loader), readonly="yes", **secure, type="pflash")
        nvram = str(self.facts.nvram) if self.facts.nvram is not None else None
        _add(os, "nvram", nvram, template=str(firmware.template))

    @property
    def _uefi(self) -> Optional[Firmware]:
        return self.choices.firmware if self.facts.firmware == "uefi" else None

    def _features(self, domain: etree._Element) -> None:
        features = _add(domain, "features")
        _add(features, "acpi")
        _add(features, "apic")
        hyperv = _add(features, "hyperv", mode="custom")
        # relaxed at the first boot too: on a busy host Windows else stops with 0x101, CLOCK_WATCHDOG_TIMEOUT.
        for name in ("relaxed",) if not self.final else ("relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic",
                     "stimer", "frequencies", "tlbflush", "ipi"):  # fmt: skip
            _add(hyperv, name, state="on", **({"retries": "8191"} if name == "spinlocks" else {}))
        # VMware Tools that are still installed would take the port for a VMware host.
        _add(features, "vmport", state="off")
        if self._uefi is not None and self._uefi.smm:
            _add(features, "smm", state="on")

    def _cpu(self, domain: etree._Element) -> None:
        facts = self.facts
        cpu = _add(domain, "cpu", mode="host-model", check="partial")
        # libvirt's own default is one socket a CPU, of which Windows clients use two at most.
        topology = facts.topology or Topology(1, facts.vcpus, 1)
        _add(cpu, "topology", sockets=str(topology.sockets), cores=str(topology.cores), threads=str(topology.threads))

    def _clock(self, domain: etree._Element) -> None:
        clock = _add(domain, "clock", offset="utc" if self.choices.utc else "localtime")
        _add(clock, "timer", name="rtc", tickpolicy="catchup")
        _add(clock, "timer", name="pit", tickpolicy="delay")
        _add(clock, "timer", name="hpet", present="no")
        if self.final:
            _add(clock, "timer", name="hypervclock", present="yes")

    def _disks(self, devices: etree._Element) -> None:
        for index, disk in enumerate(self.facts.disks):
            boot = index == self.choices.boot_disk
            bus = self._bus_of(index)
            if bus == "ide" and not boot:
                continue  # four devices on one controller: the data disks wait for the final domain
            element = self._disk(devices, bus, disk.path, disk.format or "raw", index)
            if boot:
                _add(element, "boot", order="1")
        if self._has_scratch:
            self._disk(devices, self.choices.bus, self.choices.scratch, self.choices.scratch_format, None)
        self._cdrom(devices)

    def _bus_of(self, index: int) -> str:
        """The disk's bus in this phase. One that the bootstrap's bus can't show has the final one from the start."""
        if self.final or self.choices.large_sectors(index):
            return self.choices.bus
        return self.choices.bootstrap_bus

    @property
    def _has_scratch(self) -> bool:
        """Whether this phase has the scratch disk: the bootstrap, unless the boot disk itself sits there already."""
        scratch = self.choices.scratch is not None and not self.choices.large_sectors(self.choices.boot_disk)
        return not self.final and scratch

    def _disk(
        self, devices: etree._Element, bus: str, path: Optional[Path], form: str, index: Optional[int]
    ) -> etree._Element:
        """One disk in its place; `index` None is the scratch disk, which takes the place of final's boot disk."""
        block = str(path).startswith("/dev/")
        disk = _add(devices, "disk", type="block" if block else "file", device="disk")
        # What Windows trims is given back to the host; in a raw image zeros that are written are holes too.
        zeroes = {"detect_zeroes": "unmap"} if form == "raw" else {}
        thread = {"iothread": "1"} if bus == "virtio" else {}
        _add(disk, "driver", name="qemu", type=form, discard="unmap", **zeroes, **thread)
        _add(disk, "source", **{"dev" if block else "file": str(path)})
        if index is not None and self.choices.large_sectors(index):
            size = str(self.choices.sectors[index])
            _add(disk, "blockio", logical_block_size=size, physical_block_size=size)
        prefix, name = {"virtio": ("vd", "virtio"), "ide": ("hd", "ide")}.get(bus, ("sd", bus.replace("virtio-", "")))
        _add(disk, "target", dev=self._name(prefix), bus=name)
        if bus == "virtio":
            device = "storage" if index in (None, self.choices.boot_disk) else f"disk{index}"
            _address(disk, self.slots[device])
        elif bus == "virtio-scsi":
            target = len(self.facts.disks) if index is None else index
            _add(disk, "address", type="drive", controller="0", bus="0", target=str(target), unit="0")
        elif bus == "sata":
            controller, unit = self._sata_port(len(self.facts.disks) if index is None else index)
            _add(disk, "address", type="drive", controller=str(controller), bus="0", target="0", unit=str(unit))
        else:
            _add(disk, "address", type="drive", controller="0", bus="0", target="0", unit="0")
        return disk

    def _sata_port(self, index: int) -> tuple[int, int]:
        """(controller, port) of a disk: q35's own controller leaves its last port to the CD-ROM."""
        if not self.q35:
            return divmod(index, _SATA_PORTS)
        if index < _CDROM_PORT:
            return 0, index
        controller, port = divmod(index - _CDROM_PORT, _SATA_PORTS)
        return controller + 1, port

    def _cdrom(self, devices: etree._Element) -> None:
        """The drive with the VirtIO ISO, or the empty one that the source had, in one place in both phases."""
        iso = self._iso
        if iso is None and not self.facts.cdrom:
            return
        cdrom = _add(devices, "disk", type="file", device="cdrom")
        _add(cdrom, "driver", name="qemu", type="raw")
        if iso is not None:
            _add(cdrom, "source", file=str(iso))
        bus, unit = ("0", str(_CDROM_PORT)) if self.q35 else ("1", "0")
        _add(cdrom, "target", dev=self._name("sd") if self.q35 else "hdc", bus="sata" if self.q35 else "ide")
        _add(cdrom, "readonly")
        _add(cdrom, "address", type="drive", controller="0", bus=bus, target="0", unit=unit)

    def _name(self, prefix: str) -> str:
        """The next free target name: sda … sdz, sdaa …."""
        number = self.names.get(prefix, 0)
        self.names[prefix] = number + 1
        return disk_name(prefix, number)

    def _controllers(self, devices: etree._Element) -> None:
        if self.q35:
            self._q35_controllers(devices)
        else:
            self._pc_controllers(devices)
        used = self.final or self.choices.scratch is not None or any(map(self.choices.large_sectors, range(len(self.facts.disks))))
        if self.choices.bus == "virtio-scsi" and used:
            controller = _add(devices, "controller", type="scsi", index="0", model="virtio-scsi")
            _add(controller, "driver", iothread="1")
            _address(controller, self.slots["storage"])
        if self.final:
            _address(_add(devices, "controller", type="virtio-serial", index="0"), self.slots["agent"])

    def _q35_controllers(self, devices: etree._Element) -> None:
        """The same root ports in both phases, occupied or not: they are PCI devices that the guest sees, too."""
        _add(devices, "controller", type="pci", index="0", model="pcie-root")
        for port in range(1, len(self.slots) + FREE_PORTS + 1):
            slot, function = divmod(port - 1, 8)
            controller = _add(devices, "controller", type="pci", index=str(port), model="pcie-root-port")
            _add(controller, "model", name="pcie-root-port")
            _add(controller, "target", chassis=str(port), port=hex(0x10 + port - 1))
            _address(controller, _Pci(0, _FIRST_PORT_SLOT + slot, function), multifunction=function == 0)
        _address(_add(devices, "controller", type="sata", index="0"), _Pci(0, 0x1F, 2))
        if (self.choices.bus if self.final else self.choices.bootstrap_bus) == "sata" and self.facts.disks:
            for extra in range(self._sata_port(len(self.facts.disks) - 1)[0]):
                controller = _add(devices, "controller", type="sata", index=str(extra + 1))
                _address(controller, _Pci(0, _FIRST_AHCI_SLOT + extra))
        if self.choices.xhci:
            _address(_add(devices, "controller", type="usb", index="0", model="qemu-xhci"), _Pci(0, _USB_SLOT))
            return
        for function, model in ((7, "ich9-ehci1"), (0, "ich9-uhci1"), (1, "ich9-uhci2"), (2, "ich9-uhci3")):
            usb = _add(devices, "controller", type="usb", index="0", model=model)
            if function != 7:
                _add(usb, "master", startport=str(2 * function))
            _address(usb, _Pci(0, _USB_SLOT, function), multifunction=function == 0)

    def _pc_controllers(self, devices: etree._Element) -> None:
        _add(devices, "controller", type="pci", index="0", model="pci-root")
        _address(_add(devices, "controller", type="ide", index="0"), _Pci(0, 1, 1))
        model, place = ("qemu-xhci", self.slots["usb"]) if self.choices.xhci else ("piix3-uhci", _Pci(0, 1, 2))
        _address(_add(devices, "controller", type="usb", index="0", model=model), place)
        for name, address in self.slots.items():
            if name.startswith("ahci"):  # in the bootstrap too, so that Windows binds its driver there
                _address(_add(devices, "controller", type="sata", index=name[len("ahci") :]), address)

    def _nics(self, devices: etree._Element) -> None:
        model = self.choices.final_nic_model if self.final else self.choices.nic_model
        for index, nic in enumerate(self.facts.nics):
            interface = _add(devices, "interface", type=nic.kind)
            _add(interface, "mac", address=nic.mac)
            if nic.kind == "direct":
                _add(interface, "source", dev=nic.source, mode="bridge")
            elif nic.source is not None:
                _add(interface, "source", **{nic.kind: nic.source})
            _add(interface, "model", type=model)
            if not self.links_up:
                _add(interface, "link", state="down")
            _address(interface, self.slots[f"nic{index}"])

    def _others(self, devices: etree._Element) -> None:
        facts = self.facts
        path = self.choices.serial
        serial = _add(devices, "serial", type="pty" if path is None else "file")
        if path is not None:
            _add(serial, "source", path=str(path))
        _add(serial, "target", type="isa-serial", port="0")
        if self.final:
            channel = _add(devices, "channel", type="unix")
            _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
            _add(channel, "address", type="virtio-serial", controller="0", bus="0", port="1")
        _add(_add(devices, "input", type="tablet", bus="usb"), "address", type="usb", bus="0", port="1")
        _add(devices, "input", type="mouse", bus="ps2")
        _add(devices, "input", type="keyboard", bus="ps2")
        if facts.tpm is not None:
            tpm = _add(devices, "tpm", model=facts.tpm)
            _add(tpm, "backend", type="emulator", version="2.0")
        graphics = "spice" if facts.graphics == "spice" else "vnc"
        _add(devices, "graphics", type=graphics, port="-1", autoport="yes", listen="127.0.0.1")
        if facts.sound:
            sound = _add(devices, "sound", model="ich9" if self.q35 else "ich6")
            _address(sound, _Pci(0, 0x1B) if self.q35 else self.slots["sound"])
        video = _add(devices, "video")
        _add(video, "model", type="vga", vram="16384", heads="1", primary="yes")
        _address(video, _Pci(0, 1 if self.q35 else 2))
        if self.final:
            _address(_add(devices, "memballoon", model="virtio"), self.slots["balloon"])
        else:
            _add(devices, "memballoon", model="none")  # left out, libvirt would add one
        if self.final and self.choices.rng:
            rng = _add(devices, "rng", model="virtio")
            _add(rng, "backend", "/dev/urandom", model="random")
            _address(rng, self.slots["rng"])
        if self.choices.pvpanic:
            # Not Hyper-V's, which would keep Windows from writing its MEMORY.DMP.
            _add(_add(devices, "panic", model="isa"), "address", type="isa", iobase="0x505")


def _check(facts: DomainFacts, choices: Choices) -> None:
    """Refused for a domain that can't be written, ValueError for facts that complete() has not seen."""
    if facts.uuid is None or any(nic.mac is None for nic in facts.nics):
        raise ValueError("facts without UUID or MAC: call complete() first")
    if facts.firmware == "uefi" and choices.firmware is None:
        raise ValueError("a UEFI guest needs choose_firmware()")
    if not 0 <= choices.boot_disk < len(facts.disks):
        raise Refused(f"{facts.name}: boot disk {choices.boot_disk} of {len(facts.disks)} disks")
    if len(facts.disks) > MAX_DISKS or len(facts.nics) > MAX_NICS:
        raise Refused(f"{facts.name}: more than {MAX_DISKS} disks or {MAX_NICS} network cards")
    check_name(facts)
    if choices.bus == "sata" and any(map(choices.large_sectors, range(len(facts.disks)))):
        raise Refused(
            f"{facts.name}: a disk with sectors of 4096 bytes, and QEMU's SATA disks have 512 alone (sector-size-mismatch)",
            hint="use --h2k-bus virtio or virtio-scsi",
        )
    for disk in facts.disks:
        if disk.path is None:
            raise Refused(f"{facts.name}: disk {disk.target} is no file or block device", hint="copy it to a file")
    secure = facts.secure_boot or (choices.firmware is not None and choices.firmware.smm)
    if choices.machine == "pc" and facts.firmware == "uefi" and secure:
        raise Refused(
            f"{facts.name}: Secure Boot needs q35, and the guest can only start from IDE on i440fx",
            hint="make its SATA driver boot-start, or turn Secure Boot off",
        )


def _add(parent: etree._Element, tag: str, text: Optional[str] = None, **attributes: Optional[str]) -> etree._Element:
    given = {name: value for name, value in attributes.items() if value is not None}
    try:
        element = etree.SubElement(parent, tag, given)
        element.text = text
    except ValueError as e:  # control characters, or a path that is not UTF-8
        raise Refused(f"<{tag}>: {text or list(given.values())!r} can't be written as XML", hint="rename it") from e
    return element


def _address(parent: etree._Element, where: _Pci, multifunction: bool = False) -> None:
    _add(
        parent, "address", type="pci", domain="0x0000", bus=f"0x{where.bus:02x}", slot=f"0x{where.slot:02x}",
        function=hex(where.function), multifunction="on" if multifunction else None,
    )  # fmt: skip
