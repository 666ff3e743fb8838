"""Whether somebody uses an image: QEMU's own locks on it, a running domain of libvirt, VMware's lock, another h2k.

QEMU (block/file-posix.c) locks bytes of an image through open file descriptions, whatever its format: byte 100 + N for
a permission N that it takes, 200 + N for one that it grants nobody else. `qemu-img info` does not meet these locks on a
raw image, so they are asked for here as QEMU would.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, H2kError, InUse, Refused
from h2k.base.files import own_directory
from h2k.base.libvirt_connection import connected

_TAKEN, _GRANTED = 100, 200  # QEMU's RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3  # bits of QEMU's permissions
# Who writes a disk takes these three and grants others no writing and no resizing.
_MEETS = (*(_TAKEN + n for n in (_WRITE, _RESIZE)), *(_GRANTED + n for n in (_CONSISTENT_READ, _WRITE, _RESIZE)))
# Our byte, far from QEMU's: open file description locks hold on NFS as well, and do not stop QEMU.
_OUR_BYTE = 0x68326B
_LIBVIRT_LIMIT = 15.0  # seconds for libvirt to say which domains run
_SOCKETS = ("libvirt-sock-ro", "virtqemud-sock-ro")
_CONVERTING = "converting"  # the file whose lock a conversion has
_MAX_PROCESSES, _MAX_HANDLES = 100_000, 5_000

Identity = tuple[int, int]


def require_unused(
    paths: Sequence[Path], patience: float = 0.0, ours: Collection[str] = (), reading: bool = False
) -> None:
    """InUse when somebody uses one of the images, which names the domain or the program. Paths that are not there are
    nobody's. A process that is about to end has `patience` seconds for it; `ours` are UUIDs of domains that may; with
    `reading` those may who only read it, as a domain does with what its disk rests on."""
    there = [path for path in paths if path.exists()]
    deadline = time.monotonic() + patience
    for path in there:
        while _locked(path, reading) and time.monotonic() < deadline:
            time.sleep(0.1)
    domains = _Domains(ours, reading) if there else None
    for path in there:
        who = (domains.using(path) if domains is not None else "") or holder(path, reading)
        if who:
            raise InUse(str(path), who)


def holder(path: Path, reading: bool = False) -> str:
    """Who holds the image by a lock, in words; "" when nobody does. libvirt is not asked."""
    if _locked(path, reading):
        return f"in use by {_program(path) or 'a QEMU (its lock is on it)'}"
    lock = path.with_name(path.name + ".lck")
    return f"VMware has it open ({lock.name} is there)" if lock.is_dir() and any(lock.iterdir()) else ""


def _locked(path: Path, reading: bool) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False  # who wants to open it will say why it can't be
    try:
        return any(_is_locked(handle, byte) for byte in (_MEETS[:2] if reading else _MEETS))
    finally:
        os.close(handle)


def _is_locked(handle: int, byte: int) -> bool:
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False  # a file system without locks, where QEMU takes none either
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def _program(path: Path) -> str:
    """The program that has the image open for writing, where /proc lets us see it."""
    wanted = identity(path)
    for process in _limited(Path("/proc").glob("[0-9]*"), _MAX_PROCESSES):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError, ValueError):
            for handle in _limited((process / "fd").iterdir(), _MAX_HANDLES):
                with contextlib.suppress(OSError):
                    if identity(handle) == wanted and handle.lstat().st_mode & stat.S_IRUSR:
                        argv = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                        return f"{Path(argv[0]).name} (process {process.name}{_guest(argv)})"
    return ""


def _limited(paths: Iterator[Path], most: int) -> Iterator[Path]:
    for number, path in enumerate(paths):
        if number == most:
            return
        yield path


def _guest(argv: Sequence[str]) -> str:
    """The guest's name, as libvirt and people give it to QEMU: -name guest=NAME,… or -name NAME."""
    name = argv[argv.index("-name") + 1] if "-name" in argv[:-1] else ""
    return f", guest {name.split(',')[0].removeprefix('guest=')}" if name else ""


def identity(path: Path) -> Identity:
    """By which a file is known under any name: device and inode, or the number of a block device."""
    facts = path.stat()
    return (-1, facts.st_rdev) if stat.S_ISBLK(facts.st_mode) else (facts.st_dev, facts.st_ino)


# libvirt


