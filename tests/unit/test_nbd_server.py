"""A qemu-nbd of our own: the socket without a name, the end of the server, and what a failure says."""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Optional

import pytest

from h2k.base.errors import H2kError
from h2k.disk import nbd_server
from h2k.disk.nbd_server import end, serving

nbd = pytest.importorskip("nbd")


class Child:
    """A server that ends after so many waits, or never by itself (None)."""

    def __init__(self, waits: Optional[int]) -> None:
        self.waits, self.killed = waits, False
        self.patience: list[Optional[float]] = []

    def wait(self, timeout: Optional[float] = None) -> None:
        self.patience.append(timeout)
        if not self.killed and (self.waits is None or len(self.patience) <= self.waits):
            raise subprocess.TimeoutExpired("qemu-nbd", timeout or 0)

    def kill(self) -> None:
        self.killed = True


class Handle:
    def __init__(self, fails: str = "") -> None:
        self.done: list[str] = []
        self.fails = fails

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what == self.fails:
            raise nbd.Error(f"{what} failed", 28)

    def flush(self) -> None:
        self._do("flush")

    def shutdown(self) -> None:
        self._do("shutdown")


def test_both_ends_are_connected_and_their_name_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server, client = nbd_server._sockets()
    with server, client:
        assert list(tmp_path.iterdir()) == [], "a kill from here on leaves nothing behind"
        ours, _ = server.accept()
        with ours:
            client.sendall(b"hello")
            assert ours.recv(5) == b"hello"


def test_nothing_is_left_where_no_socket_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, _: Any) -> None:
        raise OSError(28, "No space left on device")

    class Socket(nbd_server.socket.socket):
        bind = fail

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(nbd_server.socket, "socket", Socket)
    with pytest.raises(OSError, match="No space"):
        nbd_server._sockets()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("waits", "killed"), [(0, False), (None, True)])
def test_a_server_that_does_not_end_by_itself_is_made_to(waits: Optional[int], killed: bool) -> None:
    child: Any = Child(waits)
    end(child, 5.0)
    assert child.killed is killed and child.patience == ([5.0, None] if killed else [5.0])


def served(monkeypatch: pytest.MonkeyPatch, handle: Handle, child: Child, said: bytes = b"", error: Any = None) -> list[list[str]]:
    asked: list[list[str]] = []

    def start(options: list[str], stderr: IO[bytes]) -> tuple[Handle, Child]:
        asked.append(options)
        stderr.write(said)
        if error is not None:
            raise error
        return handle, child

    monkeypatch.setattr(nbd_server, "start", start)
    return asked


@pytest.mark.parametrize("write", [False, True])
def test_what_is_written_is_on_the_disk_when_the_block_ends(write: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, child = Handle(), Child(0)
    asked = served(monkeypatch, handle, child)
    with serving(Path("/g"), "qcow2", write) as found:
        assert found is handle and handle.done == []
    mode = ["--discard=unmap", "--detect-zeroes=unmap"] if write else ["-r"]
    assert asked == [[*mode, "-f", "qcow2", "/g"]]
    assert handle.done == (["flush"] if write else []) + ["shutdown"] and child.patience[0] == 60.0 and not child.killed


def test_a_block_that_fails_ends_the_server_at_once_and_flushes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handle, child = Handle(), Child(None)
    served(monkeypatch, handle, child)
    with pytest.raises(ZeroDivisionError), serving(Path("/g"), "raw", True):
        raise ZeroDivisionError
    assert child.killed and handle.done == []


@pytest.mark.parametrize(
    ("said", "why"), [(b"qemu-nbd: warning\nqemu-nbd: Failed to get \"write\" lock\n", 'Failed to get "write" lock'), (b"", "No space left on device")]
)
def test_a_failure_is_told_in_qemu_nbds_words_or_the_systems(said: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(None)
    served(monkeypatch, Handle("flush"), child, said)
    with pytest.raises(H2kError) as told, serving(Path("/g"), "raw", True):
        pass
    assert told.value.message == f"/g: {why}" and told.value.hint and child.killed


def test_an_image_that_can_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, Handle(), Child(0), b"qemu-nbd: Image is not in qcow2 format\n", nbd.Error("connect", 104))
    with pytest.raises(H2kError, match="/g: Image is not in qcow2 format"), serving(Path("/g"), "qcow2"):
        pass


def test_an_error_without_a_number_says_what_it_says() -> None:
    assert nbd_server._why(ValueError("nothing is known"), io.BytesIO()) == "nothing is known"
