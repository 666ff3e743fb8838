"""The direct writer without its processes: what it needs, what it leaves to the appliance, what the agent's answers mean."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Optional

import pytest

from h2k.base import sandbox
from h2k.base.errors import H2kError
from h2k.disk import nbd_server
from h2k.disk.reader import Volume, VolumeRef
from h2k.engine import direct_writer
from h2k.engine.direct_writer import DirectWriter
from h2k.engine.writing import FileWrite, Unavailable, VolumeWrite, Work
from tests.unit.helpers import ended

FAT = Volume(VolumeRef(0, 1), 1 << 20, 64 << 20, "fat", "")
NTFS = Volume(VolumeRef(1, 2), 1 << 20, 64 << 20, "ntfs", "")


def work(*volumes: VolumeWrite) -> Work:
    return Work((), volumes)


@pytest.mark.parametrize(
    ("answers", "failure", "words"),
    [
        ([{"stage": "disk"}, {"done": True}], None, ""),
        ([{"stage": "disk"}, {"error": "/a: No space left on device"}], H2kError, "/a: No space left on device: last"),
        ([{"stage": "disk"}], H2kError, "without an answer"),
        ([{"error": "nbdfuse ended with status 1"}], Unavailable, "nbdfuse ended with status 1: last"),
        ([], Unavailable, "without an answer: last"),
    ],
)
def test_what_answers_mean(answers: list[dict[str, Any]], failure: Any, words: str) -> None:
    if failure is None:
        direct_writer._judge(answers, ["first", "last"])
        return
    with pytest.raises(failure) as caught:
        direct_writer._judge(answers, ["first", "last"])
    assert type(caught.value) is failure and words in str(caught.value)


def test_a_missing_piece_leaves_it_to_the_appliance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "missing", lambda tried: ["nbdfuse"])
    with pytest.raises(Unavailable, match="nbdfuse missing"):
        DirectWriter().write([Path("/none")], work())


@pytest.mark.parametrize("name", ["/EFI/a*", "/EFI/[1]", '/EFI/"x'])
def test_names_that_mtools_takes_for_patterns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "missing", lambda tried: [])
    monkeypatch.setattr(direct_writer, "_write_volume", lambda overlay, volume: pytest.fail("written"))
    with pytest.raises(Unavailable, match="mtools can't name"):
        DirectWriter().write([Path("/none")], work(VolumeWrite(FAT, (), (FileWrite(name, b""),))))


def test_ntfs_3g_takes_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(direct_writer, "missing", lambda tried: [])
    monkeypatch.setattr(direct_writer, "_write_volume", lambda overlay, volume: done.append(overlay.name))
    DirectWriter().write([Path("a"), Path("b")], work(VolumeWrite(NTFS, (), (FileWrite("/a[1]", b""),))))
    assert done == ["b"]


def test_each_volume_goes_to_the_overlay_of_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(direct_writer, "missing", lambda tried: [])
    monkeypatch.setattr(direct_writer, "_write_volume", lambda overlay, volume: done.append((overlay.name, volume.volume.ref)))
    monkeypatch.setattr(direct_writer, "_write_bytes", lambda overlay, pieces: done.append((overlay.name, pieces)))
    volumes = (VolumeWrite(NTFS, (), ()), VolumeWrite(FAT, (), ()))
    DirectWriter().write([Path("a"), Path("b")], Work(((1, 446, b"\0"), (1, 462, b"\x80")), volumes))
    assert done == [("b", NTFS.ref), ("a", FAT.ref), ("b", [(446, b"\0"), (462, b"\x80")])]


def test_when_the_second_volume_has_no_sandbox_it_is_too_late_for_the_appliance(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(overlay: Path, volume: VolumeWrite) -> None:
        if volume.volume is FAT:
            raise Unavailable("nbdfuse ended")

    monkeypatch.setattr(direct_writer, "missing", lambda tried: [])
    monkeypatch.setattr(direct_writer, "_write_volume", fail)
    with pytest.raises(H2kError, match="in the middle"):
        DirectWriter().write([Path("a"), Path("b")], work(VolumeWrite(NTFS, (), ()), VolumeWrite(FAT, (), ())))


class Child:
    """A child whose pipes are in memory."""

    def __init__(self, answers: bytes) -> None:
        self.stdin, self.stdout, self.sent = io.BytesIO(), io.BytesIO(answers), b""
        self.stdin.close = self._keep  # type: ignore[method-assign]

    def _keep(self) -> None:
        self.sent = self.stdin.getvalue()


def test_the_request_names_the_pieces_and_their_bytes_follow() -> None:
    child: Any = Child(b'{"stage": "disk"}\n{"done": true}\n')
    old = bytes(8192)
    files = (FileWrite("/a", b"new"), FileWrite("/b", old[:4096] + b"x" * 4096, old), FileWrite("/c", b"same", b"same"))
    answers = direct_writer._conversation(child, VolumeWrite(NTFS, ("/d",), files), 7)
    head, _, data = child.sent.partition(b"\n")
    assert json.loads(head) == {
        "kind": "ntfs", "fd": 7, "directories": ["/d"], "files": [["/a", 3, [[0, 3]]], ["/b", 8192, [[4096, 4096]]], ["/c", 4, []]],
    }  # fmt: skip
    assert data == b"new" + b"x" * 4096 and answers == [{"stage": "disk"}, {"done": True}]


def test_the_sandbox_has_nothing_of_the_host_but_what_is_named() -> None:
    argv = sandbox.sandboxed(["true"], {"/x/agent.py": "/agent.py"}, fuse=True)
    binds = [(argv[i], argv[i + 1], argv[i + 2]) for i, word in enumerate(argv) if "bind" in word]
    assert binds == [
        ("--ro-bind", "/usr", "/usr"), ("--dev-bind", "/dev/fuse", "/dev/fuse"), ("--ro-bind", "/x/agent.py", "/agent.py"),
    ]  # fmt: skip
    for word in ("--unshare-all", "--die-with-parent", "--clearenv", "--new-session"):
        assert word in argv
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    plain = sandbox.sandboxed(["true"], {})
    assert "--cap-add" not in plain and "/dev/fuse" not in plain and "unshare" not in plain


@pytest.mark.parametrize(
    ("absent", "status", "lacking"),
    [("", 0, []), ("", 1, ["user namespaces"]), ("ntfs-3g", 1, ["ntfs-3g"]), ("bwrap", 1, ["bubblewrap"]), ("unshare", 1, ["unshare"])],
)
def test_what_this_host_lacks(absent: str, status: int, lacking: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def which(name: str, path: Optional[str] = None) -> Optional[str]:
        assert path == "/usr/sbin:/usr/bin" or name in ("bwrap", "unshare"), "what lies elsewhere is not in the sandbox"
        return None if name == absent else f"/usr/bin/{name}"

    def run(argv: list[str], **options: Any) -> Any:
        tried.append(argv)
        assert options.pop("capture_output"), "what it prints is not for the screen"
        return ended(argv, status, **options)

    tried: list[list[str]] = []
    monkeypatch.setattr(direct_writer.shutil, "which", which)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(subprocess, "run", run)
    assert direct_writer.missing(tried=False) == ([] if status and not absent else lacking) and tried == []
    assert direct_writer.missing() == lacking
    assert [("/dev/fuse" in argv, argv[-1]) for argv in tried] == ([] if absent else [(True, "true")]), "only what is there is tried"


class NbdError(Exception):
    """libnbd's."""

    string = "nbd_flush: No space left on device"


