"""Disk images without QEMU: images are plain files, qcow2 files are lists of pieces in JSON, programs are functions."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest

from h2k.base.run import CommandFailed
from h2k.disk import blocks, in_use, overlay, undo
from h2k.disk.journal import JournalFile
from h2k.disk.overlay import DiskSet

PAGE, SIZE = 4096, 4 * 4096
FORMATS = {"g-sda": "raw", "g-sdb": "vmdk"}


class Killed(BaseException):
    """The run ends here, as by a kill: nothing handles it."""


class Storage:
    """qemu-img and qemu-nbd; `log` has what they did, and `before[EVENT]` is called before they do it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.watch: Callable[[Path, int, bytes], object] = lambda path, at, data: None
        self.losing: set[str] = set()  # names of images that forget what is written to them
        self._now = 0
        patch.setattr(os, "fsync", lambda handle: None)  # for speed
        for module in (blocks, overlay, undo):
            patch.setattr(module, "run", self.run)
        patch.setattr(blocks, "serving", self.serving)
        patch.setattr(undo, "probe", lambda path, form: SimpleNamespace(size=len(self.read(path, form))))
        for module in (overlay, undo):
            patch.setattr(module, "sync", lambda path: self.event(f"sync {path.name}"))

    def event(self, name: str) -> None:
        self.log.append(name)
        self.before.get(name, lambda: None)()

    def fails(self, event: str, error: Optional[BaseException] = None) -> None:
        """From now on that event fails."""

        def fail() -> None:
            raise error or CommandFailed(["qemu-img"], 1, "qemu-img: Input/output error")

        self.before[event] = fail

    def read(self, path: Path, form: str) -> bytes:
        """What a guest would see of it."""
        assert form == FORMATS.get(path.name, "qcow2")
        if path.name in FORMATS:
            return path.read_bytes()
        image = json.loads(path.read_bytes())
        content = bytearray(self.read(Path(image["backing"]), image["form"]) if image["backing"] else bytes(image["size"]))
        for at, data in image["pieces"].items():
            content[int(at) : int(at) + len(data) // 2] = bytes.fromhex(data)
        return bytes(content)

    def write(self, path: Path, at: int, data: bytes) -> None:
        """Somebody's write, into an image or an overlay."""
        if path.name in FORMATS:
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(data)
        else:
            image = json.loads(path.read_bytes())
            image["pieces"][str(at)] = data.hex()
            path.write_text(json.dumps(image))
        self._now = max(time.time_ns(), self._now + 1)  # the clock of a file system is too slow for a test
        os.utime(path, ns=(self._now, self._now))

    def run(self, argv: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert argv[0] == "qemu-img"
        return subprocess.CompletedProcess(argv, 0, getattr(self, f"_{argv[1]}")(argv) or b"", b"")

    def _create(self, argv: list[str]) -> None:
        options = dict(zip(argv, argv[1:]))
        assert options["-f"] == "qcow2"
        backing, form = options.get("-b"), options.get("-F")
        path, size = (Path(argv[-1]), len(self.read(Path(backing), str(form)))) if backing else (Path(argv[-2]), int(argv[-1]))
        self.event(f"create {path.name}")
        assert not os.path.lexists(path)  # QEMU would follow a link
        path.write_text(json.dumps({"backing": backing, "form": form, "size": size, "pieces": {}}))

    def _info(self, argv: list[str]) -> None:
        self.event(f"info {Path(argv[-1]).name}")
        self.read(Path(argv[-1]), argv[argv.index("-f") + 1])

    def _map(self, argv: list[str]) -> bytes:
        path, form = Path(argv[-1]), argv[argv.index("-f") + 1]
        size = len(self.read(path, form))
        known = {"present": True, "zero": False, "data": True, "offset": 0}
        if path.name in FORMATS:
            return json.dumps([{"start": 0, "length": size, "depth": 0, **known}]).encode()
        pieces = {int(at): len(data) // 2 for at, data in json.loads(path.read_bytes())["pieces"].items()}
        end = max((at + length for at, length in pieces.items()), default=0)
        extents = [{"start": at, "length": length, "depth": 0, **known} for at, length in sorted(pieces.items())]
        return json.dumps([*extents, {"start": end, "length": size - end, "depth": 1, **known}]).encode()

    def _commit(self, argv: list[str]) -> None:
        assert {"-d", "-f"} <= set(argv)  # -d: the overlay is still whole for a second try
        path = Path(argv[-1])
        self.event(f"commit {path.name}")
        image = json.loads(path.read_bytes())
        for at, data in image["pieces"].items():
            self._put(Path(image["backing"]), int(at), bytes.fromhex(data))

    def _put(self, path: Path, at: int, data: bytes) -> None:
        self.watch(path, at, data)
        if path.name not in self.losing:
            self.write(path, at, data)

    @contextmanager
    def serving(self, path: Path, form: str, write: bool = False) -> Iterator[Any]:
        """A connection to an image."""
        self.read(path, form)

        def put(data: bytes, at: int) -> None:
            assert write
            if path.name in FORMATS:
                self.event(f"restore {path.name}")
            self._put(path, at, data)

        yield SimpleNamespace(pread=lambda length, at: self.read(path, form)[at : at + length], pwrite=put)


class Guest:
    """Two disks with a report directory. Before a byte of them changes the journal says so, and has the old one."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.storage = Storage(patch)
        self.state = directory / "g.h2k"
        self.images = [directory / name for name in FORMATS]
        for number, path in enumerate(self.images):
            path.write_bytes(b"".join(bytes([16 * number + page + 1]) * PAGE for page in range(4)))
        self.first = self.content
        self.before: dict[int, list[bytes]] = {}  # by the number of the commit
        self.storage.watch = self._watch
        self.stored: list[tuple[str, bool]] = []  # what the journal was to say, and whether its reserve was still there
        store = JournalFile.store

        def noted(file: JournalFile, phase: str, *rest: Any) -> Any:
            self.stored.append((phase, (self.state / "journal.spare").exists()))
            return store(file, phase, *rest)

        patch.setattr(JournalFile, "store", noted)
        patch.setattr(in_use, "_running", lambda: iter(()))
        patch.setattr(overlay, "_ORPHAN_LIMIT", 0.0)

    def disks(self, count: int = 2, state: Optional[Path] = None) -> DiskSet:
        """What a run of h2k has of them."""
        return DiskSet([(path, FORMATS[path.name]) for path in self.images[:count]], state or self.state)

    @property
    def content(self) -> list[bytes]:
        return [path.read_bytes() for path in self.images]

    @property
    def journal(self) -> Any:
        return json.loads((self.state / "journal.json").read_bytes())

    @property
    def left(self) -> list[str]:
        """The files of the report directory, but for the journal and the lock."""
        return sorted(path.name for path in self.state.iterdir() if path.name not in ("journal.json", "lock"))

    def change(self, byte: int, at: int = PAGE) -> None:
        """What a repair or a boot writes to the overlays: a page of each, and one more of the first."""
        for overlay_ in sorted(self.state.glob("overlay-*")):
            self.storage.write(overlay_, at, bytes([byte]) * PAGE)
        self.storage.write(self.state / "overlay-0.qcow2", 3 * PAGE, bytes([byte + 1]) * PAGE)

    def prepared(self, byte: int, kind: str = "fix", count: int = 2) -> DiskSet:
        """A run that has worked on its overlays."""
        return self.prepare(self.disks(count), byte, kind)

    def prepare(self, disks: DiskSet, byte: int, kind: str = "fix") -> DiskSet:
        """The same for disks that a run has."""
        disks.create_overlays(kind)
        self.before[self.journal["work"]["depth"]] = self.content
        self.change(byte)
        return disks

    def committed(self, byte: int, kind: str = "fix", count: int = 2) -> list[bytes]:
        """A run that has committed; what the disks hold now."""
        self.prepared(byte, kind, count).commit()
        return self.content

    def killed_at(self, step: str, byte: int = 0xA0, **companions: Any) -> None:
        """A run that is killed during its commit."""
        disks = self.prepared(byte)
        with pytest.raises(Killed):
            disks.commit(killer(step), **companions)

    def _watch(self, path: Path, at: int, data: bytes) -> None:
        """No byte of an image is written before the journal and the undo data are there."""
        if path not in self.images:
            return
        journal, index = self.journal, self.images.index(path)
        assert journal["phase"] in ("committing", "rolling-back")
        depth = journal["work"]["depth"]
        undo_image = self.state / f"undo-{depth}-{index}.qcow2"
        pieces = json.loads(undo_image.read_bytes())["pieces"]
        assert any(int(start) <= at and at + len(data) <= int(start) + len(piece) // 2 for start, piece in pieces.items())
        saved = self.storage.read(undo_image, "qcow2")
        assert saved[at : at + len(data)] == self.before[depth][index][at : at + len(data)]


class Signs:
    """on_step that notes at which steps a run says that it lives: each time anew, after somebody made that look old."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.fresh: list[str] = []

    def __call__(self, step: str) -> None:
        if self.file.exists() and self.file.stat().st_mtime > 2:
            self.fresh.append(step)
            os.utime(self.file, (1, 1))


def killer(step: str) -> Callable[[str], None]:
    """on_step that ends the run at a step."""

    def kill(name: str) -> None:
        if name == step:
            raise Killed

    return kill


@contextmanager
def used(path: Path, *places: int) -> Iterator[None]:
    """A QEMU has the image open."""
    handle = os.open(path, os.O_RDWR)
    try:
        for place in places or (100, 101, 201, 203):
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, place, 1, 0))
        yield
    finally:
        os.close(handle)
