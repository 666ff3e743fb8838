"""The direct reader's child process: answers requests about the bytes and files of images, and may crash doing so.

It keeps each file system's object alive as long as anything of it is in use (python3-tsk does not, and then crashes or
hangs), ends with os._exit, and ends by itself when a request takes too long, whatever its parent does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import struct
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Optional, Union

import nbd
import pytsk3

from h2k.base.errors import BadData
from h2k.disk import nbd_server
from h2k.disk.ntfs import ENCRYPTED, FIRST_USER_RECORD, reparse_reason
from h2k.disk.reader import MAX_ENTRIES, TOTAL_LIMIT, FileStat, behind_link, choose, fold

CHUNK = 1024 * 1024
ADDRESS_SPACE = 4 * 1024**3  # bytes; a hostile file system may make The Sleuth Kit ask for any amount
_BLOCK, _BLOCKS = 64 * 1024, 256
_REPARSE_POINT, _UTILITY_STREAM = 0xC0, 0x100
_TYPES = {
    "ntfs": pytsk3.TSK_FS_TYPE_NTFS,
    "fat": pytsk3.TSK_FS_TYPE_FAT_DETECT,
    "iso9660": pytsk3.TSK_FS_TYPE_ISO9660,
}


class _Image:
    """One image over qemu-nbd, with a small cache, since The Sleuth Kit reads in very small pieces.

    A read that fails leaves its reason in `fault` and gives no bytes: no exception goes through The Sleuth Kit.
    """

    def __init__(self, path: str, form: str, size: int) -> None:
        device = "host_device" if Path(path).is_block_device() else "file"
        # force-share, for the image and all it rests on: a preflight may read what a paused guest still holds open.
        options = f"driver={form},read-only=on,force-share=on,file.driver={device},file.filename={path.replace(',', ',,')}"
        self.handle, self._server = nbd_server.start(["-r", "--image-opts", options])
        self.fault, self.size = "", min(size, int(self.handle.get_size()))
        self.blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= offset < self.size or length <= 0:
            return b""
        end = min(offset + length, self.size)
        if end - offset > 4 * _BLOCK:
            return b"".join(self._pread(at, n) for at, n in pieces(offset, end - offset))
        numbers = range(offset // _BLOCK, (end - 1) // _BLOCK + 1)
        data = b"".join(map(self._block, numbers))
        return data[offset - numbers[0] * _BLOCK : end - numbers[0] * _BLOCK]

    def _block(self, number: int) -> bytes:
        if number in self.blocks:
            self.blocks.move_to_end(number)
        else:
            start = number * _BLOCK
            self.blocks[number] = self._pread(start, min(_BLOCK, self.size - start))
            if len(self.blocks) > _BLOCKS:
                self.blocks.popitem(last=False)
        return self.blocks[number]

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            return bytes(self.handle.pread(length, offset))
        except nbd.Error as e:
            self.fault = f"the image can't be read at byte {offset}: {e.string}"
            return b""

    def close(self) -> None:
        try:
            self.handle.shutdown()
        except nbd.Error:
            nbd_server.end(self._server)
        else:
            nbd_server.end(self._server, 5)


def pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of pieces of at most CHUNK bytes."""
    for at in range(offset, offset + length, CHUNK):
        yield at, min(CHUNK, offset + length - at)


class _External(pytsk3.Img_Info):  # type: ignore[misc]
    """What The Sleuth Kit reads an image through."""

    def __init__(self, image: _Image) -> None:
        self.image = image
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def read(self, offset: int, size: int) -> bytes:
        return self.image.read(offset, size)

    def get_size(self) -> int:
        return self.image.size


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What a directory says of one of its files."""

    name: str
    inode: int
    size: int
    directory: bool
    why: str

    def stat(self, directory: str) -> FileStat:
        size = 0 if self.directory or self.why else self.size
        return FileStat(f"{directory}/{self.name}", size, self.directory, not self.why, self.why)


class _Directory:
    """The entries of a directory, by name and by their short (8.3) name."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self._names: dict[str, list[_Entry]] = {}
        self._short: dict[str, _Entry] = {}

    def add(self, entry: _Entry, short: str) -> None:
        self.entries.append(entry)
        self._names.setdefault(fold(entry.name), []).append(entry)
        if short:
            self._short[fold(short)] = entry

    def find(self, name: str) -> Optional[_Entry]:
        alike = self._names.get(fold(name), [])
        chosen = choose(name, [e.name for e in alike])
        return next((e for e in alike if e.name == chosen), self._short.get(fold(name)))


