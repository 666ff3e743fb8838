"""The direct reader's child: what it reads of an image, what it says when that fails, and how it answers."""

from __future__ import annotations

import io
import json
import struct
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import BadData
from h2k.disk import nbd_server

nbd = pytest.importorskip("nbd")
pytest.importorskip("pytsk3")

from h2k.disk import direct_reader_child as child  # noqa: E402

BLOCK = 64 * 1024


class Export:
    """An NBD export in memory; `broken` are the bytes that can't be read, `asked` what was."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.broken = range(0)
        self.asked: list[tuple[int, int]] = []
        self.ends: list[float] = []
        self.gone = False

    def get_size(self) -> int:
        return len(self.data)

    def pread(self, length: int, offset: int) -> bytes:
        self.asked.append((offset, length))
        if set(self.broken) & set(range(offset, offset + length)):
            raise nbd.Error("pread", 5)
        return self.data[offset : offset + length]

    def shutdown(self) -> None:
        if self.gone:
            raise nbd.Error("shutdown", 107)


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> Export:
    found = Export(bytes(n % 251 for n in range(10 * BLOCK + 100)))
    found.options = []  # type: ignore[attr-defined]

    def start(options: list[str]) -> tuple[Export, str]:
        found.options.append(options)  # type: ignore[attr-defined]
        return found, "server"

    monkeypatch.setattr(nbd_server, "start", start)
    monkeypatch.setattr(nbd_server, "end", lambda server, patience=0: found.ends.append(patience))
    return found


def image(export: Export, size: Optional[int] = None) -> Any:
    return child._Image("/a,b.qcow2", "qcow2", size if size is not None else len(export.data))


def test_an_image_is_opened_for_reading_alone_whatever_its_name_is(export: Export) -> None:
    image(export)
    assert export.options == [  # type: ignore[attr-defined]
        ["-r", "--image-opts", "driver=qcow2,read-only=on,force-share=on,file.driver=file,file.filename=/a,,b.qcow2"]
    ]
    child._Image("/dev/null", "raw", 0)  # no block device
    assert "file.driver=file" in export.options[1][2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (BLOCK - 1, 2), (5, 4 * BLOCK), (100, 6 * BLOCK), (10 * BLOCK, 500), (10 * BLOCK + 99, 1)])
def test_the_bytes_of_an_image(offset: int, length: int, export: Export) -> None:
    assert image(export).read(offset, length) == export.data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (10 * BLOCK + 100, 1), (1 << 60, 1), (5, 0), (5, -3)])
def test_nothing_is_behind_its_end_or_before_its_beginning(offset: int, length: int, export: Export) -> None:
    assert image(export).read(offset, length) == b"" and export.asked == []


def test_small_pieces_are_read_once(export: Export) -> None:
    found = image(export)
    for at in range(0, BLOCK, 1000):
        found.read(at, 100)
    assert export.asked == [(0, BLOCK), (BLOCK, BLOCK)] or export.asked == [(0, BLOCK)]
    for number in range(child._BLOCKS + 5):
        found.blocks[1000 + number] = b""
    found.read(5 * BLOCK, 1)
    assert 5 in found.blocks and len(found.blocks) >= child._BLOCKS


def test_the_oldest_block_goes_first(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_BLOCKS", 2)
    found = image(export)
    for number in (0, 1, 0, 2):
        found.read(number * BLOCK, 1)
    assert list(found.blocks) == [0, 2]


def test_what_can_not_be_read_leaves_its_reason_and_no_bytes(export: Export) -> None:
    found = image(export)
    export.broken = range(3 * BLOCK, 3 * BLOCK + 1)
    assert found.read(0, 10) == export.data[:10] and found.fault == ""
    assert found.read(3 * BLOCK, 10) == b"" and "can't be read at byte 196608" in found.fault


def test_no_more_of_an_image_than_was_agreed(export: Export) -> None:
    assert image(export, 50).size == 50 and image(export, 1 << 40).size == len(export.data)


@pytest.mark.parametrize(("gone", "patience"), [(False, 5), (True, 0)])
def test_the_server_ends_with_the_image(gone: bool, patience: float, export: Export) -> None:
    export.gone = gone
    image(export).close()
    assert export.ends == [patience]


def test_pieces() -> None:
    assert list(child.pieces(10, 2 * child.CHUNK + 1)) == [(10, child.CHUNK), (10 + child.CHUNK, child.CHUNK), (10 + 2 * child.CHUNK, 1)]
    assert list(child.pieces(10, 0)) == []


# A directory


def entry(name: str, inode: int = 1, size: int = 5, directory: bool = False, why: str = "") -> Any:
    return child._Entry(name, inode, size, directory, why)


def test_names_are_found_as_windows_finds_them() -> None:
    found = child._Directory()
    for name, short in (("System32", ""), ("Program Files", "PROGRA~1"), ("readme", ""), ("README", "")):
        found.add(entry(name), short)
    assert [getattr(found.find(name), "name", None) for name in ("SYSTEM32", "progra~1", "program files", "README", "readme", "none")] == [
        "System32", "Program Files", "Program Files", "README", "readme", None,
    ]  # fmt: skip


def test_what_a_directory_says_of_its_files() -> None:
    plain, odd, below = entry("a"), entry("b", why="encrypted"), entry("c", directory=True)
    assert [(s.path, s.size, s.directory, s.readable, s.why) for s in (e.stat("/d") for e in (plain, odd, below))] == [
        ("/d/a", 5, False, True, ""), ("/d/b", 0, False, False, "encrypted"), ("/d/c", 0, True, True, ""),
    ]  # fmt: skip


# The answers


class Server:
    """What is asked of it, as the test has it; `broken` is what could not be read on the way."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def faults(self) -> list[str]:
        return self.broken

    def number(self, n: int) -> int:
        return n + 1

    def content(self) -> Any:
        yield b"abc"
        yield b""

    def fail(self, how: str) -> None:
        raise {"data": BadData("no such file"), "system": OSError("FS_Info_Con: (tsk3.c:207) no NTFS\nin it"), "bare": RuntimeError()}[how]

    def half(self) -> Any:
        yield b"abc"
        raise BadData("shorter")


