"""What a command works on: targets, sources by virt-v2v's command line, descriptions beside a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import libvirt
import pytest

from h2k.base.errors import BadData, H2kError
from h2k.convert.disk_description import MARK, Wanted, describe, find_facts
from h2k.convert.source import name_from_disk, name_of, open_source, unknown_hives
from h2k.convert.v2v_command import parse
from h2k.disk.reader import VolumeRef
from h2k.disk.view import View
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.domain.libvirt_reader import read_domain_xml, with_images
from h2k.guest.guest import OTHER, Guest, device
from tests.guests.ova import ovf_text
from tests.guests.regfile import empty_hive
from tests.unit.memory_reader import MemoryReader, make_disk

XML = """<domain type='kvm'><name>g</name><memory unit='MiB'>3072</memory><vcpu>3</vcpu>
<os firmware='efi'><type arch='x86_64'>hvm</type></os><devices>
<disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sdz'/></disk>
<disk type='{type}' device='disk'><driver name='qemu' type='vmdk'/><source {source}/><target dev='sda' bus='scsi'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface></devices></domain>"""
VMX = b'displayName = "the guest"\nmemsize = "4096"\nnumvcpus = "2"\nfirmware = "efi"\nscsi0:0.fileName = "%s"\n'
RESULT = DiskFacts(Path("/out/g.qcow2"), "qcow2", "virtio", "vda")


def why(line: str) -> str:
    """Why the source of this command can't be read beforehand."""
    with open_source(parse(line.split()), lambda text: None) as (target, reason):
        assert target is None and reason
        return reason


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-ic vpx://user@vc/dc/esxi guest", "vpx://user@vc/dc/esxi"),
        ("-ic esx://root@esxi guest", "esx://root@esxi"),
        ("-ic qemu+ssh://host/system guest", "another host"),
        ("-ic vpx://user@vc/dc/esxi -it vddk guest", "-it vddk"),
        ("-i disk -it ssh ssh://host/x", "-it ssh"),
        ("-i vmx ssh://root@esxi/vmfs/g.vmx", "can't read this"),
        ("-i vmx -it ssh https://host/g.vmx", "not ssh://"),
        ("-i disk nbds://host/x", "without TLS"),
        ("-i disk nbd+unix:///x", "no socket"),
        ("-i disk https://host/x.img", "address"),
        ("-i disk", "no guest is named"),
        ("-i unheard-of x", "can't read this"),
    ],
)
def test_what_can_not_be_read_beforehand_is_said(line: str, expected: str) -> None:
    assert expected in why(line)
    finding = unknown_hives(parse(line.split()), why(line))
    assert (finding.id, finding.state) == ("hive-dirty", "warning")
    assert finding.evidence.startswith("unknown: ")


def test_a_domain_whose_disk_is_elsewhere_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "g.xml"
    path.write_text(XML.format(type="network", source="protocol='rbd' name='pool/image'"))
    assert "the disk sda" in why(f"-i libvirtxml {path}")


class FakeLibvirt:
    """A local libvirt with one domain and one volume, in the place of the daemon."""

    def __init__(self, xml: str) -> None:
        self.xml, self.asked = xml, ""

    def openReadOnly(self, uri: Optional[str]) -> FakeLibvirt:
        self.asked = uri or ""
        return self

    def lookupByName(self, name: str) -> FakeLibvirt:
        if name != "g":
            raise libvirt.libvirtError("Domain not found")
        return self

    def lookupByUUIDString(self, name: str) -> FakeLibvirt:
        return self.lookupByName("g" if name == "d0" else "")

    def XMLDesc(self, flags: int) -> str:
        return self.xml

    def storagePoolLookupByName(self, name: str) -> FakeLibvirt:
        assert name == "images"
        return self

    storageVolLookupByName = storagePoolLookupByName

    def path(self) -> str:
        return "/images/g.vmdk"


