"""A made virtio-win: directories, INF, CAT and SYS files in the layouts of the real ISO and RPM, as a tree and as an ISO.

The INF files are written in the shapes that the real ones have, from the table below; nothing of theirs is copied.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.guests.pe import make_pe

# Directory → the NT version that its INF files are decorated with. The oldest are only on ISOs up to 0.1.173.
OLD_RELEASES = {"xp": "5.1", "2k3": "5.2", "2k8": "6.0"}
RELEASES = {
    "w7": "6.1", "2k8R2": "6.1", "w8": "6.2", "2k12": "6.2", "w8.1": "6.3", "2k12R2": "6.3", "w10": "10.0",
    "2k16": "10.0", "2k19": "10.0", "w11": "10.0", "2k22": "10.0", "2k25": "10.0",
}  # fmt: skip
DRIVER_STORE_BUILDS = ("w11", "2k25")  # ServiceBinary is %13%, the driver store, there
X86 = ("xp", "2k3", "2k8", "w7", "w8", "w8.1", "w10")
ARM64 = ("w11",)
FLAT = ("w10", "w11", "2k16", "2k19", "2k22", "2k25")  # amd64/… and i386/w10 with the storage drivers only
DECORATIONS = {"amd64": "NTamd64", "x86": "NTx86", "ARM64": "NTarm64"}
MACHINES = {"amd64": "amd64", "x86": "x86", "ARM64": "arm64"}
SCSI, NET, SYSTEM, HID, DISPLAY = (
    ("SCSIAdapter", "{4D36E97B-E325-11CE-BFC1-08002BE10318}"),
    ("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}"),
    ("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}"),
    ("HIDClass", "{745a17a0-74d3-11d0-b6fe-00a0c90f57da}"),
    ("Display", "{4D36E968-E325-11CE-BFC1-08002BE10318}"),
)


@dataclasses.dataclass(frozen=True)
class Driver:
    """One driver: `old` (device, subsystem) and `new` devices, further ids, what its service has and what it copies.

    `values` are AddReg lines below the service; `child` is (id, service, file) of a device that the driver makes.
    """

    folder: str
    inf: str
    kind: tuple[str, str]
    service: str
    old: tuple[str, str] = ("", "")
    new: str = ""
    ids: tuple[str, ...] = ()
    start: int = 3
    error: int = 1
    group: str = ""
    values: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    child: tuple[str, str, str] = ("", "", "")
    wdf: bool = True
    since: str = "6.1"


def _storage(name: str, old: tuple[str, str], new: str, bus_type: str) -> Driver:
    values = (
        f'"Parameters", "BusType", %REG_DWORD%, {bus_type}',
        '"Parameters", "DmaRemappingCompatible", %REG_DWORD%, 0',
        '"Parameters\\PnpInterface", "5", %REG_DWORD%, 0x00000001 ; PCIBus',
    )
    since = "5.1" if name == "viostor" else "6.0"
    return Driver(name, name, SCSI, name, old, new, start=0, group="SCSI miniport", values=values, wdf=False, since=since)


NETKVM = Driver(
    "NetKVM", "netkvm", NET, "netkvm", ("1000", "0001"), "1041", group="NDIS", wdf=False, since="5.1",
    values=(",TextModeFlags,0x00010001, 0x0001", 'Parameters,DisableMSI,,"0"', 'Parameters,EarlyDebug,,"3"'),
)  # fmt: skip
DRIVERS = (
    _storage("viostor", ("1001", "0002"), "1042", "0x00000001"),
    _storage("vioscsi", ("1004", "0008"), "1048", "0x0000000A"),
    NETKVM,
    Driver("Balloon", "balloon", SYSTEM, "BALLOON", ("1002", "0005"), "1045", beside=("blnsvr.exe",), since="5.1"),
    Driver(
        "viorng", "viorng", SYSTEM, "VirtRng", ("1005", "0004"), "1044", group="Extended Base",
        copies=("viorngum.dll", "viorngci.dll"), since="6.0",
    ),
    Driver("vioserial", "vioser", SYSTEM, "VirtioSerial", ("1003", "0003"), "1043", since="5.1"),
    Driver("viosock", "viosock", SYSTEM, "VirtioSocket", ("1012", "0013"), "1053", copies=("viosocklib.dll",), since="10.0"),
    Driver(
        "vioinput", "vioinput", HID, "VirtioInput", new="1052", child=("VIOINPUT\\REV_01", "viohidkmdf", "viohidkmdf.sys"),
    ),
    Driver("viofs", "viofs", SYSTEM, "VirtioFsDrv", new="105A", group="Extended Base", beside=("virtiofs.exe",), since="6.2"),
    Driver("pvpanic", "pvpanic", SYSTEM, "PVPanic", ids=("ACPI\\QEMU0001",), group="Extended Base", since="6.0"),
    Driver("fwcfg", "fwcfg", SYSTEM, "FwCfg", ids=("ACPI\\QEMU0002",), since="10.0"),
    Driver("viogpudo", "viogpudo", DISPLAY, "VioGpuDod", new="1050", error=0, wdf=False, since="10.0"),
)  # fmt: skip
# INF files without a driver of their own: Windows then shows no unknown device.
NULL_DRIVERS = (("qemufwcfg", "ACPI\\QEMU0002"), ("qemupciserial", "PCI\\VEN_1B36&DEV_0002"), ("smbus", "PCI\\VEN_8086&DEV_2930"))


def inf_text(driver: Driver, release: str, arch: str) -> str:
    """The INF of a driver for one release directory and "amd64", "x86" or "ARM64"."""
    version = {**OLD_RELEASES, **RELEASES}[release]
    decoration = "" if version[0] == "5" or version == "6.0" else f".{version}"
    if release == "w11":
        decoration += "...22000"
    models = f"Models.{DECORATIONS[arch]}{decoration}"
    # Storage, display and network drivers have a plain install section, the others one for NT.
    install = "Device_Inst" if not driver.wdf else "Device_Inst.NT"
    place = "13" if release in DRIVER_STORE_BUILDS else "12"
    binary = f"{driver.inf}.sys"
    coinstaller = {"6.1": "WdfCoInstaller01009.dll", "6.2": "WdfCoInstaller01011.dll", "6.3": "WdfCoInstaller01011.dll"}
    wdf = coinstaller.get(version, "") if driver.wdf else ""
    copies = [binary, *driver.copies, *netkvm_programs(driver, version)]
    out = [
        f"; {binary}, made for tests", "", "[Version]", 'Signature = "$WINDOWS NT$"', f"Class={driver.kind[0]}",
        f"ClassGuid = {driver.kind[1]}", "Provider=%VENDOR%",
        f"DriverVer=03/01/2025,100.{90 + release.count('2')}.104.27100 ; stamped", f"CatalogFile={driver.inf}.cat",
        "PnpLockdown = 1", "", "[DestinationDirs]", f"DefaultDestDir = {place}", "CoInstaller_Files = 11", "",
        "[SourceDisksNames]", '1 = %DiskId%,,,""', "", "[SourceDisksFiles]", *(f"{name} = 1,," for name in copies),
        *([f"{wdf}=1 ; the number of SourceDisksNames"] if wdf else []),
        *([f"{driver.child[2]} = 1,,"] if driver.child[2] else []), "", "[Manufacturer]",
        f"%VENDOR%   = Models,{DECORATIONS[arch]}{decoration}", "", f"[{models}]", *_models(driver, version), "",
        f"[{install}]", "CopyFiles=Device_Files", "", "[Device_Files]", *(f"{name},,,2" for name in copies), "",
        f"[{install}.HW]", "AddReg=Device_Msi", "", "[Device_Msi]", 'HKR, "Interrupt Management",, 0x00000010',
        'HKR, "Interrupt Management\\MessageSignaledInterruptProperties", MSISupported, 0x00010001, 1', "",
        *_service_sections(driver, install, place),
    ]  # fmt: skip
    if wdf:
        out += [f"[{install}.CoInstallers]", "AddReg=CoInstaller_Reg", "CopyFiles=CoInstaller_Files", "", "[CoInstaller_Files]", wdf]
        out += ["", "[CoInstaller_Reg]", f'HKR,,CoInstallers32,0x00010000, \\\n    "{wdf},WdfCoInstaller"', ""]
    out += [
        "[Strings]", 'VENDOR = "Red Hat, Inc."', f'diskid = "{driver.folder} installation disk #1"',
        f'Device.Desc = "Red Hat VirtIO {driver.folder} device"', f'Device.Child = "{driver.folder} helper"',
        "REG_DWORD = 0x00010001", "REG_EXPAND_SZ  = 0x00020000", "SERVICE_KERNEL_DRIVER  = 1", "SERVICE_START = "
        f"{driver.start}", "SPSVCINST_ASSOCSERVICE= 0x00000002", "",
    ]  # fmt: skip
    return "\n".join(out)


def netkvm_programs(driver: Driver, version: str) -> tuple[str, ...]:
    """The helper that netkvm.inf copies with the driver from Windows 10 on."""
    return ("netkvmp.exe",) if driver is NETKVM and version == "10.0" else ()


def _models(driver: Driver, version: str) -> Iterator[str]:
    device, subsystem = driver.old
    if device and version in OLD_RELEASES.values():
        for old in ("00000000", f"{subsystem}0000", f"{subsystem}1AF4"):
            yield f"%Device.Desc% = Device_Inst, PCI\\VEN_1AF4&DEV_{device}&SUBSYS_{old}"
        return
    if device:
        yield f"%Device.Desc% = Device_Inst, PCI\\VEN_1AF4&DEV_{device}&SUBSYS_{subsystem}1AF4&REV_00, \\"
        yield f"    PCI\\VEN_1AF4&DEV_{device}"
    if driver.new:
        new = f"PCI\\VEN_1AF4&DEV_{driver.new}"
        yield f"%Device.Desc%=Device_Inst, {new}&SUBSYS_11001AF4&REV_01, {new}"
    if driver.child[0]:
        yield f"%Device.Child%=Child_Inst, {driver.child[0]}"
    yield from (f"%Device.Desc% = Device_Inst, {i}" for i in driver.ids)


def _service_sections(driver: Driver, install: str, place: str) -> Iterator[str]:
    yield f"[{install}.Services]"
    yield f"AddService = {driver.service}, %SPSVCINST_ASSOCSERVICE% , Service_Inst, EventLog_Inst"
    yield from ("", "[Service_Inst]", "DisplayName    = %Device.Desc%", "ServiceType    = %SERVICE_KERNEL_DRIVER%")
    yield "StartType      = %SERVICE_START%"
    yield f"ErrorControl   = {driver.error}               ; SERVICE_ERROR_NORMAL"
    yield f"ServiceBinary  = %{place}%\\{driver.inf}.sys"
    if driver.group:
        yield f"LoadOrderGroup = {driver.group}"
    if driver.values:
        yield from ("AddReg         = Service_Params", "", "[Service_Params]", *(f"HKR, {v}" for v in driver.values))
    yield from ("", "[EventLog_Inst]", "AddReg = EventLog_Reg", "", "[EventLog_Reg]")
    yield 'HKR,,EventMessageFile,%REG_EXPAND_SZ%,"%%SystemRoot%%\\System32\\IoLogMsg.dll"'
    yield from ("HKR,,TypesSupported,%REG_DWORD%,7", "")
    if driver.child[0]:
        _, service, binary = driver.child
        yield from ("[Child_Inst.NT]", "CopyFiles=Child_Files", "", "[Child_Files]", binary, "", "[Child_Inst.NT.Services]")
        yield from (f"AddService = {service}, 0x00000002, Child_Service", "", "[Child_Service]", "ServiceType = 1")
        yield from ("StartType = 3", "ErrorControl = 1", f"ServiceBinary = %{place}%\\{binary}", "")


def null_inf_text(name: str, device_id: str) -> str:
    """An INF that gives a device no driver."""
    return "\n".join(
        (
            "[Version]", 'Signature="$Windows NT$"', "Class=System", f"ClassGUID={SYSTEM[1]}", "Provider=%QEMU%",
            "DriverVer=10/21/2016,1.0.0", f"CatalogFile={name}.cat", "", "[Manufacturer]", "%QEMU%=QEMU,NTx86,NTAMD64", "",
            "[QEMU.NTx86]", f"%Device% = Null_Device, {device_id}", "", "[QEMU.NTAMD64]", f"%Device% = Null_Device, {device_id}",
            "", "[Null_Device.NT]", "", "[Null_Device.NT.Services]", "AddService = ,2    ; no service", "", "[Strings]",
            'QEMU="QEMU"', f'Device = "QEMU {name}"', "",
        )
    )  # fmt: skip


def make_tree(
    path: Path, *, omit: Sequence[str] = (), zero: Sequence[str] = (), layout: str = "iso", signed: str = "whql"
) -> Path:
    """The tree of the ISO, or with layout "rpm" of the RPM's /usr/share/virtio-win; `omit` names release directories to
    leave out, `zero` files ("viostor.sys") to leave empty.

    `signed`: by whom the drivers are, a chain of signing.py, and SHA-1 beside SHA-256 up to Windows 7; "none" without any
    signature, "sha256" with that one alone.
    """
    base = path if layout == "iso" else path / "drivers" / "by-driver"
    for driver in DRIVERS:
        for release, arch in _places(driver.since, omit):
            directory = base / driver.folder / release / arch
            _write(directory, _package(driver, release, arch, signed))
            _link_flat(directory, path, driver, release, arch, layout)
    for name, device_id in NULL_DRIVERS:
        for release, arch in _places("10.0", omit):
            inf = _encoded(null_inf_text(name, device_id), "ascii")
            _write(base / name / release / arch, {f"{name}.inf": inf, f"{name}.cat": b"made catalogue"})
    for release, arch in _places("10.0", omit):
        files = ("vioprot.inf", "vioprot.cat", "netkvmno.dll", "netkvmp.exe")
        _write(base / "sriov" / release / arch, {name: b"made " + name.encode() for name in files})
    installers = ("qemu-ga-x86_64.msi", "qemu-ga-i386.msi")
    _write(path / "guest-agent", dict.fromkeys(installers, b"made guest-agent installer"))
    if layout == "iso":
        names = ("virtio-win-guest-tools.exe", "virtio-win-gt-x64.msi", "virtio-win-gt-x86.msi", "virtio-win_license.txt")
        _write(path, {name: b"made " + name.encode() for name in names})
    for name in zero:
        for found in path.rglob(name):
            found.write_bytes(b"")
    return path


def _places(since: str, omit: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(release directory, architecture directory) of a driver that exists since an NT version."""
    least = tuple(map(int, since.split(".")))
    for release, version in {**OLD_RELEASES, **RELEASES}.items():
        if release in omit or tuple(map(int, version.split("."))) < least:
            continue
        yield release, "amd64"
        if release in X86:
            yield release, "x86"
        if release in ARM64:
            yield release, "ARM64"


