"""Changes a made guest's disk without an appliance: hives and files by ntfscat, ntfscp and mtools, the rest byte by byte."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from h2k.windows.regf import Hive
from tests.guests.regfile import build_hive

ESP_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
HIVES = "Windows/System32/config"
SECTOR, RECORD, INDEX = 512, 1024, 4096  # bytes; what mkntfs gives these small volumes
FILE_NAME, VOLUME_INFORMATION, STANDARD_INFORMATION, DATA, REPARSE_POINT = 0x30, 0x70, 0x10, 0x80, 0xC0
WOF = 0x80000017  # the reparse tag of a file that Windows keeps compressed


def run(*argv: Any, stdin: bytes = b"") -> bytes:
    """Run a tool; its output. An assertion that fails names what it said."""
    done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def pieces(source: Path, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of what is no hole in `size` bytes of a sparse file."""
    with open(source, "rb") as file:
        here, end = start, start + size
        while here < end:
            try:
                here = os.lseek(file.fileno(), here, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end of the file
                return
            hole = min(os.lseek(file.fileno(), here, os.SEEK_HOLE), end)
            if here < hole:
                file.seek(here)
                yield here, file.read(hole - here)
            here = hole


def copy_data(source: Path, start: int, target: Path, at: int, size: int) -> None:
    """Copy what is no hole in `size` bytes of one sparse file into another."""
    with open(target, "r+b") as new:
        for here, data in pieces(source, start, size):
            new.seek(at + here - start)
            new.write(data)


class Surgery:
    """One disk of a made guest, opened for changes; the image is written back when the block ends without an error."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._work = tempfile.TemporaryDirectory(prefix="surgery-")
        self.raw = Path(self._work.name) / "disk"
        self._volumes: dict[str, Volume] = {}

    def __enter__(self) -> Surgery:
        info = run("qemu-img", "info", "--output=json", self.image)
        self.format = "raw" if b'"format": "raw"' in info and b"qcow2" not in info else "qcow2"
        run("qemu-img", "convert", "-O", "raw", self.image, self.raw)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            self.flush()
            run("qemu-img", "convert", "-O", self.format, self.raw, self.image)
        self._work.cleanup()

    def flush(self) -> None:
        """Put the volumes that were taken out back into the disk."""
        for volume in self._volumes.values():
            volume.put_back()
        self._volumes.clear()

    @property
    def firmware(self) -> str:
        """ "uefi" for a GPT disk, "bios" for an MBR disk."""
        return "uefi" if self.read(SECTOR, 8) == b"EFI PART" else "bios"

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.raw.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with open(self.raw, "rb") as disk:
            disk.seek(offset)
            return disk.read(length)

    def write(self, offset: int, data: bytes) -> None:
        with open(self.raw, "r+b") as disk:
            disk.seek(offset)
            disk.write(data)

    def partitions(self) -> list[tuple[int, int]]:
        """(start, size) in bytes of the partitions, in order."""
        if self.firmware == "bios":
            entries = [struct.unpack_from("<II", self.read(446 + 16 * n + 8, 8)) for n in range(4)]
        else:
            rows = [self.read(2 * SECTOR + 128 * n, 128) for n in range(8)]
            spans = [struct.unpack_from("<QQ", row, 32) for row in rows]
            entries = [(first, last - first + 1 if last else 0) for first, last in spans]
        return [(first * SECTOR, count * SECTOR) for first, count in entries if count]

    def volume(self, name: str) -> Volume:
        """The "boot" partition, the first, or the "windows" one, the last."""
        if name not in self._volumes:
            start, size = self.partitions()[0 if name == "boot" else -1]
            target = Path(self._work.name) / name
            with open(target, "wb") as new:
                new.truncate(size)
            copy_data(self.raw, start, target, 0, size)
            fat = target.open("rb").read(11)[3:11] != b"NTFS    "
            self._volumes[name] = (Fat if fat else Ntfs)(self, target, start, size)
        return self._volumes[name]

    def hive(self, name: str) -> tuple[Volume, str]:
        """Where a hive lies."""
        if name != "BCD":
            return self.volume("windows"), f"{HIVES}/{name}"
        return self.volume("boot"), "EFI/Microsoft/Boot/BCD" if self.firmware == "uefi" else "Boot/BCD"

    def hive_bytes(self, name: str) -> bytes:
        volume, path = self.hive(name)
        return volume.get(path)

    def put_hive(self, name: str, data: bytes, suffix: str = "") -> None:
        """Write a hive, or with a suffix (".LOG1") a file beside it."""
        volume, path = self.hive(name)
        volume.put(path + suffix, data)

    def registry(self, name: str, text: str) -> None:
        """Merge registry text (regfile.py) into a hive; `$cs` stands for each control set that it has."""
        old = self.hive_bytes(name)
        if "$cs" in text:
            sets = [k.name for k in Hive.parse(old, name).root.subkeys() if k.name.startswith("ControlSet")]
            text = "".join(text.replace("$cs", number) for number in sets)
        self.put_hive(name, build_hive(text, old))


def _wide(text: str) -> bytes:
    return text.encode("utf-16-le")


class Volume:
    """A partition, taken out of its disk into a file."""

    def __init__(self, disk: Surgery, file: Path, start: int, size: int) -> None:
        self.disk, self.file, self.start, self.size = disk, file, start, size

    def put_back(self) -> None:
        copy_data(self.file, 0, self.disk.raw, self.start, self.size)

    def get(self, path: str) -> bytes:
        raise NotImplementedError

    def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def remove(self, path: str) -> None:
        raise NotImplementedError


class Fat(Volume):
    """An EFI system partition, by mtools."""

    def get(self, path: str) -> bytes:
        return run("mtype", "-i", self.file, f"::/{path}")

    def put(self, path: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as local:
            local.write(data)
            local.flush()
            run("mcopy", "-D", "o", "-o", "-i", self.file, local.name, f"::/{path}")

    def remove(self, path: str) -> None:
        run("mdel", "-i", self.file, f"::/{path}")


class Ntfs(Volume):
    """An NTFS volume: contents by the ntfs-3g tools; names, flags and attributes in its records, with their fixups."""

    def get(self, path: str) -> bytes:
        return run("ntfscat", "-f", self.file, f"/{path}")

    def put(self, path: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as local:
            local.write(data)
            local.flush()
            run("ntfscp", "-f", "-q", self.file, local.name, f"/{path}")

    def remove(self, path: str) -> None:
        """Rename the file to its name with the next letter at its end, in its record and in its directory's index."""
        _, parent, name = self._find(path)
        gone = name[:-1] + chr(ord(name[-1]) + 1)
        count = sum(self._edit(place, lambda block: _rename(block, parent, name, gone)) for place in self._blocks())
        assert count >= 2, f"{path}: {count} places changed where a record and an index hold the name"

    def set_dirty(self) -> None:
        """The flag that makes Windows run chkdsk, in the record of $Volume and its mirror."""

        def flag(record: bytearray) -> int:
            at = _attribute(record, VOLUME_INFORMATION)
            (content,) = struct.unpack_from("<H", record, at + 20)
            record[at + content + 10] |= 1
            return 1

        self._edit_record(3, flag)

    def set_unclean_log(self) -> None:
        """A restart page in $LogFile that has a client and lacks the clean flag, as a crash leaves it."""
        offset = self._first_cluster(2)
        area = struct.pack("<QHHHHIHH", 1000, 1, 0xFFFF, 0, 0, 0, 208, 64).ljust(208, b"\0")
        page = bytearray(struct.pack("<4sHHQIIHhHHH", b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, 1, 0, 0).ljust(48, b"\0"))
        page = (page + area).ljust(4096, b"\0")
        for sector in range(8):
            struct.pack_into("<2s", page, 32 + 2 * sector, page[512 * sector + 510 : 512 * sector + 512])
            struct.pack_into("<H", page, 512 * sector + 510, 1)
        struct.pack_into("<H", page, 30, 1)
        with open(self.file, "r+b") as volume:
            for copy in range(2):
                volume.seek(offset + 4096 * copy)
                volume.write(page)

    def compress(self, path: str) -> None:
        """Give the file the reparse point of a WOF-compressed one (its content stays: nothing here must read it)."""
        number, _, _ = self._find(path)
        content = struct.pack("<IHHIIII", WOF, 16, 0, 1, 2, 1, 0)
        attribute = struct.pack("<IIBBHHHIHH", REPARSE_POINT, 24 + len(content), 0, 0, 24, 0, 9, len(content), 24, 0) + content

        def insert(record: bytearray) -> int:
            (used,) = struct.unpack_from("<I", record, 24)
            end = used - 8  # of the attributes: the end mark and its padding follow
            record[end : used + len(attribute)] = attribute + record[end:used]
            del record[RECORD:]
            struct.pack_into("<I", record, 24, used + len(attribute))
            at = _attribute(record, STANDARD_INFORMATION)
            flags = at + struct.unpack_from("<H", record, at + 20)[0] + 32
            struct.pack_into("<I", record, flags, struct.unpack_from("<I", record, flags)[0] | 0x400)
            return 1

        assert self._edit_record(number, insert)

    # Records and index blocks

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of every file record and index block of the volume."""
        for start, data in pieces(self.file, 0, self.size):
            for signature, size in ((b"FILE", RECORD), (b"INDX", INDEX)):
                at = data.find(signature)
                while at >= 0:
                    if (start + at) % size == 0:
                        yield start + at, size
                    at = data.find(signature, at + 1)

    def _load(self, place: tuple[int, int]) -> bytearray:
        with open(self.file, "rb") as volume:
            volume.seek(place[0])
            return bytearray(volume.read(place[1]))

    def _edit(self, place: tuple[int, int], change: Callable[[bytearray], int]) -> int:
        """Undo the block's fixups, change it, make them anew; the number of changes."""
        block = self._load(place)
        at, count = struct.unpack_from("<HH", block, 4)
        mark = bytes(block[at : at + 2])
        for n in range(1, count):
            block[SECTOR * n - 2 : SECTOR * n] = block[at + 2 * n : at + 2 * n + 2]
        changed = change(block)
        if changed:
            for n in range(1, count):
                block[at + 2 * n : at + 2 * n + 2] = block[SECTOR * n - 2 : SECTOR * n]
                block[SECTOR * n - 2 : SECTOR * n] = mark
            with open(self.file, "r+b") as volume:
                volume.seek(place[0])
                volume.write(block)
        return changed

    def _edit_record(self, number: int, change: Callable[[bytearray], int]) -> int:
        places = [p for p in self._blocks() if p[1] == RECORD]
        return sum(self._edit(p, change) for p in places if struct.unpack_from("<I", self._load(p), 44)[0] == number)

    def _find(self, path: str) -> tuple[int, int, str]:
        """(record number, parent's record number, name) of a path."""
        names: dict[tuple[int, str], tuple[int, str]] = {}
        for place in (p for p in self._blocks() if p[1] == RECORD):
            record = self._load(place)
            if struct.unpack_from("<H", record, 22)[0] & 1:  # in use
                at = _attribute(record, FILE_NAME)
                if at:
                    start = at + struct.unpack_from("<H", record, at + 20)[0]
                    parent = int.from_bytes(record[start : start + 6], "little")
                    name = record[start + 66 : start + 66 + 2 * record[start + 64]].decode("utf-16-le")
                    names[parent, name.lower()] = struct.unpack_from("<I", record, 44)[0], name
        here, parent, name = 5, 5, ""  # the root directory's record
        for part in path.split("/"):
            parent = here
            here, name = names[parent, part.lower()]
        return here, parent, name

    def _first_cluster(self, number: int) -> int:
        """The offset in bytes of a file's first run."""
        cluster = SECTOR * self._load((0, SECTOR))[13]
        record = next(
            r for p in self._blocks() if p[1] == RECORD for r in [self._load(p)] if struct.unpack_from("<I", r, 44)[0] == number
        )
        at = _attribute(record, DATA)
        run_at = at + struct.unpack_from("<H", record, at + 32)[0]
        length, width = record[run_at] & 15, record[run_at] >> 4
        return int.from_bytes(record[run_at + 1 + length : run_at + 1 + length + width], "little", signed=True) * cluster


def _attribute(record: Sequence[int], kind: int) -> int:
    """Where an attribute of a record begins, or 0."""
    data = bytes(record)
    (at,) = struct.unpack_from("<H", data, 20)
    while at + 8 <= len(data):
        found, size = struct.unpack_from("<II", data, at)
        if found == kind:
            return int(at)
        if found == 0xFFFFFFFF or not size:
            return 0
        at += size
    return 0


def _rename(block: bytearray, parent: int, old: str, new: str) -> int:
    """Rename in every file-name attribute or index entry of the block that has this parent; how many there were."""
    wanted, count, at = _wide(old), 0, 0
    while True:
        at = block.find(wanted, at)
        if at < 0:
            return count
        if at >= 66 and block[at - 2] == len(old) and int.from_bytes(block[at - 66 : at - 60], "little") == parent:
            block[at : at + len(wanted)] = _wide(new)
            count += 1
        at += 2
