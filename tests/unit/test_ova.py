"""OVA archives of every kind, damaged and hostile ones, and tar headers as GNU and POSIX write them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData, Unknown
from h2k.disk.view import View
from h2k.domain import ova
from h2k.domain.ova import opened_ova
from h2k.domain.ovf import read_ovf
from tests.guests.ova import ovf_text, pack

DISK = b"KDMV" + bytes(range(256)) * 20
KINDS = ("tar", "tar.gz", "tar.xz", "zip", "directory")


class Views:
    """What stands in for qemu-img: the bytes that each view would rest on."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def make(self, path: Path, node: dict[str, Any], name: str, format: Any = None) -> View:
        with open(node["file"]["filename"], "rb") as file:
            file.seek(node["offset"])
            self.seen.append(file.read(node["size"]))
        assert node["size"] % 512 == 0
        return View(path)


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Views]:
    found = Views()
    monkeypatch.setattr(ova, "make_view", found.make)
    monkeypatch.setenv("LIBGUESTFS_CACHEDIR", str(tmp_path))
    yield found
    assert not list(tmp_path.glob("h2k-ova-*")), "the work directory stayed"


def written(tmp_path: Path, files: dict[str, bytes], kind: str = "tar") -> Path:
    folder = tmp_path / "parts"
    paths = []
    for name, data in files.items():
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(data)
    return pack(paths, tmp_path / "g.ova", kind)


