"""The one table of image formats: qemu's name of each, the marks by which a file of it is known, and its usual suffix.

What its tables may claim stands in claims.py, and whether a file is all there in truncation.py.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Format:
    """A format. `marks` are (offset, bytes) in the first KiB, as qemu's block driver looks for them; `footer` begins the
    last sector; `suffix` is that of a file that is a disk whatever it holds, whole or broken."""

    name: str
    marks: tuple[tuple[int, bytes], ...] = ()
    footer: bytes = b""
    suffix: str = ""


# Formats that QEMU may be told an image has: its other drivers reach elsewhere by design (vvfat, blkdebug, json …).
FORMATS = (
    Format("raw"),
    Format("qcow2", ((0, b"QFI\xfb"),), suffix=".qcow2"),
    Format("qcow", ((0, b"QFI\xfb"),)),
    Format("qed", ((0, b"QED\0"),)),
    Format("vmdk", ((0, b"KDMV"), (0, b"COWD")), suffix=".vmdk"),
    Format("vpc", ((0, b"conectix"),), footer=b"conectix", suffix=".vhd"),  # a fixed one has its mark at the end alone
    Format("vhdx", ((0, b"vhdxfile"),), suffix=".vhdx"),
    Format("vdi", ((64, b"\x7f\x10\xda\xbe"),), suffix=".vdi"),
    Format("parallels", ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt"))),
    Format("luks", ((0, b"LUKS\xba\xbe"),)),
    Format("bochs", ((0, b"Bochs Virtual HD Image"),)),
    Format("cloop", ((0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),)),
    Format("dmg", footer=b"koly"),
)
NAMES = frozenset(f.name for f in FORMATS)
MARKS = tuple(mark for f in FORMATS for mark in f.marks)
FOOTERS = tuple(f.footer for f in FORMATS if f.footer)
SUFFIXES = tuple(f.suffix for f in FORMATS if f.suffix)
