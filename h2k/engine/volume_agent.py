"""Runs in the direct writer's sandbox: mounts one volume, writes into its files, unmounts. The standard library alone.

Standard input: one line of JSON (the kind of the volume, the descriptor of an NBD connection to it, directories to make,
files with their pieces), then the bytes of the pieces. Standard output: {"stage": …} lines, then {"error": …} or {"done": true}.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

DISK, VOLUME, COPY = Path("/run/disk/volume"), Path("/run/volume"), Path("/run/copy")
PATIENCE = 60.0  # seconds for a mount, and for its end
_CHUNK = 1 << 20  # bytes
_ATTRIBUTES = "RSHA"  # read-only, system, hidden, archive


class Failed(Exception):
    """What went wrong, in one line."""


def main() -> None:
    """Do what standard input says."""
    request = json.loads(sys.stdin.buffer.readline())
    try:
        _prepare()
        with_disk = subprocess.Popen(["nbdfuse", str(DISK), "--fd", str(request["fd"])], pass_fds=[request["fd"]], stdout=2)
        os.close(request["fd"])
        _await(lambda: DISK.is_file() and DISK.stat().st_size > 0, with_disk, "nbdfuse")
        _tell(stage="disk")
        write = _write_ntfs if request["kind"] == "ntfs" else _write_fat
        write(request, sys.stdin.buffer)
        _unmount(DISK.parent, with_disk, "nbdfuse")
    except (Failed, OSError) as e:
        _tell(error=str(e))
    else:
        _tell(done=True)


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _prepare() -> None:
    """What libfuse wants to see: the user's name and the mounts."""
    Path("/etc/passwd").write_text("h2k:x:1000:1000::/:/bin/sh\n", encoding="ascii")
    Path("/etc/mtab").symlink_to("/proc/self/mounts")
    DISK.parent.mkdir()
    VOLUME.mkdir()


def _await(seen: Callable[[], bool], child: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not seen():
        if child.poll() is not None:
            raise Failed(f"{name} ended with status {child.returncode}")
        if time.monotonic() > deadline:
            raise Failed(f"{name} mounted nothing within {PATIENCE:.0f} s")
        time.sleep(0.002)


def _unmount(place: Path, child: subprocess.Popen[bytes], name: str) -> None:
    """Unmount, and wait until the file system has written everything out."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(place), 0):
        raise Failed(f"{place} can't be unmounted: {os.strerror(ctypes.get_errno())}")
    try:
        status = child.wait(PATIENCE)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{name} did not end within {PATIENCE:.0f} s") from e
    if status:
        raise Failed(f"{name} ended with status {status}")


def _pieces(source: BinaryIO, pieces: list[list[int]]) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the pieces of one file, no more than a chunk at once."""
    for offset, length in pieces:
        for at in range(offset, offset + length, _CHUNK):
            wanted = min(_CHUNK, offset + length - at)
            data = source.read(wanted)
            if len(data) != wanted:
                raise Failed("the data ended early")
            yield at, data


def _inside(path: str) -> Path:
    """A path of the volume where it is mounted."""
    return VOLUME / path.lstrip("/")


def _write_into(path: Path, size: int, pieces: Iterator[tuple[int, bytes]]) -> None:
    """Write the pieces over the file; it keeps its place, its security descriptor and whatever else NTFS knows of it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        for offset, data in pieces:
            done = 0
            while done < len(data):
                done += os.pwrite(handle, data[done:], offset + done)
        os.ftruncate(handle, size)
        os.fsync(handle)
    except OSError as e:
        raise Failed(f"{path}: {e.strerror}") from e
    finally:
        os.close(handle)


def _write_ntfs(request: dict[str, Any], source: BinaryIO) -> None:
    """By ntfs-3g, with the options that libguestfs gives it: none."""
    child = subprocess.Popen(["ntfs-3g", "-o", "no_detach", str(DISK), str(VOLUME)], stdout=2)
    _await(lambda: os.path.ismount(VOLUME), child, "ntfs-3g")
    for directory in request["directories"]:
        _inside(directory).mkdir()
    for path, size, pieces in request["files"]:
        _write_into(_inside(path), size, _pieces(source, pieces))
    _unmount(VOLUME, child, "ntfs-3g")


def _write_fat(request: dict[str, Any], source: BinaryIO) -> None:
    """By mtools, which replaces a file: the attributes of the old one are set again."""
    for directory in request["directories"]:
        _mtools("mmd", f"::{directory}")
    for path, size, pieces in request["files"]:
        if sum(length for _, length in pieces) != size:  # the rest of the file is what it was
            _mtools("mcopy", "-n", f"::{path}", str(COPY))
        _write_into(COPY, size, _pieces(source, pieces))
        attributes = _attributes(path)
        _mtools("mcopy", "-o", str(COPY), f"::{path}")
        COPY.unlink()
        if attributes is not None:
            _mtools("mattrib", *(f"{'+' if a in attributes else '-'}{a.lower()}" for a in _ATTRIBUTES), f"::{path}")


def _attributes(path: str) -> Optional[set[str]]:
    """The attributes of a file as mattrib prints them before its name; None when there is no such file."""
    try:
        shown = _mtools("mattrib", f"::{path}")
    except Failed:
        return None
    return set(shown.partition("::")[0]) & set(_ATTRIBUTES)


def _mtools(command: str, *arguments: str) -> str:
    argv, env = [command, "-i", str(DISK), *arguments], {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{command} {arguments[-1]}: {' '.join(done.stderr.split())[:200]}")
    return done.stdout


if __name__ == "__main__":
    main()
