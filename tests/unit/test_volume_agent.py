"""The direct writer's agent without its sandbox: nbdfuse, ntfs-3g, mtools and the mounts are stand-ins, the files are real."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.engine import volume_agent
from h2k.engine.volume_agent import Failed
from tests.unit.helpers import ended


class Child:
    """A program that runs until it is unmounted, unless the test gives it another end."""

    def __init__(self, gone: Optional[int] = None, status: int = 0, hangs: bool = False) -> None:
        self.returncode, self.status, self.hangs = gone, status, hangs

    def poll(self) -> Optional[int]:
        return self.returncode

    def wait(self, patience: float) -> int:
        if self.hangs:
            raise subprocess.TimeoutExpired("child", patience)
        return self.status


class Sandbox:
    """What the agent finds around it: `fat` are the files of a FAT volume with their attributes, `done` what was asked of whom."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk, self.volume, self.copy = place / "disk" / "volume", place / "volume", place / "copy"
        self.fat: dict[str, tuple[bytes, str]] = {}
        self.children = {"nbdfuse": Child(), "ntfs-3g": Child()}
        self.done: list[str] = []
        self.mounted = False
        self.umount_fails, self.errno = False, 0
        for name, path in (("DISK", self.disk), ("VOLUME", self.volume), ("COPY", self.copy)):
            monkeypatch.setattr(volume_agent, name, path)
        monkeypatch.setattr(volume_agent, "_prepare", self.prepare)
        monkeypatch.setattr(volume_agent.ctypes, "CDLL", self.libc)
        monkeypatch.setattr(volume_agent.ctypes, "get_errno", lambda: self.errno)
        monkeypatch.setattr(os.path, "ismount", lambda path: self.mounted and path == self.volume)
        programs = SimpleNamespace(
            Popen=self.popen, run=self.run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
        )
        monkeypatch.setattr(volume_agent, "subprocess", programs)

    def prepare(self) -> None:
        self.disk.parent.mkdir()
        self.volume.mkdir()

    def popen(self, argv: list[str], stdout: int, pass_fds: Any = ()) -> Child:
        assert stdout == 2, "what programs print is no answer"
        self.done.append(" ".join(argv).replace(str(self.disk.parent.parent), ""))
        child = self.children[argv[0]]
        if child.returncode is None:
            if argv[0] == "nbdfuse":
                assert pass_fds == [int(argv[-1])]
                self.disk.write_bytes(b"volume")
            self.mounted = argv[0] == "ntfs-3g"
        return child

    def libc(self, name: None, use_errno: bool) -> Any:
        self.errno = 16 if use_errno else 0
        return SimpleNamespace(umount2=self.umount)

    def umount(self, place: bytes, flags: int) -> int:
        assert flags == 0, "unmounted at once, whoever still writes"
        self.done.append(f"unmount {Path(os.fsdecode(place)).name}")
        return -1 if self.umount_fails else 0

    def run(self, argv: list[str], env: dict[str, str], stdin: int, **options: Any) -> Any:
        """mtools, on the dictionary."""
        assert argv[1:3] == ["-i", str(self.disk)] and env["MTOOLS_SKIP_CHECK"] == "1" and env["PATH"] == os.environ["PATH"]
        assert stdin == subprocess.DEVNULL, "it would read the bytes of the pieces"
        command, *given = argv[0], *argv[3:]
        self.done.append(" ".join([command, *given]).replace(str(self.copy), "COPY"))
        path = given[-1].removeprefix("::")
        if command == "mcopy" and given[0] == "-o":
            self.fat[path] = (self.copy.read_bytes(), "A")
        elif command == "mcopy":
            self.copy.write_bytes(self.fat[given[1].removeprefix("::")][0])
        elif command == "mattrib" and path not in self.fat:
            return ended(argv, 1, "", f"File {path}\n  not  found" + "!" * 300, **options)
        elif command == "mattrib" and len(given) > 1:
            kept = "".join(o[1].upper() for o in given[:-1] if o[0] == "+")
            self.fat[path] = (self.fat[path][0], kept)
        elif command == "mattrib":
            return ended(argv, 0, f"  {self.fat[path][1]:>5}  ::/SHAR\n", **options)
        return ended(argv, 0, **options)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


