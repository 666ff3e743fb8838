"""The fallback reader: libguestfs, where libnbd or The Sleuth Kit is missing; the same answers, one launch.

Volumes are mounted read-only by their place in h2k's own reading of the partition table (loop devices), so that both
readers mean the same by "partition 2" and a table that Linux reads otherwise changes nothing.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Optional

import guestfs

from h2k.base.appliance import HINT, ended_after, launch, placed
from h2k.base.errors import BadData, H2kError
from h2k.base.host import guestfs_settings
from h2k.disk.image import ImageInfo
from h2k.disk.ntfs import ENCRYPTED, LINK, reparse_reason
from h2k.disk.reader import (
    MAX_ENTRIES,
    Disk,
    FileStat,
    VolumeRef,
    WholeReader,
    behind_link,
    check_directory,
    check_file,
    choose,
    components,
    find_volume,
    fold,
    place,
    read_disk,
)

TOTAL_LIMIT = 600.0  # seconds for one whole request; then the appliance is ended
_CHUNK = 2 * 1024 * 1024  # bytes; a libguestfs message holds less than 4 MiB
_NAMES_LIMIT = MAX_ENTRIES * 256  # bytes of names in one directory
_REPARSE, _ENCRYPTED, _DIRECTORY = 0x400, 0x4000, 0x10
_SHORT = re.compile(r"[^.]{1,8}(\.[^.]{1,3})?")
_MOUNT = {"ntfs": ("ntfs-3g", "ro"), "fat": ("vfat", "ro,utf8=1,shortname=mixed"), "iso9660": ("iso9660", "ro,utf8")}
log = logging.getLogger("h2k.reader")


class ApplianceReader(WholeReader):
    """A Reader whose requests are answered by a libguestfs appliance; drives are read-only."""

    how = "libguestfs"

    def __init__(self, infos: Sequence[ImageInfo]) -> None:
        self.disks: tuple[Disk, ...] = ()
        self._images, self._sizes = [str(i.path) for i in infos], [i.size for i in infos]
        self._mounts: dict[VolumeRef, str] = {}
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._ways: dict[str, FileStat] = {}
        guestfs_settings(log.info)
        self._handle = guestfs.GuestFS(python_return_dict=True)
        self._place = ExitStack()
        try:
            self._scratch = self._place.enter_context(placed(self._handle))
            self._launch(infos)
            self.disks = tuple(
                read_disk(index, info, lambda at, n, disk=index: self.read_at(disk, at, n))  # type: ignore[misc]
                for index, info in enumerate(infos)
            )
        except BaseException:
            self.close()
            raise

    def _launch(self, infos: Sequence[ImageInfo]) -> None:
        subject = ", ".join(self._images)
        try:
            for info in infos:
                self._handle.add_drive_opts(str(info.path.absolute()), readonly=True, format=info.format)
            self._processes = launch(self._handle, subject)
            self._devices = self._handle.list_devices()
        except RuntimeError as e:
            raise H2kError(f"{subject}: {str(e).splitlines()[0]}", hint=HINT) from e

    def stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        with self._request(place(self.disks, ref)):
            return self._stat(ref, path)

    def _stat(self, ref: VolumeRef, path: str) -> Optional[FileStat]:
        parts, root = components(path), self._mounted(ref)
        here = FileStat("", 0, True)
        for number, part in enumerate(parts):
            if here.directory and not here.readable:
                return behind_link(parts, here.path)
            name = self._lookup(root + here.path, part) if here.directory else None
            if name is None:
                return None
            path = f"{here.path}/{name}"
            last = number == len(parts) - 1
            here = self._node(root, path, ref) if last else self._way(root, path, ref)
        return here if here.path else FileStat("/", 0, True)

    def _lookup(self, directory: str, name: str) -> Optional[str]:
        """The name as the directory spells it, also by its short (8.3) name."""
        found = choose(name, self._names(directory).get(fold(name), []))
        if found is None and "~" in name and _SHORT.fullmatch(name):  # ntfs-3g finds these in upper case alone
            try:
                inode = self._handle.lstatns(f"{directory}/{name.upper()}")["st_ino"]
                return next((e["name"] for e in self._handle.readdir(directory) if e["ino"] == inode), name)
            except RuntimeError:
                return None
        return found

    def _names(self, directory: str) -> dict[str, list[str]]:
        if directory not in self._listings:
            with tempfile.NamedTemporaryFile(dir=self._scratch) as names:
                self._handle.ls0(directory, names.name)
                if os.fstat(names.fileno()).st_size > _NAMES_LIMIT:
                    raise BadData(f"a directory of over {MAX_ENTRIES} entries")
                listed = names.read().split(b"\0")[:-1]
            if len(listed) > MAX_ENTRIES:
                raise BadData(f"a directory of over {MAX_ENTRIES} entries")
            found: dict[str, list[str]] = {}
            for raw in listed:
                name = raw.decode("utf-8", "replace")
                found.setdefault(fold(name), []).append(name)
            while self._listings and sum(map(len, self._listings.values())) + len(found) > MAX_ENTRIES:
                self._listings.pop(next(iter(self._listings)))
            self._listings[directory] = found
        return self._listings[directory]

    def _way(self, root: str, path: str, ref: VolumeRef) -> FileStat:
        """As _node, and remembered: what lies on the way to files is asked for again and again."""
        if root + path not in self._ways:
            self._ways[root + path] = self._node(root, path, ref)
        return self._ways[root + path]

    def _node(self, root: str, path: str, ref: VolumeRef) -> FileStat:
        """A file by its exact path. ntfs-3g shows a reparse point as a link to nowhere, or not at all, so the
        attributes are asked first (ntfs-3g's manual, extended attributes)."""
        if find_volume(self.disks, ref).kind == "ntfs":
            (flags,) = struct.unpack("<I", self._handle.lgetxattr(root + path, "system.ntfs_attrib"))
            directory = bool(flags & _DIRECTORY)
            why = reparse_reason(self._tag(root + path), directory) if flags & _REPARSE else ""
            why = why or (ENCRYPTED if flags & _ENCRYPTED and not directory else "")
            if why or directory:
                return FileStat(path, 0, directory, not why, why)
        facts = self._handle.lstatns(root + path)
        return self._plain(path, facts["st_mode"], facts["st_size"])

    def _plain(self, path: str, mode: int, size: int) -> FileStat:
        if stat.S_ISDIR(mode):
            return FileStat(path, 0, True)
        return FileStat(path, size, False) if stat.S_ISREG(mode) else FileStat(path, 0, False, False, LINK)

    def _tag(self, path: str) -> int:
        data: bytes = self._handle.lgetxattr(path, "system.ntfs_reparse_data")
        return int.from_bytes(data[:4], "little")

    def _content(self, ref: VolumeRef, path: str, limit: Optional[int], length: int, offset: int = 0) -> bytes:
        subject = f"{place(self.disks, ref)}: {path}"
        with self._request(place(self.disks, ref)):
            found = check_file(self._stat(ref, path), subject, limit)
            wanted, content = min(found.size - offset, length), io.BytesIO()
            while content.tell() < wanted:
                count = min(_CHUNK, wanted - content.tell())
                piece: bytes = self._handle.pread(self._mounted(ref) + found.path, count, offset + content.tell())
                if not piece:
                    raise BadData(f"{path}: shorter on the disk than its size of {found.size} bytes")
                content.write(piece)
        return content.getvalue()

    def listdir(self, ref: VolumeRef, path: str) -> tuple[FileStat, ...]:
        subject = f"{place(self.disks, ref)}: {path}"
        with self._request(place(self.disks, ref)):
            directory = check_directory(self._stat(ref, path), subject).path.rstrip("/")
            root = self._mounted(ref)
            names = [name for alike in self._names(root + directory).values() for name in alike]
            facts: list[dict[str, Any]] = self._handle.lstatnslist(root + directory, names) if names else []
            found = []
            for name, fact in zip(names, facts):
                mode = fact["st_mode"] if fact["st_ino"] != -1 else stat.S_IFLNK
                known = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                entry = f"{directory}/{name}"
                found.append(self._plain(entry, mode, fact["st_size"]) if known else self._node(root, entry, ref))
        return tuple(sorted(found, key=lambda f: f.path))

    def read_at(self, disk: int, offset: int, length: int) -> bytes:
        content, end = io.BytesIO(), min(offset + length, self._sizes[disk])
        with self._request(self._images[disk]):
            while offset + content.tell() < end:
                at = offset + content.tell()
                piece: bytes = self._handle.pread_device(self._devices[disk], min(_CHUNK, end - at), at)
                if not piece:
                    raise BadData(f"the image can't be read at byte {at}")
                content.write(piece)
        return content.getvalue()

    def _mounted(self, ref: VolumeRef) -> str:
        """Where the volume is mounted, read-only; a hibernated one too, which ntfs-3g refuses to mount otherwise."""
        if ref not in self._mounts:
            volume = find_volume(self.disks, ref)
            kind, options = _MOUNT[volume.kind]
            if volume.kind == "ntfs" and not self._handle.feature_available(["ntfs3g"]):
                raise BadData("libguestfs has no ntfs-3g here: install libguestfs-winsupport (EL) or ntfs-3g")
            if ref.partition:
                options += f",loop,offset={volume.start},sizelimit={volume.size}"
            point = f"/{ref.disk}-{ref.partition}"
            self._handle.mkmountpoint(point)
            self._handle.mount_vfs(options, kind, self._devices[ref.disk], point)
            self._mounts[ref] = point
        return self._mounts[ref]

    @contextmanager
    def _request(self, subject: str) -> Iterator[None]:
        """Ends the appliance when a request takes too long; BadData, in one line, for whatever libguestfs says."""
        with ended_after(TOTAL_LIMIT, lambda: self._processes) as late:
            try:
                yield
            except BadData as bad:
                raise bad if bad.message.startswith(subject) else BadData(f"{subject}: {bad.message}", bad.hint) from bad
            except (RuntimeError, ValueError, struct.error) as e:
                why = f"libguestfs took longer than {TOTAL_LIMIT:.0f} s" if late.is_set() else " ".join(str(e).split())[:300]
                raise BadData(f"{subject}: {why}") from e

    def close(self) -> None:
        """End the appliance."""
        with self._place:
            self._handle.close()

    def __enter__(self) -> ApplianceReader:
        return self