def nothing(text: str) -> None:
    raise AssertionError(f"nothing had to be unpacked: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind: str, views: Views, tmp_path: Path) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"]), "g.mf": b"", "g.vmdk": DISK}, kind)
    said: list[str] = []
    with opened_ova(path, said.append) as (found, images):
        assert found.domain.name == "g"
        if kind == "directory":
            assert images == ((path / "g.vmdk").resolve(),) and not isinstance(images[0], View)
        else:
            assert isinstance(images[0], View)
            assert views.seen[0][: len(DISK)] == DISK and len(views.seen[0]) - len(DISK) < 512
    assert bool(said) == (kind in ("tar.gz", "tar.xz", "zip"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_has_its_own_bytes_and_no_more(kind: str, views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks are padded to whole sectors when they are unpacked; libxml2 from 2.14 on takes no zeros behind the document."""
    text, read = ovf_text("g", ["g.vmdk"]), []

    def reads(data: bytes, name: str) -> Any:
        read.append(data)
        return read_ovf(data, name)

    monkeypatch.setattr(ova, "read_ovf", reads)
    with opened_ova(written(tmp_path, {"g.ovf": text, "g.vmdk": DISK}, kind), lambda said: None):
        assert read == [text]


def test_a_compressed_disk_is_unpacked_and_said(views: Views, tmp_path: Path) -> None:
    text = ovf_text("g", ["g.vmdk.gz"], compressed=["g.vmdk.gz"])
    path = written(tmp_path, {"g.ovf": text, "g.vmdk.gz": gzip.compress(DISK)})
    said: list[str] = []
    with opened_ova(path, said.append):
        assert views.seen[0][: len(DISK)] == DISK
    assert len(said) == 1 and "unpacking g.vmdk.gz" in said[0]


def test_hrefs_are_relative_to_the_ovf(views: Views, tmp_path: Path) -> None:
    path = tmp_path / "g.ova"
    with tarfile.open(path, "w") as archive:
        for name, data in {"./in/g.ovf": ovf_text("g", ["g.vmdk"]), "g.vmdk": b"KDMV another", "./in/g.vmdk": DISK}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with opened_ova(path, nothing):
        assert views.seen[0][: len(DISK)] == DISK


def test_the_highest_snapshot_stands_in(views: Views, tmp_path: Path) -> None:
    files = {"g.ovf": ovf_text("g", ["g.vmdk"]), "g.vmdk.000000000": b"KDMV old", "g.vmdk.000000001": DISK}
    with opened_ova(written(tmp_path, files), nothing):
        assert views.seen[0][: len(DISK)] == DISK


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"g.vmdk": DISK}, "no .ovf"),
        ({"g.ovf": ovf_text("g", ["g.vmdk"]), "h.ovf": b"", "g.vmdk": DISK}, "more than one .ovf"),
        ({"g.ovf": ovf_text("g", ["g.vmdk"])}, "which is not in it"),
        ({"g.ovf": ovf_text("g", ["../../etc/passwd"])}, "which is not in it"),
        ({"g.ovf": ovf_text("g", ["/etc/passwd"])}, "which is not in it"),
        ({"g.ovf": ovf_text("g", ["g.vmdk"]), "g.vmdk": b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0\n'}, "in other files"),
        ({"g.ovf": ovf_text("g", ["g.gz"], compressed=["g.gz"]), "g.gz": b"\x1f\x8b nothing"}, "damaged|Not a gzipped"),
        ({"g.ovf": ovf_text("g", ["g.gz"], compressed=["g.gz"]), "g.gz": gzip.compress(DISK)[:-20]}, "damaged"),
        ({"g.ovf": b"no XML", "g.vmdk": DISK}, "no XML"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_what_is_wrong_is_named(files: dict[str, bytes], why: str, kind: str, views: Views, tmp_path: Path) -> None:
    path = written(tmp_path, files, kind)
    with pytest.raises(BadData, match=why), opened_ova(path, lambda text: None):
        pass


def test_a_link_out_of_the_directory_is_not_followed(views: Views, tmp_path: Path) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"])}, "directory")
    outside = tmp_path / "outside.vmdk"
    outside.write_bytes(DISK)
    (path / "g.vmdk").symlink_to(outside)
    with pytest.raises(BadData, match="which is not in it"), opened_ova(path, nothing):
        pass


def test_an_archive_that_ends_early(views: Views, tmp_path: Path) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"]), "g.vmdk": DISK})
    os.truncate(path, path.read_bytes().index(DISK) + 1000)
    with pytest.raises(BadData, match=r"ends before g\.vmdk does"), opened_ova(path, nothing):
        pass


def test_a_name_twice(views: Views, tmp_path: Path) -> None:
    path = tmp_path / "g.ova"
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("g.vmdk"))
    with pytest.raises(BadData, match="twice"), opened_ova(path, nothing):
        pass


def test_no_room_is_unknown_and_not_an_error(views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ovf_text("g", ["g.vmdk.gz"], compressed=["g.vmdk.gz"])
    path = written(tmp_path, {"g.ovf": text, "g.vmdk.gz": gzip.compress(DISK)})
    monkeypatch.setattr(ova, "RESERVE", 1 << 62)
    with pytest.raises(Unknown, match="no room"), opened_ova(path, lambda text: None):
        pass


def test_a_bomb_ends_at_what_the_ovf_allows(views: Views, tmp_path: Path) -> None:
    text = ovf_text("g", ["g.gz"], compressed=["g.gz"]).replace(b'ovf:capacity="512"', b'ovf:capacity="0"')
    path = written(tmp_path, {"g.ovf": text, "g.gz": gzip.compress(bytes(66 * 1024**2))})
    with pytest.raises(BadData, match="more than the 67108864 bytes"), opened_ova(path, lambda text: None):
        pass


def test_an_encrypted_zip(views: Views, tmp_path: Path) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"]), "g.vmdk": DISK}, "zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("g.vmdk").header_offset
    data[start + 6] |= 1
    second = data.rindex(b"PK\1\2")
    data[second + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(BadData, match="encrypted"), opened_ova(path, lambda text: None):
        pass


def pieces(count: int) -> dict[str, bytes]:
    return {f"g.vmdk.{n:09}": DISK[n * 1024 : (n + 1) * 1024] for n in range(count)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_in_pieces_is_refused_by_that_name(kind: str, tmp_path: Path, views: Views) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"], chunk=1024), **pieces(3)}, kind)
    with pytest.raises(BadData, match=r"3 pieces \(ovf:chunkSize\)"), opened_ova(path, lambda text: None):
        pass


def test_a_disk_that_fits_into_one_piece_and_snapshots(tmp_path: Path, views: Views) -> None:
    path = written(tmp_path, {"g.ovf": ovf_text("g", ["g.vmdk"], chunk=1 << 30), **pieces(1)})
    with opened_ova(path, lambda text: None):
        assert views.seen[0].startswith(b"KDMV")
    (tmp_path / "whole").mkdir()
    path = written(tmp_path / "whole", {"g.ovf": ovf_text("g", ["g.vmdk"], chunk=1024), "g.vmdk": DISK, **pieces(3)})
    with opened_ova(path, lambda text: None):
        assert views.seen[1].rstrip(b"\0").endswith(DISK[-16:])
    (tmp_path / "snapshots").mkdir()
    path = written(tmp_path / "snapshots", {"g.ovf": ovf_text("g", ["g.vmdk"]), **pieces(3)})
    with opened_ova(path, lambda text: None):
        assert views.seen[2].startswith(DISK[2048:2100])
