"""virt-v2v's run script, read and never run, and ours for each phase (golden)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData, UsageError
from h2k.base.xml import parse_xml
from h2k.domain import qemu_script
from h2k.domain.facts import MAX_DISKS, MAX_NICS, NicFacts, Topology, complete
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from h2k.domain.qemu_script import read_target, script, write_scripts
from tests.guests.stand_in_outputs import MAC, SCRIPT
from tests.unit.helpers import many

GOLDEN = Path(__file__).parent / "golden"
DOMAINS = sorted(GOLDEN.glob("*.xml"))
DISK = "    -drive file={path},format={form},if=none,id=d{n},media=disk \\\n"


def v2v_script(disks: str) -> bytes:
    return SCRIPT.format(name="g", disks=disks, mac=MAC).encode()


def test_virt_v2vs_script_is_read(tmp_path: Path) -> None:
    disks = "".join(DISK.format(path=f"/out/a,,b c-sd{letter}".replace(" ", "\\ "), form=form, n=letter) for letter, form in (("a", "raw"), ("b", "qcow2")))
    found = read_target(v2v_script(disks), "g.sh", tmp_path, tmp_path / "g.h2k")
    assert found.images == ((Path("/out/a,b c-sda"), "raw"), (Path("/out/a,b c-sdb"), "qcow2"))
    facts = found.domain
    assert facts is not None
    assert (facts.name, facts.memory, facts.vcpus, facts.topology) == ("g", 2048 << 20, 2, Topology(1, 2, 1))
    assert (facts.firmware, facts.nics) == ("uefi", (NicFacts(MAC),))


def test_a_firmware_that_is_found_when_the_script_runs(tmp_path: Path) -> None:
    """By scripts of virt-v2v 2.8 and later; their command has $uefi_args for BIOS too."""
    head = '#!/bin/sh -\n\nmachine=q35\n\n{}if [ "$uefi_code" != "" ]; then\n    uefi_args="\\\n    -drive if=pflash,format=raw,file=$uefi_code \\\n    "\nfi\n\n'
    tail = "qemu-system-x86_64 \\\n    -machine $machine \\\n    $uefi_args \\\n    -m 2048 \\\n" + DISK.format(path="/x/g-sda", form="raw", n=0)
    for more, firmware in (("uefi_dir=/usr/share/OVMF\n", "uefi"), ("", "bios")):
        found = read_target((head.format(more) + tail).encode(), "g.sh", tmp_path, tmp_path).domain
        assert found is not None and found.firmware == firmware


DEVICES = {
    "virtio": ["virtio-blk-pci,drive=d{n}"],
    "virtio-scsi": ["virtio-scsi-pci,id=scsi0", "scsi-hd,bus=scsi0.0,lun={n},drive=d{n}"],
    "scsi": ["lsi53c895a,id=scsi0", "scsi-hd,bus=scsi0.0,lun={n},drive=d{n}"],
    "ide": ["ide-hd,bus=ide.{n},unit=0,drive=d{n}"],
    "": ["nvme,serial=1,drive=d{n}"],
}


def with_device(bus: str, number: int) -> str:
    devices = "".join(f"    -device {device.format(n=number)} \\\n" for device in DEVICES[bus])
    return devices + DISK.format(path=f"/out/g-sd{'ab'[number]}", form="raw", n=number)


@pytest.mark.parametrize("bus", DEVICES)
def test_the_bus_of_a_disk_is_its_devices(bus: str, tmp_path: Path) -> None:
    facts = read_target(v2v_script(with_device(bus, 0) + with_device("virtio", 1)), "g.sh", tmp_path, tmp_path).domain
    assert facts is not None and [disk.bus for disk in facts.disks] == [bus, "virtio"]


FLOPPY = "    -device isa-fdc,id=floppy-bus \\\n    -drive if=none,id=drive-floppy-0,media=disk \\\n" \
    "    -device floppy,bus=floppy-bus.0,unit=0,drive=drive-floppy-0 \\\n"  # fmt: skip


@pytest.mark.parametrize("floppy", [FLOPPY, FLOPPY.replace("media=disk", "media=disk,file=/x.img"), "    -drive if=none,id=x,media=disk \\\n"])
@pytest.mark.parametrize("first", [True, False])
def test_a_floppy_is_no_disk(floppy: str, first: bool, tmp_path: Path) -> None:
    """virt-v2v writes its drive as a disk's, without a file."""
    disk = with_device("virtio-scsi", 0)
    found = read_target(v2v_script(floppy + disk if first else disk + floppy), "g.sh", tmp_path, tmp_path)
    assert found.images == ((Path("/out/g-sda"), "raw"),) and found.domain is not None
    assert [(disk.path, disk.target) for disk in found.domain.disks] == [(Path("/out/g-sda"), "vda")]
    facts = dataclasses.replace(complete(found.domain), firmware="bios")
    for write in (bootstrap_xml, final_xml):
        domain = parse_xml(write(facts, Choices(scratch=tmp_path / "scratch.qcow2")), "g.xml")
        assert domain.find("devices/disk[@device='disk']/source").get("file") == "/out/g-sda"
        assert domain.find("devices/disk[@device='floppy']") is None


