"""A bounded fuzz run over every parser of hostile input: python3 -m tests.fuzz --seconds N.

Sound input is made at run time and then damaged; each case follows from the run's seed and its own number, so that a
run with the same seed meets the same cases. A parser may take a case or reject it with BadData or UsageError.
Anything else, a case above 5 seconds, or more than 200 MiB of memory beyond what the sound input needs, is a failure:
the case is saved, and `--case PARSER FILE…` runs it again with the traceback shown.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import io
import itertools
import random
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import BadData, Refused, UsageError
from h2k.config.driver_plan import PLAN_DIRECTORIES, load_plan
from h2k.disk import reach, truncation
from h2k.disk.claims import check_claims
from h2k.disk.partition import read_table
from h2k.domain import tar
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.ovf import read_ovf
from h2k.domain.vmx import read_vmx
from h2k.windows import pnp, regf, regf_log
from h2k.windows.bcd import read_bcd
from h2k.windows.inf import parse_inf
from h2k.windows.pe import read_pe
from h2k.windows.signature import read_signatures
from h2k.windows.values import REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ
from h2k.windows.version import WindowsVersion
from tests.guests.build import bcd_text
from tests.guests.hivelog import make_dirty_pair, marvin
from tests.guests.ova import ovf_text
from tests.guests.pe import make_pe
from tests.guests.rawhive import Node, RawHive, resum
from tests.guests.regfile import build_hive
from tests.guests.virtio_win import DRIVERS, inf_text

CASE_SECONDS = 5
MEMORY = 200 * 1024 * 1024  # bytes
LARGEST = 1024 * 1024  # bytes of one part of a case
SLICE = 0.5  # seconds that a parser has before it is the next one's turn
REJECTED = (BadData, UsageError)

Case = tuple[bytes, ...]
Mend = Callable[[Case], Case]


class TooSlow(BaseException):
    """Raised by the alarm in the middle of a case; not an Exception, so that no parser takes it for its own."""


@dataclasses.dataclass(frozen=True)
class GuestFiles:
    """A parser: sound cases, what runs one, words of its language, and what makes checksums right again."""

    name: str
    sound: Callable[[], Sequence[Case]]
    run: Callable[[Case], object]
    words: tuple[bytes, ...] = ()
    mend: Optional[Mend] = None


@dataclasses.dataclass
class Count:
    """How the cases of one parser ended."""

    cases: int = 0
    accepted: int = 0

    @property
    def rejected(self) -> int:
        return self.cases - self.accepted


# Hives, logs, BCD


def _hive_text() -> str:
    entries = pnp.driver_database_entries("viostor", ["VEN_1AF4&DEV_1001"], "{4D36E97B-E325-11CE-BFC1-08002BE10318}", "amd64")
    database = (f'[{e.key}]\n"{e.name}"=hex({e.value.type:x}):{e.value.raw.hex(",")}\n' for e in entries if e.name)
    return '[Select]\n"Current"=dword:00000001\n"Default"=dword:00000001\n[ControlSet001\\Services\\x]\n' + "".join(database)


def _raw_hive() -> bytes:
    """Every kind of list and data, an index and big data among them."""
    many = Node("Many", [Node(f"Key{n:04d}") for n in range(250)], kind="ri")
    values = [("", REG_SZ, b"d\0\0\0"), ("dword", REG_DWORD, bytes(4)), ("big", REG_BINARY, bytes(range(256)) * 150)]
    values += [("multi", REG_MULTI_SZ, "a\0b\0\0".encode("utf-16-le")), ("none", 0, b""), ("odd", REG_SZ, b"abc")]
    lists = [Node(kind, [Node("A"), Node("b", values=values[:2])], kind=kind) for kind in ("lf", "lh", "li")]
    return RawHive(Node("ROOT", [*lists, many, Node("Values", values=values)])).data()


def _hives() -> list[Case]:
    return [(build_hive(_hive_text()),), (_raw_hive(),)]


def _read_hive(case: Case) -> object:
    hive = regf.Hive.parse(case[0], "hive")
    for key in ("Select", "Many\\Key0100", "Values", "ControlSet001\\Services\\x"):
        found = hive.key(key)
        for value in found.values() if found is not None else ():
            value.text(), value.multi(), value.dword(), value.qword()
    pnp.find_binding(hive, 1, pnp.PciId(0x1AF4, 0x1001, 0x1AF4, 2, 0, 0x010000).ids())
    problems = regf.check(case[0], "hive", deep=True)
    if problems:
        raise BadData(problems[0])
    return hive


def _mend_hive(case: Case) -> Case:
    return tuple(resum(part) if len(part) > 512 else part for part in case)


def _dirty_hives() -> list[Case]:
    before, after = build_hive(_hive_text()), build_hive(_hive_text() + "[New\\Key]\n" + '"a"="b"\n' * 1)
    cases = []
    for form in ("new", "old"):
        hive, logs = make_dirty_pair(before, after, form)
        cases.append((hive, *logs.values()))
    return cases


def _replay(case: Case) -> object:
    return regf_log.replay(case[0], {f"LOG{n}": log for n, log in enumerate(case[1:], 1)}, "hive")


def _mend_logs(case: Case) -> Case:
    """Right checksums of the base blocks and right hashes of the entries where they can be found."""
    mended = list(_mend_hive(case))
    for number, part in enumerate(mended[1:], 1):
        log, at = bytearray(part), 512
        while at + 40 <= len(log) and log[at : at + 4] == b"HvLE":
            (size,) = struct.unpack_from("<I", log, at + 4)
            if not 40 <= size <= len(log) - at:
                break
            log[at + 24 : at + 32] = marvin(bytes(log[at + 40 : at + size]))
            log[at + 32 : at + 40] = marvin(bytes(log[at : at + 32]))
            at += size
        mended[number] = bytes(log)
    return tuple(mended)


def _stores() -> list[Case]:
    return [(build_hive(bcd_text("fuzz", firmware)),) for firmware in ("uefi", "bios")]


def _read_store(case: Case) -> object:
    return read_bcd(regf.Hive.parse(case[0], "BCD")).default_loader()


# Driver packages


def _infs() -> list[Case]:
    kinds = (("viostor", "w7", "x86", "ascii"), ("vioinput", "w11", "amd64", "utf-16"), ("netkvm", "2k22", "amd64", "utf-8"))
    drivers = {driver.inf: driver for driver in DRIVERS}
    return [(inf_text(drivers[name], release, arch).encode(encoding),) for name, release, arch, encoding in kinds]


def _read_inf(case: Case) -> object:
    inf = parse_inf(case[0], "x.inf")
    arch = "x86" if "models.ntx86.6.1" in inf.sections else "amd64"
    inf.files(arch)
    return inf.driver(WindowsVersion("", (10, 0), 22631, arch, False, "", "", ""))


def _signed() -> list[Case]:
    return [(make_pe("amd64", b"body", True, by, digests),) for by in ("cross", "test") for digests in (("sha256",), ("sha1", "sha256"))]


def _programs() -> list[Case]:
    return [(make_pe(machine, b"body", signed=signed),) for machine in ("x86", "amd64", "arm64") for signed in (True, False)]


# Descriptions of guests

VMX = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "guest"
guestOS = "windows2019srv-64"
memsize = "4096"
numvcpus = "2"
cpuid.coresPerSocket = "2"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
uuid.bios = "56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "guest.vmdk"
sata0:1.deviceType = "cdrom-image"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.generatedAddress = "00:0c:29:4a:5b:6c"
ethernet0.pciSlotNumber = "192"
"""
XML = """<domain type='kvm'><name>guest</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
<memory unit='MiB'>4096</memory><vcpu>4</vcpu><os firmware='efi'><type arch='x86_64'>hvm</type><loader secure='yes'/>
<nvram template='/x'>/y</nvram></os><cpu><topology sockets='1' cores='2' threads='2'/></cpu><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='a.qcow2'/><target dev='sda' bus='sata'/>
<boot order='1'/></disk><disk type='block' device='cdrom'><target dev='sdb'/></disk>
<interface type='bridge'><mac address='52:54:00:01:02:03'/><source bridge='br0'/><model type='e1000e'/>
<address type='pci' slot='0x03'/></interface><tpm model='tpm-crb'/><graphics type='vnc'/><video><model type='vga'/></video>
</devices></domain>"""


