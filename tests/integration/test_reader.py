"""Both readers on real images: every format, everything that a volume may hold, and everything that may be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base import appliance
from h2k.base.errors import BadData, H2kError, Refused, UsageError
from h2k.disk import appliance_reader, direct_reader, reach
from h2k.disk.appliance_reader import ApplianceReader
from h2k.disk.direct_reader import DirectReader
from h2k.disk.image import probe
from h2k.disk.ntfs import ENCRYPTED
from h2k.disk.open_reader import open_reader
from h2k.disk.reader import FileStat, Reader, ReaderEnded, VolumeRef
from tests.guests.surgery import run
from tests.guests.tables import gpt, logical, mbr
from tests.guests.volumes import SHORT_NAME, Made, assemble, make_fat, make_volumes, noise, ntfs, text

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * MIB
ESP = {"/EFI/Microsoft/Boot/BCD": noise(20_000, 7), "/EFI/Boot/bootx64.efi": noise(9000, 8), "/Ünï cödé.txt": b"fat"}
ISO = {"viostor/2k22/amd64/viostor.inf": b"inf", "NetKVM/A rather long name.with.dots.txt": b"long"}
PLAIN, PACKED, FAT = VolumeRef(0, 1), VolumeRef(0, 2), VolumeRef(0, 3)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("reader")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def made(work: Path) -> Made:
    return make_volumes(work)


@pytest.fixture(scope="module")
def fat(work: Path) -> Path:
    return make_fat(work / "fat", 10 * MIB, ESP)


@pytest.fixture(scope="module")
def disk(work: Path, made: Made, fat: Path) -> Path:
    """GPT: the plain, the packed and the FAT volume."""
    spans = {1: (MIB, 24 * MIB), 2: (25 * MIB, 12 * MIB), 3: (37 * MIB, 10 * MIB)}
    volumes = {MIB: made.plain, 25 * MIB: made.packed, 37 * MIB: fat}
    return assemble(work / "disk.raw", 48 * MIB, gpt(48 * MIB, spans), volumes)


def changed(made: Made, name: str, change: Callable[[Any], None]) -> Path:
    """A copy of the plain volume, changed."""
    copy = Path(shutil.copy(made.plain, made.plain.with_name(name)))
    change(ntfs(copy))
    return copy


@pytest.fixture(scope="module")
def odd_disks(work: Path, made: Made, fat: Path) -> list[Path]:
    """Dirty, unclean, hibernated, an ISO, logical partitions, a GPT of 4096-byte sectors, and one with its backup only."""
    tree = work / "iso"
    for name, data in ISO.items():
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_bytes(data)
    run("xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-o", work / "drivers.iso", tree)
    first, second = 2048, 2048 + 10 * 2048 + 1
    chain = {0: mbr([(0, 7, 2, 10), (0, 5, first - 1, 22 * 2048)]), **logical(first - 1, [(0x0B, first, 10 * 2048), (0x0B, second, 10 * 2048)])}
    four = gpt(12 * MIB, {1: (MIB, 10 * MIB)}, 4096)
    backup = gpt(12 * MIB, {1: (MIB, 10 * MIB)})
    del backup[512]
    return [
        changed(made, "dirty", lambda volume: volume.set_dirty()),
        changed(made, "unclean", lambda volume: volume.set_unclean_log()),
        changed(made, "hibernated", lambda volume: volume.put("hiberfil.sys", b"hibr" + bytes(8192))),
        work / "drivers.iso",
        assemble(work / "logical.raw", 24 * MIB, chain, {first * 512: fat, second * 512: fat}),
        assemble(work / "four.raw", 12 * MIB, four, {MIB: fat}),
        assemble(work / "backup.raw", 12 * MIB, backup, {MIB: fat}),
    ]


@pytest.fixture(scope="module")
def readers(disk: Path, odd_disks: list[Path]) -> Iterator[Mapping[str, Reader]]:
    """Both readers on all disks: the one launch of the appliance."""
    infos = [probe(path) for path in (disk, *odd_disks)]
    with DirectReader(infos) as one, ApplianceReader(infos) as other:
        yield {"direct": one, "libguestfs": other}


@pytest.fixture(params=["direct", "libguestfs"])
def reader(request: pytest.FixtureRequest, readers: Mapping[str, Reader]) -> Reader:
    return readers[request.param]


def walk(reader: Reader, ref: VolumeRef, path: str = "/") -> dict[str, Any]:
    """Everything that a reader says of a volume: {path: (from its directory, by itself, content or why not)}.

    A directory need not tell that a file is encrypted.
    """
    found: dict[str, Any] = {}
    for entry in reader.listdir(ref, path):
        own = reader.stat(ref, entry.path)
        assert own is not None, f"{entry.path} is listed and not found"
        if own.directory or entry.path.startswith("/many/"):
            content: Any = None
        else:
            try:
                content = hashlib.sha256(reader.read(ref, entry.path, LIMIT)).hexdigest()
            except BadData as bad:
                content = str(bad)
        found[entry.path] = (entry if own.why != ENCRYPTED else None, own, content)
        if own.directory and own.readable and entry.path != "/many":
            found.update(walk(reader, ref, entry.path))
    return found


# What both say


def test_readers_agree(readers: Mapping[str, Reader]) -> None:
    one, other = readers["direct"], readers["libguestfs"]
    assert (one.how, other.how) == ("direct", "libguestfs")
    assert one.disks == other.disks
    for disk in one.disks:
        for volume in disk.volumes:
            if volume.kind == "other":
                continue
            if disk.index in (1, 2, 3):  # copies of the plain volume
                assert one.listdir(volume.ref, "/Windows") == other.listdir(volume.ref, "/Windows")
            else:
                assert walk(one, volume.ref) == walk(other, volume.ref), volume
            if volume.kind == "ntfs":
                assert one.ntfs_state(volume.ref) == other.ntfs_state(volume.ref)
        size = disk.info.size
        for offset, length in ((0, 512), (MIB - 3, 5 * MIB), (size - 10, 100), (size, 1), (size + MIB, 5)):
            assert one.read_at(disk.index, offset, length) == other.read_at(disk.index, offset, length)


def test_tables(reader: Reader) -> None:
    kinds = [[v.kind for v in disk.volumes] for disk in reader.disks]
    ntfs_alone = [["ntfs"]] * 3
    assert kinds == [["ntfs", "ntfs", "fat"], *ntfs_alone, ["iso9660"], ["other", "fat", "fat"], ["fat"], ["fat"]]
    assert [d.table.scheme for d in reader.disks] == ["gpt", "none", "none", "none", "none", "mbr", "gpt", "gpt"]
    assert [v.ref.partition for v in reader.disks[5].volumes] == [1, 5, 6]
    for volume in reader.disks[0].volumes[:2]:
        assert volume.serial == reader.read_at(0, volume.start + 72, 8).hex() != bytes(8).hex()


def test_content(reader: Reader, made: Made) -> None:
    for path, data in made.files.items():
        if not path.startswith("/many/") or path.endswith("7"):
            found = reader.stat(PLAIN, path)
            assert found == FileStat(path, len(data), False)
            assert reader.read(PLAIN, path, LIMIT) == data, path
            assert reader.head(PLAIN, path, 100) == data[:100]
            assert reader.read(PLAIN, path, len(data)) == data
    assert len(reader.listdir(PLAIN, "/many")) == 400
    assert reader.read(PACKED, "/Windows/packed.txt", LIMIT) == text(40_000)
    assert reader.read(PACKED, "/Windows/noise.bin", LIMIT) == noise(300_001, 4)
    for path, data in ESP.items():
        assert reader.read(FAT, path, LIMIT) == data
        assert reader.read(VolumeRef(5, 6), path, LIMIT) == data
        assert reader.read(VolumeRef(6, 1), path, LIMIT) == data
        assert reader.read(VolumeRef(7, 1), path, LIMIT) == data
    for path, data in ISO.items():
        assert reader.read(VolumeRef(4, 0), path.upper(), LIMIT) == data


def test_paths(reader: Reader) -> None:
    def spelt(path: str, ref: VolumeRef = PLAIN) -> Any:
        found = reader.stat(ref, path)
        return found.path if found is not None else None

    assert spelt("windows\\SYSTEM32\\Config\\system") == "/Windows/System32/config/SYSTEM"
    assert spelt("/ÜNÏCÖDÉ 漢字/STRAßE.TXT") == "/Ünïcödé 漢字/Straße.txt"
    assert spelt("/ünïcödé 漢字/STRASSE.TXT") is None
    assert spelt(SHORT_NAME.lower()) == "/Long name file.txt"
    assert spelt("/efi/boot/BOOTX64.EFI", FAT) == "/EFI/Boot/bootx64.efi"
    assert spelt("/") == "/" and spelt("") == "/"
    for missing in ("/nothing", "/nothing/below", "/resident/below", "/LONGNA~2.TXT", "/$Volume", "/$Extend", "/many/file number"):
        assert spelt(missing) is None, missing
    for wrong in ("/Windows/../Windows", "/a\0b", "/" + "x/" * 65):
        with pytest.raises(BadData):
            reader.stat(PLAIN, wrong)


def test_unreadable(reader: Reader, made: Made) -> None:
    for path, word in made.unreadable.items():
        found = reader.stat(PLAIN, path)
        assert found is not None and not found.readable and found.size == 0 and word in found.why
        for attempt in (lambda p: reader.read(PLAIN, p, LIMIT), lambda p: reader.head(PLAIN, p, 4)):
            with pytest.raises(BadData, match=f"disk.raw: partition 1: {path}: .*{word}"):
                attempt(path)
    behind = reader.stat(PLAIN, "/junction/System32")
    assert behind is not None and not behind.readable and "/Junction" in behind.why
    with pytest.raises(BadData, match="link"):
        reader.listdir(PLAIN, "/Junction")


def test_refusals(reader: Reader) -> None:
    for attempt, words in (
        (lambda: reader.read(PLAIN, "/nothing", LIMIT), "disk.raw: partition 1: /nothing: no such file"),
        (lambda: reader.read(PLAIN, "/Windows", LIMIT), "/Windows: no such file"),
        (lambda: reader.listdir(PLAIN, "/resident"), "/resident: no such directory"),
        (lambda: reader.read(PLAIN, "/resident", 299), "/resident: 300 bytes, more than the 299"),
        (lambda: reader.stat(VolumeRef(5, 1), "/x"), "logical.raw: partition 1: no ntfs or fat or iso9660 file system"),
        (lambda: reader.stat(VolumeRef(0, 9), "/x"), "disk.raw: partition 9: no ntfs"),
        (lambda: reader.stat(VolumeRef(99, 1), "/x"), "disk 99: partition 1: no ntfs|disk 99: no ntfs"),
        (lambda: reader.ntfs_state(FAT), "partition 3: no ntfs"),
    ):
        with pytest.raises(BadData, match=words):
            attempt()


def test_states(reader: Reader) -> None:
    states = [reader.ntfs_state(VolumeRef(disk, 1 if disk == 0 else 0)) for disk in range(4)]
    assert [(s.dirty, s.log_unclean, s.version) for s in states] == [
        (False, False, "3.1"), (True, False, "3.1"), (False, True, "3.1"), (False, False, "3.1"),
    ]  # fmt: skip
    assert reader.head(VolumeRef(3, 0), "/hiberfil.sys", 4) == b"hibr"
    assert reader.read(VolumeRef(3, 0), "/resident", LIMIT) == b"r" * 300


# Formats

FORMATS = [
    ("raw", ""), ("qcow2", ""), ("vdi", ""), ("vpc", "subformat=dynamic"), ("vpc", "subformat=fixed"), ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=fixed"), ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=twoGbMaxExtentFlat"), ("vmdk", "subformat=streamOptimized"),
]  # fmt: skip


def convert(source: Path, target: Path, form: str, option: str = "") -> Path:
    run("qemu-img", "convert", "-O", form, *(["-o", option] if option else []), source, target)
    return target


def system_hive(image: Path, form: Any = None) -> bytes:
    with open_reader([(image, form)]) as reader:
        return reader.read(PLAIN, "/windows/system32/config/system", LIMIT)


@pytest.mark.parametrize(("form", "option"), FORMATS)
def test_formats(form: str, option: str, disk: Path, made: Made, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / f"a, b=c: {form}", form, option)
    assert system_hive(image, form) == made.files["/Windows/System32/config/SYSTEM"]
    assert system_hive(image) == made.files["/Windows/System32/config/SYSTEM"]
    assert not lingering(tmp_path)


@pytest.fixture
def chain(disk: Path, tmp_path: Path) -> list[Path]:
    """Three images, each on the one before it, with relative names."""
    images = [convert(disk, tmp_path / "base.vmdk", "vmdk"), tmp_path / "middle.qcow2", tmp_path / "top.qcow2"]
    for below, above in zip(images, images[1:]):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below.name, "-F", below.suffix[1:], above)
    return images


def test_backing_chain(chain: list[Path], made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(probe(chain[2]).chain) == chain[::-1]
    monkeypatch.chdir("/")
    assert system_hive(chain[2]) == made.files["/Windows/System32/config/SYSTEM"]


@pytest.mark.parametrize("held", ["top.qcow2", "middle.qcow2"])
def test_image_that_another_process_writes(held: str, chain: list[Path], made: Made, tmp_path: Path) -> None:
    argv = ["qemu-nbd", "-t", "-f", "qcow2", "-k", str(tmp_path / "socket"), str(tmp_path / held)]
    with subprocess.Popen(argv) as writer:
        try:
            wait((tmp_path / "socket").exists)
            assert system_hive(chain[2]) == made.files["/Windows/System32/config/SYSTEM"]
        finally:
            writer.kill()


def test_many_disks(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_allowed", [disk.parent])
    images = [tmp_path / f"{n}.qcow2" for n in range(12)]
    for image in images:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", image)
    with open_reader([(image, "qcow2") for image in images]) as reader:
        assert reader.read(VolumeRef(11, 1), "/resident", LIMIT) == b"r" * 300
        assert lingering(tmp_path)
    assert not lingering(tmp_path)


def test_name_that_looks_like_a_protocol(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(disk, "nbd:x")
    assert len(system_hive(Path("nbd:x"))) > 0


def test_nothing_is_imported_from_the_current_directory(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nbd", "json", "h2k"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')\n")
    monkeypatch.chdir(tmp_path)
    assert len(system_hive(disk)) > 0


def test_names_of_a_directory_lie_where_they_are_removed(tmp_path: Path) -> None:
    """libguestfs writes them to a file, which a kill would leave in /tmp."""
    named: list[Path] = []

    def ls0(directory: str, name: str) -> None:
        named.append(Path(name))
        named[0].write_bytes(b"A\0b\0")

    reader = ApplianceReader.__new__(ApplianceReader)
    reader._listings, reader._scratch, reader._handle = {}, tmp_path, SimpleNamespace(ls0=ls0)
    assert reader._names("/0-1") == {"A": ["A"], "B": ["b"]}
    assert named[0].parent == tmp_path and not named[0].exists()


# Images that can't be read


def refused(image: Path, *words: str, kind: type[H2kError] = H2kError, form: Any = None) -> None:
    """Opening it, or reading the hive, ends with one line that names the image."""
    with pytest.raises(kind) as caught:
        system_hive(image, form)
    said = str(caught.value)
    assert said.startswith(str(image)) and "\n" not in said and all(word in said for word in words), said
    assert caught.value.exit_status == 3


def test_missing_empty_directory_and_others(tmp_path: Path) -> None:
    refused(tmp_path / "none", "No such file", kind=Refused)
    refused(tmp_path, "directory", kind=Refused)
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty", kind=Refused)
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "neither a file nor a block device", kind=Refused)
    (tmp_path / "random").write_bytes(noise(MIB))
    refused(tmp_path / "random", "file system", kind=BadData)
    refused(tmp_path / "random", "qemu can't open", kind=Refused, form="qcow2")
    (tmp_path / "short").write_bytes(b"x")
    refused(tmp_path / "short", "file system", kind=BadData)


def test_unreadable_image(tmp_path: Path) -> None:
    image = tmp_path / "secret"
    image.write_bytes(bytes(MIB))
    image.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        refused(image, "Permission denied", kind=Refused)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        image.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_read_only_image_stays_as_it_is(disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "image.qcow2", "qcow2")
    image.chmod(0o400)
    before = (image.stat().st_mtime_ns, image.read_bytes())
    assert len(system_hive(image)) > 0
    assert (image.stat().st_mtime_ns, image.read_bytes()) == before


@pytest.mark.parametrize(("form", "option"), FORMATS)
def test_truncated_image(form: str, option: str, disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / f"image.{form}", form, option)
    largest = max(tmp_path.iterdir(), key=lambda p: p.stat().st_size)
    size = largest.stat().st_size
    os.truncate(largest, size // 3)
    refused(image)
    refused(image, form=form)


@pytest.mark.parametrize(
    ("backing", "word"),
    [("nbd://127.0.0.1:1/disk", "not here"), ("json:{}", "not here"), ("gone.qcow2", "not here"), ("top.qcow2", "no end"), ("/dev/zero", "neither")],
)
def test_backing_files_that_are_not_followed(backing: str, word: str, tmp_path: Path) -> None:
    image = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw" if backing[0] in "/nj" else "qcow2", image, "10M")
    with pytest.raises(H2kError, match=word):
        probe(image)


def test_chain_without_end(tmp_path: Path) -> None:
    for n in range(40):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", f"{n + 1}", "-F", "qcow2", tmp_path / str(n), "10M")
    with pytest.raises(BadData, match="no end"):
        probe(tmp_path / "0")


def test_encrypted_image(tmp_path: Path) -> None:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc"]
    argv += ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", str(tmp_path / "luks.qcow2"), "4M"]
    # QEMU measures how fast it derives keys, and at times gives up: "Unable to get accurate CPU usage".
    assert any(subprocess.run(argv, check=False).returncode == 0 for _ in range(5))
    refused(tmp_path / "luks.qcow2", "encrypted", kind=Refused)


# Volumes that are damaged


def write(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def mft(path: Path) -> int:
    """Where the MFT of a volume that mkntfs made begins."""
    boot = path.open("rb").read(512)
    return int(struct.unpack_from("<Q", boot, 48)[0]) * boot[13] * 512


DAMAGE: dict[str, Callable[[Path], None]] = {
    "boot sector": lambda path: write(path, 11, bytes(60)),
    "cluster size": lambda path: write(path, 13, b"\x7f"),
    "MFT far away": lambda path: write(path, 48, b"\xff" * 8),
    "record size": lambda path: write(path, 64, b"\x80"),
    "MFT of zeros": lambda path: write(path, mft(path), bytes(256 * 1024)),
    "root directory": lambda path: write(path, mft(path) + 5 * 1024, noise(1024)),
    "torn records": lambda path: [write(path, mft(path) + n * 1024 + 510, b"\0\0") for n in range(100)] and None,
    "endless attribute": lambda path: write(path, mft(path) + 5 * 1024 + 0x38 + 4, bytes(4)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_volume(name: str, made: Made, tmp_path: Path) -> None:
    image = Path(shutil.copy(made.plain, tmp_path / "image"))
    DAMAGE[name](image)
    with open_reader([(image, "raw")]) as reader, pytest.raises(BadData) as caught:
        reader.read(VolumeRef(0, 0), "/Windows/System32/config/SYSTEM", LIMIT)
    assert str(caught.value).startswith(str(image)) and "\n" not in str(caught.value)
    assert not lingering(tmp_path)


@pytest.mark.parametrize("name", ["boot sector", "cluster size", "MFT far away", "record size", "MFT of zeros", "torn records"])
def test_state_of_a_damaged_volume(name: str, made: Made, tmp_path: Path) -> None:
    image = Path(shutil.copy(made.plain, tmp_path / "image"))
    DAMAGE[name](image)
    with open_reader([(image, "raw")]) as reader, pytest.raises(BadData, match=str(image)):
        reader.ntfs_state(VolumeRef(0, 0))


@pytest.mark.parametrize("seed", range(8))
def test_randomly_damaged_volume(seed: int, made: Made, tmp_path: Path) -> None:
    """An answer or one line, and never silence."""
    image = Path(shutil.copy(made.plain, tmp_path / "image"))
    chance = random.Random(seed)
    for _ in range(200):
        write(image, mft(image) + chance.randrange(5 * 1024, 700 * 1024), chance.randbytes(4))
    try:
        with open_reader([(image, "raw")]) as reader:
            walk(reader, VolumeRef(0, 0))
            reader.ntfs_state(VolumeRef(0, 0))
    except BadData as bad:
        assert str(bad).startswith(str(image)) and "\n" not in str(bad)
    assert not lingering(tmp_path)


def test_record_that_is_gone(made: Made, tmp_path: Path) -> None:
    """A name whose file record is damaged is there, and can't be read: it must not look like a missing file."""
    image = Path(shutil.copy(made.plain, tmp_path / "image"))
    number, _, _ = ntfs(image)._find("Windows/System32/drivers/viostor.sys")
    write(image, mft(image) + number * 1024, bytes(1024))
    with open_reader([(image, "raw")]) as reader:
        found = reader.stat(VolumeRef(0, 0), "/Windows/System32/drivers/viostor.sys")
        assert found is not None and not found.readable and "damaged" in found.why