@pytest.mark.parametrize(("kind", "source"), [("file", "file='/images/g.vmdk'"), ("volume", "pool='images' volume='images'")])
@pytest.mark.parametrize("name", ["g", "d0"])
def test_a_local_libvirts_guest(kind: str, source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibvirt(XML.format(type=kind, source=source))
    monkeypatch.setattr(libvirt, "openReadOnly", fake.openReadOnly)
    with open_source(parse(["-ic", "qemu:///system", name]), lambda text: None) as (target, _):
        assert target is not None and fake.asked == "qemu:///system"
        assert target.images == ((Path("/images/g.vmdk"), "vmdk"),)
        assert b"pool=" not in (target.description or b"")  # what virt-v2v reads when a hive has to be healed
        assert name_of(parse([name]), target) == "g"
    with pytest.raises(H2kError, match="does not give this domain"), open_source(parse(["other"]), lambda text: None):
        pass


def test_sources_that_are_here(tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_bytes(VMX % b"g.vmdk")
    (tmp_path / "g.xml").write_text(XML.format(type="file", source="file='g.vmdk'"))
    image = tmp_path / "g.vmdk"
    for line, form, name in (
        (f"-i vmx {tmp_path}/g.vmx", "vmdk", "the guest"),
        (f"-i libvirtxml {tmp_path}/g.xml", "vmdk", "g"),
        (f"-i disk -if vmdk {image}", "vmdk", "g"),
        (f"-i disk {image} -on other", None, "other"),
    ):
        command = parse(line.split())
        with open_source(command, lambda text: None) as (target, reason):
            assert target is not None and reason == ""
            assert target.images == ((image, form),)
            assert name_of(command, target) == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        # as virt-v2v 2.2 --print-source names them
        ("g.qcow2", "g"), ("g.img", "g"), ("g.raw", "g"), ("g.vmdk", "g"), ("g.ova", "g"), ("g-sda", "g"), ("g.vhdx", "g.vhdx"),
        ("g.2022.vhd", "g.2022.vhd"), ("g", "g"),
    ],
)  # fmt: skip
def test_the_name_that_virt_v2v_makes_of_a_file(file: str, name: str) -> None:
    assert name_from_disk(Path("/x") / file) == name


def test_images_of_a_domain_replaced() -> None:
    xml = XML.format(type="block", source="dev='/dev/x'").encode()
    facts = read_domain_xml(with_images(xml, "g", [Path("/new")], "qcow2"), "g")
    assert facts.disks == (DiskFacts(Path("/new"), "qcow2", "scsi", "sda"),) and facts.cdrom
    assert read_domain_xml(with_images(xml, "g", [Path("/new")]), "g").disks[0].format == "vmdk"


# Descriptions beside a disk


@pytest.mark.parametrize(
    ("files", "disk", "found"),
    [
        ({"a.vmx": "g.vmdk"}, "g.vmdk", "a.vmx"),
        ({"a.vmx": "g.vmdk", "g.vmx": "other.vmdk"}, "g.vmdk", "a.vmx"),
        ({"a.vmx": "g.vmdk", "g.vmx": "g.vmdk"}, "g.vmdk", "g.vmx"),
        ({"a.vmx": "g.vmdk", "b.vmx": "g.vmdk"}, "g.vmdk", None),
        ({"g.vmx": "g.vmdk"}, "g.vhdx", "g.vmx"),
        ({"g.ovf": "g.vmdk"}, "g.raw", "g.ovf"),
        ({"g.xml": "g.img"}, "g.raw", "g.xml"),
        ({"h.vmx": "h.vmdk"}, "g.raw", None),
        ({}, "g.raw", None),
    ],
)
def test_which_description_is_meant(files: dict[str, str], disk: str, found: Optional[str], tmp_path: Path) -> None:
    for name, names in files.items():
        path = tmp_path / name
        if path.suffix == ".vmx":
            path.write_bytes(VMX % names.encode())
        elif path.suffix == ".ovf":
            path.write_bytes(ovf_text("g", [names]))
        else:
            path.write_text(XML.format(type="file", source=f"file='{names}'"))
    (tmp_path / "junk.xml").write_text("<project/>")
    (tmp_path / disk).write_bytes(b"x")
    entry = find_facts(tmp_path / disk)
    assert (entry[0].name if entry else None) == found