class _FileSystem:
    """A volume as The Sleuth Kit reads it; the paths that come in are lists of components."""

    def __init__(self, image: _Image, start: int, kind: str) -> None:
        self.kind, self._external = kind, _External(image)
        try:
            self._fs = pytsk3.FS_Info(self._external, offset=start, type=_TYPES[kind])
        except OSError as e:
            raise BadData(f"no {kind} file system: {one_line(e)}") from e
        self._directories: OrderedDict[int, _Directory] = OrderedDict()

    def _directory(self, inode: int) -> _Directory:
        if inode in self._directories:
            self._directories.move_to_end(inode)
        else:
            self._directories[inode] = self._list(inode)
            while len(self._directories) > 1 and sum(len(d.entries) for d in self._directories.values()) > MAX_ENTRIES:
                self._directories.popitem(last=False)
        return self._directories[inode]

    def _list(self, inode: int) -> _Directory:
        found = _Directory()
        for listed in self._fs.open_dir(inode=inode):
            name, meta = listed.info.name, listed.info.meta
            text = name.name.decode("utf-8", "replace")
            if text in (".", "..") or not int(name.flags) & int(pytsk3.TSK_FS_NAME_FLAG_ALLOC) or self._own(name, meta):
                continue
            short = (name.shrt_name or b"").decode("utf-8", "replace")
            if meta is None:
                found.add(_Entry(text, int(name.meta_addr), 0, False, "its file record is damaged"), short)
            else:
                is_dir = meta.type == pytsk3.TSK_FS_META_TYPE_DIR
                why = self._why(listed, is_dir) if self.kind == "ntfs" else ""
                found.add(_Entry(text, int(meta.addr), int(meta.size), is_dir, why), short)
            if len(found.entries) > MAX_ENTRIES:
                raise BadData(f"a directory of over {MAX_ENTRIES} entries")
        return found

    def _own(self, name: Any, meta: Any) -> bool:
        """Whether it is the file system's own ($MFT …) or one that The Sleuth Kit adds ($OrphanFiles, $FAT1)."""
        virtual = meta is not None and meta.type in (pytsk3.TSK_FS_META_TYPE_VIRT_DIR, pytsk3.TSK_FS_META_TYPE_VIRT)
        return virtual or (self.kind == "ntfs" and int(name.meta_addr) < FIRST_USER_RECORD)

    def _why(self, file: Any, is_dir: bool) -> str:
        """Why an NTFS file's content can't be had; '' when it can."""
        for attribute in file:
            kind = int(attribute.info.type)
            if kind == _REPARSE_POINT:
                tag = file.read_random(0, 4, _REPARSE_POINT, attribute.info.id)
                why = reparse_reason(struct.unpack("<I", tag)[0] if len(tag) == 4 else 0, is_dir)
                if why:
                    return why
            if kind == _UTILITY_STREAM and attribute.info.name == b"$EFS" and not is_dir:
                return ENCRYPTED
        return ""

    def _find(self, path: list[str]) -> Union[_Entry, FileStat, None]:
        """The entry, its name the whole path; a FileStat when a link lies on the way."""
        here = _Entry("", int(self._fs.info.root_inum), 0, True, "")
        for part in path:
            if here.directory and here.why:
                return behind_link(path, here.name)
            entry = self._directory(here.inode).find(part) if here.directory else None
            if entry is None:
                return None
            here = dataclasses.replace(entry, name=f"{here.name}/{entry.name}")
        return here

    def stat(self, path: list[str]) -> Optional[FileStat]:
        found = self._find(path)
        if not isinstance(found, _Entry):
            return found
        size = 0 if found.directory or found.why else found.size
        return FileStat(found.name or "/", size, found.directory, not found.why, found.why)

    def listdir(self, path: list[str]) -> list[FileStat]:
        found = self._find(path)
        if not isinstance(found, _Entry) or not found.directory:
            raise BadData("no such directory")
        return [entry.stat(found.name) for entry in self._directory(found.inode).entries]

    def content(self, path: list[str], length: int, offset: int) -> Iterator[bytes]:
        found = self._find(path)
        if not isinstance(found, _Entry):
            raise BadData("no such file")
        file = self._fs.open_meta(inode=found.inode)
        for at, n in pieces(offset, length):
            piece = file.read_random(at, n)
            if len(piece) != n:
                raise BadData(f"/{'/'.join(path)}: shorter on the disk than its size of {found.size} bytes")
            yield piece


