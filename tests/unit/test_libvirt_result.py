"""Domains that libvirt has: what a result is left defined as, where its report is, and how it is found again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.xml import parse_xml
from h2k.boot.phase_domain import MARK
from h2k.convert import libvirt_result
from h2k.convert.libvirt_result import STATE, LibvirtOutput, has_kvm, marked_xml
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
