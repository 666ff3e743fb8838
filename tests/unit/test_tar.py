"""Tar headers of every format, and of hostile archives."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given

from h2k.base.errors import BadData
from h2k.domain import tar
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


# What each header says


def header(name: bytes = b"g", size: bytes = b"%011o\0" % 5, kind: bytes = b"0", magic: bytes = b"ustar\x0000", prefix: bytes = b"") -> bytes:
    """One header with its checksum."""
    raw = bytearray(512)
    raw[0 : len(name)], raw[124:136], raw[156:157], raw[257:265] = name, size.ljust(12, b"\0"), kind, magic.ljust(8, b"\0")
    raw[345 : 345 + len(prefix)] = prefix
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def block(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def listed(data: bytes) -> list[tuple[str, int, int]]:
    return list(entries(io.BytesIO(data), "g.ova"))


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header(size=b"%011o\0" % len(data), kind=kind) + block(data)


def record(text: bytes) -> bytes:
    """A pax record with its own length before it."""
    for digits in (1, 2, 3, 4):
        if len(str(length := digits + 2 + len(text))) == digits:
            return b"%d %s\n" % (length, text)
    raise AssertionError(text)


def test_it_ends_at_a_block_of_zeros_or_where_the_file_does() -> None:
    one = header() + block(b"12345")
    assert listed(one + bytes(512) + one) == listed(one) == listed(one + b"short") == [("g", 512, 5)]
    assert listed(b"") == []


def test_members_lie_in_whole_blocks() -> None:
    sizes = (0, 1, 511, 512, 513)
    data = b"".join(header(b"%d" % n, b"%011o\0" % n) + block(bytes(n)) for n in sizes)
    assert listed(data) == [("0", 512, 0), ("1", 1024, 1), ("511", 2048, 511), ("512", 3072, 512), ("513", 4096, 513)]


@pytest.mark.parametrize(("kind", "regular"), [(b"0", True), (b"\0", True), (b"7", True), (b"1", False), (b"2", False), (b"5", False)])
def test_only_regular_files_are_members(kind: bytes, regular: bool) -> None:
    assert listed(header(kind=kind, size=b"%011o\0" % 0)) == ([("g", 512, 0)] if regular else [])


def test_a_prefix_is_posix_alone() -> None:
    assert listed(header(prefix=b"dir"))[0][0] == "dir/g"
    assert listed(header(prefix=b"dir", magic=b"ustar  "))[0][0] == "g", "GNU's tar has times there"


def test_a_long_name_is_of_the_next_member_alone() -> None:
    name = b"n" * 300
    data = header(size=b"%011o\0" % 301, kind=b"L") + block(name + b"\0") + header() + block(b"12345") + header(b"second")
    assert [n for n, _, _ in listed(data)] == [name.decode(), "second"]


def test_pax_says_path_and_size_of_the_next_member_alone() -> None:
    data = pax(record(b"path=other"), record(b"size=600")) + header() + bytes(1024) + header(b"second")
    assert [(n, s) for n, _, s in listed(data)] == [("other", 600), ("second", 5)]
    everybody = pax(record(b"path=other"), kind=b"g") + header()
    assert [n for n, _, _ in listed(everybody)] == ["g"], "a global header names no member"
    assert listed(pax(record(b"size=-1"), record(b"path=")) + header())[0] == ("g", 1536, 5)


@pytest.mark.parametrize(
    "text", [b"5 a=b\n", b"7 a=b\n", b"9 a=b\n", b"x a=b\n", b" a=b\n", b"6 a b\n", b"0 a=b\n", b"4 a=\n"], ids=repr
)
def test_pax_records_whose_length_does_not_fit(text: bytes) -> None:
    with pytest.raises(BadData, match="a damaged pax header"):
        listed(pax(text) + header())


@pytest.mark.parametrize(("name", "value"), [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", b"x")])
def test_a_sparse_member_of_pax_is_refused(name: bytes, value: bytes) -> None:
    with pytest.raises(BadData, match="sparse"):
        listed(pax(record(name + b"=" + value)) + header())


def test_every_header_has_its_checksum() -> None:
    whole = header()
    for at in (0, 130, 150, 300):
        wrong = bytearray(whole)
        wrong[at] ^= 1
        with pytest.raises(BadData, match=r"g\.ova: byte 512: no tar header"):
            listed(header(size=b"0") + bytes(wrong))


def test_sizes_are_octal_or_binary_and_bounded() -> None:
    assert listed(header(size=b" 17 "))[0][2] == 15 and listed(header(size=b""))[0][2] == 0
    assert listed(header(size=b"\x80" + (1 << 59).to_bytes(11, "big")))[0][2] == 1 << 59
    for size, words in ((b"\x80" + (1 << 60).to_bytes(11, "big"), "a size of"), (b"8", "no tar header"), (b"-1", "no tar header"), (b"\xff" * 12, "no tar header")):
        with pytest.raises(BadData, match=words):
            listed(header(size=size))


def test_names_and_records_have_bounds() -> None:
    for kind, limit in ((b"L", 4096), (b"x", 1 << 20)):
        with pytest.raises(BadData, match=f"a tar header of {limit + 1} bytes"):
            listed(header(size=b"%011o\0" % (limit + 1), kind=kind) + bytes(limit + 1024))
        with pytest.raises(BadData, match=f"a tar header of {limit} bytes"):
            listed(header(size=b"%011o\0" % limit, kind=kind) + b"short")


def test_an_archive_of_headers_alone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_HEADERS", 3)
    assert len(listed(header(size=b"0") * 2)) == 2
    with pytest.raises(BadData, match="more than 3 tar headers"):
        listed(header(size=b"0") * 4)


def test_content_may_be_read_between_the_headers() -> None:
    file = io.BytesIO(b"".join(header(name) + block(b"12345") for name in (b"a", b"b")))
    found = []
    for name, offset, size in entries(file, "g.ova"):
        assert file.tell() == offset, "the stream is at the content"
        found.append((name, file.read(size)))
        file.seek(0)
    assert found == [("a", b"12345"), ("b", b"12345")]
