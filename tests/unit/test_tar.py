"""Tar headers of every format, and of hostile archives."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given

from h2k.base.errors import BadData
from h2k.domain.tar import entries
from tests.unit.helpers import damaged, many

DISK = b"KDMV" + bytes(range(256)) * 20
LONG = "directory-of-a-name-that-is-long/" * 6 + "g.vmdk"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["g.vmdk", LONG, "gäst.vmdk"])
def test_tar_of_each_format(form: int, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for path, data in ((name, DISK), ("a", b"")):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = list(entries(io.BytesIO(out.getvalue()), "g.ova"))
    assert [(n, s) for n, _, s in found] == [(name, len(DISK)), ("a", 0)]
    assert out.getvalue()[found[0][1] :][: len(DISK)] == DISK


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_with_a_member_above_8_gib(form: int) -> None:
    entry = tarfile.TarInfo("g.vmdk")
    entry.size = 20 * 1024**3
    header = entry.tobuf(form)
    found = list(entries(io.BytesIO(header + bytes(512)), "g.ova"))
    assert found == [("g.vmdk", len(header), 20 * 1024**3)]


def test_a_sparse_member_is_refused() -> None:
    entry = tarfile.TarInfo("g.vmdk")
    entry.type = b"S"
    with pytest.raises(BadData, match="sparse"):
        list(entries(io.BytesIO(entry.tobuf(tarfile.GNU_FORMAT)), "g.ova"))


def sound_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("gäst.ovf", LONG):
            entry = tarfile.TarInfo(name)
            entry.size = 700
            archive.addfile(entry, io.BytesIO(bytes(700)))
    return out.getvalue()


@many
@given(damaged(sound_tar()))
def test_damaged_tars_are_bad_data_or_harmless(data: bytes) -> None:
    try:
        for name, offset, size in entries(io.BytesIO(data), "g.ova"):
            assert offset > 0 and 0 <= size < 1 << 61 and len(name) < 5000
    except BadData as bad:
        assert bad.message.startswith("g.ova")