@pytest.mark.parametrize(
    ("pieces", "size"), [([(446, bytes(64))], 512), ([(0, bytes(512))], 512), ([(0, b"MBR"), (512, b"x")], 1024), ([(512, b"x"), (0, b"")], 1024)]
)
def test_the_first_bytes_of_a_disk_are_served_in_whole_sectors(pieces: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    ours, theirs = socket.socketpair()

    @contextmanager
    def served(overlay: Path, start: int, length: int) -> Iterator[socket.socket]:
        done.append((overlay, start, length))
        yield ours

    handle = SimpleNamespace(
        connect_socket=os.close, pwrite=lambda data, at: done.append((at, data)),
        flush=lambda: done.append("flush"), shutdown=lambda: done.append("shutdown"),
    )  # fmt: skip
    monkeypatch.setattr(direct_writer, "_served", served)
    monkeypatch.setitem(sys.modules, "nbd", SimpleNamespace(NBD=lambda: handle, Error=NbdError))
    direct_writer._write_bytes(Path("/o"), pieces)
    assert done == [(Path("/o"), 0, size), *pieces, "flush", "shutdown"]
    theirs.close()


def test_bytes_that_do_not_go_to_the_overlay_leave_the_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: int) -> None:
        os.close(connection)
        raise NbdError

    monkeypatch.setitem(sys.modules, "nbd", SimpleNamespace(NBD=lambda: SimpleNamespace(connect_socket=refuse), Error=NbdError))
    monkeypatch.setattr(direct_writer, "_served", contextmanager(lambda *_: (socket.socket() for _ in "x")))
    with pytest.raises(H2kError, match=r"^/o: nbd_flush: No space left on device") as caught:
        direct_writer._write_bytes(Path("/o"), [(0, b"x")])
    assert caught.value.hint == "the image is as it was"


