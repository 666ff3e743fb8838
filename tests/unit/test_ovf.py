"""OVF: machines of VMware and VirtualBox as they are described, and documents that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from h2k.base.errors import BadData
from h2k.domain.facts import DiskFacts, NicFacts, Topology
from h2k.domain.ovf import OvfFile, read_ovf
from tests.guests.ova import ovf_text
from tests.unit.helpers import damaged, many

VIRTUALBOX = b"""<?xml version="1.0"?>
<Envelope ovf:version="2.0" xmlns="http://schemas.dmtf.org/ovf/envelope/2"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:sasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData.xsd"
  xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References><File ovf:id="file1" ovf:href="w-disk001.vmdk"/></References>
  <DiskSection><Disk ovf:capacity="64424509440" ovf:diskId="vmdisk1" ovf:fileRef="file1"/></DiskSection>
  <VirtualSystem ovf:id="w"><VirtualHardwareSection>
    <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
      <rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
    <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
      <rasd:VirtualQuantity>4096</rasd:VirtualQuantity></Item>
    <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>20</rasd:ResourceType></Item>
    <StorageItem><sasd:HostResource>/disk/vmdisk1</sasd:HostResource><sasd:Parent>5</sasd:Parent>
      <sasd:ResourceType>17</sasd:ResourceType></StorageItem>
    <Item><rasd:ResourceType>15</rasd:ResourceType></Item>
    <Item><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>E1000</rasd:ResourceSubType></Item>
  </VirtualHardwareSection>
  <vbox:Machine><Hardware xmlns="http://www.virtualbox.org/"><Firmware type="EFI64"/></Hardware></vbox:Machine>
  </VirtualSystem></Envelope>"""


def test_vmware() -> None:
    found = read_ovf(ovf_text("a guest", ["a-disk1.vmdk", "b.vmdk.gz"], uefi=True, compressed=["b.vmdk.gz"]), "a.ovf")
    facts = found.domain
    assert found.named and facts.name == "a guest"
    assert (facts.memory, facts.vcpus, facts.firmware, facts.cdrom) == (2048 * 1024**2, 2, "uefi", False)
    assert facts.disks == (
        DiskFacts(Path("a-disk1.vmdk"), None, "scsi", "sda"), DiskFacts(Path("b.vmdk.gz"), None, "scsi", "sdb"),
    )  # fmt: skip
    assert [(f.href, f.gzip) for f in found.files] == [("a-disk1.vmdk", False), ("b.vmdk.gz", True)]
    assert found.files[0].capacity == 512 * 1024**2
    # what virt-v2v 2.2 --print-source says of it: Bridge "VM Network" mac: 00:0c:29:4a:5b:6c [vmxnet3]
    assert facts.nics == (NicFacts("00:0c:29:4a:5b:6c", "vmxnet3", "bridge", "VM Network"),)


def test_virtualbox() -> None:
    found = read_ovf(VIRTUALBOX, "/x/w.ovf")
    assert not found.named and found.domain.name == "w"
    assert (found.domain.memory, found.domain.vcpus, found.domain.firmware) == (4096 * 1024**2, 4, "uefi")
    assert found.domain.disks[0].bus == "sata" and found.domain.cdrom
    assert found.files == (OvfFile("w-disk001.vmdk", False, 64424509440),)
    assert found.domain.nics == (NicFacts(None, "e1000", "network", "eth0"),)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"byte * 2^20</rasd:AllocationUnits><rasd:ElementName>2048", b"byte * 2^30</rasd:AllocationUnits><rasd:ElementName>2048", 2048 * 1024**3),
        (b"<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>2048", b"<rasd:ElementName>2048", 2048 * 1024**2),
        (b"<rasd:ResourceType>4<", b"<rasd:ResourceType>444<", 1024**3),
    ],
)  # fmt: skip
def test_units_of_memory(old: bytes, new: bytes, expected: int) -> None:
    text = ovf_text("g", ["g.vmdk"])
    assert old in text
    assert read_ovf(text.replace(old, new), "g.ovf").domain.memory == expected


def test_cores_per_socket() -> None:
    text = ovf_text("g", ["g.vmdk"])
    place = b"<rasd:VirtualQuantity>2</rasd:VirtualQuantity>"
    sockets = text.replace(place, place + b"<vmw:CoresPerSocket>2</vmw:CoresPerSocket>")
    assert read_ovf(sockets, "g.ovf").domain.topology == Topology(1, 2, 1)
    assert read_ovf(text, "g.ovf").domain.topology is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"<?xml", b"<!DOCTYPE x [<!ENTITY a 'b'>]><?xml", "document type"),
        (b"Envelope", b"Domain", "instead of <Envelope>"),
        (b"VirtualSystem>", b"VirtualSystemCollection>", "no XML|no <VirtualSystem>"),
        (b"ovf:/disk/vmdisk1", b"ovf:/disk/other", "no <Disk> with the diskId 'other'"),
        (b"ovf:/disk/vmdisk1", b"/etc/passwd", "without a HostResource"),
        (b'ovf:fileRef="file1"', b"", "no <File> with the id ''"),
        (b'ovf:href="g.vmdk"', b'ovf:href=""', "without a name"),
        (b'ovf:id="file1"', b'ovf:id="file1" ovf:compression="lzma"', "unknown compression"),
        (b">2048<", b">-1<", "not a number"),
        (b">2048<", b">99999999999999<", "not a number|bytes of memory"),
        (b"byte * 2^20</rasd:AllocationUnits><rasd:ElementName>2048", b"pint</rasd:AllocationUnits><rasd:ElementName>2048", "unknown unit"),
        (b'vmw:value="efi"', b'vmw:value="coreboot"', "neither efi nor bios"),
        (b"<Name>g", b"<Name>g" + b"x" * 5000, "above 4096"),
    ],
)  # fmt: skip
def test_what_is_none_is_named(old: bytes, new: bytes, why: str) -> None:
    text = ovf_text("g", ["g.vmdk"], uefi=True)
    assert old in text
    with pytest.raises(BadData, match=why):
        read_ovf(text.replace(old, new), "g.ovf")


def test_counts_are_bounded() -> None:
    with pytest.raises(BadData, match="more than 64 disks"):
        read_ovf(ovf_text("g", [f"{n}.vmdk" for n in range(65)]), "g.ovf")
    item = b"<Item><rasd:ResourceType>1</rasd:ResourceType></Item>"
    with pytest.raises(BadData, match="more than 1024 items"):
        read_ovf(ovf_text("g", ["g.vmdk"]).replace(b"<Item>", item * 1025 + b"<Item>", 1), "g.ovf")


@many
@given(damaged(ovf_text("g", ["g.vmdk"], uefi=True)))
def test_damage_is_bad_data_or_harmless(data: bytes) -> None:
    try:
        read_ovf(data, "g.ovf")
    except BadData as bad:
        assert bad.message.startswith("g.ovf")
