"""Sources on other hosts, read through NBD: nbd:// itself, and files over SSH through nbdkit, as virt-v2v reads them."""

from __future__ import annotations

import os
import posixpath
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Optional
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from h2k.base.children import dies_with_us
from h2k.base.errors import H2kError, Unknown
from h2k.base.run import CommandFailed, run
from h2k.disk.view import Node, View, make_view
from h2k.domain.facts import DomainFacts
from h2k.domain.vmx import VMX_LIMIT, read_vmx

NBD_PORT = 10809
_ANSWER = 15.0  # seconds for a server's first answer
_START = 10.0  # seconds for nbdkit to listen
_SSH_TIMEOUT = 10  # seconds, nbdkit's own limit for the connection


def nbd_view(uri: str, work: Path, format: str) -> View:
    """An image on an nbd:// or nbd+unix:// export; Unknown when it does not answer, or can't be read without keys."""
    try:
        parts = urlsplit(uri)
        node = _nbd_node(parts)
    except ValueError as e:
        raise Unknown(f"{uri}: {e}") from e
    _size(uri)
    return make_view(work / "export.qcow2", node, uri, format)


def _nbd_node(parts: SplitResult) -> Node:
    export = unquote(parts.path[1:])
    if parts.scheme == "nbd+unix":
        sockets = parse_qs(parts.query).get("socket", [])
        if len(sockets) != 1:
            raise ValueError("no socket in it")
        server: Node = {"type": "unix", "path": sockets[0]}
    elif parts.scheme == "nbd" and parts.hostname:
        server = {"type": "inet", "host": parts.hostname, "port": str(parts.port or NBD_PORT)}
    else:
        raise ValueError(f"h2k reads nbd:// and nbd+unix:// without TLS, not {parts.scheme}://")
    return {"driver": "nbd", "server": server, "export": export}


def _size(uri: str) -> int:
    try:
        return int(run(["nbdinfo", "--size", uri], timeout=_ANSWER).stdout)
    except (CommandFailed, ValueError) as e:
        why = e.stderr.strip().splitlines()[-1:] if isinstance(e, CommandFailed) else []
        raise Unknown(f"{uri}: does not answer" + (f": {why[0]}" if why else "")) from e


@contextmanager
def ssh_vmx(uri: str, password_file: Optional[str], work: Path) -> Iterator[tuple[DomainFacts, tuple[View, ...]]]:
    """The facts of a VMX on an ESXi host (ssh://USER@HOST/vmfs/…/NAME.vmx), and images on its disks' flat files.

    Unknown when nbdkit or its ssh plugin is missing, the host can't be reached, or a disk has snapshots.
    """
    login, path = _login(uri)
    login += [f"password=+{Path(password_file).absolute()}"] if password_file else []
    try:
        run(["nbdkit", "ssh", "--version"], timeout=_ANSWER)
    except CommandFailed as e:
        raise Unknown("nbdkit's ssh plugin is not installed here") from e
    with ExitStack() as stack:
        with _served(login, path, work / "vmx") as socket:
            domain = read_vmx(_fetch(socket, uri), uri)
        views = []
        for number, disk in enumerate(domain.disks):
            file = posixpath.join(posixpath.dirname(path), str(disk.path))
            flat = file[: -len(".vmdk")] + "-flat.vmdk" if file.endswith(".vmdk") else file
            place = work / str(number)
            socket = stack.enter_context(_served(login, flat, place))
            node = {"driver": "nbd", "server": {"type": "unix", "path": str(socket)}, "export": ""}
            views.append(make_view(place / f"{Path(file).stem}.qcow2", node, f"{uri}: {flat}", "raw"))
        yield domain, tuple(views)


def _login(uri: str) -> tuple[list[str], str]:
    """(nbdkit's parameters for the host, the file's path there)."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as e:
        raise Unknown(f"{uri}: {e}") from e
    if parts.scheme != "ssh" or not parts.hostname or not parts.path.endswith(".vmx"):
        raise Unknown(f"{uri}: not ssh://USER@HOST/PATH.vmx")
    login = [f"host={parts.hostname}", f"timeout={_SSH_TIMEOUT}"]
    login += [f"user={unquote(parts.username)}"] if parts.username else []
    login += [f"port={port}"] if port else []
    return login, unquote(parts.path)


@contextmanager
def _served(login: Sequence[str], path: str, place: Path) -> Iterator[Path]:
    """The socket on which nbdkit serves a remote file, read-only, as long as this block lasts."""
    place.mkdir(parents=True)
    socket, log = place / "socket", place / "nbdkit.log"
    argv = ["nbdkit", "-f", "-r", "--exit-with-parent", "-U", str(socket), "ssh", *login, f"path={path}"]
    with open(log, "wb") as out, subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, "LC_ALL": "C.UTF-8"}, preexec_fn=dies_with_us()
    ) as child:
        try:
            deadline = time.monotonic() + _START
            while not socket.exists() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            try:
                _size(f"nbd+unix:///?socket={socket}")
            except Unknown as e:
                said = log.read_text(errors="replace").strip().splitlines()[:1] or [str(e)]
                raise Unknown(f"{path}: can't be read over SSH: {said[0][:300]}") from e
            yield socket
        finally:
            child.terminate()


def _fetch(socket: Path, name: str) -> bytes:
    uri = f"nbd+unix:///?socket={socket}"
    if _size(uri) > VMX_LIMIT:
        raise H2kError(f"{name}: larger than {VMX_LIMIT} bytes; not a VMX", hint="give the guest's .vmx file")
    return run(["nbdcopy", uri, "-"], timeout=_ANSWER).stdout
