"""OVA archives: what is in them, and their disks made readable: in place where they lie in a tar, else unpacked."""

from __future__ import annotations

import dataclasses
import gzip
import io
import lzma
import os
import posixpath
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Callable, Optional, cast

from h2k.base.children import temporary_directory
from h2k.base.errors import BadData, Unknown
from h2k.base.xml import XML_LIMIT
from h2k.disk.view import make_view, slice_of
from h2k.domain.ovf import Ovf, OvfFile, read_ovf
from h2k.domain.tar import entries

MAX_MEMBERS = 10_000
RESERVE = 1024**3  # bytes; virt-v2v wants them free in the same place for its appliance
_CHUNK = 1024 * 1024
_DESCRIPTOR = b"# Disk DescriptorFile"  # how a VMDK begins that is only text and names its parts
_LEFT_OUT = (".iso", ".mf", ".cert", ".nvram")
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """A file of an OVA: its bytes as a stream, and where they lie as they are, if they do: (file, offset).

    `whole`: the file is the member alone, in the user's own directory.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    place: Optional[tuple[Path, int]] = None
    whole: bool = False


@contextmanager
def opened_ova(path: Path, say: Say) -> Iterator[tuple[Ovf, tuple[Path, ...]]]:
    """What the OVF says, and an image for each of its disks; gone afterwards.

    `say` hears what has to be unpacked. BadData for what is no OVA, Unknown when there is no room to unpack it.
    """
    with temporary_directory("h2k-ova-", large_directory()) as work:
        members = _members(path, Path(work), say)
        member = _description(members, path)
        with member.open() as stream:
            ovf = read_ovf(stream.read(XML_LIMIT + 1), f"{path}: {member.name}")
        base = posixpath.dirname(member.name)
        images = []
        for number, file in enumerate(ovf.files):
            place = Path(work) / str(number)
            place.mkdir()
            images.append(_image(_find(members, base, file, path), file, place, path, say))
        yield ovf, tuple(images)


def large_directory() -> Path:
    """Where virt-v2v, too, puts what is large and temporary."""
    return Path(os.environ.get("LIBGUESTFS_CACHEDIR") or "/var/tmp")  # noqa: S108 - libguestfs' documented default


# What an archive holds


def _members(path: Path, work: Path, say: Say) -> dict[str, Member]:
    """The members by their names, of the four kinds that virt-v2v takes."""
    if path.is_dir():
        return _named(_folder(path), path)
    try:
        with open(path, "rb") as file:
            head = file.read(262)
    except OSError as e:
        raise BadData(f"{path}: {e.strerror}", hint="give an OVA that you may read") from e
    if head[257:262] == b"ustar":
        return _named(_tar(path), path)
    if head[:4] == b"PK\3\4":
        return _named(_zip(path), path)
    if head[:2] == b"\x1f\x8b" or head[:6] == b"\xfd7zXZ\0":
        unpacked: Any = gzip.GzipFile if head[0] == 0x1F else lzma.LZMAFile  # typeshed's two have no common type
        return _named(_packed(path, partial(unpacked, path), work, say), path)
    raise BadData(f"{path}: neither tar (plain, gzip or xz) nor zip nor a directory", hint="give the guest's .ova file")


def _named(members: Iterator[Member], path: Path) -> dict[str, Member]:
    found: dict[str, Member] = {}
    try:
        for member in members:
            if len(found) == MAX_MEMBERS:
                raise BadData(f"{path}: more than {MAX_MEMBERS} files; no OVA")
            if found.setdefault(member.name, member) is not member:
                raise BadData(f"{path}: {member.name[:80]} is in it twice")
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, RuntimeError) as e:
        raise BadData(f"{path}: damaged: {e}", hint="copy it from the source again") from e
    return found


def _folder(path: Path) -> Iterator[Member]:
    """The files below the directory, links only where they stay in it."""
    top = path.resolve()
    for place, _, names in os.walk(top):
        for name in names:
            file = (Path(place) / name).resolve()
            if file.is_file() and file.is_relative_to(top):
                inside = str((Path(place) / name).relative_to(top))
                yield Member(inside, file.stat().st_size, partial(_part, file, 0, file.stat().st_size), (file, 0), whole=True)


def _tar(path: Path) -> Iterator[Member]:
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        for name, offset, size in entries(file, str(path)):
            if offset + size > end:
                raise BadData(f"{path}: ends before {name[:80]} does", hint="copy it from the source again")
            yield Member(posixpath.normpath(name), size, partial(_part, path, offset, size), (path, offset))


def _zip(path: Path) -> Iterator[Member]:
    """virt-v2v unpacks a zip without its directories."""
    archive = zipfile.ZipFile(path)
    for info in archive.infolist():
        if not info.is_dir():
            yield Member(posixpath.basename(info.filename), info.file_size, partial(archive.open, info))


def _packed(path: Path, unpacked: Callable[[], IO[bytes]], work: Path, say: Say) -> Iterator[Member]:
    """A tar that was compressed as a whole: read once, and what can be a disk or the OVF written down on the way."""
    say(f"unpacking {path} into {work}, for it is compressed as a whole")
    with unpacked() as stream:
        for number, (name, _, size) in enumerate(entries(stream, str(path))):
            if name.lower().endswith(_LEFT_OUT):
                continue
            file = work / f"member{number}"
            _copy(stream, file, size, f"{path}: {name}", exactly=True)
            yield Member(posixpath.normpath(name), size, partial(_part, file, 0, size), (file, 0))


class _Part(io.RawIOBase):
    """A part of a file, as a stream that can only be read on."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file, self._left = file, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _part(path: Path, offset: int, length: int) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115 - closed with the stream
    file.seek(offset)
    return io.BufferedReader(_Part(file, length))


