"""Descriptions beside a disk: which one is meant, what the user says above it, and what is assumed without one."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from h2k.base.errors import BadData, Refused
from h2k.convert.disk_description import MARK, Described, Wanted, describe, find_facts
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from tests.guests.ova import ovf_text
from tests.unit.machines import LIBVIRT_XML as XML

VMX = b'displayName = "the guest"\nmemsize = "4096"\nnumvcpus = "2"\nfirmware = "efi"\nscsi0:0.fileName = "%s"\n'
RESULT = DiskFacts(Path("/out/g.qcow2"), "qcow2", "virtio", "vda")


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


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    said = describe(tmp_path / "g.vhdx", Wanted(), RESULT, "stem", lambda: "uefi").assumed
    for words in ("2048 MiB", "1 CPU", "new MAC", "stem", "--h2k-domain", "--h2k-memory", "--h2k-vcpus", "--h2k-name"):
        assert said is not None and words in said
    said = describe(tmp_path / "g.vhdx", Wanted("n", 1 << 30, 2), RESULT, "stem", lambda: "uefi").assumed
    assert said is not None and "MAC" in said and "MiB" not in said and "--h2k-memory" not in said
    (tmp_path / "g.vmx").write_bytes(VMX % b"g.vmdk")
    (tmp_path / "g.vhdx").write_bytes(b"x")
    assert describe(tmp_path / "g.vhdx", Wanted(), RESULT, "stem", lambda: "uefi").assumed is None


@pytest.mark.parametrize("wanted", [Wanted("team/web01"), Wanted()])
def test_a_name_that_no_domain_can_have(wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "g.vmx").write_bytes((VMX % b"g.vmdk").replace(b"the guest", b"SRV/01 (prod)"))
    (tmp_path / "g.vmdk").write_bytes(b"x")
    with pytest.raises(Refused, match="domain-name-invalid"):
        describe(tmp_path / "g.vmdk", wanted, RESULT, "stem", lambda: "uefi")
    assert describe(tmp_path / "g.vmdk", Wanted("web01"), RESULT, "stem", lambda: "uefi").facts.name == "web01"


def described_by(path: Path) -> Described:
    return describe(path.with_name("g.raw"), Wanted(domain=str(path)), RESULT, "stem", lambda: "bios")


@pytest.mark.parametrize(
    ("bus", "model", "told"),
    [("scsi", "virtio-scsi", "virtio-scsi"), ("virtio", "", "virtio"), ("scsi", "lsilogic", None), ("sata", "", None), ("ide", "", None)],
)
def test_the_bus_that_the_description_says(bus: str, model: str, told: Optional[str], tmp_path: Path) -> None:
    text = XML.format(type="file", source="file='g.raw'").replace("bus='scsi'", f"bus='{bus}'")
    path = tmp_path / "g.xml"
    path.write_text(text.replace("</devices>", f"<controller type='scsi' model='{model}'/></devices>"))
    assert described_by(path).bus == told


def test_vmware_has_no_bus_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "g.vmx"
    path.write_bytes(VMX % b"g.raw")
    assert described_by(path).bus is None