PLAN = """skip: ["*.pdb"]
buckets: [{name: any, version: "10.0", product: server, min_build: 20348, max_build: 30000, directories: [2k22]}]
roles:
  - {name: a, kind: other, driver: a, inf: a.inf, service: a, class_guid: "{4D36E97B-E325-11CE-BFC1-08002BE10318}",
     hardware_ids: ['ACPI\\QEMU0001'], devices: [[0x1AF4, 0x1001, 0x1AF4, 0x0002, 0x00, 0x010000]]}
"""


def _plans() -> list[Case]:
    return [(PLAN.encode(),), ((PLAN_DIRECTORIES[0] / "examples" / "acme.yaml").read_bytes(),)]


def _read_plan(case: Case) -> object:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(case[0])
        file.flush()
        return load_plan([Path(file.name)])


# Partition tables: what is beyond the bytes of a case is zero

DISK = 64 * 1024 * 1024


def _tables() -> list[Case]:
    mbr = bytearray(8192)
    struct.pack_into("<I", mbr, 440, 0x1234ABCD)
    for place, status, kind, first, count in ((0, 0x80, 7, 2, 100), (1, 0, 0x0F, 4, 2000), (2, 0, 7, 4000, 1000)):
        struct.pack_into("<B3xB3xII", mbr, 446 + 16 * place, status, kind, first, count)
    for sector, following in ((4, 2), (6, 4), (8, 0)):
        struct.pack_into("<B3xB3xII", mbr, sector * 512 + 446, 0, 7, 1, 1)
        struct.pack_into("<B3xB3xII", mbr, sector * 512 + 462, 0, 5 if following else 0, following, 1)
        mbr[sector * 512 + 510 : sector * 512 + 512] = b"\x55\xaa"
    mbr[510:512] = b"\x55\xaa"
    return [(bytes(mbr),), _gpt(512), _gpt(4096)]


