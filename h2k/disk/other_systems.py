"""What a volume that h2k does not read may hold: the marks of file systems and containers of other systems."""

from __future__ import annotations

from h2k.disk.reader import Reader, Volume

# (offset in bytes, mark): the superblocks of ext2/3/4, XFS and btrfs, LVM's label in each of the first four sectors,
# LUKS' header, and the RAID superblocks of md 1.1 and 1.2.
_MARKS = (
    (0x438, b"\x53\xef"), (0, b"XFSB"), (0x10040, b"_BHRfS_M"), (0, b"LUKS\xba\xbe"),
    *((sector * 512, b"LABELONE") for sector in range(4)),
    (0, b"\xfc\x4e\x2b\xa9"), (4096, b"\xfc\x4e\x2b\xa9"),
)  # fmt: skip


def holds_another_system(reader: Reader) -> bool:
    """Whether any volume of the disks has a file system or container that Windows does not make: a Linux, say."""
    return any(_marked(reader, volume) for disk in reader.disks for volume in disk.volumes if volume.kind == "other")


def _marked(reader: Reader, volume: Volume) -> bool:
    return any(
        reader.read_at(volume.ref.disk, volume.start + offset, len(mark)) == mark
        for offset, mark in _MARKS
        if offset + len(mark) <= volume.size
    )