def test_a_hard_disk_without_a_file_stays_one(tmp_path: Path) -> None:
    script = with_device("virtio", 0) + with_device("virtio-scsi", 1).replace("file=/out/g-sdb,format=raw,", "")
    facts = read_target(v2v_script(script), "g.sh", tmp_path, tmp_path).domain
    assert facts is not None and [(disk.path, disk.bus) for disk in facts.disks] == [(Path("/out/g-sda"), "virtio"), (None, "virtio-scsi")]


def test_a_directory_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "g-sda").touch()
    found = read_target(v2v_script(DISK.format(path="/gone/g-sda", form="raw", n=0)), "g.sh", tmp_path, tmp_path)
    assert found.images == ((tmp_path / "g-sda", "raw"),)


@pytest.mark.parametrize("text", ["", "echo hello", "qemu-system-x86_64 -m many", "qemu-system-x86_64 -smp 0", "'"])
def test_what_is_no_script_of_virt_v2v(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadData):
        read_target(text.encode(), "g.sh", tmp_path, tmp_path)


@many
@given(st.binary(max_size=300), st.booleans())
def test_any_script(data: bytes, command: bool) -> None:
    with contextlib.suppress(BadData, UsageError):
        read_target((b"qemu-system-x86_64 " if command else b"") + data, "g.sh", Path("/b"), Path("/s"))


CASES = ("uefi-q35-virtio-3", "bios-q35-virtio-scsi-3", "bios-pc-sata-3", "bios-pc-virtio-1", "secure-q35-virtio-1")


@pytest.mark.parametrize("path", [p for p in DOMAINS if p.stem.partition(".")[0] in CASES], ids=lambda p: p.stem)
def test_golden_scripts(path: Path) -> None:
    text = script(path.read_bytes(), path.stem.rpartition(".")[2])
    golden = path.with_suffix(".sh")
    if os.environ.get("H2K_REGOLD") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", DOMAINS, ids=lambda p: p.stem)
def test_each_device_of_the_domain_is_in_its_script_once(path: Path) -> None:
    text = script(path.read_bytes(), path.stem.rpartition(".")[2])
    words = shlex.split(text, comments=True)
    devices = [value for option, value in zip(words, words[1:]) if option == "-device"]
    domain = parse_xml(path.read_bytes(), path.name).find("devices")
    for source in domain.iterfind("disk/source"):
        assert sum(word.endswith(f"file={source.get('file') or source.get('dev')}") for word in words) == 1
    assert sum("netdev=" in device for device in devices) == len(domain.findall("interface"))
    places = [device.partition(",bus=")[2] for device in devices if ",addr=" in device]
    assert len(places) == len(set(places)), "two devices in one place"


def test_what_a_script_gives_the_devices() -> None:
    final, bootstrap = ((GOLDEN / f"uefi-q35-virtio-3-4kn.{phase}.xml").read_bytes() for phase in ("final", "bootstrap"))
    words, first = (shlex.split(script(xml, phase), comments=True) for xml, phase in ((final, "final"), (bootstrap, "bootstrap")))
    devices, drives = ([v for o, v in zip(words, words[1:]) if o == option] for option in ("-device", "-drive"))
    disks = [device for device in devices if device.startswith("virtio-blk-pci")]
    assert len(disks) == 3 and all("iothread=iothread1" in disk for disk in disks)
    assert [("logical_block_size=4096,physical_block_size=4096" in disk) for disk in disks] == [False, False, True]
    assert all("discard=unmap" in drive for drive in drives if drive.startswith("if=none,id=drive") and "cdrom" not in drive)
    assert "rng-random,id=rng0,filename=/dev/urandom" in words and "rng-random,id=rng0,filename=/dev/urandom" not in first
    assert "iothread,id=iothread1" in words and "iothread,id=iothread1" in first
    assert any(device.startswith("qemu-xhci,id=usb") for device in devices)
    assert first[first.index("-cpu") + 1] == "host,hv-relaxed"


def test_names_are_quoted() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_text().replace("<name>guest</name>", "<name>a, 'b'; $(touch x)\n</name>")
    words = shlex.split(script(xml.encode(), "final"), comments=True)
    assert words[words.index("-name") + 1] == "guest=a,, 'b'; $(touch x)\n"


# What virt-v2v's script says, word by word


def facts_of(words: str) -> Any:
    found = read_target(f"#!/bin/sh -\nqemu-system-x86_64 -drive file=/g,format=raw,media=disk {words}\n".encode(), "web.sh", Path("/b"), Path("/s")).domain
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "name"), [("", "web"), ("-name a", "a"), ("-name guest=a,debug-threads=on", "a"), ("-name guest=a,,b", "a,b"), ("-name first -name second", "first")]
)
def test_the_name(words: str, name: str) -> None:
    assert facts_of(words).name == name


