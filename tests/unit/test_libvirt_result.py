"""Domains that libvirt has: what a result is left defined as, where its report is, and how it is found again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, Refused, UsageError
from h2k.base.xml import parse_xml
from h2k.boot.phase_domain import MARK
from h2k.convert import libvirt_result
from h2k.convert.libvirt_result import STATE, LibvirtOutput, has_kvm, marked_xml, report_directory
from h2k.domain.guest_files import GuestFiles
from h2k.engine.report import Report

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("kinds", "kvm"), [(("qemu", "kvm"), True), (("qemu",), False), ((), False)])
def test_a_libvirt_without_kvm_gets_a_domain_that_qemu_emulates(kinds: tuple[str, ...], kvm: bool) -> None:
    domains = "".join(f"<domain type='{kind}'/>" for kind in kinds)
    other = "<guest><arch name='aarch64'><domain type='kvm'/></arch></guest>"
    assert has_kvm(f"<capabilities><guest><arch name='x86_64'>{domains}</arch></guest>{other}</capabilities>") == kvm
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_bytes()
    assert parse_xml(marked_xml(xml, Path("/x"), "final", kvm), "x").get("type") == ("kvm" if kvm else "qemu")


def test_the_report_directory_is_in_the_metadata() -> None:
    for path in (GOLDEN / "uefi-q35-virtio-1.bootstrap.xml", GOLDEN / "bios-pc-virtio-1.bootstrap.xml"):
        domain = parse_xml(marked_xml(path.read_bytes(), Path("/pool/g.h2k"), "bootstrap"), "x")
        marks = domain.findall(f"metadata/{STATE}")
        assert [(mark.get("directory"), mark.get("phase")) for mark in marks] == [("/pool/g.h2k", "bootstrap")]
        assert domain.find(f"metadata/{{{MARK}}}boot") is None, "h2k boot would take it for a run of its own"


def test_what_a_domain_was_defined_as_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By virt-v2v, without a word; by its owner, since h2k had defined it, with a line."""
    libvirt = pytest.importorskip("libvirt")
    defined = ["<domain><name>g</name><!-- virt-v2v --></domain>"]

    class Connection:
        def getCapabilities(self) -> str:
            return '<capabilities><guest><arch name="x86_64"><domain type="kvm"/></arch></guest></capabilities>'

        def lookupByName(self, name: str) -> Any:
            def described(flags: int) -> str:
                assert name == "g" and flags == libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
                return defined[-1]

            return SimpleNamespace(XMLDesc=described)

        def defineXML(self, xml: str) -> None:
            defined.append(xml)

    monkeypatch.setattr(libvirt_result, "connected", lambda *_, **__: contextlib.nullcontext(Connection()))
    output, report, said = LibvirtOutput(None, None, None, "final"), Report(), []
    (tmp_path / "final.xml").write_bytes((GOLDEN / "bios-q35-virtio-1.final.xml").read_bytes().replace(b"<name>guest</name>", b"<name>g</name>"))
    report.files = {"bootstrap": "x", "final": "y"}
    for _ in range(2):
        output.finish(GuestFiles((), tmp_path), report, said.append)
    kept = [path.name for path in tmp_path.glob("definition-before*")]
    assert kept == ["definition-before.xml"] and "virt-v2v" in (tmp_path / kept[0]).read_text() and said == []
    assert (tmp_path / kept[0]).stat().st_mode & 0o777 == 0o600, "it has its secrets"
    defined.append(defined[-1].replace("</memory>", "</memory><title>mine</title>"))
    output.finish(GuestFiles((), tmp_path), report, said.append)
    assert "mine" in (tmp_path / "definition-before-2.xml").read_text() and len(said) == 1 and "definition-before-2.xml" in said[0]


# What libvirt has


DOMAIN = """<domain type="kvm"><name>{name}</name><memory>1048576</memory>{more}<devices><disk type="file"><driver type="qcow2"/><source file="{path}"/>
<target dev="sda" bus="sata"/></disk></devices></domain>"""
POOL = "<pool type='dir'><target><path>{}</path></target></pool>"


