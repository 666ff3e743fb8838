"""A phase's domain: on overlays alone, links down, COM1 in a file, and nothing of this host that is not the guest's."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from h2k.base.errors import BadData
from h2k.boot.phase_domain import Description, marked, phase_xml, production_xml, read_description_of

UUID = "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001"
DISK = '<disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="/g/sda"/><target dev="vda" bus="virtio"/></disk>'
DOMAIN = f"""<domain type="kvm"><name>g</name><uuid>{UUID}</uuid><memory>1048576</memory><os><type>hvm</type>
<nvram template="/t">/g/nvram.fd</nvram></os><devices>{DISK}
<disk type="file" device="cdrom"><source file="/iso"/><target dev="sdf" bus="sata"/></disk>
<serial type="file"><source path="/etc/passwd"/></serial><console type="pty"/><parallel type="file"><source path="/x"/></parallel>
<interface type="user"><link state="up"/></interface></devices></domain>"""


def description(tmp_path: Path, xml: str = DOMAIN) -> Description:
    (tmp_path / "final.xml").write_text(xml)
    return read_description_of(tmp_path, "final")


def phase(tmp_path: Path, kvm: bool = True, xml: str = DOMAIN, ports: int = 1) -> etree._Element:
    overlays = {Path("/g/sda"): tmp_path / "overlay-0.qcow2"}
    com = [tmp_path / f"final-com{n + 1}.log" for n in range(ports)]
    return etree.fromstring(phase_xml(description(tmp_path, xml), overlays, com, tmp_path / "boot/nvram.fd", tmp_path, kvm))


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    found = description(tmp_path)
    assert (found.name, found.uuid, found.uefi) == ("g", UUID, True)
    assert found.disks == ((Path("/g/sda"), "raw"),) and found.nvram == Path("/g/nvram.fd")


def test_a_phase_touches_the_overlay_alone(tmp_path: Path) -> None:
    domain = phase(tmp_path)
    disk = domain.find("devices/disk")
    assert disk.find("source").get("file") == str(tmp_path / "overlay-0.qcow2") and disk.find("driver").get("type") == "qcow2"
    assert domain.findtext("os/nvram") == str(tmp_path / "boot/nvram.fd")
    text = etree.tostring(domain).decode()
    assert "/etc/passwd" not in text and "/x" not in [s.get("path") for s in domain.iter("source")]
    assert [(s.find("source").get("path"), s.find("target").get("port")) for s in domain.findall("devices/serial")] == [
        (str(tmp_path / "final-com1.log"), "0")
    ]
    assert [link.get("state") for link in domain.iter("link")] == ["down"]
    assert domain.findtext("on_crash") == "preserve" and domain.findtext("on_poweroff") == "destroy"


def test_a_second_port_where_the_first_is_taken(tmp_path: Path) -> None:
    assert [s.find("target").get("port") for s in phase(tmp_path, ports=2).findall("devices/serial")] == ["0", "1"]


@pytest.mark.parametrize("kvm, kind, panic", [(True, "kvm", "hyperv"), (False, "qemu", "isa")])
def test_a_crash_is_told_and_a_host_without_kvm_gets_a_copy(kvm: bool, kind: str, panic: str, tmp_path: Path) -> None:
    domain = phase(tmp_path, kvm=kvm)
    assert domain.get("type") == kind
    assert [p.get("model") for p in domain.findall("devices/panic")] == [panic]
    final = etree.fromstring(production_xml(description(tmp_path), {}, None, kvm))
    assert final.get("type") == kind and final.find("devices/panic") is None, "production is as final.xml says"


def test_the_mark_names_the_directory(tmp_path: Path) -> None:
    text = etree.tostring(phase(tmp_path)).decode()
    assert marked(text, tmp_path) and not marked(text, tmp_path / "other") and not marked(DOMAIN, tmp_path)


def test_a_strange_disk_is_no_disk_of_the_guest(tmp_path: Path) -> None:
    more = DOMAIN.replace("</devices>", DISK.replace("/g/sda", "/etc/shadow").replace("vda", "vdb") + "</devices>")
    with pytest.raises(BadData, match=r"final\.xml: /etc/shadow"):
        phase(tmp_path, xml=more)


@pytest.mark.parametrize("driver", ["", '<driver name="qemu"/>'])
def test_a_disk_without_a_driver_is_told_with_its_line(driver: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"final\.xml:2: /g/sda has no <driver type>"):
        description(tmp_path, DOMAIN.replace('<driver name="qemu" type="raw"/>', driver))


def test_no_uuid(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no UUID"):
        description(tmp_path, DOMAIN.replace(f"<uuid>{UUID}</uuid>", ""))
