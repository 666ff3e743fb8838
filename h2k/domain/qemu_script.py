"""-o qemu: virt-v2v's NAME.sh read as the facts of a guest, and a run script for each phase, made of its domain XML."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from lxml import etree

from h2k.base.errors import BadData
from h2k.base.files import PROGRAM, Write, write_bytes
from h2k.base.xml import parse_xml
from h2k.domain.facts import MAX_DISKS, MAX_NICS, DiskFacts, DomainFacts, NicFacts, Topology, disk_name, is_mac
from h2k.domain.guest_files import GuestFiles, images_of, read_description
from h2k.domain.values import MEMORY_LIMIT, VCPU_LIMIT

SCRIPT_LIMIT = 256 * 1024  # bytes; virt-v2v's have less than 2 KiB
PHASES = ("bootstrap", "final")
_EMULATORS = ("qemu-system-", "qemu-kvm")
_UEFI = b"\nuefi_dir="  # of virt-v2v 2.8 and later: the script finds the firmware when it runs, and no -drive names it
_DRIVER = "driver"  # the key that -device lets be left out
_NICS = {"virtio": "virtio-net-pci"}
_SOUND = {"ich9": "ich9-intel-hda", "ich6": "intel-hda"}
# libvirt's names for Hyper-V enlightenments, as QEMU's CPU properties.
_HYPERV = {"spinlocks": "hv-spinlocks=0x1fff"}


# Reading virt-v2v's


def read_target(script: bytes, name: str, base: Path, state: Path) -> GuestFiles:
    """The guest that virt-v2v's run script starts; it is read and never run. BadData when it is no such script."""
    facts = _facts(_command(script, name), name)
    if _UEFI in script:
        facts = dataclasses.replace(facts, firmware="uefi")
    images = []
    for path, form in images_of(facts, Path.cwd()):
        beside = base / path.name  # a directory that was moved
        images.append((path if path.exists() or not beside.exists() else beside, form))
    return GuestFiles(tuple(images), state, facts)


def _command(script: bytes, name: str) -> list[str]:
    """The arguments of QEMU."""
    if len(script) > SCRIPT_LIMIT:
        raise BadData(f"{name}: larger than {SCRIPT_LIMIT} bytes; no run script of virt-v2v")
    try:
        words = shlex.split(script.decode("utf-8"), comments=True)
    except (UnicodeDecodeError, ValueError) as e:
        raise BadData(f"{name}: no run script of virt-v2v: {e}") from e
    for at, word in enumerate(words):
        if Path(word).name.startswith(_EMULATORS):
            return words[at + 1 :]
    raise BadData(f"{name}: runs no QEMU", hint="give the NAME.sh that virt-v2v -o qemu wrote")


def _facts(words: Sequence[str], name: str) -> DomainFacts:
    given = [(option, value) for option, value in zip(words, words[1:]) if option.startswith("-") and len(option) > 1]
    values = dict(reversed(given))
    drives = [_properties(value) for option, value in given if option == "-drive"]
    devices = [_properties(value, first=_DRIVER) for option, value in given if option == "-device"]
    # The floppy is a drive with media=disk too, without a file (virt-v2v's output_qemu.ml).
    disks = [(d, bus) for d in drives if d.get("media") == "disk" and (bus := _bus(d, devices)) is not None]
    nics = [device for device in devices if "netdev" in device]
    if len(disks) > MAX_DISKS or len(nics) > MAX_NICS:
        raise BadData(f"{name}: more than {MAX_DISKS} disks or {MAX_NICS} network cards")
    smp = _properties(values.get("-smp", "1"), first="cpus")
    vcpus = _number(smp.get("cpus", "1"), name, VCPU_LIMIT)
    spread = [_number(smp.get(key, "1"), name, VCPU_LIMIT) for key in ("sockets", "cores", "threads")]
    return DomainFacts(
        name=_properties(values.get("-name", ""), first="guest").get("guest") or Path(name).stem,
        memory=_number(values.get("-m", "2048"), name, MEMORY_LIMIT >> 20) << 20,
        vcpus=vcpus,
        topology=Topology(*spread) if spread[0] * spread[1] * spread[2] == vcpus > 1 else None,
        firmware="uefi" if any(drive.get("if") == "pflash" for drive in drives) else "bios",
        secure_boot=False,
        disks=tuple(
            DiskFacts(Path(disk["file"]) if disk.get("file") else None, disk.get("format"), bus, disk_name("vd", index))
            for index, (disk, bus) in enumerate(disks)
        ),
        nics=tuple(NicFacts(nic["mac"] if is_mac(nic.get("mac", "").lower()) else None) for nic in nics),
    )