class _Server:
    """The requests, by their names; each yields bytes of content, then returns its result."""

    def __init__(self) -> None:
        self.images: list[_Image] = []
        self._file_systems: dict[tuple[int, int], _FileSystem] = {}

    def open(self, path: str, form: str, size: int) -> None:
        self.images.append(_Image(path, form, size))

    def read_at(self, disk: int, offset: int, length: int) -> Iterator[bytes]:
        for at, n in pieces(offset, length):
            yield self.images[disk].read(at, n)

    def stat(self, path: list[str], **volume: Any) -> Optional[dict[str, Any]]:
        found = self._file_system(**volume).stat(path)
        return dataclasses.asdict(found) if found is not None else None

    def listdir(self, path: list[str], **volume: Any) -> list[dict[str, Any]]:
        return [dataclasses.asdict(f) for f in self._file_system(**volume).listdir(path)]

    def content(self, path: list[str], length: int, offset: int, **volume: Any) -> Iterator[bytes]:
        return self._file_system(**volume).content(path, length, offset)

    def _file_system(self, disk: int, start: int, kind: str) -> _FileSystem:
        if (disk, start) not in self._file_systems:
            self._file_systems[disk, start] = _FileSystem(self.images[disk], start, kind)
        return self._file_systems[disk, start]

    def faults(self) -> list[str]:
        """What could not be read since this was last asked."""
        found = [image.fault for image in self.images if image.fault]
        for image in self.images:
            if image.fault:
                image.fault = ""
                image.blocks.clear()
        return found


def one_line(error: BaseException) -> str:
    """The error in at most 300 characters of one line, without the place in the bindings that it comes from."""
    text = " ".join((str(error) or type(error).__name__).split())
    return re.sub(r"^\w+: \(\w+\.c:\d+\) ", "", text)[:300]


def _answer(server: _Server, request: str, arguments: dict[str, Any], answers: BinaryIO) -> None:
    def frame(kind: bytes, data: bytes) -> None:
        answers.write(struct.pack("<cI", kind, len(data)))
        answers.write(data)

    try:
        result = getattr(server, request)(**arguments)
        if isinstance(result, Iterator):
            for piece in result:
                frame(b"D", piece)
            result = None
        error = None
    except (BadData, OSError, RuntimeError, nbd.Error) as e:
        error = e.message if isinstance(e, BadData) else one_line(e)
    faults = server.faults()
    if faults or error is not None:
        frame(b"E", json.dumps(faults[0] if faults else error).encode())
    else:
        frame(b"J", json.dumps(result).encode())
    answers.flush()


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """The parent's pipes for us alone: qemu-nbd inherits neither, and what a library prints goes to standard error."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


def _serve(server: _Server, requests: BinaryIO, answers: BinaryIO) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in requests:
        request, arguments = json.loads(line)
        signal.alarm(int(TOTAL_LIMIT) + 30)  # ends this process even within The Sleuth Kit
        if request != "open":  # qemu-nbd, which inherits limits, is started by then
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
        _answer(server, request, arguments, answers)
        signal.alarm(0)


def main() -> NoReturn:
    """Answer the requests on standard input until it ends."""
    server, status = _Server(), 1
    try:
        _serve(server, *_private_streams())
        status = 0
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        signal.alarm(30)
        for image in server.images:
            image.close()
        os._exit(status)
