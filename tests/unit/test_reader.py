"""A disk as its readers open it: the table, the volumes, and a table that can't be read, which costs no other disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import BadData
from h2k.disk.image import ImageInfo
from h2k.disk.reader import Disk, read_disk
from h2k.engine.examination import refuse_damaged
from h2k.guest.guest import Guest
from tests.guests.tables import gpt
from tests.unit.memory_reader import MemoryReader, windows_guest

MIB = 1 << 20


def opened(content: bytearray, index: int = 0) -> Disk:
    info = ImageInfo(Path(f"/made/disk{index}.img"), "raw", len(content), ())
    return read_disk(index, info, lambda at, n: bytes(content[at : at + n]))


def gpt_disk(sector: int = 512) -> bytearray:
    content = bytearray(4 * MIB)
    for at, data in gpt(len(content), {1: (MIB, MIB)}, sector).items():
        content[at : at + len(data)] = data
    content[MIB + 3 : MIB + 11] = b"NTFS    "
    return content


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_sound_table(sector: int) -> None:
    disk = opened(gpt_disk(sector))
    assert [(v.kind, v.start) for v in disk.volumes] == [("ntfs", MIB)]
    assert (disk.table.scheme, disk.table.sector, disk.table.fault) == ("gpt", sector, "")


def damaged_disk(index: int = 0) -> Disk:
    content = gpt_disk()
    content[512] = content[len(content) - 512] = 0
    return opened(content, index)


def test_a_table_that_can_t_be_read_is_told_and_has_no_volumes() -> None:
    disk = damaged_disk()
    assert disk.volumes == () and disk.table.scheme == "none" and disk.table.partitions == ()
    assert disk.table.fault.startswith("/made/disk0.img: protective MBR, but neither GPT header is valid")


def test_it_is_refused_where_no_windows_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: "")
    with pytest.raises(BadData, match="neither GPT header is valid"):
        refuse_damaged(Guest(MemoryReader([damaged_disk()], {})))
    reader = windows_guest().reader
    assert isinstance(reader, MemoryReader)
    refuse_damaged(Guest(MemoryReader([*reader.disks, damaged_disk(1)], reader.files)))