@pytest.mark.parametrize(
    ("words", "vcpus", "topology"),
    [
        ("", 1, None), ("-smp 4", 4, None), ("-smp cpus=4", 4, None), ("-smp 4,sockets=2,cores=2,threads=1", 4, Topology(2, 2, 1)),
        ("-smp 4,sockets=1,cores=2,threads=1", 4, None), ("-smp 1,sockets=1", 1, None),
    ],
)  # fmt: skip
def test_the_cpus(words: str, vcpus: int, topology: Any) -> None:
    found = facts_of(words)
    assert (found.vcpus, found.topology) == (vcpus, topology), "one that does not make their number would be refused by libvirt"


def test_memory_firmware_disks_and_cards() -> None:
    found = facts_of("-m 4096 -drive if=pflash,file=/fw -drive file=/x.iso,media=cdrom -device e1000e,netdev=n,mac=52:54:00:AA:00:01 -device vmxnet3,netdev=m,mac=x -device usb-tablet")
    assert (found.memory, found.firmware, found.secure_boot) == (4096 << 20, "uefi", False)
    assert [(disk.path, disk.format, disk.target) for disk in found.disks] == [(Path("/g"), "raw", "vda")]
    assert [nic.mac for nic in found.nics] == ["52:54:00:AA:00:01", None], "a card without a MAC gets one later"
    assert (facts_of("").memory, facts_of("").firmware) == (2048 << 20, "bios")


@pytest.mark.parametrize("words", ["-m 0", "-m 4G", "-m -1", "-m 99999999999", "-smp 4097", "-smp 2,cores=x", "-m \u0664"])
def test_numbers_have_bounds(words: str) -> None:
    with pytest.raises(BadData, match=r"web\.sh: '.*' is not a number from 1 to"):
        facts_of(words)


def test_disks_cards_and_the_script_have_bounds() -> None:
    assert len(facts_of("-drive file=/h,media=disk " * (MAX_DISKS - 1)).disks) == MAX_DISKS
    for words in ("-drive file=/h,media=disk " * MAX_DISKS, "-device x,netdev=n " * (MAX_NICS + 1)):
        with pytest.raises(BadData, match="more than 64 disks or 32 network cards"):
            facts_of(words)
    with pytest.raises(BadData, match="no run script of virt-v2v"):
        read_target(b"qemu-system-x86_64 " + b"#" * qemu_script.SCRIPT_LIMIT, "web.sh", Path("/b"), Path("/s"))


def test_what_stands_before_qemu_is_no_option_of_it() -> None:
    script_text = b"true -name no\n/usr/libexec/qemu-kvm -drive file=/g,media=disk -name yes # -m 7\n"
    found = read_target(script_text, "web.sh", Path("/b"), Path("/s")).domain
    assert found is not None and (found.name, found.memory) == ("yes", 2048 << 20)


# Both of ours in the report directory


def test_both_scripts_are_written_as_programs(tmp_path: Path) -> None:
    for phase in qemu_script.PHASES:
        (tmp_path / f"{phase}.xml").write_bytes((GOLDEN / f"secure-q35-virtio-1.{phase}.xml").read_bytes())
    assert write_scripts(tmp_path) == {f"{phase}-script": str(tmp_path / f"{phase}.sh") for phase in qemu_script.PHASES}
    for phase in qemu_script.PHASES:
        path = tmp_path / f"{phase}.sh"
        assert path.stat().st_mode & 0o100 and path.read_text().startswith(f"#!/bin/sh -\n# The {phase} phase of guest, in QEMU.\nset -e\n")
        assert path.read_text().rstrip().endswith('"$@"'), "its own arguments are QEMU's too"


def test_a_bootstrap_reaches_no_network_and_a_final_does() -> None:
    for phase, alone in (("bootstrap", True), ("final", False)):
        words = shlex.split(script((GOLDEN / f"bios-pc-sata-3.{phase}.xml").read_bytes(), phase), comments=True)
        nets = [value for option, value in zip(words, words[1:]) if option == "-netdev"]
        assert nets and all(("restrict=on" in net) is alone for net in nets)


def test_a_name_of_several_lines_stays_a_comment() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_text().replace("<name>guest</name>", "<name>a\nrm -rf x</name>")
    assert not any(line.startswith("rm ") for line in script(xml.encode(), "final").splitlines()[:3])


def test_an_emulated_domain_asks_for_no_cpu_of_the_host() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_text()
    words = shlex.split(script(xml.replace('type="kvm"', 'type="qemu"', 1).replace("type='kvm'", "type='qemu'", 1).encode(), "final"), comments=True)
    assert words[words.index("-cpu") + 1] == "max"
