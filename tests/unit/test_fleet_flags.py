"""Flags of a VMX and a domain, and roles of a Windows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.xml import XML_LIMIT
from h2k.fleet.flags import flags_of_domain, flags_of_ovf, flags_of_vmx, roles_of
from tests.unit.helpers import hive


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ('scsi0:0.fileName = "web-000002.vmdk"', ["snapshot"]),
        ('scsi1.sharedBus = "physical"', ["shared disk"]),
        ('scsi1.sharedBus = "none"', []),
        ('scsi0:1.sharing = "multi-writer"', ["shared disk"]),
        ('scsi0:1.deviceType = "rawDisk"', ["raw device mapping"]),
        ('ide0:0.deviceType = "cdrom-raw"', []),
        ('pciPassthru0.present = "TRUE"', ["passthrough device"]),
        ('pciPassthru0.present = "FALSE"', []),
        ('vtpm.present = "TRUE"', ["virtual TPM"]),
        ('nvme0:0.fileName = "web.vmdk"', ["NVMe disk"]),
        ('usb.autoConnect.device0 = "path:1/2"', ["USB device"]),
        ('scsi0:0.fileName = "web.vmdk"', []),
    ],
)
def test_flags_of_a_vmx(line: str, flags: list[str]) -> None:
    assert flags_of_vmx(f'displayName = "x"\n{line}\n') == flags


@pytest.mark.parametrize(
    ("device", "flags"),
    [
        ("<disk><shareable/></disk>", ["shared disk"]),
        ("<hostdev type='pci'/>", ["passthrough device"]),
        ("<hostdev type='usb'/>", ["USB device"]),
        ("<disk device='lun'/>", ["raw device mapping"]),
        ("<tpm model='tpm-crb'/>", ["virtual TPM"]),
        ("<disk><target bus='nvme'/></disk>", ["NVMe disk"]),
        ("<disk><target bus='sata'/></disk>", []),
    ],
)
def test_flags_of_a_domain(device: str, flags: list[str]) -> None:
    assert flags_of_domain(f"<domain><devices>{device}</devices></domain>".encode(), "x") == flags


def item(kind: int, subtype: str = "", number: int = 1, more: str = "") -> str:
    return f"<Item><InstanceID>{number}</InstanceID><ResourceType>{kind}</ResourceType><ResourceSubType>{subtype}</ResourceSubType>{more}</Item>"


def ovf(hardware: str = "", disks: str = "", machine: str = "") -> bytes:
    """An OVF with the namespaces of its writers."""
    return f"""<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine"><!-- made -->