class Agent:
    """The sandbox with the agent in it: answers, and prints like the programs in it; without answers it waits to be killed."""

    def __init__(self, answers: bytes, said: bytes = b"") -> None:
        self.answers, self.said, self.argv, self.ended = answers, said, [""], 0
        self.stdin, self.status = io.BytesIO(), 0

    def __call__(self, argv: list[str], stdin: int, stdout: int, stderr: IO[bytes], pass_fds: list[int]) -> Agent:
        assert (stdin, stdout) == (subprocess.PIPE, subprocess.PIPE) and os.fstat(*pass_fds)
        reading, self.pipe = os.pipe()
        self.stdout = os.fdopen(reading, "rb")
        os.write(self.pipe, self.answers)
        stderr.write(self.said)
        self.argv = argv
        if self.answers.endswith(b"}\n"):
            os.close(self.pipe)
            self.pipe = -1
        return self

    def kill(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
        self.pipe = -1

    def wait(self) -> None:
        self.ended += 1
        self.stdout.close()


def write_volume(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Write one file of an NTFS volume with that agent; what of the overlay was served."""
    asked: list[Any] = []

    @contextmanager
    def served(*what: Any) -> Iterator[socket.socket]:
        asked.append(what)
        ours, theirs = socket.socketpair()
        with theirs:
            yield ours
        assert ours.fileno() == -1, "the sandbox alone is connected to the volume"

    monkeypatch.setattr(direct_writer, "_served", served)
    monkeypatch.setattr(subprocess, "Popen", agent)
    try:
        direct_writer._write_volume(Path("/o"), VolumeWrite(NTFS, (), (FileWrite("/a", b"x"),)))
    finally:
        assert agent.ended == 1
    return asked


def test_the_agent_runs_alone_in_a_sandbox_that_may_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(b'{"stage": "disk"}\n{"done": true}\n')
    assert write_volume(agent, monkeypatch) == [(Path("/o"), NTFS.start, NTFS.size)]
    assert agent.argv[-4:] == [sandbox.PYTHON, "-I", "-S", "/agent.py"] and "/dev/fuse" in agent.argv
    assert agent.argv[agent.argv.index("/agent.py") - 1].endswith("h2k/engine/volume_agent.py")


def test_the_last_line_of_the_programs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"first\nsecond\n$LogFile is \xff unclean\n  \n"
    agent = Agent(b'{"stage": "disk"}\n{"error": "ntfs-3g ended with status 14"}\n', said)
    with pytest.raises(H2kError, match=r": ntfs-3g ended with status 14: .LogFile is \ufffd unclean \("):
        write_volume(agent, monkeypatch)


def test_what_is_printed_is_told_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"^nbdfuse ended with status 1: no /dev/fuse$"):
        write_volume(Agent(b'{"error": "nbdfuse ended with status 1"}\n', b"no /dev/fuse"), monkeypatch)


def test_an_agent_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "LIMIT", 0.01)
    with pytest.raises(H2kError, match="without an answer"):
        write_volume(Agent(b'{"stage": "disk"}\n '), monkeypatch)


@pytest.mark.parametrize("nonsense", [b"]\n", b"7\n", b"[" * 10_000 + b"\n", b"\xff\n"], ids=["none", "a number", "deep", "bytes"])
def test_nonsense_from_a_sandbox_that_the_guest_has_taken_over_is_no_answer(nonsense: bytes) -> None:
    child: Any = Child(nonsense + b'{"stage": "disk"}\n' + nonsense)
    assert direct_writer._conversation(child, VolumeWrite(NTFS, (), ()), 7) == [{"stage": "disk"}]


def test_a_sandbox_that_prints_without_end_is_not_read_to_the_end() -> None:
    done = b'{"done": true}'
    for blanks, answers in ((65536 - len(done), [{"done": True}]), (65537 - len(done), [])):
        child: Any = Child(b" " * blanks + done)
        assert direct_writer._conversation(child, VolumeWrite(NTFS, (), ()), 7) == answers


def test_only_so_much_of_a_line_is_told() -> None:
    with pytest.raises(Unavailable) as caught:
        direct_writer._judge([{"error": "e"}], ["x" * 300])
    assert str(caught.value) == "e: " + "x" * 200
    with pytest.raises(Unavailable, match=r"^e$"):
        direct_writer._judge([{"error": "e"}], [])


class Server:
    """A qemu-nbd that ends with a status when nobody is connected any more, or never (None)."""

    def __init__(self, status: Optional[int], said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status, self.said, self.ended = status, said, False
        self.returncode: Optional[int] = None
        self.options: list[str] = []
        monkeypatch.setattr(nbd_server, "connected", self.connected)
        monkeypatch.setattr(nbd_server, "end", self.end)

    def connected(self, options: list[str], said: IO[bytes]) -> tuple[socket.socket, Server]:
        self.options, (self.ours, self.theirs) = options, socket.socketpair()
        said.write(self.said)
        return self.ours, self

    def poll(self) -> Optional[int]:
        return self.status

    def wait(self, patience: float) -> None:
        assert self.ours.fileno() == -1, "it is connected, and would never end"
        if self.status is None:
            raise subprocess.TimeoutExpired("qemu-nbd", patience)
        self.returncode = self.status

    def end(self, server: Server) -> None:
        self.ended = True
        self.theirs.close()
        self.returncode = self.status if self.status is not None else -9


@pytest.mark.parametrize(
    ("status", "said", "error", "words"),
    [
        (0, b"", None, ""),
        (1, b"", None, "/o,1: qemu-nbd ended, and said nothing"),
        (1, b"qemu-nbd: warning\nqemu-nbd: No space left\n", None, "/o,1: qemu-nbd: No space left"),
        (None, b"", None, "/o,1: qemu-nbd did not end within 60 s"),
        (1, b"Is another process using the image?\n", Unavailable("no disk"), "/o,1: Is another process using the image?"),
        (0, b"", Unavailable("no disk"), "no disk"),
        (None, b"", Unavailable("no disk"), "no disk"),
        (0, b"", H2kError("the agent failed"), "the agent failed"),
    ],
)
def test_how_the_server_of_an_overlay_ends(
    status: Optional[int], said: bytes, error: Optional[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(status, said, monkeypatch)
    caught: Optional[Exception] = None
    try:
        with direct_writer._served(Path("/o,1"), 1024, 4096):
            if error is not None:
                raise error
    except (H2kError, Unavailable) as e:
        caught = e
    assert server.ended and server.ours.fileno() == -1
    assert words == "" if caught is None else words in str(caught)
    assert isinstance(caught, Unavailable) == (words == "no disk"), "the appliance would meet an image in use, too"
    assert server.options[-1] == "driver=raw,offset=1024,size=4096,file.driver=qcow2,file.file.driver=file,file.file.filename=/o,,1"
