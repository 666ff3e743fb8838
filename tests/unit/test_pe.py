"""PE files: whole, for which machine, signed; and nothing but BadData for what is no PE."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import pe
from h2k.windows.pe import read_pe
from tests.guests.pe import make_pe
from tests.unit.helpers import damaged, many

OPTIONAL_HEADER = 64 + 4 + 20
SECTIONS = OPTIONAL_HEADER + 240
SECURITY = OPTIONAL_HEADER + 112 + 8 * 4  # the fifth data directory of a 64-bit image
SIGNED = make_pe("amd64", b"driver", signed=True)
SIZE = len(SIGNED)
TABLE = SIZE - 1024


def changed(data: bytes, place: int, form: str, *numbers: int) -> bytes:
    copy = bytearray(data)
    struct.pack_into(form, copy, place, *numbers)
    return bytes(copy)


@pytest.mark.parametrize("machine", ["x86", "amd64", "arm64"])
@pytest.mark.parametrize("signed", [True, False])
def test_machine_and_signature(machine: str, signed: bool) -> None:
    data = make_pe(machine, b"body", signed=signed)
    facts = read_pe(data, "x.sys")
    assert (facts.machine, facts.size, facts.signed) == (machine, len(data), signed)


def test_a_machine_that_we_do_not_know_is_named_by_its_number() -> None:
    assert read_pe(changed(SIGNED, 68, "<H", 0x1C4), "x.sys").machine == "0x1c4"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.sys: the file is empty"),
        (bytes(4096), "x.sys: not a PE file"),
        (b"MZ", "x.sys: not a PE file"),
        (b"#!/bin/sh\n" * 50, "x.sys: not a PE file"),
        (SIGNED[:200], "x.sys: "),
        (SIGNED[:600], "x.sys: truncated: its sections need 1024 bytes, the file has 600"),
        (SIGNED[:-1], f"x.sys: truncated: its signature ends at {SIZE}, the file has {SIZE - 1} bytes"),
        (SIGNED[:1024], f"x.sys: truncated: its signature ends at {SIZE}, the file has 1024 bytes"),
        (changed(SIGNED, SECTIONS + 16, "<I", 0xFFFFFFFF), "truncated"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{len(v)} bytes",
)
def test_what_is_no_whole_driver(data: bytes, message: str) -> None:
    with pytest.raises(BadData, match=message):
        read_pe(data, "x.sys")


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe, "MAX_SIZE", len(SIGNED) - 1)
    with pytest.raises(BadData, match=rf"x\.sys: {SIZE} bytes are too many for a driver"):
        read_pe(SIGNED, "x.sys")


@pytest.mark.parametrize(
    ("offset", "size", "signed"),
    [(1024, TABLE, True), (0, 16, False), (1024, 0, False), (1024, 7, False), (100, 0x7FFFFFFF, False), (1025, 8, False)],
)
def test_signed_only_by_a_table_that_lies_in_the_file(offset: int, size: int, signed: bool) -> None:
    assert read_pe(changed(SIGNED, SECURITY, "<II", offset, size), "x.sys").signed is signed


def test_a_certificate_longer_than_its_table_is_none() -> None:
    assert not read_pe(changed(SIGNED, 1024, "<I", TABLE + 1), "x.sys").signed
    assert not read_pe(changed(SIGNED, 1024, "<I", 8), "x.sys").signed


def test_a_section_without_a_place_in_the_file_needs_none() -> None:
    data = make_pe("amd64", b"body")
    two = changed(data, 68 + 2, "<H", 2)
    bss = struct.pack("<8sIIIIIIHHI", b".bss", 0x10000, 0x2000, 0x10000, 0, 0, 0, 0, 0, 0xC0000080)
    place = SECTIONS + 40
    assert read_pe(two[:place] + bss + two[place + len(bss) :], "x.sys").machine == "amd64"


@many
@given(damaged(SIGNED, reach=600))
def test_damaged_files(data: bytes) -> None:
    try:
        assert read_pe(data, "x.sys").size == len(data)
    except BadData as bad:
        assert bad.message.startswith("x.sys: ")


@many
@given(damaged(make_pe("x86", b"driver"), reach=600))
def test_damaged_32_bit_files(data: bytes) -> None:
    try:
        read_pe(data, "x.sys")
    except BadData as bad:
        assert bad.message.startswith("x.sys: ")


@many
@given(st.binary(max_size=1000), st.sampled_from([b"", b"MZ", SIGNED[:64], SIGNED[:92]]))
def test_any_bytes(data: bytes, head: bytes) -> None:
    try:
        read_pe(head + data, "x.sys")
    except BadData as bad:
        assert bad.message.startswith("x.sys: ")
