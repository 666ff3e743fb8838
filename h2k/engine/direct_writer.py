"""The writer without an appliance: qemu-nbd on the overlay, and in a sandbox nbdfuse with ntfs-3g or mtools.

qemu-nbd runs outside, for it opens the images; what parses the guest's file systems has nothing but a connection to the
one volume. A file is written where it differs from what it held, so that it keeps its place and its security descriptor.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from h2k.base import sandbox
from h2k.base.errors import H2kError
from h2k.disk import nbd_server
from h2k.engine import volume_agent
from h2k.engine.writing import Unavailable, VolumeWrite, Work, not_carried_out

LIMIT = 600.0  # seconds for one volume; then the sandbox is ended
_END = 60.0  # seconds for qemu-nbd to write out and end, once nobody is connected
_ANSWER_LIMIT = 1 << 16  # bytes of the agent's answers
_AGENT = "/agent.py"
_PROGRAMS = {"qemu-nbd": "qemu-utils", "nbdfuse": "libnbd-bin", "ntfs-3g": "ntfs-3g", "mcopy": "mtools"}
_WILD = set('*?[]\\"')  # what mtools takes for more than a letter


def missing(tried: bool = True) -> list[str]:
    """What the direct writer lacks on this host; with `tried` a sandbox that does not start is told too."""
    path = "/usr/sbin:/usr/bin"  # as it is in the sandbox
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    lacking += sandbox.missing(fuse=True)
    if tried and not lacking:
        done = subprocess.run(sandbox.sandboxed(["true"], {}, fuse=True), capture_output=True, check=False)
        lacking += ["user namespaces"] if done.returncode else []
    return lacking


class DirectWriter:
    """Writes each volume through a sandbox of its own."""

    name = "direct"

    def write(self, overlays: Sequence[Path], work: Work) -> None:
        """Carry the work out. Raises H2kError, and Unavailable before anything is written."""
        lacking = missing(tried=False)  # whether the sandbox starts will be seen
        if lacking:
            raise Unavailable(f"{', '.join(lacking)} missing")
        wild = [f.path for v in work.volumes if v.volume.kind == "fat" for f in v.files if _WILD & set(f.path)]
        if wild:
            raise Unavailable(f"mtools can't name {wild[0]}")
        for number, volume in enumerate(work.volumes):
            try:
                _write_volume(overlays[volume.volume.ref.disk], volume)
            except Unavailable as why:
                if number:
                    raise H2kError(f"the direct writer stopped in the middle: {why}", hint="the image is as it was") from why
                raise
        for disk in sorted({disk for disk, _, _ in work.bytes}):
            _write_bytes(overlays[disk], [(at, data) for d, at, data in work.bytes if d == disk])


def _write_bytes(overlay: Path, pieces: Sequence[tuple[int, bytes]]) -> None:
    import nbd

    size = 512 * -(-max(at + len(data) for at, data in pieces) // 512)
    handle = nbd.NBD()
    try:
        with _served(overlay, 0, size) as connection:
            handle.connect_socket(connection.detach())
            for at, data in pieces:
                handle.pwrite(data, at)
            handle.flush()
            handle.shutdown()
    except nbd.Error as e:
        raise H2kError(f"{overlay}: {e.string}", hint="the image is as it was") from e


def _write_volume(overlay: Path, work: VolumeWrite) -> None:
    with _served(overlay, work.volume.start, work.volume.size) as connection, tempfile.TemporaryFile() as said:
        handle = connection.fileno()
        argv = sandbox.sandboxed([sandbox.PYTHON, "-I", "-S", _AGENT], {str(Path(volume_agent.__file__).resolve()): _AGENT}, fuse=True)
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, pass_fds=[handle])
        connection.close()
        watchdog = threading.Timer(LIMIT, child.kill)
        watchdog.start()
        try:
            answers = _conversation(child, work, handle)
        finally:
            watchdog.cancel()
            child.kill()
            child.wait()
        said.seek(0)
        _judge(answers, [line for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()])


def _conversation(child: subprocess.Popen[bytes], work: VolumeWrite, handle: int) -> list[dict[str, Any]]:
    """Send the request and the bytes; all that the agent answered."""
    assert child.stdin is not None and child.stdout is not None
    pieces = [file.pieces() for file in work.files]
    files = [[file.path, len(file.data), parts] for file, parts in zip(work.files, pieces)]
    request = {"kind": work.volume.kind, "fd": handle, "directories": work.directories, "files": files}
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(request).encode() + b"\n")
        for file, parts in zip(work.files, pieces):
            for offset, length in parts:
                child.stdin.write(file.data[offset : offset + length])
        child.stdin.flush()
    answers = _answers(child.stdout.read(_ANSWER_LIMIT))
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    return answers


def _answers(lines: bytes) -> list[dict[str, Any]]:
    """The objects among the lines. A guest that took the sandbox over can print anything."""
    found: list[Any] = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [answer for answer in found if isinstance(answer, dict)]


def _judge(answers: Sequence[dict[str, Any]], said: Sequence[str]) -> None:
    """Raises what the agent's answers mean; `said` is what the programs in the sandbox printed."""
    if {"done": True} in answers:
        return
    error = next((a["error"] for a in answers if "error" in a), f"the sandbox ended within {LIMIT:.0f} s without an answer")
    why = f"{error}: {said[-1][:200]}" if said else error
    if {"stage": "disk"} not in answers:
        raise Unavailable(why)
    raise not_carried_out("the direct writer", why)


@contextmanager
def _served(overlay: Path, start: int, size: int) -> Iterator[socket.socket]:
    """A connection to a qemu-nbd that serves these bytes of the overlay; when the block ends all is in the overlay.

    No flush reaches the host's disk: the commit asks for that once, at its own time.
    """
    file = f"file.driver=qcow2,file.file.driver=file,file.file.filename={str(overlay).replace(',', ',,')}"
    options = ["--cache=unsafe", "--image-opts", f"driver=raw,offset={start},size={size},{file}"]
    with tempfile.TemporaryFile() as said:
        connection, server = nbd_server.connected(options, said)
        try:
            yield connection
            connection.close()
            server.wait(_END)
        except subprocess.TimeoutExpired as e:
            raise H2kError(f"{overlay}: qemu-nbd did not end within {_END:.0f} s", hint="the image is as it was") from e
        except Unavailable:
            if server.poll():
                raise H2kError(f"{overlay}: {_last_line(said)}", hint="it must be free and whole") from None
            raise
        finally:
            connection.close()
            nbd_server.end(server)
        if server.returncode:
            raise H2kError(f"{overlay}: {_last_line(said)}", hint="the image is as it was")


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else "qemu-nbd ended, and said nothing"