def _bus(drive: dict[str, str], devices: Sequence[dict[str, str]]) -> Optional[str]:
    """The bus of a drive, by the device that it is in: "virtio", "virtio-scsi", "scsi", "ide", "" for another one. None for
    what is no hard disk: in the floppy's device, or in none and without a file."""
    device = next((d for d in devices if drive.get("id") is not None and d.get("drive") == drive["id"]), None)
    if device is None:
        return "virtio" if drive.get("file") else None
    kind = device.get(_DRIVER, "")
    if kind == "floppy":
        return None
    if kind == "scsi-hd":
        place = device.get("bus", "").partition(".")[0]
        controllers = [d.get(_DRIVER, "") for d in devices if d.get("id") == place]
        return "virtio-scsi" if controllers and controllers[0].startswith("virtio-scsi-") else "scsi"
    return "virtio" if kind.startswith("virtio-blk-") else "ide" if kind == "ide-hd" else ""


def _properties(text: str, first: str = "") -> dict[str, str]:
    """QEMU's key=value,… with doubled commas; `first` is the key that may be left out."""
    found: dict[str, str] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        found[key if equals else first or key] = value if equals else key if first else "on"
    return found


def _number(text: str, name: str, limit: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:15]) <= limit:
        raise BadData(f"{name}: {text[:40]!r} is not a number from 1 to {limit}")
    return int(text)


# Writing ours


def write_scripts(state: Path, write: Write = write_bytes) -> dict[str, str]:
    """Write bootstrap.sh and final.sh into the report directory, from the domains there; their paths by what they are."""
    written = {}
    for phase in PHASES:
        source = state / f"{phase}.xml"
        path = state / f"{phase}.sh"
        write(path, script(read_description(source), phase).encode(), PROGRAM)
        written[f"{phase}-script"] = str(path)
    return written


def script(xml: bytes, phase: str) -> str:
    """A shell script that starts the domain in QEMU, without libvirt: the same devices in the same places.

    It works in its own directory: the firmware variables are kept there from one phase to the next, COM1 goes into a
    file, and a bootstrap's network reaches nothing. Arguments of the script are added to QEMU's.
    """
    domain = parse_xml(xml, f"{phase}.xml")
    lines = ["#!/bin/sh -", f"# The {phase} phase of {_comment(domain.findtext('name'))}, in QEMU.", "set -e", 'cd "$(dirname "$0")"']
    template = domain.find("os/nvram")
    if template is not None:
        lines += ["# The firmware variables, one file for both phases.", f"[ -e nvram.fd ] || cp {shlex.quote(template.get('template', ''))} nvram.fd"]
    if domain.find("devices/tpm") is not None:
        lines.append("# The guest had a TPM: start swtpm, and add -chardev, -tpmdev and -device tpm-crb as its manual says.")
    options = [" ".join(shlex.quote(word) for word in option) for option in _options(domain, phase)]
    lines += ["", " \\\n    ".join(["exec qemu-system-x86_64", *options, '"$@"']), ""]
    return "\n".join(lines)


def _comment(text: Optional[str]) -> str:
    return (text or "").replace("\n", " ")