def _description(members: Mapping[str, Member], path: Path) -> Member:
    found = [member for name, member in members.items() if name.endswith(".ovf")]
    if len(found) != 1:
        raise BadData(f"{path}: {'more than one' if found else 'no'} .ovf file in it", hint="give the guest's .ova file")
    return found[0]


def _find(members: Mapping[str, Member], base: str, file: OvfFile, path: Path) -> Member:
    """The member that an href names, from the OVF's own directory. VMware writes hrefs to disks that are there only as
    snapshots, HREF.000000000; virt-v2v takes the highest (RHBZ#1570407). The pieces of a disk are named alike, and are
    told from them by ovf:chunkSize alone (DSP0243, References; virt-v2v issue 189): BadData for more than one."""
    name = posixpath.normpath(posixpath.join(base, file.href))
    if name in members:
        return members[name]
    snapshot = re.compile(re.escape(name) + r"\.[0-9]{1,20}")
    found = [n for n in members if snapshot.fullmatch(n)]
    if file.chunked and len(found) > 1:
        raise BadData(
            f"{path}: {file.href[:80]!r} was cut into {len(found)} pieces (ovf:chunkSize), which virt-v2v does not join",
            hint="unpack it, join them in their order (cat HREF.0* > HREF), take ovf:chunkSize out of the .ovf, and give the directory",
        )
    if not found:
        raise BadData(f"{path}: the OVF names {file.href[:80]!r}, which is not in it", hint="copy it from the source again")
    return members[max(found)]


# A disk of it


def _image(member: Member, file: OvfFile, place: Path, path: Path, say: Say) -> Path:
    """An image with the disk's content: the member itself, or a view on it."""
    name = f"{path}: {member.name}"
    if member.whole and member.place is not None and not file.gzip:
        return member.place[0]
    at = member.place
    if file.gzip or at is None:
        say(f"unpacking {member.name} of {path} into {place}, for it is compressed")
        at = (place / "disk", 0)
        try:
            with member.open() as stream:
                content = cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if file.gzip else stream
                size = _copy(content, at[0], _bound(member, file), name, exactly=not file.gzip)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as e:
            raise BadData(f"{name}: damaged: {e}", hint="copy it from the source again") from e
    else:
        size = member.size
    with open(at[0], "rb") as disk:
        disk.seek(at[1])
        if disk.read(len(_DESCRIPTOR)) == _DESCRIPTOR:
            raise BadData(f"{name}: a VMDK that keeps its content in other files", hint="export the guest again")
    return make_view(place / f"{Path(member.name).stem}.qcow2", slice_of(at[0], at[1], size), name)


def _bound(member: Member, file: OvfFile) -> Optional[int]:
    """How large an unpacked disk can be at most; None where nothing tells. A sparse VMDK is a little larger than
    what it holds."""
    if not file.gzip:
        return member.size
    return file.capacity + file.capacity // 32 + 64 * 1024**2 if file.capacity is not None else None


def _copy(stream: IO[bytes], target: Path, limit: Optional[int], name: str, exactly: bool) -> int:
    """Write the stream's next bytes, at most `limit`, padded to whole sectors, and return how many they were; Unknown
    when there is no room for them."""
    done, room = 0, shutil.disk_usage(target.parent).free - RESERVE
    most = room if limit is None else limit
    if exactly and most > room:
        raise Unknown(f"{name}: no room in {target.parent} to unpack its {most} bytes")
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while piece := stream.read(min(_CHUNK, most - done) if exactly else _CHUNK):
            done += len(piece)
            if done > room:
                raise Unknown(f"{name}: no room in {target.parent} to unpack it")
            if done > most:
                raise BadData(f"{name}: unpacks to more than the {most} bytes that the OVF allows")
            out.write(piece)
        if exactly and done != most:
            raise BadData(f"{name}: ends after {done} of {most} bytes", hint="copy it from the source again")
        out.truncate(-(-done // 512) * 512)
    return done
