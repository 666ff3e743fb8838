"""The direct reader: qemu-nbd, libnbd and The Sleuth Kit in a child process, with time limits on each request.

The child (h2k.disk.direct_reader_child) contains The Sleuth Kit's parser faults, and its bindings' habit of crashing at
interpreter exit (python3-tsk of Debian 12).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import json
import logging
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Optional

from h2k.base.errors import BadData, Refused
from h2k.disk.image import ImageInfo
from h2k.disk.ntfs import NtfsVolumeState, volume_state
from h2k.disk.reader import (
    Disk,
    FileStat,
    VolumeRef,
    check_directory,
    check_file,
    components,
    find_volume,
    place,
    read_disk,
)

SILENCE_LIMIT = 60.0  # seconds without a byte from the child
TOTAL_LIMIT = 600.0  # seconds for one whole request; the child ends itself a little later
OTHER_WAY = "try H2K_READER=libguestfs"
_CHUNK = 1024 * 1024
# glibc would give the memory of each piece back to the kernel, and ask for it anew.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 * _CHUNK), "MALLOC_TRIM_THRESHOLD_": str(64 * _CHUNK)}
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; Python names it since 3.10
_MAX_ANSWER = 128 * 1024 * 1024  # a listing of 200,000 names
_STDERR_TAIL = 64 * 1024
log = logging.getLogger("h2k.reader")


def missing() -> list[str]:
    """What the direct reader lacks on this host: libnbd's or The Sleuth Kit's bindings, or qemu-nbd."""
    lacking = [name for name in ("nbd", "pytsk3") if importlib.util.find_spec(name) is None]
    return lacking + ([] if shutil.which("qemu-nbd") else ["qemu-nbd"])


def _widen(pipe: Optional[IO[bytes]]) -> None:
    """Room for a whole piece in the pipe, where the kernel gives it: hives go through it faster, in fewer turns."""
    assert pipe is not None
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, _CHUNK)


class _Content:
    """Bytes that come from the child in pieces, in memory that is asked for once: hives are large."""

    def __init__(self, size: int) -> None:
        self.size, self.room = size, size
        self._bytes = io.BytesIO(bytes(size))

    def read_from(self, handle: int, most: int) -> int:
        """Take what the pipe has, at most `most` bytes; how many came, 0 at its end."""
        with self._bytes.getbuffer() as view:
            at = self.size - self.room
            came = os.readv(handle, [view[at : at + most]])
        self.room -= came
        return came

    def value(self) -> bytes:
        return self._bytes.getvalue()[: self.size - self.room]


class DirectReader:
    """A Reader whose requests are answered by a child process."""

    how = "direct"

    def __init__(self, infos: Sequence[ImageInfo]) -> None:
        self.disks: tuple[Disk, ...] = ()
        self._images = [str(i.path) for i in infos]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        # -I, and our own module path: nothing from the current directory is imported.
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path[:] = {[root, *sys.path]!r}; from h2k.disk.direct_reader_child import main; main()"
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "LC_ALL": "C.UTF-8", **_KEEP_MEMORY},
        )
        _widen(self._child.stdout)
        try:
            for info in infos:
                self._open(info)
            self.disks = tuple(
                read_disk(index, info, lambda at, n, disk=index: self.read_at(disk, at, n))  # type: ignore[misc]
                for index, info in enumerate(infos)
            )
        except BaseException:
            self.close()
            raise

    def _open(self, info: ImageInfo) -> None:
        try:
            self._ask(str(info.path), "open", path=str(info.path.absolute()), form=info.format, size=info.size)
        except BadData as bad:
            why = [line for line in self._child_said() if line.startswith("qemu-nbd: ")] or [bad.message.partition(f"{info.path}: ")[2]]
            raise Refused(f"{info.path}: qemu-nbd can't read this image: {why[-1]}", hint=OTHER_WAY) from bad

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        answer = self._ask_volume(ref, "stat", path)
        return FileStat(**answer) if answer is not None else None

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        return self._content(ref, path, limit, limit)

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        return self._content(ref, path, None, length)

    def _content(self, ref: VolumeRef, path: str, limit: Optional[int], length: int) -> bytes:
        found = check_file(self.stat(ref, path), f"{place(self.disks, ref)}: {path}", limit)
        content = _Content(min(found.size, length))
        self._ask_volume(ref, "content", found.path, content, length=content.size)
        return content.value()

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        check_directory(self.stat(ref, path), f"{place(self.disks, ref)}: {path}")
        return tuple(sorted((FileStat(**f) for f in self._ask_volume(ref, "listdir", path)), key=lambda f: f.path))

    def ntfs_state(self, ref: VolumeRef) -> NtfsVolumeState:
        volume = find_volume(self.disks, ref, ("ntfs",))
        return volume_state(lambda at, n: self.read_at(ref.disk, at, n), volume.start, place(self.disks, ref))

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        content = _Content(length)
        self._ask(self._images[disk], "read_at", content, disk=disk, offset=offset, length=length)
        return content.value()

    def _ask_volume(self, ref: VolumeRef, request: str, path: str, content: Optional[_Content] = None, **more: int) -> Any:
        volume = find_volume(self.disks, ref)
        arguments = {"disk": ref.disk, "start": volume.start, "kind": volume.kind, "path": components(path)}
        return self._ask(place(self.disks, ref), request, content, **arguments, **more)

    def _ask(self, subject: str, request: str, content: Optional[_Content] = None, **arguments: Any) -> Any:
        """One request: the answer, with the bytes that go before it in `content`; BadData names the subject.

        An answer is frames of (kind, length) and that many bytes: D for bytes of the content, which go first, then
        one J (the result in JSON) or E (what is wrong).
        """
        assert self._child.stdin is not None
        deadline = time.monotonic() + TOTAL_LIMIT
        try:
            self._child.stdin.write(json.dumps([request, arguments]).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError) as e:  # ValueError: closed after an earlier failure
            raise BadData(f"{subject}: the file system reader has ended", hint=OTHER_WAY) from e
        while True:
            head = _Content(5)
            self._take(subject, 5, head, deadline)
            kind, length = struct.unpack("<cI", head.value())
            if kind == b"D" and content is not None and length <= content.room:
                self._take(subject, length, content, deadline)
            elif kind in b"JE" and length <= _MAX_ANSWER:
                answer = _Content(length)
                self._take(subject, length, answer, deadline)
                result = json.loads(answer.value())
                if kind == b"E":
                    raise BadData(f"{subject}: {result}")
                return result
            else:
                self._give_up(subject, "gave an impossible answer")

    def _take(self, subject: str, length: int, out: _Content, deadline: float) -> None:
        assert self._child.stdout is not None
        handle = self._child.stdout.fileno()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        left = length
        while left:
            wait = min(SILENCE_LIMIT, deadline - time.monotonic())
            if wait <= 0:
                self._give_up(subject, f"took longer than {TOTAL_LIMIT:.0f} s")
            if not poll.poll(wait * 1000):
                if wait < SILENCE_LIMIT:  # the rest of the whole request's time
                    continue
                self._give_up(subject, f"gave no answer within {SILENCE_LIMIT:.0f} s")
            came = out.read_from(handle, min(left, _CHUNK))
            if not came:
                self._give_up(subject, "crashed")
            left -= came

    def _give_up(self, subject: str, why: str) -> NoReturn:
        self._end_child(0)
        for line in self._child_said():
            log.debug("reader: %s", line)
        raise BadData(f"{subject}: the file system reader {why}", hint=OTHER_WAY)

    def _child_said(self) -> list[str]:
        """The last lines that the child and its qemu-nbd wrote to their standard error."""
        handle = self._stderr.fileno()
        start = max(0, os.fstat(handle).st_size - _STDERR_TAIL)
        return os.pread(handle, _STDERR_TAIL, start).decode("utf-8", "replace").splitlines()

    def _end_child(self, patience: float) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        if self._child.poll() is None:
            # The child alone holds the other end: it hangs up when the child ends; bytes mean an unfinished request.
            seen = select.poll()
            seen.register(self._child.stdout.fileno(), select.POLLIN)
            if [event for _, event in seen.poll(patience * 1000)] != [select.POLLHUP]:
                self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """End the child and, through it, its qemu-nbd processes."""
        self._end_child(10)
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._stderr.close()

    def __enter__(self) -> DirectReader:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
