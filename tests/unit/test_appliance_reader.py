"""The fallback reader on a libguestfs that answers what the tests say: what is mounted, asked and bounded."""

from __future__ import annotations

import contextlib
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData, H2kError
from h2k.disk.ntfs import ENCRYPTED
from h2k.disk.reader import VolumeRef
from tests.unit.memory_reader import make_disk

pytest.importorskip("guestfs")

from h2k.disk import appliance_reader as module
from h2k.disk.appliance_reader import ApplianceReader

NTFS, FAT = VolumeRef(0, 2), VolumeRef(0, 1)
DIRECTORY, REPARSE, CRYPTED = 0x10, 0x400, 0x4000


class Appliance:
    """Files by the path in the appliance, as (attributes of NTFS, content or None for a directory)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, Any]] = {}
        self.names: dict[str, list[bytes]] = {}
        self.done: list[Any] = []
        self.tags: dict[str, int] = {}
        self.short: dict[str, str] = {}
        self.ntfs_3g = True
        self.error: Any = None

    def add(self, path: str, content: Any = b"", attributes: int = 0) -> None:
        """A file, or a directory (None), with all directories above it."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            self.files.setdefault("/" + "/".join(parts[:depth]), (DIRECTORY, None))
        self.files[path] = (attributes | (DIRECTORY if content is None else 0), content)

    def feature_available(self, names: list[str]) -> bool:
        return self.ntfs_3g

    def mkmountpoint(self, point: str) -> None:
        self.done.append(("mkmountpoint", point))

    def mount_vfs(self, *given: str) -> None:
        self.done.append(("mount", *given))

    def ls0(self, directory: str, place: str) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(("ls", directory))
        below = [p for p in self.files if p.startswith(directory.rstrip("/") + "/") and "/" not in p[len(directory.rstrip("/")) + 1 :]]
        found = self.names.get(directory, [p.rpartition("/")[2].encode() for p in below])
        Path(place).write_bytes(b"".join(name + b"\0" for name in found))

    def lgetxattr(self, path: str, name: str) -> bytes:
        if name == "system.ntfs_reparse_data":
            return self.tags[path].to_bytes(4, "little") + b"more"
        return self.files[path][0].to_bytes(4, "little")

    def lstatns(self, path: str) -> dict[str, Any]:
        path = self.short.get(path, path)
        if path not in self.files:
            raise RuntimeError("lstat: no such file")
        content = self.files[path][1]
        mode = stat.S_IFDIR if content is None else stat.S_IFLNK if content == "link" else stat.S_IFREG
        return {"st_mode": mode, "st_size": len(content or b""), "st_ino": list(self.files).index(path)}

    def lstatnslist(self, directory: str, names: list[str]) -> list[dict[str, Any]]:
        return [self.lstatns(f"{directory}/{name}") for name in names]

    def readdir(self, directory: str) -> list[dict[str, Any]]:
        return [{"name": p.rpartition("/")[2], "ino": n} for n, p in enumerate(self.files)]

    def pread(self, path: str, count: int, offset: int) -> bytes:
        self.done.append(("pread", path, count, offset))
        return bytes(self.files[path][1][offset : offset + count])

    def pread_device(self, device: str, count: int, offset: int) -> bytes:
        self.done.append(("device", device, count, offset))
        return bytes(count) if offset < 1000 * 1024 * 1024 else b""


@pytest.fixture
def appliance() -> Appliance:
    return Appliance()


