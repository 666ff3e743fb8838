"""Views: what qemu is told of what they rest on, and what is asked before qemu opens it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import BadData, H2kError, Refused
from h2k.base.run import CommandFailed
from h2k.disk import view
from h2k.disk.view import Node, View, make_view, slice_of

NBD: Node = {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "10809"}, "export": ""}
DESCRIPTOR = b'# a comment\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n'


def with_data_file() -> bytes:
    head = bytearray(1024)
    struct.pack_into(">4sI", head, 0, b"QFI\xfb", 3)
    struct.pack_into(">I", head, 20, 16)
    struct.pack_into(">Q", head, 72, 4)
    return bytes(head)


def with_an_embedded_descriptor() -> bytes:
    return struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 1).ljust(512, b"\0") + DESCRIPTOR.ljust(512, b"\0")


class Qemu:
    """qemu-img in memory: what an export holds, what it says of an image."""

    def __init__(self, start: bytes = b"", **info: Any) -> None:
        self.start, self.info, self.asked = start, {"format": "qcow2", **info}, [""][:0]

    def __call__(self, argv: Any, **_: Any) -> Any:
        self.asked.append(argv[1])
        if argv[1] == "dd":
            assert json.loads(argv[-2].removeprefix("if=json:")) == {"driver": "raw", "file": NBD}
            Path(argv[-1].removeprefix("of=")).write_bytes(self.start)
        return SimpleNamespace(stdout=json.dumps(self.info).encode())


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Qemu:
    found = Qemu()
    monkeypatch.setattr(view, "run", found)
    (tmp_path / "v.qcow2").touch()
    return found


def archive(tmp_path: Path, member: bytes) -> Node:
    path = tmp_path / "a.ova"
    path.write_bytes(bytes(1000) + member + b"what is behind it")
    return slice_of(path, 1000, len(member))


def test_a_view_is_a_path() -> None:
    assert isinstance(View("/x/y"), Path) and str(View("/x/y")) == "/x/y" and View("/x/y").name == "y"


@pytest.mark.parametrize("content", [with_data_file(), DESCRIPTOR, with_an_embedded_descriptor()], ids=["data file", "descriptor", "embedded"])
@pytest.mark.parametrize("where", ["export", "member"])
def test_what_names_other_files_is_told_before_qemu_opens_it(where: str, content: bytes, qemu: Qemu, tmp_path: Path) -> None:
    qemu.start = content
    with pytest.raises(BadData, match="keeps its content in other files"):
        make_view(tmp_path / "v.qcow2", NBD if where == "export" else archive(tmp_path, content), "the disk")
    assert qemu.asked == (["dd"] if where == "export" else [])
    assert {p.name for p in tmp_path.iterdir()} <= {"v.qcow2", "a.ova"}


@pytest.mark.parametrize("where", ["export", "member"])
def test_what_claims_more_than_a_disk_needs_is_told_before_qemu_opens_it(where: str, qemu: Qemu, tmp_path: Path) -> None:
    qemu.start = b"QFI\xfb" + struct.pack(">IQII", 3, 0, 0, 63).ljust(508, b"\0")
    with pytest.raises(BadData, match="the disk: damaged: clusters"):
        make_view(tmp_path / "v.qcow2", NBD if where == "export" else archive(tmp_path, qemu.start), "the disk")


def test_a_raw_export_is_the_disk_whatever_its_bytes_are(qemu: Qemu, tmp_path: Path) -> None:
    qemu.start, qemu.info = with_data_file(), {"format": "raw"}
    assert make_view(tmp_path / "v.qcow2", NBD, "the disk", "raw") == tmp_path / "v.qcow2"
    assert qemu.asked == ["info", "create"]
    assert (tmp_path / "v.qcow2").stat().st_mode & 0o777 == 0o600


def test_tables_that_lie_behind_what_was_fetched_are_no_fault(qemu: Qemu, tmp_path: Path) -> None:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 33) + struct.pack(">IIQQIIQ", 0, 8, 1 << 40, 1 << 41, 1, 2, 1 << 42)
    qemu.start = head.ljust(104, b"\0")
    make_view(tmp_path / "v.qcow2", NBD, "the disk")
    assert qemu.asked == ["dd", "info", "create"]


@pytest.mark.parametrize(
    ("said", "error"),
    [({"encrypted": True}, Refused), ({"backing-filename": "/etc/shadow"}, BadData), ({"format-specific": {"data": {"data-file": "x"}}}, BadData)],
)
def test_what_qemu_says_of_it_is_refused_too(said: dict[str, Any], error: type[H2kError], qemu: Qemu, tmp_path: Path) -> None:
    qemu.info.update(said)
    with pytest.raises(error):
        make_view(tmp_path / "v.qcow2", NBD, "the disk")
    assert "create" not in qemu.asked


def test_an_export_that_ends_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Any, **_: Any) -> None:
        raise CommandFailed(argv, 1, "qemu-img: Could not open 'json:{}': Connection reset\n")

    monkeypatch.setattr(view, "run", fail)
    with pytest.raises(Refused, match="the disk: qemu can't open this image: Connection reset"):
        make_view(tmp_path / "v.qcow2", NBD, "the disk")