class _Domains:
    """The running domains of this host's libvirt, and the files that each has open."""

    def __init__(self, ours: Collection[str], reading: bool = False) -> None:
        self.files: dict[Identity, str] = {}
        found: list[tuple[str, str, str]] = []
        asking = threading.Thread(target=lambda: found.extend(_running()), daemon=True)
        asking.start()
        asking.join(_LIBVIRT_LIMIT)  # a daemon that hangs must not hang us: QEMU's locks are asked in any case
        for name, uuid, xml in list(found):
            if uuid not in ours:
                for file in _files(xml, name, reading):
                    with contextlib.suppress(OSError):
                        self.files[identity(Path(file))] = name

    def using(self, path: Path) -> str:
        name = self.files.get(identity(path))
        return f"in use by the running domain {name}" if name is not None else ""


def _running() -> Iterator[tuple[str, str, str]]:
    """(name, UUID, XML) of each running domain, as far as we may ask; nothing where no libvirt is."""
    places = {"qemu:///system": Path("/run/libvirt"), "qemu:///session": Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "libvirt"}
    for uri, place in places.items():
        if not any((place / name.removesuffix("-ro" if "session" in uri else "")).exists() for name in _SOCKETS):
            continue
        with contextlib.suppress(H2kError), connected(uri) as connection:
            import libvirt

            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                with contextlib.suppress(libvirt.libvirtError):
                    yield domain.name(), domain.UUIDString(), domain.XMLDesc(0)


def _files(xml: str, name: str, written: bool) -> list[str]:
    """The files and devices of a domain's disks, those they rest on (unless only what is `written` is meant), and its
    firmware variables."""
    from h2k.base.xml import parse_xml

    try:
        root = parse_xml(xml.encode(), name)
    except (BadData, ValueError):  # no domain that can be read: QEMU's own lock on the image still speaks for it
        return []
    disks = [disk for disk in root.iterfind("devices/disk") if _writes(disk)]
    found = [s.get("file") or s.get("dev") for disk in disks for s in (disk.iterfind("source") if written else disk.iter("source"))]
    nvram = root.findtext("os/nvram")
    return [file for file in (*found, nvram) if file]


def _writes(disk: Any) -> bool:
    return disk.find("readonly") is None and disk.get("device", "disk") in ("disk", "lun")


# Another h2k


def lock(handle: int, what: Path) -> None:
    """Lock our byte of an open file; the lock ends when it is closed, so with the process, however that ends. Refused
    when another h2k has it."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _OUR_BYTE, 1, 0))
    except (BlockingIOError, PermissionError) as e:
        raise Refused(f"{what}: another h2k works on this guest", hint="wait for it to end") from e


def is_locked(handle: int) -> bool:
    """Whether another open file has our byte."""
    return _is_locked(handle, _OUR_BYTE)


def open_writable(path: Path) -> int:
    """The image, open for reading and writing; Refused when that can't be, or when nobody is meant to write it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise Refused(f"{path}: can't be written: {e.strerror}", hint="give h2k a copy that it may write") from e
    # root may write what is marked read-only; h2k does not take that for a permission
    if not os.fstat(handle).st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        os.close(handle)
        raise Refused(f"{path}: read-only", hint="give h2k a copy that it may write")
    return handle


@contextlib.contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Hold the lock of a report directory for the block. Refused when another h2k has it."""
    handle = lock_directory(own_directory(directory))
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def converting(directory: Path) -> Iterator[None]:
    """Hold a report directory for a conversion, which is longer than its repair and that one's lock: another run would
    write over the same disk. Refused when another conversion has it; nothing of the lock is left."""
    own = own_directory(directory)
    handle = lock_directory(own, _CONVERTING)
    try:
        yield
    finally:
        (own / _CONVERTING).unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):  # unless something was written there
            own.rmdir()


def lock_directory(directory: Path, name: str = "lock") -> int:
    """The lock of a report directory, held by the handle that is returned. Refused when another h2k has it."""
    path = directory / name
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(handle, directory)
            facts: Optional[os.stat_result] = path.lstat()
        except FileNotFoundError:
            facts = None
        except BaseException:
            os.close(handle)
            raise
        # Another run may have removed the file between our opening and our locking it.
        if facts is not None and (facts.st_dev, facts.st_ino) == (os.fstat(handle).st_dev, os.fstat(handle).st_ino):
            return handle
        os.close(handle)