# Processes


def lingering(directory: Path) -> list[str]:
    """The commands that still run on a file below the directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


def wait(condition: Callable[[], bool]) -> None:
    """Until the condition holds; a test that waits for ever is ended by an assertion."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.fixture
def opened(disk: Path, tmp_path: Path) -> Iterator[DirectReader]:
    image = convert(disk, tmp_path / "image.qcow2", "qcow2")
    with DirectReader([probe(image)]) as reader:
        yield reader
    assert not lingering(tmp_path)


def test_crash_in_the_child(opened: DirectReader, tmp_path: Path) -> None:
    os.kill(opened._child.pid, signal.SIGSEGV)
    with pytest.raises(BadData, match=r"reader (crashed|has ended)"):
        opened.read(PLAIN, "/resident", LIMIT)
    with pytest.raises(BadData, match="has ended"):
        opened.stat(PLAIN, "/resident")
    wait(lambda: not lingering(tmp_path))


def test_hang_in_the_child(opened: DirectReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_reader, "SILENCE_LIMIT", 0.5)
    os.kill(opened._child.pid, signal.SIGSTOP)
    with pytest.raises(BadData, match="no answer within"):
        opened.read(PLAIN, "/resident", LIMIT)
    wait(lambda: not lingering(tmp_path))


