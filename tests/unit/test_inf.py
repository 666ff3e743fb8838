"""INF files: every spelling that Windows accepts, and nothing but BadData for what it would not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows.inf import RegValue, parse_inf
from h2k.windows.values import REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_NONE, REG_QWORD, REG_SZ, Value
from tests.guests.virtio_win import DRIVERS, NULL_DRIVERS, OLD_RELEASES, RELEASES, Driver, null_inf_text
from tests.guests.virtio_win import inf_text as made_inf
from tests.unit.helpers import damaged, many, windows
from tests.unit.made_infs import minimal, parse

VIOSTOR, NETKVM = DRIVERS[0], DRIVERS[2]
BY_FOLDER = {driver.folder: driver for driver in DRIVERS}
SOUND = made_inf(VIOSTOR, "2k22", "amd64").replace("\n", "\r\n").encode()


def values(service: str, more: str) -> tuple[RegValue, ...]:
    return parse(minimal(service=service, more=more)).driver(windows()).service.values


# The drivers of virtio-win


@pytest.mark.parametrize("release", [*OLD_RELEASES, *RELEASES])
def test_viostor_of_every_release(release: str) -> None:
    major, minor = map(int, {**OLD_RELEASES, **RELEASES}[release].split("."))
    driver = parse(made_inf(VIOSTOR, release, "amd64")).driver(windows((major, minor), 26100), ["PCI\\VEN_1AF4&DEV_1001"])
    service = driver.service
    assert (service.name, service.type, service.start, service.error_control) == ("viostor", 1, 0, 1)
    assert (service.group, service.binary, service.inf) == ("SCSI miniport", "viostor.sys", "x.inf")
    assert RegValue("Parameters", "BusType", Value(REG_DWORD, b"\1\0\0\0")) in service.values
    assert RegValue("Parameters\\PnpInterface", "5", Value(REG_DWORD, b"\1\0\0\0")) in service.values
    assert not [v for v in service.values if "Interrupt" in v.subkey or v.name == "TypesSupported"]
    if release in OLD_RELEASES:
        assert driver.ids == tuple(f"PCI\\VEN_1AF4&DEV_1001&SUBSYS_{s}" for s in ("00000000", "00020000", "00021AF4"))
    else:
        assert driver.ids == (
            "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
            "PCI\\VEN_1AF4&DEV_1001",
            "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
            "PCI\\VEN_1AF4&DEV_1042",
        )


def test_vioscsi_is_another_bus_type() -> None:
    service = parse(made_inf(BY_FOLDER["vioscsi"], "2k25", "amd64")).driver(windows(build=26100)).service
    assert RegValue("Parameters", "BusType", Value(REG_DWORD, b"\x0a\0\0\0")) in service.values


def test_netkvm_values_and_files() -> None:
    inf = parse(made_inf(NETKVM, "w10", "amd64"))
    service = inf.driver(windows()).service
    assert (service.start, service.group) == (3, "NDIS")
    assert RegValue("Parameters", "DisableMSI", Value(REG_SZ, "0\0".encode("utf-16-le"))) in service.values
    assert RegValue("", "TextModeFlags", Value(REG_DWORD, b"\1\0\0\0")) in service.values
    assert inf.files("amd64") == ("x.inf", "netkvm.cat", "netkvm.sys", "netkvmp.exe")


@pytest.mark.parametrize("release", ["w7", "2k12R2", "w10", "w11"])
@pytest.mark.parametrize("driver", DRIVERS, ids=[driver.inf for driver in DRIVERS])
def test_every_made_inf_gives_its_service(driver: Driver, release: str) -> None:
    major, minor = map(int, RELEASES[release].split("."))
    found = parse(made_inf(driver, release, "amd64"), "utf-16").driver(windows((major, minor), 22000))
    assert (found.service.name, found.service.start, found.service.error_control) == (driver.service, driver.start, driver.error)


def test_the_install_section_is_that_of_the_wanted_device() -> None:
    inf = parse(made_inf(BY_FOLDER["vioinput"], "w10", "amd64"))
    assert inf.driver(windows(), ["PCI\\VEN_1AF4&DEV_1052"]).service.name == "VirtioInput"
    child = inf.driver(windows(), ["VIOINPUT\\REV_01"])
    assert (child.service.name, child.ids) == ("viohidkmdf", ("VIOINPUT\\REV_01",))
    assert "viohidkmdf.sys" in inf.files("amd64")
    with pytest.raises(BadData, match=r"x\.inf: lists none of PCI.VEN_1AF4&DEV_105"):
        inf.driver(windows(), ["PCI\\VEN_1AF4&DEV_105"])  # the beginning of an id is not the id


def test_a_driver_for_older_windows_brings_its_coinstaller() -> None:
    inf = parse(made_inf(BY_FOLDER["Balloon"], "w7", "x86"))
    assert inf.files("x86") == ("x.inf", "balloon.cat", "balloon.sys", "WdfCoInstaller01009.dll")


def test_a_null_driver_has_no_service() -> None:
    with pytest.raises(BadData, match="adds no function driver's service"):
        parse(null_inf_text(*NULL_DRIVERS[0])).driver(windows())


# Which models fit


@pytest.mark.parametrize(
    ("decoration", "fits"),
    [
        ("NTamd64", True), ("ntAMD64.10.0", True), ("NTamd64.10.0...20348", True), ("NTamd64.10.0...20349", False),
        ("NTamd64.6.1", True), ("NTamd64.6.1...99999", True), ("NTamd64.10.1", False), ("NTamd64.11", False),
        ("NTamd64.10.0.1", False), ("NTamd64.10.0.3", True), ("NTamd64.10.0.2", True), ("NTamd64.6.1.1.0x80", False),
        ("NTamd64.0xA.0", True), ("NTx86", False), ("NTarm64.10.0", False), ("NT", False), ("NT.10.0", False),
        ("NTamd64.10.0.3...", False), ("NTamd64.ten", False), ("", False),
    ],
)  # fmt: skip
def test_decorations_for_a_2022_server(decoration: str, fits: bool) -> None:
    text = minimal(manufacturer=f"M,{decoration}").replace("[M.NTamd64]", f"[M.{decoration}]")
    if fits:
        assert parse(text).driver(windows()).service.name == "svc"
    else:
        with pytest.raises(BadData, match=r"has no models for Windows 10\.0 build 20348 on amd64"):
            parse(text).driver(windows())


def test_the_closest_decoration_wins() -> None:
    names = ("NTamd64", "NTamd64.6.3", "NTamd64.10.0", "NTamd64.10.0...17763", "NTamd64.10.0.3..17763", "NTamd64.10.0...22000")
    sections = "".join(f"[M.{name}]\nDisk=inst,ID\\{number}\n" for number, name in enumerate(names))
    text = minimal(manufacturer=", ".join(("M", *names)), models="Disk=inst,ID\\0", more=sections)
    inf = parse(text)
    assert inf.driver(windows(build=20348)).ids == ("ID\\4",)
    assert inf.driver(windows(build=19045, server=False)).ids == ("ID\\3",)
    assert inf.driver(windows(build=14393)).ids == ("ID\\2",)
    assert inf.driver(windows((6, 3), 9600)).ids == ("ID\\1",)
    assert inf.driver(windows((6, 1), 7601)).ids == ("ID\\0",)
    assert inf.driver(windows(build=22631, server=False)).ids == ("ID\\5",)


def test_x86_knows_models_without_decoration() -> None:
    text = minimal(manufacturer="M").replace("[M.NTamd64]", "[M]")
    assert parse(text).driver(windows((5, 1), 2600, "x86", False)).service.name == "svc"
    with pytest.raises(BadData, match="no models"):
        parse(text).driver(windows((5, 2), 3790, "amd64"))
    both = minimal(manufacturer="M,NT.5.1,NTx86.5.1").replace("[M.NTamd64]", "[M.NTx86.5.1]")
    assert parse(both).driver(windows((5, 1), 2600, "x86", False)).service.name == "svc"


def test_several_manufacturers_add_up() -> None:
    text = minimal(models="A=inst,ID\\A").replace("%V%=M,NTamd64", "%V%=M,NTamd64\n%V%=N,NTamd64")
    inf = parse(text + "[N.NTamd64]\nB=inst,id\\b\nC=inst,ID\\A\n")
    assert inf.driver(windows()).ids == ("ID\\A", "ID\\B")


@pytest.mark.parametrize("section", ["inst.Services", "inst.NT.Services", "inst.NTamd64.Services"])
def test_decorated_install_sections(section: str) -> None:
    text = minimal().replace("[inst.Services]", f"[{section}]")
    assert parse(text).driver(windows()).service.name == "svc"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[inst.Services]", "[inst.NTx86.Services]", r"no section \[inst\.Services\]"),
        ("AddService=svc,2,", "AddService=svc,0,", "adds no function driver"),
        ("AddService=svc,2,svc_inst", "AddService=svc,2,elsewhere", r"no section \[elsewhere\]"),
        ("StartType=0", "StartType=%BOOT%", r"\[svc_inst\]: '%BOOT%' is no number"),
        ("StartType=0", "", r"\[svc_inst\]: '' is no number"),
        ("ServiceBinary=%12%\\svc.sys", "", "has no ServiceBinary"),
        ("ServiceBinary=%12%\\svc.sys", "ServiceBinary=%12%", "has no ServiceBinary"),
        ("AddService=svc,2", "AddService=svc,two", "'two' is no number"),
    ],
)
def test_a_service_that_is_not_whole(old: str, new: str, message: str) -> None:
    assert old in minimal()
    with pytest.raises(BadData, match=message):
        parse(minimal().replace(old, new)).driver(windows())


@pytest.mark.parametrize("binary", ["%12%\\svc.sys", "%13%\\svc.sys", "System32/drivers/svc.sys", "svc.sys", '"%12%\\svc.sys"'])
def test_service_binary_by_name_alone(binary: str) -> None:
    text = minimal().replace("%12%\\svc.sys", binary)
    assert parse(text).driver(windows()).service.binary == "svc.sys"


# AddReg


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('HKR,Parameters,A,,"text"', RegValue("Parameters", "A", Value(REG_SZ, "text\0".encode("utf-16-le")))),
        ("HKR,,A,,bare text", RegValue("", "A", Value(REG_SZ, "bare text\0".encode("utf-16-le")))),
        ('HKR,"Parameters\\Sub","A",0,"a,b"', RegValue("Parameters\\Sub", "A", Value(REG_SZ, "a,b\0".encode("utf-16-le")))),
        ("HKR,,A,0x00010001,7", RegValue("", "A", Value(REG_DWORD, b"\7\0\0\0"))),
        ("HKR,,A,65537,0xFFFFFFFF", RegValue("", "A", Value(REG_DWORD, b"\xff" * 4))),
        ("HKR,,A,0x10001,-1", RegValue("", "A", Value(REG_DWORD, b"\xff" * 4))),
        ("HKR,,A,0x10001,010", RegValue("", "A", Value(REG_DWORD, b"\x0a\0\0\0"))),
        ("HKR,,A,0x10001,78,56,34,12", RegValue("", "A", Value(REG_DWORD, b"\x78\x56\x34\x12"))),
        ("HKR,,A,0x10001,", RegValue("", "A", Value(REG_DWORD, bytes(4)))),
        ("HKR,,A,1,de,ad,0xBE", RegValue("", "A", Value(REG_BINARY, b"\xde\xad\xbe"))),
        ('HKR,,A,0x10000,"x","y"', RegValue("", "A", Value(REG_MULTI_SZ, "x\0y\0\0".encode("utf-16-le")))),
        (
            'HKR,,A,0x20000,"%%SystemRoot%%\\x"',
            RegValue("", "A", Value(REG_EXPAND_SZ, "%SystemRoot%\\x\0".encode("utf-16-le"))),
        ),
        ("HKR,,A,0x20001", RegValue("", "A", Value(REG_NONE, b""))),
        ("HKR,,A,0x000B0001,1,0,0,0,0,0,0,0", RegValue("", "A", Value(REG_QWORD, b"\1" + bytes(7)))),
        ("HKR,,,,default", RegValue("", "", Value(REG_SZ, "default\0".encode("utf-16-le")))),
        ("HKR,,A,0x00010003,7", RegValue("", "A", Value(REG_DWORD, b"\7\0\0\0"), keep=True)),
        ("hkr,,A,0x00014001,7", RegValue("", "A", Value(REG_DWORD, b"\7\0\0\0"))),
    ],
)
def test_values_of_every_type(line: str, expected: RegValue) -> None:
    assert values("AddReg=reg", f"[reg]\n{line}\n") == (expected,)


@pytest.mark.parametrize(
    "line", ["HKR,Key,,0x10", "HKR,,A,0x4", "HKR,,A,0x00010021,7", "HKLM,Software,A,,x", "HKCR,,A,,x", "", "HKR"]
)
def test_what_sets_no_value_of_the_service(line: str) -> None:
    assert values("AddReg=reg", f"[reg]\n{line}\n") == ()


@pytest.mark.parametrize("line", ["HKR,,A,flags,1", "HKR,,A,0x10001,one", "HKR,,A,1,xyz", "HKR,,A,0x10001,0x123456789"])
def test_values_that_can_not_be_read(line: str) -> None:
    with pytest.raises(BadData, match=r"x\.inf: \[reg\]"):
        values("AddReg=reg", f"[reg]\n{line}\n")


def test_several_addreg_sections_and_lines() -> None:
    more = "[a]\nHKR,,A,,1\n[b]\nHKR,,B,,2\n[c]\nHKR,,C,,3\n"
    assert [v.name for v in values("AddReg=a,b\nAddReg=c", more)] == ["A", "B", "C"]


# The text itself


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.inf: 0 bytes are no INF file"),
        (b"\0" * 100, r"no \[Version\] section"),
        (b"[Version]\nSignature=$Linux$", r"no \[Version\] section"),
        (b"[Version]\nSignature=$Windows NT$\n[broken", "x.inf, line 3: a section name without its end"),
        (b"[a]\n" + b"\n" * 300_000, "too many lines"),
        (b"[a]\n" + b"x" * 70_000, "x.inf, line 2: longer than"),
        (b"[a]\n" + b"x,\\\n" * 30_000, "longer than"),
        (b" " * (5 << 20), "bytes are no INF file"),
        (b"[a]\n" + b"%s%%s%%s%%s%\n" * 60_000 + b"[Strings]\ns=" + b"x" * 30_000, "strings expand to more than"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{len(v)} bytes",
)
def test_what_is_no_inf(data: bytes, message: str) -> None:
    with pytest.raises(BadData, match=message):
        parse_inf(data, "x.inf")


# The files of a package


def test_files_in_subdirectories_and_of_one_architecture() -> None:
    more = """[inst]
