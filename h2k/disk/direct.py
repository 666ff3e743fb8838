"""The direct reader: qemu-nbd, libnbd and The Sleuth Kit in a child process, with a time limit on each request.

The child contains The Sleuth Kit's parser faults, and its bindings' habit of crashing at interpreter exit
(python3-tsk of Debian 12): it keeps every parent object alive and ends with os._exit.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import select
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Optional

from h2k.disk.image import ImageInfo
from h2k.disk.partition import read_table
from h2k.disk.reader import Disk, FileStat, NtfsState, Volume, VolumeRef, components, volume_kind
from h2k.errors import BadData, H2kError

TIME_LIMIT = 60.0  # seconds without a byte from the child
CHUNK = 4 * 1024 * 1024
MAX_ENTRIES = 200_000
_BLOCK, _BLOCKS = 64 * 1024, 256
_WOF_TAG = 0x80000017


def available() -> bool:
    """Whether libnbd's and The Sleuth Kit's bindings are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("nbd", "pytsk3"))


class DirectReader:
    """A Reader whose requests are answered by a child process."""

    how = "direct"

    def __init__(self, infos: Sequence[ImageInfo]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._names = ", ".join(str(i.path) for i in infos)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "h2k.disk.direct"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            answer = self._ask("open", images=[[str(i.path.absolute()), i.format, i.size] for i in infos])
            self.disks = tuple(self._disk(index, infos[index], volumes) for index, volumes in enumerate(answer))
        except BaseException:
            self.close()
            raise

    def _disk(self, index: int, info: ImageInfo, volumes: list[Any]) -> Disk:
        table = read_table(lambda offset, length: self.read_at(index, offset, length), info.size, str(info.path))
        spans = [(p.number, p.start, p.size) for p in table.partitions] or [(0, 0, info.size)]
        found = []
        for number, start, size in spans:
            head = self.read_at(index, start, 512) if size >= 512 else b""
            kind = volume_kind(head.ljust(512, b"\0"), lambda s=start, n=size: self._iso_mark(index, s, n))
            serial = head[72:80].hex() if kind == "ntfs" else ""
            found.append(Volume(VolumeRef(index, number), start, size, kind, serial))
        for volume in found:
            self._ask("volume", disk=index, partition=volume.ref.partition, start=volume.start)
        return Disk(index, info, table, tuple(found))

    def _iso_mark(self, index: int, start: int, size: int) -> bytes:
        return self.read_at(index, start + 32769, 5) if size >= 32774 else b""

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        answer = self._ask("stat", **dataclasses.asdict(ref), path=components(path))
        return FileStat(**answer) if answer is not None else None

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        return self._bytes("read", **dataclasses.asdict(ref), path=components(path), limit=limit)

    def head(self, ref: VolumeRef, path: str, length: int) -> bytes:
        return self._bytes("head", **dataclasses.asdict(ref), path=components(path), length=length)

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        return tuple(FileStat(**f) for f in self._ask("listdir", **dataclasses.asdict(ref), path=components(path)))

    def ntfs_state(self, ref: VolumeRef) -> NtfsState:
        return NtfsState(**self._ask("ntfs_state", **dataclasses.asdict(ref)))

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        return self._bytes("read_at", disk=disk, offset=offset, length=length)

    def _bytes(self, request: str, **arguments: Any) -> bytes:
        size = self._ask(request, **arguments)
        return self._take(size)

    def _ask(self, request: str, **arguments: Any) -> Any:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps([request, arguments]).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError) as e:
            raise BadData(f"{self._names}: the reader ended at {request}", hint="try H2K_READER=libguestfs") from e
        (length,) = struct.unpack("<I", self._take(4))
        answer = json.loads(self._take(length))
        if "error" in answer:
            raise (BadData if answer["bad"] else H2kError)(f"{self._names}: {answer['error']}")
        return answer["result"]

    def _take(self, length: int) -> bytes:
        assert self._child.stdout is not None
        pieces, left, handle = [], length, self._child.stdout.fileno()
        while left:
            ready, _, _ = select.select([handle], [], [], TIME_LIMIT)
            piece = os.read(handle, min(left, CHUNK)) if ready else b""
            if not piece:
                self._child.kill()
                why = "crashed" if ready else f"gave no answer within {TIME_LIMIT:.0f} s"
                raise BadData(f"{self._names}: the file system reader {why}", hint="try H2K_READER=libguestfs")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """End the child and, through it, its qemu-nbd processes."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()

    def __enter__(self) -> DirectReader:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


# The child


class _Nbd:
    """One image over qemu-nbd, with a small cache, since The Sleuth Kit reads in very small pieces."""

    def __init__(self, path: str, form: str, size: int) -> None:
        import nbd

        device = "host_device" if Path(path).is_block_device() else "file"
        # Without locks: a preflight may read an image that a paused guest still holds open.
        options = f"driver={form},read-only=on,file.driver={device},file.locking=off,file.filename="
        self.handle, self.size = nbd.NBD(), size
        self.handle.connect_systemd_socket_activation(["qemu-nbd", "-r", "--image-opts", options + path.replace(",", ",,")])
        self.blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset >= self.size:
            return b""
        length = min(length, self.size - offset)
        if length > 4 * _BLOCK:
            return b"".join(bytes(self.handle.pread(n, at)) for at, n in _pieces(offset, length))
        out, end = bytearray(), offset + length
        for number in range(offset // _BLOCK, (end - 1) // _BLOCK + 1):
            block = self._block(number)
            out += block[max(offset - number * _BLOCK, 0) : end - number * _BLOCK]
        return bytes(out)

    def _block(self, number: int) -> bytes:
        if number in self.blocks:
            self.blocks.move_to_end(number)
        else:
            start = number * _BLOCK
            self.blocks[number] = bytes(self.handle.pread(min(_BLOCK, self.size - start), start))
            if len(self.blocks) > _BLOCKS:
                self.blocks.popitem(last=False)
        return self.blocks[number]


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(offset, offset + length, CHUNK):
        yield at, min(CHUNK, offset + length - at)


class _Server:
    """Answers the requests of one DirectReader."""

    def __init__(self) -> None:
        self.images: list[_Nbd] = []
        self.starts: dict[tuple[int, int], int] = {}
        self.volumes: dict[tuple[int, int], Any] = {}
        self.held: list[Any] = []
        self.listings: dict[tuple[int, int, int], list[Any]] = {}

    def open(self, images: list[list[Any]]) -> Any:
        self.images = [_Nbd(path, form, size) for path, form, size in images]
        return [[] for _ in self.images]

    def volume(self, disk: int, partition: int, start: int) -> None:
        self.starts[disk, partition] = start

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        return self.images[disk].read(offset, length)

    def _fs(self, disk: int, partition: int) -> Any:
        import pytsk3

        if (disk, partition) not in self.volumes:
            image = self.images[disk]

            class External(pytsk3.Img_Info):  # type: ignore[misc]
                def __init__(self) -> None:
                    super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

                def read(self, offset: int, size: int) -> bytes:
                    return image.read(offset, size)

                def get_size(self) -> int:
                    return image.size

            external = External()
            self.held.append(external)
            try:
                self.volumes[disk, partition] = pytsk3.FS_Info(external, offset=self.starts[disk, partition])
            except OSError as e:
                raise BadData(f"disk {disk} partition {partition}: no file system: {str(e)[:200]}") from e
        return self.volumes[disk, partition]

    def _entries(self, disk: int, partition: int, inode: int) -> list[Any]:
        """(name, inode, size, is directory) of what a directory holds; deleted names are not listed."""
        import pytsk3

        place = (disk, partition, inode)
        if place not in self.listings:
            found: list[Any] = []
            directory = self._fs(disk, partition).open_dir(inode=inode)
            self.held.append(directory)
            for entry in directory:
                name, meta = entry.info.name, entry.info.meta
                if not int(name.flags) & int(pytsk3.TSK_FS_NAME_FLAG_ALLOC) or meta is None:
                    continue
                text = name.name.decode("utf-8", "replace")
                if text in (".", ".."):
                    continue
                is_dir = meta.type in (pytsk3.TSK_FS_META_TYPE_DIR, pytsk3.TSK_FS_META_TYPE_VIRT_DIR)
                found.append((text, int(meta.addr), int(meta.size), is_dir))
                if len(found) > MAX_ENTRIES:
                    raise BadData(f"disk {disk} partition {partition}: a directory of over {MAX_ENTRIES} entries")
            self.listings[place] = found
        return self.listings[place]

    def _find(self, disk: int, partition: int, path: list[str]) -> Optional[tuple[str, int, int, bool]]:
        fs = self._fs(disk, partition)
        inode, size, is_dir, spelt = int(fs.info.root_inum), 0, True, ""
        for part in path:
            if not is_dir:
                return None
            hits = [e for e in self._entries(disk, partition, inode) if e[0].lower() == part.lower()]
            if not hits:
                return None
            exact = next((e for e in hits if e[0] == part), hits[0])
            name, inode, size, is_dir = exact
            spelt += "/" + name
        return spelt or "/", inode, size, is_dir

    def _unreadable(self, file: Any) -> str:
        """Why an NTFS file's bytes can't be had: WOF-compressed or encrypted; '' when they can."""
        for attribute in file:
            kind, name = int(attribute.info.type), attribute.info.name or b""
            if kind == 0xC0:
                tag = file.read_random(0, 4, 0xC0, attribute.info.id)
                if len(tag) == 4 and struct.unpack("<I", tag)[0] == _WOF_TAG:
                    return "WOF-compressed (compact /exe), which nothing on this host decompresses"
            if kind == 0x100 and name == b"$EFS":
                return "encrypted (EFS)"
        return ""

    def _open(self, disk: int, partition: int, inode: int) -> Any:
        file = self._fs(disk, partition).open_meta(inode=inode)
        self.held.append(file)
        return file

    def stat(self, disk: int, partition: int, path: list[str]) -> Any:
        found = self._find(disk, partition, path)
        if found is None:
            return None
        spelt, inode, size, is_dir = found
        why = "" if is_dir else self._unreadable(self._open(disk, partition, inode))
        return {"path": spelt, "size": size, "directory": is_dir, "readable": not why, "why": why}

    def listdir(self, disk: int, partition: int, path: list[str]) -> Any:
        found = self._find(disk, partition, path)
        if found is None or not found[3]:
            raise BadData(f"/{'/'.join(path)}: no such directory")
        prefix = found[0].rstrip("/")
        return [
            {"path": f"{prefix}/{name}", "size": size, "directory": is_dir}
            for name, _, size, is_dir in self._entries(disk, partition, found[1])
        ]

    def head(self, disk: int, partition: int, path: list[str], length: int) -> bytes:
        return b"".join(self._content(disk, partition, path, None, length))

    def read(self, disk: int, partition: int, path: list[str], limit: int) -> Any:
        return self._content(disk, partition, path, limit, None)

    def _content(
        self, disk: int, partition: int, path: list[str], limit: Optional[int], length: Optional[int]
    ) -> list[bytes]:
        name = "/" + "/".join(path)
        found = self._find(disk, partition, path)
        if found is None or found[3]:
            raise BadData(f"{name}: no such file")
        file = self._open(disk, partition, found[1])
        why = self._unreadable(file)
        if why:
            raise BadData(f"{name}: {why}")
        size = found[2]
        if limit is not None and size > limit:
            raise BadData(f"{name}: {size} bytes, more than the {limit} that make sense for it")
        wanted = size if length is None else min(size, length)
        pieces = [file.read_random(at, n) for at, n in _pieces(0, wanted)]
        if sum(map(len, pieces)) != wanted:
            raise BadData(f"{name}: shorter on the disk than its size of {size} bytes")
        return pieces

    def ntfs_state(self, disk: int, partition: int) -> Any:
        information = self._open(disk, partition, 3)  # $Volume
        flags, version = 0, "unknown"
        for attribute in information:
            if int(attribute.info.type) == 0x70:
                data = information.read_random(0, 12, 0x70, attribute.info.id)
                version, flags = f"{data[8]}.{data[9]}", struct.unpack_from("<H", data, 10)[0]
        log = self._open(disk, partition, 2)  # $LogFile
        pages = [log.read_random(at, 4096) for at in (0, 4096)]
        return {"dirty": bool(flags & 1), "log_unclean": _log_unclean(pages), "version": version}


def _log_unclean(pages: list[bytes]) -> bool:
    """Whether the newer restart area of $LogFile has clients and lacks the volume-is-clean flag.

    Layout of the restart page and area: the NTFS documentation of the Linux-NTFS project. A log filled with
    0xFF, as ntfs-3g and mkntfs leave it, is clean.
    """
    areas = []
    for page in pages:
        if page[:4] == b"RSTR" and len(page) >= 64:
            (at,) = struct.unpack_from("<H", page, 24)
            if 48 <= at <= len(page) - 16:
                areas.append(struct.unpack_from("<QHHHH", page, at))
    if not areas:
        return False
    _, _, _, in_use, flags = max(areas)
    return in_use != 0xFFFF and not flags & 2


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    import nbd

    server = _Server()
    for line in requests:
        name, arguments = json.loads(line)
        payload: list[bytes] = []
        try:
            result = getattr(server, name)(**arguments)
            if isinstance(result, bytes):
                payload = [result]
            elif name == "read":
                payload = result
            answer: dict[str, Any] = {"result": sum(map(len, payload)) if payload or name == "read" else result}
            if isinstance(result, bytes):
                answer["result"] = len(result)
        except (H2kError, OSError, RuntimeError, KeyError, struct.error, nbd.Error) as e:
            answer = {"error": str(e) or type(e).__name__, "bad": True}
        encoded = json.dumps(answer).encode()
        answers.write(struct.pack("<I", len(encoded)) + encoded)
        for piece in payload:
            answers.write(piece)
        answers.flush()
    for image in server.images:
        image.handle.shutdown()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
