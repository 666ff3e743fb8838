"""Finds the guests below directories: descriptions with their disks counted once, archives, disk images; reads only.

What a directory holds is other people's: links are followed only while they stay inside, and depth and number are
bounded. Of a million files only the names are looked at; a file is opened when its name can be a guest's.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError, UsageError
from h2k.convert.source import name_from_disk
from h2k.disk import checkpoints, formats
from h2k.disk.recognize import check_disk
from h2k.domain.facts import DomainFacts
from h2k.domain.guest_files import read_description
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.ovf import read_ovf
from h2k.domain.vmx import read_vmx

MAX_DEPTH = 64
MAX_ENTRIES = 20_000_000  # directory entries of one survey
MAX_GUESTS = 100_000
MAX_LIST = 16 * 1024 * 1024  # bytes of a --list file
MAX_CHAIN = 32
_HEAD = 64 * 1024  # bytes of an image in which the names of others stand
VMX, OVA, XML, DISK, LIBVIRT, MISSING = "vmx", "ova", "libvirtxml", "disk", "libvirt", "missing"
_DESCRIPTIONS = {".vmx": VMX, ".xml": XML}
_IMAGES = (*formats.SUFFIXES, *checkpoints.SUFFIXES)  # a file of such a name is a disk, whole or broken
_MAYBE = (".raw", ".img")  # only its content tells
_DOMAIN = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*<domain[\s>]", re.DOTALL)
_PARENT = re.compile(rb'parentFileNameHint\s*=\s*"([^"\r\n]{1,1024})"')
_EXTENT = re.compile(rb'^(?:RW|RDONLY)\s+[0-9]+\s+[A-Z]+\s+"([^"\r\n]{1,1024})"', re.MULTILINE)
_QCOW2 = b"QFI\xfb"


@dataclasses.dataclass(frozen=True)
class Source:
    """One guest to look at. `kind` is virt-v2v's -i mode ("missing": only the list has it), `place` its file, directory
    or domain, `datastore` the file system or host that a limit for each source counts; `running` as libvirt says."""

    key: str
    kind: str
    place: str
    name: str
    datastore: str = ""
    connection: str = ""
    running: bool = False


@dataclasses.dataclass
class Walk:
    """What is known while directories are walked; `entries` counts what was seen, `stopped` says why it ended early."""

    entries: int = 0
    stopped: str = ""
    unreadable: list[str] = dataclasses.field(default_factory=list)


def find_sources(paths: Sequence[str], walk: Walk) -> list[Source]:
    """The guests in files and below directories, each once, in the order of their paths. UsageError for a path that is
    not there."""
    found: dict[str, Path] = {}
    named: set[str] = set()
    for given in paths:
        path = Path(given).absolute()
        if not path.exists():
            raise UsageError(f"{given}: No such file or directory", hint="h2k survey DIRECTORY")
        if path.is_dir():
            for candidate in _candidates(path, walk):
                found.setdefault(os.path.realpath(candidate), candidate)
        else:
            found.setdefault(os.path.realpath(path), path)
            named.add(os.path.realpath(path))
    return sorted(_once(found, named), key=lambda source: source.key)


def listed(file: Path) -> list[str]:
    """The paths in a list, one a line; empty lines and those that begin with # are left out. UsageError."""
    try:
        if file.stat().st_size > MAX_LIST:
            raise UsageError(f"{file}: larger than {MAX_LIST} bytes; not a list of guests")
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as e:
        raise UsageError(f"{file}: {e.strerror}", hint="a path a line") from e
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def sources_of(paths: Sequence[str], lists: Sequence[str], walk: Walk) -> list[Source]:
    """The guests of all paths and lists; what a list names and is not there is a source of its own, told as missing."""
    wanted = [path for file in lists for path in listed(Path(file))]
    there = [path for path in wanted if Path(path).exists()]
    gone = dict.fromkeys(path for path in wanted if not Path(path).exists())
    missing = [Source(str(Path(p).absolute()), MISSING, str(Path(p).absolute()), Path(p).name) for p in gone]
    return [*find_sources([*paths, *there], walk), *missing]


# Directories


def _candidates(top: Path, walk: Walk) -> Iterator[Path]:
    """The files below a directory whose names can be a guest's, without what h2k itself wrote."""
    real = os.path.realpath(top)
    waiting = [(top, 0)]
    while waiting:
        directory, depth = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    walk.entries += 1
                    if walk.entries > MAX_ENTRIES:
                        walk.stopped = f"more than {MAX_ENTRIES} files: only the first were looked at"
                        return
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.endswith(".h2k") and depth < MAX_DEPTH:
                            waiting.append((Path(entry.path), depth + 1))
                    elif _can_be_a_guest(entry.name) and _stays(entry, real):
                        yield Path(entry.path)
        except OSError as e:
            walk.unreadable.append(f"{directory}: {e.strerror}")


def _can_be_a_guest(name: str) -> bool:
    return name.lower().endswith((*_DESCRIPTIONS, ".ova", ".ovf", *_IMAGES, *_MAYBE))


def _stays(entry: os.DirEntry[str], real: str) -> bool:
    """Whether it is a file, reached by no link that leads out of the directory."""
    try:
        if not entry.is_symlink():
            return entry.is_file()
        target = os.path.realpath(entry.path)
        return target.startswith(real + os.sep) and Path(target).is_file()
    except OSError:
        return False


# Each guest once