@pytest.fixture
def told(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The agent's answers to a request that is followed by these bytes, those that a kill can't take away any more."""

    def tell(kind: str, files: list[Any], data: bytes, directories: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        handle = os.open(os.devnull, os.O_RDONLY)
        request = {"kind": kind, "fd": handle, "directories": directories, "files": files}
        stdin = SimpleNamespace(buffer=io.BytesIO(json.dumps(request).encode() + b"\n" + data))
        monkeypatch.setattr(volume_agent.sys, "stdin", stdin)
        answers = io.BytesIO()
        monkeypatch.setattr(volume_agent.sys, "stdout", io.TextIOWrapper(answers))
        volume_agent.main()
        return [json.loads(line) for line in answers.getvalue().splitlines()]

    return tell


DONE = [{"stage": "disk"}, {"done": True}]


def test_files_of_ntfs_are_written_where_they_differ(sandbox: Sandbox, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> None:
        Sandbox.prepare(sandbox)
        (sandbox.volume / "old").write_bytes(b"0123456789")

    monkeypatch.setattr(volume_agent, "_prepare", prepare)
    files = [["/old", 8, [[2, 2], [6, 1]]], ["/d/e/new", 3, [[0, 3]]]]
    assert told("ntfs", files, b"ABCnew", ("/d", "/d/e")) == DONE
    assert (sandbox.volume / "old").read_bytes() == b"01AB45C7", "shorter than it was, and what does not differ is kept"
    assert (sandbox.volume / "d/e/new").read_bytes() == b"new"
    nbdfuse, ntfs, *ends = sandbox.done
    assert nbdfuse.startswith("nbdfuse /disk/volume --fd ") and ntfs == "ntfs-3g -o no_detach /disk/volume /volume"
    assert ends == ["unmount volume", "unmount disk"], "the file system ends before the disk under it"


def test_files_of_fat_keep_their_attributes_and_a_new_one_has_those_of_mtools(sandbox: Sandbox, told: Any) -> None:
    sandbox.fat = {"/BCD": (b"0123456789", "SH"), "/whole": (b"old", "R")}
    files = [["/BCD", 10, [[4, 2]]], ["/EFI/new", 3, [[0, 3]]], ["/whole", 3, [[0, 3]]]]
    assert told("fat", files, b"xxnewall", ("/EFI", "/EFI/x")) == DONE
    assert sandbox.fat == {"/BCD": (b"0123xx6789", "SH"), "/EFI/new": (b"new", "A"), "/whole": (b"all", "R")}
    assert sandbox.done[1:3] == ["mmd ::/EFI", "mmd ::/EFI/x"] and not sandbox.copy.exists()
    assert [d for d in sandbox.done if d.startswith("mcopy -n")] == ["mcopy -n ::/BCD COPY"], "a whole file is not read first"
    assert [d for d in sandbox.done if d.startswith("mattrib -r")] == ["mattrib -r +s +h -a ::/BCD"]


def test_a_program_that_ends_before_it_has_mounted_is_told(sandbox: Sandbox, told: Any) -> None:
    sandbox.children["nbdfuse"] = Child(gone=0)
    assert told("ntfs", [], b"") == [{"error": "nbdfuse ended with status 0"}]


def test_an_ntfs_3g_that_refuses_is_told_after_the_disk(sandbox: Sandbox, told: Any) -> None:
    sandbox.children["ntfs-3g"] = Child(gone=14)
    assert told("ntfs", [], b"") == [{"stage": "disk"}, {"error": "ntfs-3g ended with status 14"}]


def test_bytes_that_do_not_come_are_an_error(told: Any) -> None:
    assert told("ntfs", [["/a", 4, [[0, 4]]]], b"abc")[1:] == [{"error": "the data ended early"}]


def test_the_guests_own_links_are_not_followed(sandbox: Sandbox, told: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def prepare() -> None:
        Sandbox.prepare(sandbox)
        (tmp_path / "host").write_bytes(b"host")
        (sandbox.volume / "link").symlink_to(tmp_path / "host")

    monkeypatch.setattr(volume_agent, "_prepare", prepare)
    _, error = told("ntfs", [["/link", 1, [[0, 1]]]], b"x")
    assert "link" in error["error"] and (tmp_path / "host").read_bytes() == b"host"


@pytest.mark.parametrize(
    ("child", "fails", "said"),
    [
        (Child(status=3), False, "ntfs-3g ended with status 3"),
        (Child(hangs=True), False, "ntfs-3g did not end within 60 s"),
        (Child(), True, "volume can't be unmounted: Device or resource busy"),
    ],
)
def test_a_volume_that_is_not_written_out_is_an_error(sandbox: Sandbox, told: Any, child: Child, fails: bool, said: str) -> None:
    sandbox.children["ntfs-3g"], sandbox.umount_fails = child, fails
    _, error = told("ntfs", [], b"")
    assert error["error"].endswith(said)


def test_a_mount_is_awaited_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([False, False, True])
    volume_agent._await(lambda: next(seen), Child(), "nbdfuse")  # type: ignore[arg-type]
    now, asked = iter([0.0, 60.0, 60.1]), []
    monkeypatch.setattr(volume_agent.time, "monotonic", lambda: next(now))
    with pytest.raises(Failed, match=r"^nbdfuse mounted nothing within 60 s$"):
        volume_agent._await(lambda: asked.append(1), Child(), "nbdfuse")  # type: ignore[arg-type, func-returns-value]
    assert len(asked) == 2


def test_a_disk_of_no_bytes_is_not_there_yet(sandbox: Sandbox, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(argv: list[str], **_: Any) -> Child:
        sandbox.disk.touch()
        return sandbox.children["nbdfuse"]

    def sleep(seconds: float) -> None:
        sandbox.children["nbdfuse"].returncode = 1

    monkeypatch.setattr(volume_agent.subprocess, "Popen", popen)
    monkeypatch.setattr(volume_agent.time, "sleep", sleep)
    assert told("fat", [], b"") == [{"error": "nbdfuse ended with status 1"}]


def test_a_disk_of_one_byte_is_there(sandbox: Sandbox, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(argv: list[str], **_: Any) -> Child:
        sandbox.disk.write_bytes(b"x")
        return sandbox.children["nbdfuse"]

    monkeypatch.setattr(volume_agent.subprocess, "Popen", popen)
    monkeypatch.setattr(volume_agent.time, "sleep", lambda _: pytest.fail("it is waited for"))
    assert told("fat", [], b"") == DONE


def test_pieces_are_read_a_mebibyte_at_a_time() -> None:
    mib = 1 << 20
    found = list(volume_agent._pieces(io.BytesIO(b"a" * 2 * mib + b"b" * mib + b"c"), [[100, 2 * mib], [0, mib + 1]]))
    assert [(at, len(data), data[:1]) for at, data in found] == [
        (100, mib, b"a"), (100 + mib, mib, b"a"), (0, mib, b"b"), (mib, 1, b"c"),
    ]  # fmt: skip


def test_a_write_that_takes_less_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, synced = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: write(handle, data[:2], at))
    monkeypatch.setattr(os, "fsync", synced.append)
    volume_agent._write_into(tmp_path / "a", 9, iter([(4, b"abcde")]))
    assert (tmp_path / "a").read_bytes() == b"\0\0\0\0abcde" and len(synced) == 1


def test_a_full_volume_is_told_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Failed, match=r"/a: No space left on device$"):
        volume_agent._write_into(tmp_path / "a", 1, iter([(0, b"x")]))


def test_a_program_of_mtools_is_told_by_its_name_its_file_and_one_short_line(sandbox: Sandbox) -> None:
    with pytest.raises(Failed) as caught:
        volume_agent._mtools("mattrib", "+r", "::/none")
    assert str(caught.value).startswith("mattrib ::/none: File /none not found!!!")
    assert len(str(caught.value)) == len("mattrib ::/none: ") + 200
