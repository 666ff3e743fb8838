"""The table of image formats: whole, and the one that recognition, reach, claims and surveys go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.disk import claims, truncation
from h2k.disk.formats import FOOTERS, FORMATS, MARKS, NAMES, SUFFIXES, Format
from h2k.disk.reach import check_format
from h2k.disk.recognize import check_disk
from h2k.fleet import sources

OF_EXTENTS = b"\xbe\xba\xfe\xca\0\0\0\0"  # ESXi's sparse extents, which are no disks of their own


def test_each_name_and_suffix_stands_once() -> None:
    assert len(NAMES) == len(FORMATS) and len(set(SUFFIXES)) == len(SUFFIXES)
    assert SUFFIXES == (".qcow2", ".vmdk", ".vhd", ".vhdx", ".vdi") and FOOTERS == (b"conectix", b"koly")


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_a_file_with_its_mark_is_a_disk(form: Format, tmp_path: Path) -> None:
    check_format(form.name, tmp_path)
    image = tmp_path / "image.bin"
    for offset, mark in form.marks:
        image.write_bytes(bytes(offset) + mark + bytes(2048))
        assert check_disk(image) is None
    if form.footer:
        image.write_bytes(b"\1" * 2048 + form.footer.ljust(512, b"\0"))
        assert check_disk(image) is None
    assert form.marks or form.footer or form.name == "raw"


def test_what_is_in_no_row_is_no_format(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no format of an image"):
        check_format("vvfat", tmp_path)


def test_the_other_tables_speak_of_formats_that_are_here() -> None:
    assert {(offset, mark) for offset, mark, _ in claims._FORMATS} - {(0, OF_EXTENTS)} <= set(MARKS)
    assert set(truncation._ENDS) <= NAMES
    assert set(SUFFIXES) <= set(sources._IMAGES)