def _once(found: dict[str, Path], named: set[str]) -> Iterator[Source]:
    """The guests among the files: a disk that a description or another disk rests on is no guest of its own."""
    claimed: set[str] = set()
    sources: list[tuple[str, Source]] = []
    folders = _folders(found.values())
    for real, path in found.items():
        source, disks = _described(real, path, folders)
        if source is not None:
            sources.append((real, source))
        claimed.update(disks)
    claimed.update(_checkpoints(found))
    described = {real for real, _ in sources}
    for disk in list(claimed):
        claimed.update(_below(disk))
    for real, path in found.items():
        if real in described or path.suffix.lower() in (*_DESCRIPTIONS, ".ova", ".ovf"):
            continue
        if real in named or _is_image(path):
            claimed.update(_below(real))
            sources.append((real, _source(path, DISK, name_from_disk(Path(_plain(path.name))))))
    kept = 0
    for real, source in sources:
        if real not in claimed or source.kind != DISK:
            kept += 1
            if kept > MAX_GUESTS:
                raise UsageError(f"more than {MAX_GUESTS} guests", hint="survey one directory after the other")
            yield source


def _checkpoints(found: Iterable[str]) -> Iterator[str]:
    """The files of checkpoints whose disk was found too, which is refused because of them."""
    files = [Path(real) for real in found]
    there = {(file.parent, file.name.lower()) for file in files}
    for file in files:
        if checkpoints.is_checkpoint(file) and (file.parent, checkpoints.parent_name(file.name)) in there:
            yield str(file)


def _folders(paths: Iterable[Path]) -> dict[Path, int]:
    """How many OVF files lie in each directory: virt-v2v reads an unpacked one by its directory."""
    found: dict[Path, int] = {}
    for path in paths:
        if path.suffix.lower() == ".ovf":
            found[path.parent] = found.get(path.parent, 0) + 1
    return found


def _described(real: str, path: Path, folders: dict[Path, int]) -> tuple[Optional[Source], list[str]]:
    """The guest of a description or an archive, and the disks that it names; (None, []) for a disk or another XML."""
    suffix = path.suffix.lower()
    if suffix == ".ova":
        return _source(path, OVA, _plain(path.name)), []
    if suffix == ".ovf":
        facts, disks = _read(path, suffix)
        place = path.parent if folders.get(path.parent, 1) == 1 else path
        return _source(place, OVA, facts.name if facts else path.stem, key=path), disks
    if suffix in _DESCRIPTIONS and (suffix == ".vmx" or _is_domain(path)):
        facts, disks = _read(path, suffix)
        return _source(path, _DESCRIPTIONS[suffix], facts.name if facts else path.stem), disks
    return None, []


def _read(path: Path, suffix: str) -> tuple[Optional[DomainFacts], list[str]]:
    """The facts of a description and its disks' files; a broken one is told by whoever looks at the guest."""
    try:
        data = read_description(path)
        if suffix == ".ovf":
            ovf = read_ovf(data, str(path))
            return ovf.domain, [os.path.realpath(path.parent / file.href) for file in ovf.files]
        facts = read_vmx(data, str(path)) if suffix == ".vmx" else read_domain_xml(data, str(path))
    except H2kError:
        return None, []
    return facts, [os.path.realpath(path.parent / disk.path) for disk in facts.disks if disk.path is not None]


def _is_domain(path: Path) -> bool:
    return bool(_DOMAIN.match(_head(path)[:4096]))


def _is_image(path: Path) -> bool:
    """Whether a file of such a name is a disk; an empty one is a broken copy, which the look tells."""
    if path.suffix.lower() in _IMAGES:
        return True
    try:
        return path.stat().st_size == 0 or check_disk(path) is None
    except (H2kError, OSError):
        return False


def _below(disk: str) -> set[str]:
    """The files that an image rests on: backing files of qcow2, parents and extents of VMDK."""
    found: set[str] = set()
    waiting = [disk]
    while waiting and len(found) < MAX_CHAIN * 8:
        here = waiting.pop()
        for name in _names_in(_head(Path(here))):
            other = os.path.realpath(Path(here).parent / name)
            if other not in found and other != disk:
                found.add(other)
                waiting.append(other)
    return found


def _names_in(head: bytes) -> Iterator[str]:
    if head.startswith(_QCOW2) and len(head) > 20:
        offset, size = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
        if offset and 0 < size <= 1023 and offset + size <= len(head):  # qemu's own bound
            yield os.fsdecode(head[offset : offset + size].replace(b"\0", b""))
    elif head.startswith((b"KDMV", b"COWD", b"# Disk DescriptorFile")):
        for name in (*_PARENT.findall(head), *_EXTENT.findall(head)):
            yield os.fsdecode(name)


def _head(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _plain(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in (*_IMAGES, *_MAYBE, ".ova") else name


def _source(path: Path, kind: str, name: str, key: Optional[Path] = None) -> Source:
    return Source(str(key or path), kind, str(path), name, datastore_of(path))


def datastore_of(path: Path) -> str:
    """The mount point that a file lies below: what copies from it share."""
    here = Path(os.path.realpath(path))
    while not os.path.ismount(here) and here != here.parent:
        here = here.parent
    return str(here)


# Libvirt


def of_libvirt(uri: str, connection: Any, running_too: bool) -> list[Source]:
    """The domains of a libvirt that is open for reading; those that run are looked at only with `running_too`, and are
    told otherwise (`place` is "" then)."""
    found = []
    for domain in connection.listAllDomains():
        running, name = bool(domain.isActive()), domain.name()
        place = name if running_too or not running else ""
        found.append(Source(f"{uri}#{name}", LIBVIRT, place, name, uri, uri, running))
    return sorted(found, key=lambda source: source.key)
