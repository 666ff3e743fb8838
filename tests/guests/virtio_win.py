"""A made virtio-win: directories, INF, CAT and SYS files in the real layout, as a tree and as an ISO."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.guests.pe import make_pe

RELEASES = {
    "w7": "6.1", "2k8R2": "6.1", "w8": "6.2", "2k12": "6.2", "w8.1": "6.3", "2k12R2": "6.3", "w10": "10.0",
    "2k16": "10.0", "2k19": "10.0", "w11": "10.0", "2k22": "10.0", "2k25": "10.0",
}  # fmt: skip
X86 = ("w7", "w8", "w8.1", "w10")
ARCH = {"amd64": "NTamd64", "x86": "NTx86"}

STORAGE = r"""; {service} INF, made for tests
[Version]
Signature="$Windows NT$"
Class=SCSIAdapter
ClassGuid={{4D36E97B-E325-11CE-BFC1-08002BE10318}}
Provider=%VENDOR%
DriverVer=03/01/2025,100.{minor}.104.27100
CatalogFile={service}.cat
PnpLockdown=1

[SourceDisksNames]
1 = %DISK_NAME%,,,""

[SourceDisksFiles]
{service}.sys = 1,,

[Manufacturer]
%VENDOR%={section},{arch}{decoration}

[{section}.{arch}{decoration}]
%DEV% = inst, PCI\VEN_1AF4&DEV_{legacy}&SUBSYS_{old}1AF4&REV_00, \
    PCI\VEN_1AF4&DEV_{legacy}
%DEV% = inst, PCI\VEN_1AF4&DEV_{modern}&SUBSYS_11001AF4&REV_01, PCI\VEN_1AF4&DEV_{modern}

[inst.{arch}]
CopyFiles=files

[files]
{service}.sys,,,2

[inst.{arch}.Services]
AddService = {service}, 0x00000002, svc, evt

[svc]
DisplayName = %DEV%
ServiceType = %SERVICE_KERNEL_DRIVER%
StartType = %SERVICE_BOOT_START%
ErrorControl = %SERVICE_ERROR_NORMAL%
ServiceBinary = {binary}\{service}.sys
LoadOrderGroup = SCSI miniport
AddReg = params

[params]
HKR, "Parameters", "BusType", %REG_DWORD%, {bus_type}
HKR, "Parameters", "DmaRemappingCompatible", 0x00010001, 0
HKR, "Parameters\PnpInterface", "5", 0x00010001, 0x00000001 ; PCIBus

[inst.{arch}.HW]
AddReg = msi

[msi]
HKR, "Interrupt Management",, 0x00000010

[evt]
HKR,,TypesSupported,0x00010001,7

[Strings]
VENDOR = "Red Hat, Inc."
DISK_NAME = "VirtIO installation disk"
DEV = "Red Hat VirtIO controller"
SERVICE_KERNEL_DRIVER = 1
SERVICE_BOOT_START = 0
SERVICE_ERROR_NORMAL = 1
REG_DWORD = 0x00010001
"""

NETWORK = r"""[Version]
Signature="$WINDOWS NT$"
Class=Net
ClassGUID={{4d36e972-e325-11ce-bfc1-08002be10318}}
Provider=%V%
DriverVer=03/01/2025,100.{minor}.104.27100
CatalogFile=netkvm.cat

[Manufacturer]
%V%=Models,{arch}{decoration}

[Models.{arch}{decoration}]
%D%=kvmnet,PCI\VEN_1AF4&DEV_1000&SUBSYS_00011AF4&REV_00,PCI\VEN_1AF4&DEV_1000
%D%=kvmnet,PCI\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01,PCI\VEN_1AF4&DEV_1041

[kvmnet.{arch}.Services]
AddService=netkvm,2,svc

[svc]
ServiceType=1
StartType=3
ErrorControl=1
ServiceBinary={binary}\netkvm.sys
LoadOrderGroup=NDIS
AddReg=params

[params]
HKR,Parameters,DisableMSI,,"0"
HKR,Parameters,EarlyDebug,,"3"

[Strings]
V="Red Hat, Inc."
D="Red Hat VirtIO Ethernet Adapter"
"""

DRIVERS = {
    "viostor": ("viostor", STORAGE, {"legacy": "1001", "old": "0002", "modern": "1042", "bus_type": "0x00000001"}),
    "vioscsi": ("vioscsi", STORAGE, {"legacy": "1004", "old": "0008", "modern": "1048", "bus_type": "0x0000000A"}),
    "NetKVM": ("netkvm", NETWORK, {}),
}


def make_tree(path: Path, *, omit: Sequence[str] = (), zero: Sequence[str] = ()) -> Path:
    """The tree; `omit` names release directories to leave out, `zero` files ("viostor.sys") to leave empty."""
    for folder, (service, template, ids) in DRIVERS.items():
        for release, version in RELEASES.items():
            if release in omit:
                continue
            for arch in ("amd64", "x86"):
                if arch == "x86" and release not in X86:
                    continue
                directory = path / folder / release / arch
                directory.mkdir(parents=True, exist_ok=True)
                text = template.format(
                    service=service,
                    section="RHEL",
                    arch=ARCH[arch],
                    decoration=f".{version}" + ("...22000" if release == "w11" else ""),
                    minor=release.count("2") + 90,
                    binary="%13%" if release == "w11" else "%12%",
                    **ids,
                )
                crlf = text.replace("\n", "\r\n")
                encoded = crlf.encode("utf-16") if release in ("w10", "w11") else crlf.encode("ascii")
                (directory / f"{service}.inf").write_bytes(encoded)
                (directory / f"{service}.cat").write_bytes(b"made catalogue")
                body = f"made {service} for {release} {arch}".encode()
                (directory / f"{service}.sys").write_bytes(make_pe(arch, body, signed=True))
                (directory / f"{service}.pdb").write_bytes(b"made symbols")
    for name in zero:
        for found in path.rglob(name):
            found.write_bytes(b"")
    agent = path / "guest-agent"
    agent.mkdir(parents=True, exist_ok=True)
    for name in ("qemu-ga-x86_64.msi", "qemu-ga-i386.msi"):
        (agent / name).write_bytes(b"made guest-agent installer")
    return path


def make_iso(tree: Path, iso: Path) -> Path:
    """The tree as an ISO 9660 image with Joliet and Rock Ridge names."""
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", "virtio-win", "-o", str(iso), str(tree)]
    subprocess.run(argv, check=True, capture_output=True)
    return iso


def make_runner(directory: Path) -> Path:
    """A directory for VIRT_TOOLS_DATA_DIR with a labelled stand-in for rhsrvany.exe."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rhsrvany.exe").write_bytes(make_pe("x86", b"STAND-IN for rhsrvany.exe, made for tests; runs nothing"))
    return directory


if __name__ == "__main__":
    target = make_tree(Path(sys.argv[1]))
    if "--iso" in sys.argv:
        make_iso(target, target.with_suffix(".iso"))