def _options(domain: etree._Element, phase: str) -> Iterator[tuple[str, ...]]:
    """QEMU's options, in the order of the document."""
    q35 = domain.find("os/type").get("machine") == "q35"
    kvm = domain.get("type") == "kvm"
    devices = domain.find("devices")
    yield ("-no-user-config",)
    yield ("-nodefaults",)
    yield "-name", "guest=" + _quoted(domain.findtext("name"))
    yield "-uuid", domain.findtext("uuid")
    smm = domain.find("features/smm") is not None
    yield "-machine", ("q35" if q35 else "pc") + f",vmport=off,hpet=off,smm={'on' if smm else 'off'}"
    yield "-accel", "kvm" if kvm else "tcg"
    yield "-cpu", _cpu(domain, kvm)
    yield "-m", str(int(domain.findtext("memory")) // 1024)
    topology = domain.find("cpu/topology")
    yield "-smp", f"cpus={domain.findtext('vcpu')}," + ",".join(f"{k}={topology.get(k)}" for k in ("sockets", "cores", "threads"))
    yield from _firmware(domain)
    if domain.find("iothreads") is not None:
        yield "-object", "iothread,id=iothread1"
    yield "-rtc", f"base={domain.find('clock').get('offset')},driftfix=slew"
    power = "ICH9-LPC" if q35 else "PIIX4_PM"
    yield "-global", f"{power}.disable_s3=1"
    yield "-global", f"{power}.disable_s4=1"
    for controller in devices.findall("controller"):
        yield from _controller(controller, q35)
    for number, disk in enumerate(devices.findall("disk")):
        yield from _disk(disk, number, q35)
    for number, interface in enumerate(devices.findall("interface")):
        alone = ",restrict=on" if phase == "bootstrap" else ""
        model = interface.find("model").get("type")
        yield "-netdev", f"user,id=net{number}{alone}"
        yield "-device", f"{_NICS.get(model, model)},netdev=net{number},mac={interface.find('mac').get('address')}{_place(interface)}"
    yield "-chardev", f"file,id=com1,append=on,path={phase}-com1.log"
    yield "-device", "isa-serial,chardev=com1"
    for channel in devices.findall("channel/target"):
        yield "-chardev", "socket,id=agent,server=on,wait=off,path=agent.sock"
        yield "-device", f"virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,name={channel.get('name')}"
    yield "-device", "usb-tablet,bus=usb.0"
    yield "-device", f"VGA,vgamem_mb=16{_place(devices.find('video'))}"
    for sound in devices.findall("sound"):
        yield "-device", f"{_SOUND[sound.get('model')]},id=sound0{_place(sound)}"
        yield "-device", "hda-duplex,bus=sound0.0"
    if devices.find("memballoon[@model='virtio']") is not None:
        yield "-device", f"virtio-balloon-pci{_place(devices.find('memballoon'))}"
    for rng in devices.findall("rng"):
        yield "-object", f"rng-random,id=rng0,filename={rng.findtext('backend')}"
        yield "-device", f"virtio-rng-pci,rng=rng0{_place(rng)}"
    if devices.find("panic[@model='isa']") is not None:
        yield "-device", "pvpanic,ioport=0x505"


def _quoted(text: Optional[str]) -> str:
    return (text or "").replace(",", ",,")


def _cpu(domain: etree._Element, kvm: bool) -> str:
    if not kvm:
        return "max"
    hyperv = domain.find("features/hyperv")
    flags = [_HYPERV.get(str(f.tag), f"hv-{f.tag}") for f in hyperv] if hyperv is not None else []
    if domain.find("clock/timer[@name='hypervclock']") is not None:
        flags.append("hv-time")
    if domain.find("devices/panic[@model='hyperv']") is not None:
        flags.append("hv-crash")
    return ",".join(["host", *flags])


def _firmware(domain: etree._Element) -> Iterator[tuple[str, ...]]:
    loader = domain.find("os/loader")
    if loader is None:
        return
    if loader.get("secure") == "yes":
        yield "-global", "driver=cfi.pflash01,property=secure,value=on"
    yield "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_quoted(loader.text)}"
    yield "-drive", "if=pflash,unit=1,format=raw,file=nvram.fd"


def _place(device: etree._Element) -> str:
    """Its PCI address as QEMU's properties; buses are named as libvirt names them."""
    address = device.find("address[@type='pci']")
    if address is None:
        return ""
    bus, slot, function = (int(address.get(key), 16) for key in ("bus", "slot", "function"))
    root = "pcie.0" if device.getroottree().find("devices/controller[@model='pcie-root']") is not None else "pci.0"
    name = root if bus == 0 else f"pci.{bus}"
    several = ",multifunction=on" if address.get("multifunction") == "on" else ""
    return f",bus={name}{several},addr=0x{slot:x}.0x{function:x}"


def _controller(controller: etree._Element, q35: bool) -> Iterator[tuple[str, ...]]:
    """Those that are not part of the machine itself."""
    kind, index, model = controller.get("type"), controller.get("index"), controller.get("model", "")
    place = _place(controller)
    if kind == "pci" and model == "pcie-root-port":
        target = controller.find("target")
        yield "-device", f"pcie-root-port,id=pci.{index},chassis={target.get('chassis')},port={target.get('port')}{place}"
    elif kind == "sata" and not (q35 and index == "0"):
        yield "-device", f"ich9-ahci,id=sata{index}{place}"
    elif kind == "scsi":
        yield "-device", f"virtio-scsi-pci,id=scsi{index}{_thread(controller)}{place}"
    elif kind == "virtio-serial":
        yield "-device", f"virtio-serial-pci,id=virtio-serial{index}{place}"
    elif kind == "usb":
        master = controller.find("master")
        which = f",masterbus=usb.0,firstport={master.get('startport')}" if master is not None else ",id=usb"
        name = {"piix3-uhci": "piix3-usb-uhci"}.get(model, model.replace("ich9-", "ich9-usb-"))
        yield "-device", f"{name}{which}{place}"


def _thread(device: etree._Element) -> str:
    """The thread of its own that a disk's or a controller's work is done in."""
    driver = device.find("driver")
    return f",iothread=iothread{driver.get('iothread')}" if driver is not None and driver.get("iothread") else ""


def _sectors(disk: etree._Element) -> str:
    sizes = disk.find("blockio")
    return "" if sizes is None else "".join(f",{name}={size}" for name, size in sizes.attrib.items())


def _disk(disk: etree._Element, number: int, q35: bool) -> Iterator[tuple[str, ...]]:
    source, bus = disk.find("source"), disk.find("target").get("bus")
    cdrom = disk.get("device") == "cdrom"
    if source is not None:
        file = _quoted(source.get("file") or source.get("dev"))
        driver = disk.find("driver")
        only = ",readonly=on,media=cdrom" if cdrom else ""
        only += ",discard=unmap" if driver.get("discard") == "unmap" else ""
        only += ",detect-zeroes=unmap" if driver.get("detect_zeroes") == "unmap" else ""
        yield "-drive", f"if=none,id=drive{number},format={driver.get('type')}{only},file={file}"
    boot = ",bootindex=1" if disk.find("boot") is not None else ""
    drive = (f",drive=drive{number}" if source is not None else "") + _sectors(disk)
    if bus == "virtio":
        yield "-device", f"virtio-blk-pci{drive}{_thread(disk)}{_place(disk)}{boot}"
        return
    address = disk.find("address[@type='drive']")
    controller, channel, unit = (address.get(key) for key in ("controller", "bus", "unit"))
    if bus == "scsi":
        yield "-device", f"scsi-hd{drive},bus=scsi{controller}.0,scsi-id={address.get('target')}{boot}"
    elif bus == "ide":
        yield "-device", f"{'ide-cd' if cdrom else 'ide-hd'}{drive},bus=ide.{channel},unit={unit}{boot}"
    else:
        port = f"ide.{unit}" if q35 and controller == "0" else f"sata{controller}.{unit}"
        yield "-device", f"{'ide-cd' if cdrom else 'ide-hd'}{drive},bus={port}{boot}"