<DiskSection>{disks}</DiskSection><VirtualSystem><VirtualHardwareSection>{hardware}</VirtualHardwareSection>
<vbox:Machine>{machine}</vbox:Machine></VirtualSystem></Envelope>""".encode()


DISK_ON_1 = item(17, number=2, more="<Parent>1</Parent>")


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (ovf(item(20, "vmware.nvme.controller") + DISK_ON_1), ["NVMe disk"]),
        (ovf(DISK_ON_1 + item(20, "NVMe")), ["NVMe disk"]),
        (ovf(item(20, "vmware.nvme.controller") + item(17, number=2, more="<Parent>3</Parent>")), []),
        (ovf(item(20, "vmware.sata.ahci") + DISK_ON_1), []),
        (ovf("<Item><ResourceSubType>NVMe</ResourceSubType></Item><Item><ResourceType>17</ResourceType></Item>"), []),
        (ovf(item(1, "vmware.vtpm")), ["virtual TPM"]),
        (ovf(item(1, "vmware.pci.passthrough-vmiop")), ["passthrough device"]),
        (ovf(item(1, "vmware.scsi.passthrough")), ["passthrough device"]),
        (ovf(item(15, "vmware.cdrom.passthrough")), []),
        (ovf(item(23, "vmware.usb.ehci", more='<vmw:Config vmw:key="autoConnectDevices" vmw:value="false"/>')), []),
        (ovf(item(23, "vmware.usb.ehci", more='<vmw:Config vmw:key="autoConnectDevices" vmw:value="true"/>')), ["USB device"]),
        (ovf(item(17, more='<vmw:Config vmw:key="backing.sharing" vmw:value="sharingMultiWriter"/>')
             + item(17, more='<vmw:Config vmw:key="backing.sharing" vmw:value="sharingNone"/>')), ["shared disk"]),
        (ovf(item(6, more='<vmw:Config vmw:key="sharedBus" vmw:value="physicalSharing"/>')), ["shared disk"]),
        (ovf(item(6, more='<vmw:Config vmw:key="sharedBus" vmw:value="noSharing"/>')), []),
        (ovf('<vmw:ExtraConfig vmw:key="scsi0:1.sharing" vmw:value="multi-writer"/>'), ["shared disk"]),
        (ovf('<vmw:ExtraConfig vmw:key="pciPassthru0.present" vmw:value="TRUE"/>'), ["passthrough device"]),
        (ovf(disks='<Disk ovf:diskId="a" ovf:parentRef="b"/>'), ["snapshot"]),
        (ovf(disks='<Disk ovf:diskId="a" ovf:parentRef=""/>'), []),
        (ovf('<Other ovf:parentRef="b"/>'), []),
        (ovf(machine="<vbox:Snapshot name='one'/>"), ["snapshot"]),
        (ovf(machine="<vbox:MediaRegistry><vbox:HardDisks><vbox:HardDisk type='Shareable'/></vbox:HardDisks></vbox:MediaRegistry>"), ["shared disk"]),
        (ovf(machine="<vbox:MediaRegistry><vbox:HardDisks><vbox:HardDisk type='Normal'/></vbox:HardDisks></vbox:MediaRegistry>"), []),
        (ovf(machine="<vbox:Hardware><vbox:TrustedPlatformModule type='v2_0'/></vbox:Hardware>"), ["virtual TPM"]),
        (ovf(machine="<vbox:Hardware><vbox:TrustedPlatformModule type='None'/></vbox:Hardware>"), []),
        (ovf(machine="<vbox:USB><vbox:DeviceFilters><vbox:DeviceFilter active='true'/></vbox:DeviceFilters></vbox:USB>"), ["USB device"]),
        (ovf(machine="<vbox:USB><vbox:DeviceFilters><vbox:DeviceFilter active='false'/></vbox:DeviceFilters></vbox:USB>"), []),
        (ovf(machine="<vbox:HostPci><vbox:Devices/></vbox:HostPci>"), ["passthrough device"]),
        (ovf(), []),
    ],
)  # fmt: skip
def test_flags_of_an_ovf(data: bytes, flags: list[str]) -> None:
    assert flags_of_ovf(data, "x.ovf") == flags


@pytest.mark.parametrize("data", [b"<Envelope", b"<!DOCTYPE a [<!ENTITY b 'c'>]><Envelope>&b;</Envelope>", b"<Envelope>" + b" " * XML_LIMIT + b"</Envelope>"])
def test_an_ovf_that_is_none_has_no_flags(data: bytes) -> None:
    assert flags_of_ovf(data, "x.ovf") == []


def test_no_domain_has_no_flags() -> None:
    assert flags_of_domain(b"<domain", "x") == []


@pytest.mark.parametrize(
    ("key", "start", "roles"),
    [
        ("NTDS", 2, ["domain controller"]), ("NTDS", 4, []), ("ClusSvc", 2, ["cluster node"]), ("vmms", 2, ["Hyper-V host"]),
        ("MSSQLSERVER", 2, ["SQL Server"]), ("MSSQL$SHOP", 2, ["SQL Server"]), ("Spooler", 2, []),
    ],
)  # fmt: skip
def test_roles(key: str, start: int, roles: list[str]) -> None:
    guest: Any = SimpleNamespace(
        system=hive(f'[ControlSet001\\Services\\{key}]\n"Start"=dword:{start:08x}\n'), control_sets=SimpleNamespace(default=1)
    )
    assert roles_of(guest) == roles
