"""The production definition, on libvirt's own test driver: what the owner had defined is kept, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from h2k.base.libvirt_connection import Virt
from h2k.base.steps import Steps
from h2k.boot.definition import BEFORE, define_and_start, forget

pytest.importorskip("libvirt")

UUID = "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001"


def xml(memory: int = 1024, disk: str = "/g/sda") -> str:
    return (
        f"<domain type='test'><name>g</name><uuid>{UUID}</uuid><memory>{memory}</memory><os><type>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        "</devices></domain>"
    )


@pytest.fixture
def virt() -> Iterator[Virt]:
    found = Virt("test:///default")
    yield found
    domain = found.lookup(UUID)
    if domain is not None:
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefine()
    found.close()


def start(virt: Virt, text: str, state: Path) -> None:
    define_and_start(virt, "g", UUID, text, state, Steps(quiet=True))


def inactive(virt: Virt) -> str:
    domain = virt.lookup(UUID)
    assert domain is not None
    return str(domain.XMLDesc(virt.libvirt.VIR_DOMAIN_XML_INACTIVE))


def test_defined_and_started_once(virt: Virt, tmp_path: Path) -> None:
    start(virt, xml(), tmp_path)
    domain = virt.lookup(UUID)
    assert domain is not None and domain.isActive() and domain.isPersistent()
    start(virt, xml(), tmp_path)
    assert list(tmp_path.iterdir()) == [], "the same definition again is no other one"


def test_the_owner_s_definition_is_kept_with_a_line(virt: Virt, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    virt.call(lambda connection: connection.defineXML(xml(2048)))
    owners = inactive(virt)
    define_and_start(virt, "g", UUID, xml(), tmp_path, Steps())
    copy = tmp_path / BEFORE
    assert copy.read_text() == owners and copy.stat().st_mode & 0o077 == 0
    assert str(copy) in capsys.readouterr().err and "1024" in inactive(virt)


def test_an_earlier_copy_is_not_written_over(virt: Virt, tmp_path: Path) -> None:
    (tmp_path / BEFORE).write_text("an older one")
    virt.call(lambda connection: connection.defineXML(xml(2048)))
    start(virt, xml(), tmp_path)
    assert (tmp_path / BEFORE).read_text() == "an older one"
    assert "2048" in (tmp_path / "definition-before-2.xml").read_text()


def stop(virt: Virt) -> None:
    domain = virt.lookup(UUID)
    assert domain is not None
    domain.destroy()


def test_a_definition_on_overlays_goes_with_them(virt: Virt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virt.libvirt, "VIR_DOMAIN_UNDEFINE_KEEP_NVRAM", 0)  # which the test driver does not know
    start(virt, xml(disk=f"{tmp_path}/overlay-0.qcow2"), tmp_path)
    stop(virt)
    assert "not defined any more" in forget(virt, "g", UUID, tmp_path)
    assert virt.lookup(UUID) is None
    assert forget(virt, "g", UUID, tmp_path) == ""


def test_the_one_before_comes_back(virt: Virt, tmp_path: Path) -> None:
    virt.call(lambda connection: connection.defineXML(xml(2048)))
    start(virt, xml(disk=f"{tmp_path}/overlay-0.qcow2"), tmp_path)
    stop(virt)
    assert "as it was before" in forget(virt, "g", UUID, tmp_path)
    assert "2048" in inactive(virt) and "/g/sda" in inactive(virt)


def test_a_definition_on_the_disks_stays(virt: Virt, tmp_path: Path) -> None:
    start(virt, xml(), tmp_path)
    stop(virt)
    assert forget(virt, "g", UUID, tmp_path) == "" and "/g/sda" in inactive(virt)
