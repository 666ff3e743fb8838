"""VMware's VMX read as facts: encodings, devices, and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts, Topology
from h2k.domain.vmx import read_vmx
from tests.unit.machines import facts_or_bad_data, mutated

VMX = b"""#!/usr/bin/vmware
.encoding = "windows-1252"
config.version = "8"
displayName = "K\xf6ln |22a|22"
MemSize = "4096"
numvcpus = "4"
cpuid.coresPerSocket = "2"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
vtpm.present = "TRUE"
uuid.bios = "56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc"
annotation = "two|0Alines"
bios.hddOrder = "scsi0:1"
ide1:0.present = "TRUE"
ide1:0.fileName = "d.vmdk"
sata0:0.present = "TRUE"
sata0:0.fileName = "auto detect"
sata0:0.deviceType = "cdrom-raw"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "c.vmdk"
scsi0.present = "TRUE"
scsi0:10.present = "TRUE"
scsi0:10.fileName = "b.vmdk"
scsi0:1.present = "true"
scsi0:1.fileName = "/vmfs/volumes/a.vmdk"
scsi0:2.present = "FALSE"
scsi0:2.fileName = "gone.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:AA:BB:CC"
ethernet0.address = "00:50:56:00:00:01"
ethernet0.pciSlotNumber = "192"
ethernet1.present = "TRUE"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:02"
ethernet2.present = "FALSE"
""".replace(b"\n", b"\r\n")


def test_vmx() -> None:
    assert read_vmx(VMX, "a.vmx") == DomainFacts(
        name='Köln "a"',
        uuid="564d1234-5678-9abc-def0-123456789abc",
        memory=4 * 2**30,
        vcpus=4,
        topology=Topology(2, 2, 1),
        firmware="uefi",
        secure_boot=True,
        tpm="tpm-crb",
        disks=(
            DiskFacts(Path("/vmfs/volumes/a.vmdk"), "vmdk", "scsi", "scsi0:1", 1),
            DiskFacts(Path("b.vmdk"), "vmdk", "scsi", "scsi0:10"),
            DiskFacts(Path("c.vmdk"), "vmdk", "nvme", "nvme0:0"),
            DiskFacts(Path("d.vmdk"), "vmdk", "ide", "ide1:0"),
        ),
        nics=(
            NicFacts("00:0c:29:aa:bb:cc", "vmxnet3", "network", "VM Network", 192),
            NicFacts("00:50:56:00:00:02", None, "network", "default"),
        ),
        cdrom=True,
    )


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [
        ("windows-1256", "cp1256", "سيرفر"), ("koi8-r", "koi8-r", "сервер"), ("KOI8-U", "koi8-u", "їжак"),
        ("windows-1252", "cp1252", "Köln"), ("windows-1255", "cp1255", "שרת"), ("windows-874", "cp874", "ไทย"),
        ("windows-1258", "cp1258", "Đô"), ("iso-8859-2", "iso8859-2", "Łódź"), ("ISO-8859-15", "iso8859-15", "5 €"),
        ("shift_jis", "shift_jis", "サーバ"), ("windows-932", "cp932", "サーバ"), ("Windows-31J", "cp932", "①"),
        ("euc-jp", "euc_jp", "サーバ"), ("gbk", "gbk", "服务器"), ("windows-936", "gbk", "服务器"), ("GB18030", "gb18030", "服务器"),
        ("big5", "big5", "伺服器"), ("windows-950", "cp950", "伺服器"), ("euc-kr", "euc_kr", "서버"), ("windows-949", "cp949", "서버"),
        ("ibm-850", "cp850", "Köln"), ("IBM437", "cp437", "Köln"), ("macintosh", "mac_roman", "Köln"), ("UTF-8", "utf-8", "домен"),
    ],
)  # fmt: skip
def test_encodings(encoding: str, codec: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    text = f'.encoding = "{encoding}"\ndisplayName = "{name}"\nmemsize = "64"\n'
    assert read_vmx(text.encode(codec), "a.vmx").name == name
    assert read_vmx(text.replace('"', "", 2).encode(codec), "a.vmx").name == name
    assert not caplog.records


@pytest.mark.parametrize(
    "encoding", ["x-klingon", "rot13", "hex", "idna", "punycode", "unicode_escape", "utf-16", "utf-32", "cp037", "utf-7", "", "\x1b[2J"]
)
def test_an_encoding_that_is_none_is_read_as_latin_1_with_a_line(encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    text = f'.encoding = "{encoding}"\ndisplayName = "K\xf6ln"\nmemsize = "64"\n'
    assert read_vmx(text.encode("latin-1"), "a.vmx").name == "Köln"
    assert len(caplog.records) == 1 and "ISO 8859-1" in caplog.text and "\x1b" not in caplog.text


def test_a_byte_order_mark() -> None:
    assert read_vmx(b'\xef\xbb\xbf.encoding = "UTF-8"\ndisplayName = "\xc3\xb6"\n', "a.vmx").name == "ö"


def test_vmx_defaults() -> None:
    facts = read_vmx(b'displayname="a"', "a.vmx")
    assert (facts.memory, facts.vcpus, facts.firmware, facts.tpm) == (32 * 2**20, 1, "bios", None)
    assert read_vmx(b"config.version = 8\n", "/x/web.vmx").name == "web"


def test_vmx_virtual_tpm_of_a_managed_guest_and_sound() -> None:
    facts = read_vmx(b'memsize = "64"\nmanagedVM.autoAddVTPM = "software"\nsound.present = "TRUE"\n', "a.vmx")
    assert (facts.tpm, facts.sound) == ("tpm-crb", "es1371")


BAD_VMX = {
    "empty": (b"", "not a VMX"),
    "binary": (b"KDMV\x01\x00\xff\xfe", "a.vmx:1"),
    "random text": (b"hello\nworld", "a.vmx:1"),
    "other keys": (b'a = "b"\n', "not a VMX"),
    "truncated": (b'displayName = "a"\nmemsize = "40', "a.vmx:2"),
    "twice": (b'memsize = "1"\n\nmemsize = "2"\n', "a.vmx:3.*line 1"),
    "memory": (b'memsize = "much"\n', "a.vmx:1: memsize"),
    "huge memory": (b'memsize = "99999999999999999999"\n', "memsize"),
    "cpus": (b'memsize = "1"\nnumvcpus = "0"\n', "a.vmx:2: numvcpus"),
    "not utf-8": (b'displayName = "a"\nb = "\xff"\n', "a.vmx:2: not utf-8"),
    "control": (b'displayName = "a|00b"\n', "a.vmx:1: displayname"),
    "long name": (b'displayName = "' + b"a" * 5000 + b'"\n', "4096"),
    "too large": (b"#" * (2 * 2**20), "larger than"),
    "lines": (b"\n" * 30_000, "lines"),
    "mac": (b'memsize = "1"\nethernet0.present = "1"\nethernet0.address = "ff:ff:ff:ff:ff:ff"\n', "a.vmx:3.*MAC"),
    "slot": (b'memsize = "1"\nethernet0.present = "1"\nethernet0.pciSlotNumber = "-1"\n', "a.vmx:3"),
    "many cards": (b'memsize="1"\n' + b"".join(b'ethernet%d.present="1"\n' % n for n in range(40)), "32 network"),
    "many disks": (b'memsize="1"\n' + b"".join(b'scsi0:%d.fileName="x"\n' % n for n in range(99)), "64 disks"),
}


@pytest.mark.parametrize("case", BAD_VMX)
def test_bad_vmx(case: str) -> None:
    data, words = BAD_VMX[case]
    with pytest.raises(BadData, match=words) as caught:
        read_vmx(data, "a.vmx")
    assert str(caught.value).startswith("a.vmx") and "\n" not in str(caught.value)


def test_cores_that_do_not_divide_the_cpus_are_dropped() -> None:
    assert read_vmx(b'memsize = "1"\nnumvcpus = "4"\ncpuid.coresPerSocket = "3"\n', "a.vmx").topology is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | mutated(VMX))
def test_any_vmx_gives_facts_or_bad_data(data: bytes) -> None:
    facts_or_bad_data(read_vmx, data)