def answered(request: str, *, broken: tuple[str, ...] = (), **arguments: Any) -> list[tuple[bytes, Any]]:
    """The frames of an answer: b"D" and bytes, then b"J" and a result or b"E" and an error."""
    server, out = Server(), io.BytesIO()
    server.broken = list(broken)
    child._answer(server, request, arguments, out)  # type: ignore[arg-type]
    data, found = out.getvalue(), []
    while data:
        kind, length = struct.unpack_from("<cI", data)
        body, data = data[5 : 5 + length], data[5 + length :]
        found.append((kind, body if kind == b"D" else json.loads(body)))
    return found


def test_results_and_content() -> None:
    assert answered("number", n=1) == [(b"J", 2)]
    assert answered("content") == [(b"D", b"abc"), (b"D", b""), (b"J", None)]


def test_what_fails_is_one_line() -> None:
    assert answered("fail", how="data") == [(b"E", "no such file")]
    assert answered("fail", how="system") == [(b"E", "no NTFS in it")]
    assert answered("fail", how="bare") == [(b"E", "RuntimeError")]
    assert answered("half") == [(b"D", b"abc"), (b"E", "shorter")]
    assert len(child.one_line(OSError("x" * 1000))) == 300


def test_what_could_not_be_read_outweighs_a_result_that_was_made_of_it() -> None:
    assert answered("number", n=1, broken=("at byte 5", "at byte 9")) == [(b"E", "at byte 5")]
    assert answered("fail", how="data", broken=("at byte 5",)) == [(b"E", "at byte 5")], "it is the cause"


def test_a_fault_is_told_once_and_its_blocks_are_read_again() -> None:
    server = child._Server()
    one, other = SimpleNamespace(fault="", blocks={1: b"x"}), SimpleNamespace(fault="at byte 5", blocks={1: b"x"})
    server.images = [one, other]  # type: ignore[list-item]
    assert server.faults() == ["at byte 5"] and server.faults() == []
    assert one.blocks == {1: b"x"} and other.blocks == {}
