"""Sources by virt-v2v's command line: what is read before the copy, what is unknown, and the names of both."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Optional

import libvirt
import pytest

from h2k.base.errors import H2kError, InUse
from h2k.convert import source
from h2k.convert.source import likely_names, name_from_disk, name_of, open_source, unknown_hives
from h2k.convert.v2v_command import parse
from h2k.disk.image import ImageInfo
from h2k.disk.view import View
from h2k.domain.facts import DiskFacts
from h2k.domain.guest_files import GuestFiles
from tests.unit.machines import LIBVIRT_XML as XML

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
        self.xml, self.asked, self.runs = xml, "", 0

    def isActive(self) -> int:
        return self.runs

    def openReadOnly(self, uri: Optional[str]) -> FakeLibvirt:
        self.asked = uri or ""
        return self

    def close(self) -> None:
        self.asked += ", closed"

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


@pytest.mark.parametrize(("kind", "where"), [("file", "file='/images/g.vmdk'"), ("volume", "pool='images' volume='images'")])
@pytest.mark.parametrize("name", ["g", "d0"])
def test_a_local_libvirts_guest(kind: str, where: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibvirt(XML.format(type=kind, source=where))
    monkeypatch.setattr(libvirt, "openReadOnly", fake.openReadOnly)
    with open_source(parse(["-ic", "qemu:///system", name]), lambda text: None) as (target, _):
        assert target is not None and fake.asked == "qemu:///system, closed"
        assert target.images == ((Path("/images/g.vmdk"), "vmdk"),)
        assert b"pool=" not in (target.description or b"")  # what virt-v2v reads when a hive has to be healed
        assert name_of(parse([name]), target) == "g"
    with pytest.raises(H2kError, match="does not give this domain"), open_source(parse(["other"]), lambda text: None):
        pass


@pytest.mark.parametrize("runs", [0, 1])
def test_a_domain_that_runs_is_no_source(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibvirt(XML.format(type="network", source="protocol='rbd' name='pool/image'"))
    fake.runs = runs
    monkeypatch.setattr(libvirt, "openReadOnly", fake.openReadOnly)
    monkeypatch.setattr(source, "require_free", lambda images: None)
    files = GuestFiles((), Path())
    with pytest.raises(InUse, match="source-running: g: the domain runs") if runs else contextlib.nullcontext():
        source.require_shut_down(parse(["-ic", "qemu:///system", "g"]), files)


def test_every_image_that_a_source_rests_on_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(source, "probe", lambda path, form: ImageInfo(path, "qcow2", 1, (path, Path("/base"))))
    monkeypatch.setattr(source, "require_unused", lambda paths, reading: asked.append((paths, reading)))
    images: list[tuple[Path, Optional[str]]] = [(Path("/a"), None), (View("/view"), "qcow2"), (Path("/b"), "qcow2")]
    source.require_shut_down(parse(["-i", "disk", "/a"]), GuestFiles(tuple(images), Path()))
    assert asked == [([Path("/a"), Path("/base"), Path("/b"), Path("/base")], True)]


def test_sources_that_are_here(tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_bytes(VMX % b"g.vmdk")
    (tmp_path / "g.xml").write_text(XML.format(type="file", source="file='g.vmdk'"))
    image = tmp_path / "g.vmdk"
    with open_source(parse(f"-i vmx {tmp_path}/g.vmx -on web01".split()), lambda text: None) as (target, _):
        assert target is not None and target.domain is not None and target.domain.name == "web01"
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


def test_what_virt_v2v_assumes_of_a_disk_alone_is_said() -> None:
    said: list[str] = []
    with open_source(parse(["-i", "disk", "/x/g.vhdx"]), said.append):
        pass
    assert len(said) == 1 and all(words in said[0] for words in ("2048 MiB", "1 CPU", "new MAC", "-i libvirtxml"))


VPX = "-ic vpx://user@vc/dc/esxi"
UUID = "5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11"


@pytest.mark.parametrize(
    ("argv", "certain", "likely"),
    [
        ([*VPX.split(), "web 01"], "web 01", ("web 01",)),
        ([*VPX.split(), "-it", "vddk", "web"], "web", ("web",)),
        (["-ic", "qemu+ssh://host/system", "web"], "web", ("web",)),
        (["-i", "libvirt", "web", "-on", "other"], "other", ("other",)),
        (["web", "-on", UUID], UUID, (UUID,)),
        ([*VPX.split(), UUID], None, ()),
        ([*VPX.split(), UUID.replace("-", "").upper()], None, ()),
        ([*VPX.split(), "SRV/01 (prod)"], "SRV/01 (prod)", ()),
        (["-i", "vmx", "-it", "ssh", "ssh://root@esxi/vmfs/d/web%2001/web%2001.vmx"], None, ("web 01",)),
        (["-i", "vmx", "-it", "ssh", "ssh://root@esxi/vmfs/web.vmx", "-on", "other"], "other", ("other",)),
        (["-i", "vmx", "-it", "ssh", "ssh://[/vmfs/web.vmx"], None, ()),
        (["-i", "ova", "/x/web.ova"], None, ("web",)),
        (["-i", "disk", "https://host/x/web.qcow2"], "web", ("web", "unknown")),
        (["-i", "disk", "nbd://host/export", "/x/web-sda"], "export", ("export", "web")),
        (["-i", "libvirtxml", "/no/such/web.xml"], None, ()),
        (["-i", "unheard-of", "web"], None, ()),
        ([*VPX.split()], None, ()),
    ],
)  # fmt: skip
def test_the_name_of_a_source_that_can_not_be_read(argv: list[str], certain: Optional[str], likely: tuple[str, ...]) -> None:
    command = parse(argv)
    assert (name_of(command, None), likely_names(command, None)) == (certain, likely)


def test_a_libvirt_xml_says_its_name_whatever_its_disks_are(tmp_path: Path) -> None:
    path = tmp_path / "other.xml"
    path.write_text(XML.format(type="network", source="protocol='rbd' name='pool/image'"))
    command = parse(["-i", "libvirtxml", str(path)])
    assert name_of(command, None) == "g" and likely_names(command, None) == ("g",)
    path.write_text("no XML")
    assert name_of(command, None) is None


def test_the_name_of_a_source_that_was_read_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_bytes(VMX % b"g.vmdk")
    command = parse(["-i", "vmx", f"{tmp_path}/g.vmx"])
    with open_source(command, lambda text: None) as (target, _):
        assert likely_names(command, target) == ("the guest",)
