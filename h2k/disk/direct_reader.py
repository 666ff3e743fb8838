"""The direct reader: qemu-nbd, libnbd and The Sleuth Kit in a child process, with time limits on each request.

The child (h2k.disk.direct_reader_child) contains The Sleuth Kit's parser faults, and its bindings' habit of crashing at
interpreter exit (python3-tsk of Debian 12).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import io
import json
import logging
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Callable, ClassVar, NoReturn, Optional, Union

from h2k.base.children import dies_with_us
from h2k.base.errors import BadData, Refused
from h2k.disk.image import ImageInfo
from h2k.disk.reader import (
    TOTAL_LIMIT,
    Disk,
    FileStat,
    ReaderEnded,
    VolumeRef,
    WholeReader,
    check_directory,
    check_file,
    components,
    find_volume,
    place,
    read_disk,
)

SILENCE_LIMIT = 60.0  # seconds without a byte from the child
OTHER_WAY = "try H2K_READER=libguestfs"
_CHUNK = 1024 * 1024
# glibc would give the memory of each piece back to the kernel, and ask for it anew.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 * _CHUNK), "MALLOC_TRIM_THRESHOLD_": str(64 * _CHUNK)}
_LOOKS = 10  # at our threads, a millisecond after each other
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; Python names it since 3.10
_MAX_ANSWER = 128 * 1024 * 1024  # a listing of 200,000 names
_STDERR_TAIL = 64 * 1024
_STATS = 20_000  # answers that are kept: many hooks ask for the same files
log = logging.getLogger("h2k.reader")


@lru_cache(maxsize=1)
def missing() -> tuple[str, ...]:
    """What the direct reader lacks on this host: libnbd's or The Sleuth Kit's bindings, or qemu-nbd."""
    lacking = [name for name in ("nbd", "pytsk3") if importlib.util.find_spec(name) is None]
    return (*lacking, *(() if shutil.which("qemu-nbd") else ("qemu-nbd",)))


def start_by_fork() -> None:
    """From now on fork the children of this process where it has one thread.

    They then have Python and the bindings loaded, which takes longer than to read a guest, and share their memory.
    """
    if not missing():
        importlib.import_module("h2k.disk.direct_reader_child")
        DirectReader.start = _forked


def _forked(stderr: IO[bytes]) -> _Process:
    """The child as a fork. With threads as a program of its own: a fork would have the locks that they hold, for ever."""
    return _Forked(stderr) if _has_one_thread() else _spawned(stderr)


def _has_one_thread() -> bool:
    """Whether this process has no other thread, of C libraries either. One that has been joined may still be ending."""
    for _ in range(_LOOKS):
        if len(list(Path("/proc/self/task").iterdir())) == 1:
            return True
        if threading.active_count() > 1:
            return False
        time.sleep(0.001)
    return False


def _spawned(stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """The child as a program of its own. -I, and our own module path: nothing from the current directory is imported."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    code = f"import sys; sys.path[:] = {paths!r}; from h2k.disk.direct_reader_child import main; main()"
    env = {**os.environ, "LC_ALL": "C.UTF-8", **_KEEP_MEMORY}
    argv = [sys.executable, "-I", "-c", code]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, preexec_fn=dies_with_us())


class _Forked:
    """The child as a fork of this process, with what a Popen has that is used here."""

    def __init__(self, stderr: IO[bytes]) -> None:
        requests, answers, prepare = os.pipe(), os.pipe(), dies_with_us()
        self.returncode: Optional[int] = None
        self.pid = os.fork()
        if not self.pid:
            prepare()
            self._be_child(requests[0], answers[1], stderr.fileno())
        os.close(requests[0])
        os.close(answers[1])
        self.stdin: IO[bytes] = os.fdopen(requests[1], "wb")
        self.stdout: IO[bytes] = os.fdopen(answers[0], "rb", buffering=0)

    def _be_child(self, requests: int, answers: int, stderr: int) -> NoReturn:
        """Never returns into what this process was doing when it forked."""
        try:
            for number, handle in enumerate((requests, answers, stderr)):
                os.dup2(handle, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            from h2k.disk.direct_reader_child import main

            main()
        finally:
            os._exit(1)

    def poll(self) -> Optional[int]:
        if self.returncode is None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.returncode = 0
        return self.returncode

    def wait(self) -> None:
        if self.returncode is None:
            os.waitpid(self.pid, 0)
            self.returncode = 0

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


_Process = Union["subprocess.Popen[bytes]", _Forked]


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


class DirectReader(WholeReader):
    """A Reader whose requests are answered by a child process."""

    how = "direct"
    start: ClassVar[Callable[[IO[bytes]], _Process]] = _spawned

    def __init__(self, infos: Sequence[ImageInfo]) -> None:
        self.disks: tuple[Disk, ...] = ()
        self._images = [str(i.path) for i in infos]
        self._stats: dict[tuple[VolumeRef, tuple[str, ...]], Optional[FileStat]] = {}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._child = DirectReader.start(self._stderr)
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
        except ReaderEnded:
            raise
        except BadData as bad:
            why = [line for line in self._child_said() if line.startswith("qemu-nbd: ")] or [bad.message.partition(f"{info.path}: ")[2]]
            raise Refused(f"{info.path}: qemu-nbd can't read this image: {why[-1]}", hint=OTHER_WAY) from bad

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        asked = (ref, tuple(components(path)))
        if asked not in self._stats:
            answer = self._ask_volume(ref, "stat", path)
            if len(self._stats) >= _STATS:
                self._stats.clear()
            self._stats[asked] = FileStat(**answer) if answer is not None else None
        return self._stats[asked]

    def _content(self, ref: VolumeRef, path: str, limit: Optional[int], length: int, offset: int = 0) -> bytes:
        found = check_file(self.stat(ref, path), f"{place(self.disks, ref)}: {path}", limit)
        content = _Content(max(0, min(found.size - offset, length)))
        self._ask_volume(ref, "content", found.path, content, length=content.size, offset=offset)
        return content.value()

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        check_directory(self.stat(ref, path), f"{place(self.disks, ref)}: {path}")
        return tuple(sorted((FileStat(**f) for f in self._ask_volume(ref, "listdir", path)), key=lambda f: f.path))

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
        except BrokenPipeError:
            self._give_up(subject, "crashed")
        except ValueError as e:  # closed after an earlier failure
            raise ReaderEnded(f"{subject}: the file system reader has ended", hint=OTHER_WAY) from e
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
        self.failure = f"{subject}: the file system reader {why}"
        raise ReaderEnded(self.failure, hint=OTHER_WAY)

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