class Libvirt:
    """Domains by name, and pools by name or UUID."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.libvirt = pytest.importorskip("libvirt")
        self.domains: dict[str, str] = {}
        self.pools: dict[str, str] = {}
        self.fails: Any = None
        self.uris: list[Any] = []
        monkeypatch.setattr(libvirt_result, "connected", self.connected)
        monkeypatch.setattr(libvirt_result, "volumes_as_files", lambda connection, xml, name: xml)

    @contextlib.contextmanager
    def connected(self, uri: Any = None, write: bool = False) -> Iterator[Libvirt]:
        self.uris.append(uri)
        if self.fails is not None:
            raise self.fails
        yield self

    def error(self, code: int) -> Any:
        found = self.libvirt.libvirtError("nothing of that name")
        found.err = (code, 0, "nothing of that name", 0, "", "", "", 0, 0)
        return found

    def lookupByName(self, name: str) -> Any:
        if name == "broken":
            raise self.error(self.libvirt.VIR_ERR_OPERATION_DENIED)
        if name not in self.domains:
            raise self.error(self.libvirt.VIR_ERR_NO_DOMAIN)
        return SimpleNamespace(XMLDesc=lambda flags: self.domains[name])

    def listAllDomains(self) -> list[Any]:
        return [SimpleNamespace(name=lambda name=name: name) for name in self.domains]

    def storagePoolLookupByName(self, name: str) -> Any:
        if name not in self.pools:
            raise self.error(self.libvirt.VIR_ERR_NO_STORAGE_POOL)
        return SimpleNamespace(XMLDesc=lambda: self.pools[name])

    storagePoolLookupByUUIDString = storagePoolLookupByName


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    return Libvirt(monkeypatch)


def output(pool: Optional[str] = None, report: Optional[str] = None) -> LibvirtOutput:
    return LibvirtOutput("qemu:///system", pool, report, "bootstrap")


@pytest.mark.parametrize(("pool", "known"), [(None, "default"), ("fast", "fast")])
def test_what_virt_v2v_would_notice_late_is_asked_before_the_copy(pool: Optional[str], known: str, libvirt: Libvirt) -> None:
    with pytest.raises(Refused, match=rf"-os {known}: libvirt has no such pool.*virsh pool-list --all"):
        output(pool).require()
    libvirt.pools[known] = POOL
    output(pool).require()
    libvirt.fails = H2kError("qemu:///system: libvirt does not answer")
    with pytest.raises(Refused, match=r"does not answer \(systemctl start libvirtd"):
        output(pool).require()


def test_the_report_directory_lies_in_the_pool_unless_another_is_named(libvirt: Libvirt, tmp_path: Path) -> None:
    libvirt.pools["default"] = POOL.format(tmp_path)
    assert output().state("web") == tmp_path / "web.h2k" and output(report="/r").state("web") == Path("/r")
    libvirt.pools["default"] = "<pool type='logical'/>"
    with pytest.raises(UsageError, match="-os default: no pool of type dir"):
        output().state("web")


def test_the_volumes_that_a_conversion_would_replace(libvirt: Libvirt, tmp_path: Path) -> None:
    libvirt.pools["default"] = POOL.format(tmp_path)
    for name in ("w[e]b-sda", "w[e]b-sdb", "web-sda", "w[e]b.xml"):
        (tmp_path / name).touch()
    assert [path.name for path in output(report="/elsewhere").replaced("w[e]b")] == ["w[e]b-sda", "w[e]b-sdb"]


def test_the_domain_that_is_new_is_the_result(libvirt: Libvirt) -> None:
    found = output()
    libvirt.domains["old"] = DOMAIN.format(name="old", path="/pool/old-sda", more="")
    found.begin(None)
    with pytest.raises(H2kError, match="virt-v2v alone knows the name"):
        found.result(None)
    libvirt.domains["new"] = DOMAIN.format(name="new", path="/pool/new-sda", more="")
    result = found.result(None)
    assert (result.images, result.state) == (((Path("/pool/new-sda"), "qcow2"),), Path("/pool/new.h2k"))
    assert output(report="/r").result("old").state == Path("/r")
    libvirt.domains["more"] = libvirt.domains["old"]
    with pytest.raises(H2kError, match="virt-v2v alone knows the name"):
        found.result(None)
    with pytest.raises(H2kError, match="none: libvirt has no such domain"):
        found.result("none")
    with pytest.raises(libvirt.libvirt.libvirtError):
        found.result("broken")


def test_what_is_not_ready_stays_as_virt_v2v_defined_it(libvirt: Libvirt, tmp_path: Path) -> None:
    report = Report()
    for files in ({}, {"final": "x"}, {"bootstrap": "x"}):
        report.files = dict(files)
        LibvirtOutput(None, None, None, "final").finish(GuestFiles((), tmp_path), report, lambda text: None)
    assert libvirt.uris == [] and "defined" not in report.files


def test_the_report_directory_of_a_domain(libvirt: Libvirt, tmp_path: Path) -> None:
    """From its metadata, else beside its disks; a directory is itself."""
    beside, marked = tmp_path / "web.h2k", tmp_path / "marked"
    with pytest.raises(UsageError, match="web: no report directory of h2k, and no domain of libvirt"):
        report_directory("web")
    libvirt.domains["web"] = DOMAIN.format(name="web", path=tmp_path / "web-sda", more="")
    with pytest.raises(UsageError, match="web: no report of h2k beside its disks"):
        report_directory("web", "qemu:///session")
    beside.mkdir()
    (beside / "report.json").touch()
    assert report_directory("web") == beside and libvirt.uris == [None, "qemu:///session", None]
    libvirt.domains["web"] = marked_xml(libvirt.domains["web"].encode(), marked, "final").decode()
    assert report_directory("web") == beside, "a mark that leads nowhere"
    marked.mkdir()
    (marked / "report.json").touch()
    assert report_directory("web") == marked
    libvirt.fails = H2kError("libvirt does not answer")
    assert report_directory(str(beside)) == beside and report_directory("no/such") == Path("no/such")
    with pytest.raises(UsageError, match="web: no report directory of h2k, and libvirt does not answer"):
        report_directory("web")