def _gpt(sector: int) -> Case:
    data = bytearray(sector * 2 + 16 * 128)
    struct.pack_into("<B3xB3xII", data, 446, 0, 0xEE, 1, 0xFFFFFFFF)
    data[510:512] = b"\x55\xaa"
    struct.pack_into("<8sIII4xQQQQ", data, sector, b"EFI PART", 0x10000, 92, 0, 1, DISK // sector - 1, 34, 1000)
    struct.pack_into("<16sQIII", data, sector + 56, uuid.UUID(int=7).bytes, 2, 16, 128, 0)
    for number in range(3):
        kind, own = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").bytes_le, uuid.UUID(int=number + 1).bytes
        struct.pack_into("<16s16sQQ", data, sector * 2 + 128 * number, kind, own, 100 * (number + 1), 100 * (number + 1) + 50)
    return _mend_gpt((bytes(data),))


def _mend_gpt(case: Case) -> Case:
    data = bytearray(case[0])
    for sector in (512, 4096):
        if data[sector : sector + 8] == b"EFI PART" and len(data) >= 2 * sector:
            length, (first, count, width) = data[sector + 12], struct.unpack_from("<QII", data, sector + 72)
            if first <= 64 and count <= 1024 and width <= 4096:
                entries = bytes(data[first * sector :][: count * width]).ljust(count * width, b"\0")
                struct.pack_into("<I", data, sector + 88, zlib.crc32(entries))
            struct.pack_into("<I", data, sector + 16, 0)
            struct.pack_into("<I", data, sector + 16, zlib.crc32(bytes(data[sector : sector + length])))
    return (bytes(data),)


def _read_table(case: Case) -> object:
    return read_table(lambda offset, length: case[0][offset : offset + length].ljust(length, b"\0"), DISK, "disk")


# Archives and images: what h2k itself reads of their headers


def _archives() -> list[Case]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, data in (("g.ovf", b"<a/>"), ("long/" * 30 + "ü.vmdk", b"KDMV" * 200)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        found.append((out.getvalue(),))
    return found


def _read_archive(case: Case) -> object:
    return list(tar.entries(io.BytesIO(case[0]), "x.ova"))


def _mend_archive(case: Case) -> Case:
    data = bytearray(case[0])
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            total = sum(data[at : at + 148]) + sum(data[at + 156 : at + 512]) + 256
            data[at + 148 : at + 156] = b"%06o\0 " % total
    return (bytes(data),)


def _image_heads() -> list[Case]:
    qcow2 = bytearray(4 << 16)
    struct.pack_into(">4sIQIIQIIQQIIQ", qcow2, 0, b"QFI\xfb", 3, 0, 0, 16, 1 << 30, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    struct.pack_into(">QQQII", qcow2, 72, 0, 0, 0, 4, 104)
    struct.pack_into(">Q", qcow2, 1 << 16, 2 << 16)
    struct.pack_into(">4H", qcow2, 2 << 16, 1, 1, 1, 1)
    sparse = bytearray(64 * 512)
    struct.pack_into("<4sIIQQQQIQQQ", sparse, 0, b"KDMV", 1, 3, 2048, 128, 1, 20, 512, 21, 26, 32)
    struct.pack_into("<4I", sparse, 26 * 512, 28, 28, 28, 28)
    text = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "g-flat.vmdk" 0\n'
    vhdx = bytearray(b"vhdxfile".ljust(257 * 1024, b"\0"))
    vhdx[65536 : 65536 + 64] = b"head" + bytes(44) + b"guid of the log."
    vhdx[192 * 1024 : 192 * 1024 + 48] = b"regi" + struct.pack("<III", 0, 1, 0) + bytes.fromhex("6677c22d23f600429d64115e9bfd4a08") + bytes(16)
    vhd = (b"conectix" + bytes(8) + struct.pack(">Q", 512)).ljust(60, b"\0") + struct.pack(">I", 3)
    dynamic = vhd.ljust(512, b"\0") + (b"cxsparse" + bytes(8) + struct.pack(">QII", 1536, 0, 100)).ljust(1024, b"\0") + b"\xff" * 512
    qed = struct.pack("<4sIIIQQQQ", b"QED\0", 4096, 1, 1, 0, 0, 0, 4096).ljust(8192, b"\0")
    return [(bytes(found),) for found in (qcow2, sparse, text, vhdx, dynamic, qed)]


def _read_image_head(case: Case) -> object:
    with tempfile.NamedTemporaryFile(suffix=".img") as file:
        file.write(case[0])
        file.flush()
        try:
            reach.check_reach(Path(file.name), Path("x.img"))
            check_claims(Path(file.name), "x.img")
        except Refused as refused:
            raise BadData(refused.message) from refused
        for end in (truncation._qcow2_end, truncation._vmdk_end, truncation._vdi_end):
            with open(file.name, "rb") as image, contextlib.suppress(EOFError, OSError):
                end(image)
    return case


TARGETS = (
    GuestFiles("regf", _hives, _read_hive, (b"nk", b"vk", b"lf", b"lh", b"li", b"ri", b"db", b"sk", b"hbin"), _mend_hive),
    GuestFiles("regf_log", _dirty_hives, _replay, (b"HvLE", b"DIRT", b"regf"), _mend_logs),
    GuestFiles("bcd", _stores, _read_store, ("{9dea862c-5cdd-4e70-acc1-f32b344d4795}".encode("utf-16-le"),), _mend_hive),
    GuestFiles(
        "inf", _infs, _read_inf,
        (b"[", b"]", b"=", b",", b'"', b"%", b"%%", b"\\\r\n", b";", b"AddReg=", b"CopyFiles=@", b"[Strings]\r\n", b"0x10001", b"HKR,"),
    ),
    GuestFiles("pe", _programs, lambda case: read_pe(case[0], "x.sys"), (b"MZ", b"PE\0\0", b"Rich", b"DanS")),
    GuestFiles("signature", _signed, lambda case: read_signatures(case[0], "x.sys"), (b"0\x82", b"0\x80", b"1\x82", b"\xa0\x82")),
    GuestFiles(
        "vmx", lambda: [(VMX.encode(),)], lambda case: read_vmx(case[0], "x.vmx"),
        (b'"', b"=", b"|22", b".encoding", b"scsi0:1.fileName", b"ethernet1.present", b"\n", b'"windows-1252"'),
    ),
    GuestFiles(
        "ovf", lambda: [(ovf_text("g", ["g-disk1.vmdk", "g-disk2.vmdk"], uefi=True),)], lambda case: read_ovf(case[0], "x.ovf"),
        (b"<", b">", b"/>", b"ovf:href='../x'", b"ovf:chunkSize='7'", b"rasd:ResourceType", b"<Item>", b"</Item>", b"&#x1b;"),
    ),
    GuestFiles("tar", _archives, _read_archive, (b"ustar\0", b"L", b"x", b"S", b"GNU.sparse", b"99 path=a\n", b"\x80"), _mend_archive),
    GuestFiles("image", _image_heads, _read_image_head, (b"QFI\xfb", b"KDMV", b'RW 1 FLAT "', b"version=1\n", b"\xff" * 8)),
    GuestFiles(
        "xml", lambda: [(XML.encode(),)], lambda case: read_domain_xml(case[0], "x.xml"),
        (b"<", b">", b"</", b"/>", b"&amp;", b"&#0;", b"<!DOCTYPE a>", b"<!--", b"<![CDATA[", b"xmlns:a='b'", b"<?xml version='1.0'?>"),
    ),
    GuestFiles(
        "plan", _plans, _read_plan,
        (b"- ", b": ", b"[", b"{", b"&a ", b"*a", b"!!set ", b"<<: ", b"? ", b"|\n", b"0x1AF4", b"~", b"\t", b"---\n", b"'"),
    ),
    GuestFiles("partition", _tables, _read_table, (b"EFI PART", b"\x55\xaa", b"\x05", b"\x0f", b"\xee"), _mend_gpt),
)  # fmt: skip


# Damage

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def damage(case: Case, others: Sequence[Case], target: GuestFiles, rng: random.Random) -> Case:
    """The case with one to eight changes in one of its parts, its checksums mended as a rule."""
    parts = list(case)
    number = rng.randrange(len(parts))
    data = bytearray(parts[number])
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        _change(data, rng.choice(rng.choice(others)), target.words, rng)
    parts[number] = bytes(data[:LARGEST])
    damaged = tuple(parts)
    return target.mend(damaged) if target.mend is not None and rng.random() < 0.8 else damaged


def _change(data: bytearray, other: bytes, words: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    span = min(rng.choice((1, 2, 4, 16, 100, 1000)), len(data) - at)
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.randrange(256)
    elif kind == 2:
        width = rng.choice((1, 2, 4, 8))
        value = (rng.choice(NUMBERS) + rng.choice((0, 0, -1, 1, len(data)))) % 256**width
        data[at : at + width] = value.to_bytes(width, "little")
    elif kind == 3:
        del data[at : at + span]
    elif kind == 4:
        data[at:at] = data[at : at + span] * rng.choice((1, 2, 50))
    elif kind == 5 and words:
        data[at : at + rng.choice((0, 0, span))] = rng.choice(words) * rng.choice((1, 1, 1, 500))
    elif kind == 6:
        begin = rng.randrange(len(other) + 1)
        data[at : at + span] = other[begin : begin + rng.choice((span, 200))]
    elif kind == 7:
        del data[at:]
    else:
        data[at : at + span] = rng.randbytes(span)


# The run


def cases(target: GuestFiles, seed: int) -> Iterator[Case]:
    """The sound cases, then damaged ones without end."""
    sound = target.sound()
    yield from sound
    for number in itertools.count():
        rng = random.Random(f"{seed} {target.name} {number}")
        yield damage(rng.choice(sound), sound, target, rng)


def memory() -> int:
    """The most memory that this process has had, in bytes (ru_maxrss would count what its parent had, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status[status.index("VmHWM:") + 6 :].split(maxsplit=1)[0]) * 1024


def attempt(target: GuestFiles, case: Case, before: int) -> tuple[bool, str]:
    """(whether the parser took the case, what was wrong with how it did: '' as a rule)."""
    accepted, wrong = False, ""
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        target.run(case)
        accepted = True
    except REJECTED as rejected:
        if "\n" in str(rejected):
            wrong = f"a message of more than one line: {str(rejected)[:200]!r}"
    except TooSlow:
        wrong = f"more than {CASE_SECONDS} s"
    except Exception as e:
        wrong = f"{type(e).__name__}: {str(e)[:200]} ({_place(e)})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if not wrong and time.monotonic() - began > CASE_SECONDS:
        wrong = f"more than {CASE_SECONDS} s"  # in code that no signal interrupts
    if not wrong and memory() - before > MEMORY:
        wrong = f"{(memory() - before) >> 20} MiB more memory than before"
    return accepted, wrong


def _place(error: BaseException) -> str:
    """The innermost line of our own code."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "/h2k/" in f.filename] or traceback.extract_tb(error.__traceback__)
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}"


def run(targets: Sequence[GuestFiles], seconds: float, seed: int, save: Path) -> int:
    """Fuzz in turns until the time is over; 0 when every parser did what it may do."""
    signal.signal(signal.SIGALRM, _alarm)
    queues = {target: cases(target, seed) for target in targets}
    counts = {target: Count() for target in targets}
    for target in targets:  # what the sound cases need is not growth
        for _ in range(len(target.sound())):
            accepted, wrong = attempt(target, next(queues[target]), memory())
            counts[target].cases += 1
            counts[target].accepted += accepted
            if wrong or not accepted:
                print(f"{target.name}: a sound case was rejected{': ' * bool(wrong)}{wrong}")
                return 1
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew from what is in use now
    before, end = memory(), time.monotonic() + seconds
    for target in itertools.cycle(targets):
        turn = min(end, time.monotonic() + SLICE)
        while time.monotonic() < turn:
            case = next(queues[target])
            accepted, wrong = attempt(target, case, before)
            counts[target].cases += 1
            counts[target].accepted += accepted
            if wrong:
                _report(counts)
                print(_saved(target, case, wrong, save))
                return 1
        if time.monotonic() >= end:
            break
    _report(counts)
    return 0


def _alarm(*_: Any) -> None:
    raise TooSlow


def _report(counts: dict[GuestFiles, Count]) -> None:
    for target, count in counts.items():
        print(f"{target.name:<10} {count.cases:>8} cases {count.accepted:>8} accepted {count.rejected:>8} rejected")


def _saved(target: GuestFiles, case: Case, wrong: str, save: Path) -> str:
    save.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, part in enumerate(case):
        paths.append(save / f"{target.name}-{zlib.crc32(b''.join(case)):08x}.{number}")
        paths[-1].write_bytes(part)
    return f"FAILED {target.name}: {wrong}\nagain: python3 -m tests.fuzz --case {target.name} {' '.join(map(str, paths))}"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60, help="for all parsers together [60]")
    parser.add_argument("--seed", type=int, help="of an earlier run, to meet its cases again")
    parser.add_argument("--only", action="append", choices=[t.name for t in TARGETS], help="this parser (repeatable)")
    parser.add_argument("--save", type=Path, default=Path(tempfile.gettempdir()) / "h2k-fuzz", help="where a failing case goes")
    parser.add_argument("--case", nargs="+", metavar=("PARSER", "FILE"), help="run one saved case, with its traceback")
    wishes = parser.parse_args(argv)
    if wishes.case:
        target = next(t for t in TARGETS if t.name == wishes.case[0])
        print(target.run(tuple(Path(path).read_bytes() for path in wishes.case[1:])))
        return 0
    seed = wishes.seed if wishes.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    return run([t for t in TARGETS if not wishes.only or t.name in wishes.only], wishes.seconds, seed, wishes.save)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