CopyFiles=@solo.dll, files
[inst.NTx86]
CopyFiles=files86
[files]
there.sys, here.sys
[files86]
old.sys
[SourceDisksNames]
1=disk,,,
2=disk,,,"\\drivers"
[SourceDisksFiles]
solo.dll=1
[SourceDisksFiles.amd64]
here.sys=2,x64
[SourceDisksFiles.x86]
old.sys=2,x86
"""
    text = minimal(more=more).replace("Class=SCSI", "CatalogFile=any.cat\nCatalogFile.NTamd64=x64.cat\nClass=SCSI")
    assert parse(text).files("amd64") == ("x.inf", "x64.cat", "solo.dll", "drivers/x64/here.sys")
    assert parse(text).files("x86") == ("x.inf", "any.cat", "solo.dll", "here.sys", "drivers/x86/old.sys")


@pytest.mark.parametrize("name", ["..\\..\\etc\\shadow", "C:\\x.sys", "a\\..\\b.sys", "x?.sys", "x\x01.sys"])
def test_files_never_leave_the_directory(name: str) -> None:
    inf = parse(minimal(more=f"[inst]\nCopyFiles=@{name}\n"))
    with pytest.raises(BadData, match="is no file of a driver package"):
        inf.files("amd64")


# Any bytes


def use(data: bytes) -> None:
    """Parse and ask everything; only BadData may come out."""
    try:
        inf = parse_inf(data, "x.inf")
    except BadData:
        return
    for version in (windows(), windows((6, 1), 7601, "x86", False)):
        for wanted in ((), ("PCI\\VEN_1AF4&DEV_1001",)):
            with contextlib.suppress(BadData):
                inf.driver(version, wanted)
        with contextlib.suppress(BadData):
            inf.files(version.arch)


@many
@given(damaged(SOUND))
def test_damaged_infs(data: bytes) -> None:
    use(data)


@many
@given(damaged(made_inf(NETKVM, "w11", "amd64").encode("utf-16")))
def test_damaged_unicode_infs(data: bytes) -> None:
    use(data)


@many
@given(st.binary(max_size=2000))
@example(b"[Version]\nSignature=$Windows NT$\n[Manufacturer]\n=\n\n,,\n%=%,%\n")
def test_any_bytes(data: bytes) -> None:
    use(data)


LINES = st.lists(
    st.sampled_from(
        """[Version]|Signature="$Windows NT$"|[Manufacturer]|M=M,NTamd64|[M.NTamd64]|a=i,ID|=|a=|,|"|%|%%|%a%|[i.Services]
        AddService=a,2,i|AddService|[i]|ServiceType=1|StartType=0|ErrorControl=1|ServiceBinary=a.sys|AddReg=i,i|HKR,,a,1,0
        CopyFiles=i,@i|CopyFiles=M.NTamd64|[SourceDisksFiles]|a=1,b|1=a,b,c,d|[Strings]|a=%a%%a%|\\|; [x]|[|]|[[x]]""".replace(
            "\n", "|"
        ).split("|")
    ).map(str.strip),
    max_size=60,
)


@many
@given(LINES)
def test_any_lines(lines: list[str]) -> None:
    use("\n".join(lines).encode())
