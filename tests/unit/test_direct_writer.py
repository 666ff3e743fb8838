"""The direct writer without its processes: what it needs, what it leaves to the appliance, what the agent's answers mean."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from h2k.base import sandbox
from h2k.base.errors import H2kError
from h2k.disk.reader import Volume, VolumeRef
from h2k.engine import direct_writer
from h2k.engine.direct_writer import DirectWriter
from h2k.engine.writing import FileWrite, Unavailable, VolumeWrite, Work

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
    monkeypatch.setattr(direct_writer, "missing", lambda: ["nbdfuse"])
    with pytest.raises(Unavailable, match="nbdfuse missing"):
        DirectWriter().write([Path("/none")], work())


@pytest.mark.parametrize("name", ["/EFI/a*", "/EFI/[1]", '/EFI/"x'])
def test_names_that_mtools_takes_for_patterns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "missing", list)
    monkeypatch.setattr(direct_writer, "_write_volume", lambda overlay, volume: pytest.fail("written"))
    with pytest.raises(Unavailable, match="mtools can't name"):
        DirectWriter().write([Path("/none")], work(VolumeWrite(FAT, (), (FileWrite(name, b""),))))


def test_each_volume_goes_to_the_overlay_of_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(direct_writer, "missing", list)
    monkeypatch.setattr(direct_writer, "_write_volume", lambda overlay, volume: done.append((overlay.name, volume.volume.ref)))
    monkeypatch.setattr(direct_writer, "_write_bytes", lambda overlay, pieces: done.append((overlay.name, pieces)))
    volumes = (VolumeWrite(NTFS, (), ()), VolumeWrite(FAT, (), ()))
    DirectWriter().write([Path("a"), Path("b")], Work(((1, 446, b"\0"), (1, 462, b"\x80")), volumes))
    assert done == [("b", NTFS.ref), ("a", FAT.ref), ("b", [(446, b"\0"), (462, b"\x80")])]


def test_when_the_second_volume_has_no_sandbox_it_is_too_late_for_the_appliance(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(overlay: Path, volume: VolumeWrite) -> None:
        if volume.volume is FAT:
            raise Unavailable("nbdfuse ended")

    monkeypatch.setattr(direct_writer, "missing", list)
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