def test_child_that_trickles(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte in time, and the whole never: the total limit ends it."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nprintf 'J\\000\\000\\001\\000'\nwhile :; do printf x; sleep 0.05; done\n")
    fake.chmod(0o755)
    monkeypatch.setattr(direct_reader, "TOTAL_LIMIT", 1.0)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ReaderEnded, match="took longer than 1 s"):
        DirectReader([probe(disk)])
    wait(lambda: not lingering(tmp_path))


def test_impossible_answer(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nprintf 'D\\377\\377\\377\\377'\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ReaderEnded, match="impossible answer"):
        DirectReader([probe(disk)])


def test_nothing_lingers_when_the_parent_is_killed(disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "image.qcow2", "qcow2")
    code = f"""
import time
from pathlib import Path
from h2k.disk.open_reader import open_reader
reader = open_reader([(Path({str(image)!r}), None)])
print("open", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "open\n"
        running = lingering(tmp_path)
        parent.kill()
    assert any("qemu-nbd" in command for command in running)
    wait(lambda: not lingering(tmp_path))


def test_qemu_nbd_that_fails_says_why(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(convert(disk, tmp_path / "image.qcow2", "qcow2"))
    write(info.path, 0, b"XXXX")  # between the look at the image and its opening
    with pytest.raises(Refused, match=r"image.qcow2: qemu-nbd can't read this image: .*not in qcow2 format"):
        DirectReader([info])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    direct_reader.missing.cache_clear()
    assert direct_reader.missing() == ("qemu-nbd",)
    direct_reader.missing.cache_clear()


# The choice


def test_falls_back_to_libguestfs(disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(appliance_reader, "ApplianceReader", opened.append)
    monkeypatch.setattr(direct_reader, "missing", lambda: ["nbd", "pytsk3"])
    open_reader([(disk, None)])
    assert "nbd and pytsk3 not installed" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(appliance_reader, "ApplianceReader", opened.append)
    monkeypatch.setenv("H2K_READER", "libguestfs")
    open_reader([(disk, None)])
    assert [[info.path for info in infos] for infos in opened] == [[disk], [disk]]
    monkeypatch.setenv("H2K_READER", "telepathy")
    with pytest.raises(UsageError, match="telepathy"):
        open_reader([(disk, None)])


def test_libguestfs_that_can_not_start(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "qemu"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("LIBGUESTFS_HV", str(broken))
    with pytest.raises(H2kError, match=r"disk.raw: .*h2k doctor") as caught:
        ApplianceReader([probe(disk)])
    assert "\n" not in str(caught.value)


def test_libguestfs_that_hangs_is_ended(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that answers questions and never starts the appliance."""
    hanging, children = tmp_path / "qemu", Path(f"/proc/self/task/{threading.get_native_id()}/children")
    hanging.write_text('#!/bin/sh\nfor a; do [ "$a" = -kernel ] && exec sleep 600; done\nexec qemu-system-x86_64 "$@"\n')
    hanging.chmod(0o755)
    monkeypatch.setenv("LIBGUESTFS_HV", str(hanging))
    monkeypatch.setattr(appliance, "LAUNCH_LIMIT", 15.0)
    before = children.read_text()
    with pytest.raises(H2kError, match=r"disk.raw: libguestfs' appliance was not up within 15 s \(see h2k doctor") as caught:
        ApplianceReader([probe(disk)])
    assert "\n" not in str(caught.value)
    assert children.read_text() == before


def test_request_that_takes_too_long_ends_the_appliance(readers: Mapping[str, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test of this file: the appliance is gone afterwards. It stands still, so that nothing but its end ends the
    request."""
    reader = readers["libguestfs"]
    assert isinstance(reader, ApplianceReader)
    for process in reader._processes:
        os.kill(process, signal.SIGSTOP)
    monkeypatch.setattr(appliance_reader, "TOTAL_LIMIT", 1.0)
    with pytest.raises(BadData, match="took longer than"):
        reader.read(PLAIN, "/fragments.bin", LIMIT)
    monkeypatch.undo()
    with pytest.raises(BadData, match=r"disk\.raw"):
        reader.stat(PLAIN, "/resident")


def test_infos_are_facts(disk: Path) -> None:
    """What a reader is given does not change under it."""
    assert dataclasses.is_dataclass(probe(disk)) and probe(disk) == probe(disk)
