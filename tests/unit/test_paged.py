"""Large hives in pages: the same answers and refusals as when they are read whole, and little is read."""

from __future__ import annotations

import struct

import pytest

from h2k.base.errors import BadData
from h2k.guest import guest as guests
from h2k.windows import regf
from h2k.windows.paged import KEPT, PAGE, PagedHive, Pages
from tests.guests.regfile import build_hive
from tests.unit.memory_reader import windows_guest

TEXT = "\n".join(
    f'[Made\\Key{n:04d}\\Below]\n"Data"=hex:{",".join(["%02x" % (n % 256)] * 600)}\n"Number"=dword:{n:08x}' for n in range(1500)
)


class Source:
    """Bytes that count what is read of them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.reads = data, list[tuple[int, int]]()

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]


@pytest.fixture(scope="module")
def large() -> bytes:
    return build_hive(TEXT)


def open_pages(data: bytes) -> tuple[PagedHive, Source]:
    source = Source(data)
    return PagedHive(Pages(source.read, len(data)), "SOFTWARE"), source


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 10), (PAGE - 3, PAGE + 3), (5, 3 * PAGE + 1), (PAGE, 2 * PAGE), (-9, None), (7, 1 << 40)])
def test_slices_are_those_of_the_bytes(start: int, end: int) -> None:
    data = bytes(range(256)) * 1000
    assert Pages(Source(data).read, len(data))[start:end] == data[start:end]


def test_pages_are_read_once_and_not_all_are_kept() -> None:
    data = bytes((KEPT + 2) * PAGE)
    source = Source(data)
    pages = Pages(source.read, len(data))
    assert pages[10:20] == pages[30:40] == bytes(10) and source.reads == [(0, PAGE)]
    for number in range(KEPT + 1):
        pages[number * PAGE : number * PAGE + 1]
    assert len(pages._pages) == KEPT and len(source.reads) == KEPT + 1


def test_every_key_and_value_is_the_same(large: bytes) -> None:
    def tree(key: regf.Key) -> list[object]:
        return [key.path, [(v.name, v.type, v.raw) for v in key.values()], [tree(k) for k in key.subkeys()]]

    assert tree(open_pages(large)[0].root) == tree(regf.Hive.parse(large).root)


def test_little_is_read_for_one_value(large: bytes) -> None:
    hive, source = open_pages(large)
    assert hive.dword("Made\\Key0777\\Below", "Number") == 777
    assert sum(length for _, length in source.reads) <= len(large) // 4


def bins_of(data: bytes) -> list[tuple[int, int]]:
    return list(regf.Hive.parse(data).bins())


def damaged_bin(data: bytes, offset: int, header: bytes) -> bytes:
    at = regf.BASE_BLOCK + offset
    return data[:at] + header + data[at + len(header) :]


@pytest.mark.parametrize("header", [b"hbiX", b"hbin" + struct.pack("<I", 3), b"hbin\0\0\0\0\0\0\0\0"])
def test_a_cell_in_an_unsound_bin_is_refused(header: bytes, large: bytes) -> None:
    """Each bin in turn; the keys behind it are met by reading all."""
    for offset, size in bins_of(large)[1:20]:
        fixed = header if len(header) < 12 else b"hbin" + struct.pack("<II", offset, 0)
        hive, _ = open_pages(damaged_bin(large, offset, fixed))
        cell = offset + size - 8
        with pytest.raises(BadData, match=r"SOFTWARE: (no hive bin header|a hive bin of 0 bytes) at hive bin offset"):
            hive._check_bin(cell)


def test_a_bin_that_reaches_beyond_the_hive(large: bytes) -> None:
    offset, _ = bins_of(large)[-1]
    hive, _ = open_pages(damaged_bin(large, offset, b"hbin" + struct.pack("<II", offset, 1 << 30)))
    with pytest.raises(BadData, match="a hive bin of"):
        hive.cell(offset + 32)


def test_a_guest_reads_large_hives_in_pages_and_small_ones_whole() -> None:
    guest = windows_guest(system=TEXT)
    small = windows_guest()
    assert guest.hive_state("SYSTEM").state == small.hive_state("SYSTEM").state == "clean"
    assert isinstance(guest.system, PagedHive) and not isinstance(small.system, PagedHive)
    assert guest.complete_hive("SYSTEM") == guest.hive_bytes("SYSTEM")
    assert guest.control_sets == small.control_sets


@pytest.mark.parametrize(("at", "data", "state"), [(4, b"\x77", "unrecoverable"), (36, b"\x21", "unrecoverable"), (0, b"x", "corrupt")])
def test_a_large_hive_that_is_not_clean_is_read_whole(at: int, data: bytes, state: str) -> None:
    guest = windows_guest(system=TEXT)
    path = "/Windows/System32/config/SYSTEM"
    files = guest.reader.files[guest.volume]  # type: ignore[attr-defined]
    files[path] = files[path][:at] + data + files[path][at + len(data) :]
    assert guest.hive_state("SYSTEM").state == state and guest.hive_state("SYSTEM").hive is None


def test_a_root_that_is_no_key() -> None:
    guest = windows_guest(system=TEXT)
    path = "/Windows/System32/config/SYSTEM"
    files = guest.reader.files[guest.volume]  # type: ignore[attr-defined]
    root = regf.Hive.parse(files[path]).root_offset + regf.BASE_BLOCK + 4
    files[path] = files[path][:root] + b"xx" + files[path][root + 2 :]
    found = guest.hive_state("SYSTEM")
    assert (found.state, found.why) == ("corrupt", regf.check(files[path], "SYSTEM")[0])
    with pytest.raises(BadData):
        guest.hive("SYSTEM")


def test_the_limit_where_pages_begin() -> None:
    assert guests.PAGED_FROM == 1 << 20 < guests.HIVE_LIMIT