@pytest.fixture
def reader(appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A reader of a disk with an EFI system partition and a volume of NTFS."""

    @contextlib.contextmanager
    def ended_after(seconds: float, processes: Any) -> Iterator[threading.Event]:
        assert seconds == module.TOTAL_LIMIT
        late = threading.Event()
        if getattr(appliance, "late", False):
            late.set()
        yield late

    monkeypatch.setattr(module, "ended_after", ended_after)
    found: Any = ApplianceReader.__new__(ApplianceReader)
    disk = make_disk(0, ["fat", "ntfs"])
    found.disks, found._images, found._sizes = (disk,), ["/g.qcow2"], [disk.info.size]
    found._mounts, found._listings, found._ways = {}, {}, {}
    found._handle, found._scratch, found._devices, found._processes = appliance, tmp_path, ["/dev/sda"], frozenset()
    return found


def test_a_volume_is_mounted_once_read_only_by_its_own_place(reader: Any, appliance: Appliance) -> None:
    appliance.add("/0-2/a")
    for _ in range(2):
        assert reader.stat(NTFS, "a").path == "/a" and reader.stat(FAT, "a") is None
    mounts = [given for given in appliance.done if given[0] == "mount"]
    start, fat = reader.disks[0].volumes[1].start, reader.disks[0].volumes[0].start
    assert mounts == [
        ("mount", f"ro,loop,offset={start},sizelimit=67108864", "ntfs-3g", "/dev/sda", "/0-2"),
        ("mount", f"ro,utf8=1,shortname=mixed,loop,offset={fat},sizelimit=67108864", "vfat", "/dev/sda", "/0-1"),
    ]


def test_without_ntfs_3g_the_package_is_named(reader: Any, appliance: Appliance) -> None:
    appliance.ntfs_3g = False
    with pytest.raises(BadData, match="install libguestfs-winsupport"):
        reader.stat(NTFS, "a")


def test_names_in_any_case_and_short_ones(reader: Any, appliance: Appliance) -> None:
    appliance.add("/0-2/Program Files/App/x.txt", b"hello")
    appliance.short["/0-2/PROGRA~1"] = "/0-2/Program Files"
    assert reader.stat(NTFS, "PROGRAM FILES/app/X.TXT").path == "/Program Files/App/x.txt"
    assert reader.stat(NTFS, "progra~1/app/x.txt").path == "/Program Files/App/x.txt"
    assert reader.stat(NTFS, "other~1") is None and reader.stat(NTFS, "Program Files/App/x.txt/below") is None
    root = reader.stat(NTFS, "/")
    assert (root.path, root.directory) == ("/", True)


def test_a_directory_is_listed_once(reader: Any, appliance: Appliance) -> None:
    appliance.add("/0-2/a/b", b"")
    for _ in range(3):
        reader.stat(NTFS, "a/b")
    assert [given[1] for given in appliance.done if given[0] == "ls"] == ["/0-2", "/0-2/a"]


def test_what_can_not_be_read_says_why(reader: Any, appliance: Appliance) -> None:
    appliance.add("/0-2/crypted", b"x", CRYPTED)
    appliance.add("/0-2/cryptdir", None, CRYPTED)
    appliance.add("/0-2/wof", b"x", REPARSE)
    appliance.tags["/0-2/wof"] = 0x80000017
    appliance.add("/0-1/link", "link")
    assert (reader.stat(NTFS, "crypted").readable, reader.stat(NTFS, "crypted").why) == (False, ENCRYPTED)
    assert reader.stat(NTFS, "cryptdir").readable, "new files in it would be encrypted; it can be read"
    assert not reader.stat(NTFS, "wof").readable and reader.stat(NTFS, "wof").why
    assert not reader.stat(FAT, "link").readable
    with pytest.raises(BadData, match="crypted"):
        reader.read(NTFS, "crypted", 100)


def test_content_comes_in_pieces_and_no_more_than_is_asked_for(reader: Any, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.add("/0-2/a", b"0123456789")
    monkeypatch.setattr(module, "_CHUNK", 4)
    assert reader.read(NTFS, "a", 10) == b"0123456789"
    assert [given[2:] for given in appliance.done if given[0] == "pread"] == [(4, 0), (4, 4), (2, 8)]
    assert reader.read_range(NTFS, "a", 3, 4) == b"3456" and reader.head(NTFS, "a", 3) == b"012"
    with pytest.raises(BadData, match="a"):
        reader.read(NTFS, "a", 9)


def test_a_file_that_is_shorter_than_its_size_is_bad_data(reader: Any, appliance: Any) -> None:
    appliance.add("/0-2/a", b"0123456789")
    appliance.pread = lambda *given: b""
    with pytest.raises(BadData, match="shorter on the disk than its size of 10 bytes"):
        reader.read(NTFS, "a", 10)


def test_bytes_of_a_disk_end_where_it_ends(reader: Any, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    size = reader._sizes[0]
    assert reader.read_at(0, 5, 10) == bytes(10)
    with pytest.raises(BadData, match=rf"/g\.qcow2: the image can't be read at byte {size - 5}"):
        reader.read_at(0, size - 5, 100)
    assert appliance.done[-1] == ("device", "/dev/sda", 5, size - 5)


def test_a_listing_has_each_entry_and_asks_again_what_looks_odd(reader: Any, appliance: Appliance) -> None:
    appliance.add("/0-2/d/file", b"12345")
    appliance.add("/0-2/d/below", None)
    appliance.add("/0-2/d/junction", "link", REPARSE | DIRECTORY)
    appliance.tags["/0-2/d/junction"] = 0xA0000003
    found = {f.path: (f.size, f.directory, f.readable) for f in reader.listdir(NTFS, "D")}
    assert found == {"/d/below": (0, True, True), "/d/file": (5, False, True), "/d/junction": (0, True, False)}
    with pytest.raises(BadData):
        reader.listdir(NTFS, "d/file")


@pytest.mark.parametrize("bound", ["MAX_ENTRIES", "_NAMES_LIMIT"])
def test_a_directory_without_end_is_bad_data(bound: str, reader: Any, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.names["/0-2"] = [b"%04d" % n for n in range(10)]
    assert reader.stat(NTFS, "none") is None
    reader._listings.clear()
    monkeypatch.setattr(module, bound, 9)
    with pytest.raises(BadData, match="a directory of over"):
        reader.stat(NTFS, "none")


def test_listings_are_kept_within_a_bound(reader: Any, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        for number in range(3):
            appliance.add(f"/0-2/{name}/{number}", b"")
    monkeypatch.setattr(module, "MAX_ENTRIES", 5)
    for name in ("a", "b"):
        assert reader.stat(NTFS, f"{name}/0") is not None
    assert sum(map(len, reader._listings.values())) <= 5 and "/0-2/b" in reader._listings


@pytest.mark.parametrize(
    ("error", "late", "words"),
    [
        (RuntimeError("ls0: bad\n thing"), False, "ls0: bad thing"),
        (RuntimeError("appliance closed"), True, "libguestfs took longer than 600 s"),
        (ValueError("x" * 1000), False, "x" * 300),
        (BadData("a cluster is damaged"), False, "a cluster is damaged"),
    ],
)
def test_what_libguestfs_says_is_one_line_with_its_place(error: Exception, late: bool, words: str, reader: Any, appliance: Appliance) -> None:
    appliance.error, appliance.late = error, late  # type: ignore[attr-defined]
    with pytest.raises(BadData) as told:
        reader.stat(NTFS, "a")
    assert told.value.message.endswith(f": {words}") and told.value.message.startswith("/made/disk0.qcow2")
    assert told.value.message.count("/made/disk0.qcow2") == 1


def test_an_appliance_that_does_not_start_is_told_with_its_images(reader: Any, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[Any] = []
    appliance.add_drive_opts = lambda *given, **options: added.append((given, options))  # type: ignore[attr-defined]

    def fail(handle: Any, subject: str) -> None:
        raise RuntimeError("guestfs_launch failed.\nSee the log")

    monkeypatch.setattr(module, "launch", fail)
    with pytest.raises(H2kError, match=r"^/g\.qcow2: guestfs_launch failed\."):
        reader._launch([reader.disks[0].info])
    assert added == [(("/made/disk0.qcow2",), {"readonly": True, "format": "qcow2"})], "and the drive would have been read-only"
