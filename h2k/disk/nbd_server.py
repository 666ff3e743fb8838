"""A qemu-nbd of our own: reached over a socket that has no name when it starts, and ended with us, however we end.

libnbd can start a qemu-nbd itself (systemd's socket activation), but a kill then leaves its socket's directory behind,
and, between the fork and the first connection, the qemu-nbd with its lock on the image.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, Optional

from h2k.base.children import dies_with_us
from h2k.base.errors import H2kError
from h2k.base.run import find_program

_FIRST = 3  # systemd's SD_LISTEN_FDS_START: the descriptor that a server takes for its socket
_END = 60.0  # seconds for a server to write what it holds and end, when its one client has gone


def _sockets() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and one that is connected to it already; the name that they met by is gone."""
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    directory = Path(tempfile.mkdtemp(prefix="h2k-nbd-"))
    name = directory / "s"
    try:
        server.bind(str(name))
        server.listen(1)
        client.connect(str(name))
    except BaseException:
        server.close()
        client.close()
        raise
    finally:
        name.unlink(missing_ok=True)
        directory.rmdir()
    return server, client


def start(options: Sequence[str], stderr: Optional[IO[bytes]] = None) -> tuple[Any, subprocess.Popen[bytes]]:
    """(libnbd's handle, the process) of `qemu-nbd OPTIONS`, which serves us alone. nbd.Error when it can't open the image."""
    import nbd

    client, child = connected(options, stderr)
    handle = nbd.NBD()
    try:
        handle.connect_socket(client.detach())
    except BaseException:
        end(child)
        raise
    return handle, child


def connected(options: Sequence[str], stderr: Optional[IO[bytes]] = None) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """(a connection, the process) of `qemu-nbd OPTIONS`, which serves that connection alone, or closes it."""
    program = find_program("qemu-nbd")
    server, client = _sockets()
    prepare = dies_with_us(signal.SIGKILL)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LISTEN_FDS": "1"}

    def become() -> NoReturn:
        # LISTEN_PID is known only here, so that this is where the child becomes qemu-nbd; all else that we have open is
        # closed by that.
        try:
            prepare()
            os.dup2(server.fileno(), _FIRST)
            os.set_inheritable(_FIRST, True)
            os.execvpe(program, ["qemu-nbd", *options], {**environment, "LISTEN_PID": str(os.getpid())})
        finally:
            os._exit(127)

    try:
        child = subprocess.Popen([program], preexec_fn=become, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
    except BaseException:
        client.close()
        raise
    finally:
        server.close()
    return client, child


def end(child: subprocess.Popen[bytes], patience: float = 0.0) -> None:
    """Wait for the server to end by itself, then make it."""
    try:
        child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def serving(path: Path, form: str, write: bool = False) -> Iterator[Any]:
    """An NBD connection to an image; with `write` everything is on the disk when the block ends. H2kError when the image
    is in use, damaged, or on a file system that is full."""
    import nbd

    mode = ["--discard=unmap", "--detect-zeroes=unmap"] if write else ["-r"]
    child: Optional[subprocess.Popen[bytes]] = None
    with tempfile.TemporaryFile() as said:
        try:
            handle, child = start([*mode, "-f", form, str(path)], said)
            yield handle
            if write:
                handle.flush()
            handle.shutdown()
            end(child, _END)
        except nbd.Error as e:
            raise H2kError(f"{path}: {_why(e, said)}", hint="it must be free, whole, and on a file system with space left") from e
        finally:
            if child is not None:
                end(child)


def _why(error: Any, said: IO[bytes]) -> str:
    """What qemu-nbd said, else the system's own word for it."""
    said.seek(0)
    lines = said.read(4096).decode("utf-8", "replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("qemu-nbd: ")
    return os.strerror(error.errnum) if getattr(error, "errnum", 0) else str(error)