def test_our_own_result_describes_no_source(tmp_path: Path) -> None:
    (tmp_path / "g.xml").write_bytes(MARK + XML.format(type="file", source="file='g.raw'").encode())
    (tmp_path / "g.raw").write_bytes(b"x")
    assert find_facts(tmp_path / "g.raw") is None


def test_a_description_of_the_disks_stem_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_text("no vmx at all")
    (tmp_path / "g.raw").write_bytes(b"x")
    with pytest.raises(BadData, match=r"g\.vmx:1"):
        find_facts(tmp_path / "g.raw")


def test_what_the_user_says_comes_first(tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_bytes(VMX % b"g.vmdk" + b'scsi0:1.fileName = "data.vmdk"\nethernet0.present = "TRUE"\n'
                                     b'ethernet0.connectionType = "bridged"\ncpuid.coresPerSocket = "2"\n')  # fmt: skip
    disk = tmp_path / "g.vmdk"
    disk.write_bytes(b"x")
    found = describe(disk, Wanted(), RESULT, "stem", lambda: "bios")
    assert (found.facts.name, found.facts.memory, found.facts.vcpus) == ("the guest", 4096 * 1024**2, 2)
    assert found.facts.disks == (RESULT,) and found.others == (Path("data.vmdk"),)
    assert found.facts.nics[0].kind == "network" and found.facts.nics[0].source == "default"
    assert found.facts.firmware == "uefi" and found.facts.topology is not None
    said = describe(disk, Wanted("n", 1 << 30, 3, "bios"), RESULT, "stem", lambda: "uefi").facts
    assert (said.name, said.memory, said.vcpus, said.firmware, said.topology) == ("n", 1 << 30, 3, "bios", None)


def test_a_disk_alone_gets_what_virt_v2v_assumes(tmp_path: Path) -> None:
    found = describe(tmp_path / "g.raw", Wanted(), RESULT, "stem", lambda: "uefi")
    assert found.by is None
    assert found.facts == DomainFacts("stem", 2048 * 1024**2, 1, (RESULT,), (NicFacts(None),), firmware="uefi")


# Several systems

SYSTEM = "Windows/System32/config/SYSTEM"


def two_windows(root: Optional[str]) -> Guest:
    disks = [make_disk(0, ["fat", "ntfs", "ntfs"]), make_disk(1, ["ntfs", "bitlocker"])]
    files = {VolumeRef(d, n): {SYSTEM: empty_hive()} for d, n in ((0, 2), (1, 1))}
    return Guest(MemoryReader(disks, files), root)


@pytest.mark.parametrize(
    ("root", "expected", "other"),
    [
        (None, ["/dev/sda2", "/dev/sdb1"], False),
        ("ask", ["/dev/sda2", "/dev/sdb1"], False),
        ("single", ["/dev/sda2", "/dev/sdb1"], False),
        ("first", ["/dev/sda2"], False),
        ("/dev/sda2", ["/dev/sda2"], False),
        ("/dev/sdb1", ["/dev/sdb1"], False),
        ("/dev/sda3", [], True),
        ("/dev/vg/root", [], True),
        ("/dev/sdb2", [], False),  # encrypted: a Windows that must not be touched
        (OTHER, [], True),
    ],
)
def test_root_chooses_among_several_systems(root: Optional[str], expected: list[str], other: bool) -> None:
    guest = two_windows(root)
    assert [device(ref) for ref, _ in guest.system_roots] == expected
    assert guest.is_other == other


def test_device_names() -> None:
    assert [device(VolumeRef(d, p)) for d, p in ((0, 1), (25, 0), (26, 2), (52, 3))] == [
        "/dev/sda1", "/dev/sdz", "/dev/sdaa2", "/dev/sdba3",
    ]  # fmt: skip


def test_a_view_is_a_path() -> None:
    assert isinstance(View("/x/y"), Path) and str(View("/x/y")) == "/x/y" and View("/x/y").name == "y"