def _package(driver: Driver, release: str, arch: str, signed: str) -> dict[str, bytes]:
    """The files of one directory, those that no INF names among them (symbols, services, vioprot)."""
    version = {**OLD_RELEASES, **RELEASES}[release]

    def program(name: str) -> bytes:
        body = f"made {name} for {release} {arch}".encode()
        if signed == "none" or not name.endswith(".sys"):
            return make_pe(MACHINES[arch], body)
        old = signed != "sha256" and version <= "6.1"
        by = "whql" if signed == "sha256" else signed
        return make_pe(MACHINES[arch], body, signed=True, by=by, digests=("sha1", "sha256") if old else ("sha256",))

    wdf = {"6.1": ["WdfCoInstaller01009.dll"], "6.2": ["WdfCoInstaller01011.dll"], "6.3": ["WdfCoInstaller01011.dll"]}
    names = [f"{driver.inf}.sys", *driver.copies, *netkvm_programs(driver, version), *driver.beside]
    names += [driver.child[2]] if driver.child[2] else []
    names += wdf.get(version, []) if driver.wdf else []
    files = {name: program(name) for name in names}
    files[f"{driver.inf}.inf"] = _encoded(inf_text(driver, release, arch), "utf-16" if release in ("w10", "w11") else "ascii")
    files[f"{driver.inf}.cat"] = b"made catalogue"
    files[f"{driver.inf}.pdb"] = b"made symbols"
    if driver is NETKVM and version == "10.0":
        files.update({"vioprot.inf": b"made vioprot", "vioprot.cat": b"made catalogue", "netkvmco.exe": program("netkvmco.exe")})
    return files


def _encoded(text: str, encoding: str) -> bytes:
    return text.replace("\n", "\r\n").encode(encoding)


def _write(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)


def _link_flat(directory: Path, path: Path, driver: Driver, release: str, arch: str, layout: str) -> None:
    """The same files in the ISO's flat storage folders, or in the RPM's by-os tree."""
    short = {"x86": "i386"}.get(arch, arch)
    if layout == "iso":
        if driver.kind != SCSI or release not in FLAT or arch == "ARM64":
            return
        flat = path / short / release
    else:
        flat = path / "drivers" / "by-os" / short / release
    flat.mkdir(parents=True, exist_ok=True)
    for found in directory.iterdir():
        target = flat / found.name
        if not target.exists():  # co-installers that several drivers bring
            os.link(found, target)


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
