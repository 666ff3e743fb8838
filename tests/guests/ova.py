"""Made OVAs: the OVF that VMware's ovftool would write, and archives of every kind that virt-v2v takes."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional
from xml.sax.saxutils import escape, quoteattr

CAPACITY = 512  # MiB
_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
"""
_MEMORY_AND_CPUS = (
    "<Item><rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits><rasd:InstanceID>1</rasd:InstanceID>"
    "<rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>"
    "<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>2048 MB</rasd:ElementName>"
    "<rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>"
    "<rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>"
    "<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>"
    "<rasd:ResourceSubType>lsilogicsas</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>"
)
_CARD = (
    "<Item><rasd:Address>00:0c:29:4a:5b:6c</rasd:Address><rasd:AddressOnParent>7</rasd:AddressOnParent>"
    "<rasd:Connection>VM Network</rasd:Connection><rasd:InstanceID>99</rasd:InstanceID>"
    "<rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>"
)


def ovf_text(
    name: str, hrefs: Sequence[str], uefi: bool = False, compressed: Sequence[str] = (), chunk: Optional[int] = None
) -> bytes:
    """An OVF of a machine with these disks and one card; `compressed` are hrefs that gzip was put over, `chunk` the
    bytes of the pieces that each file was cut into."""
    files, disks, items = [], [], []
    for number, href in enumerate(hrefs, 1):
        gzip_over = ' ovf:compression="gzip"' if href in compressed else ""
        gzip_over += f' ovf:chunkSize="{chunk}"' if chunk is not None else ""
        files.append(f'<File ovf:href={quoteattr(href)} ovf:id="file{number}"{gzip_over}/>')
        disks.append(
            f'<Disk ovf:capacity="{CAPACITY}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="vmdisk{number}" '
            f'ovf:fileRef="file{number}"/>'
        )
        items.append(
            f"<Item><rasd:AddressOnParent>{number - 1}</rasd:AddressOnParent>"
            f"<rasd:HostResource>ovf:/disk/vmdisk{number}</rasd:HostResource><rasd:InstanceID>{number + 9}</rasd:InstanceID>"
            "<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
        )
    firmware = '<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>' if uefi else ""
    body = (
        f"<References>{''.join(files)}</References><DiskSection>{''.join(disks)}</DiskSection>"
        f'<VirtualSystem ovf:id="vm"><Name>{escape(name)}</Name><VirtualHardwareSection>{_MEMORY_AND_CPUS}'
        f"{''.join(items)}{_CARD}{firmware}</VirtualHardwareSection></VirtualSystem></Envelope>\n"
    )
    return (_HEAD + body).encode()


def write_ova(disk: Path, directory: Path, name: str, uefi: bool, kind: str = "tar") -> Path:
    """An OVA of one qcow2 disk as a streamOptimized VMDK; `kind`: "tar", "tar.gz", "tar.xz", "zip", "directory", or
    "gz", a tar in which the disk itself is compressed."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f"{name}-parts"
    folder.mkdir()
    vmdk = folder / f"{name}-disk1.vmdk"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=streamOptimized", str(disk), str(vmdk)]
    subprocess.run(argv, check=True)
    compressed = []
    if kind == "gz":
        packed = vmdk.with_name(vmdk.name + ".gz")
        packed.write_bytes(gzip.compress(vmdk.read_bytes()))
        vmdk.unlink()
        vmdk, compressed = packed, [packed.name]
    ovf = folder / f"{name}.ovf"
    ovf.write_bytes(ovf_text(name, [vmdk.name], uefi, compressed))
    return pack([ovf, vmdk], directory / f"{name}.ova", kind)


def pack(files: Sequence[Path], archive: Path, kind: str) -> Path:
    """The files, which are in one directory, as an OVA of this kind."""
    if kind == "directory":
        files[0].parent.rename(archive)
        return archive
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for file in files:
                out.write(file, file.name)
    else:
        with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as out_tar:
            for file in files:
                out_tar.add(file, file.name)
        if kind in ("tar.gz", "tar.xz"):
            data = archive.read_bytes()
            archive.write_bytes(gzip.compress(data) if kind == "tar.gz" else lzma.compress(data))
    shutil.rmtree(files[0].parent)
    return archive
