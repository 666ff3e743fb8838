"""Registry values: what a constructor writes is what the reader of the same type reads, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.windows.regf import Hive
from h2k.windows.values import Value, binary, dword, expand, multi, qword, text
from tests.unit.helpers import hive

KINDS: list[tuple[Value, int, bytes, str, Any]] = [
    (dword(0x12345678), 4, b"\x78\x56\x34\x12", "dword", 0x12345678),
    (qword(1), 11, b"\1" + bytes(7), "qword", 1),
    (text("aß"), 1, b"a\0\xdf\0\0\0", "text", "aß"),
    (expand("%X%"), 2, b"%\0X\0%\0\0\0", "text", "%X%"),
    (multi(["a", "b"]), 7, b"a\0\0\0b\0\0\0\0\0", "multi", ("a", "b")),
    (multi(()), 7, b"\0\0", "multi", ()),
    (binary(b"\1\2"), 3, b"\1\2", "", None),
]


@pytest.mark.parametrize(("value", "kind", "raw", "reader", "read"), KINDS)
def test_each_constructor_and_its_reader(value: Value, kind: int, raw: bytes, reader: str, read: Any) -> None:
    assert (value.type, value.raw, value.name) == (kind, raw, "")
    for name in ("dword", "qword", "text", "multi"):
        assert getattr(value, name)() == (read if name == reader else None)


@pytest.mark.parametrize("wrong", [Value(4, b"\1\0\0"), Value(4, bytes(5)), Value(11, bytes(4)), Value(4, b"")])
def test_a_number_of_another_length_is_none(wrong: Value) -> None:
    assert wrong.dword() is None and wrong.qword() is None


def test_numbers_that_do_not_fit() -> None:
    for make, number in ((dword, 1 << 32), (dword, -1), (qword, 1 << 64)):
        with pytest.raises(OverflowError):
            make(number)


def test_equal_by_type_and_bytes_whatever_the_name() -> None:
    assert dword(1) == Value(4, b"\1\0\0\0", "Start") and hash(dword(1)) == hash(Value(4, b"\1\0\0\0", "Start"))
    assert dword(1) != binary(b"\1\0\0\0") and dword(1) != dword(2) and dword(1) != 1
    assert "Start" in repr(Value(4, bytes(4), "Start")) and repr(dword(0)) == r"Value(4, b'\x00\x00\x00\x00')"


@pytest.fixture(scope="module")
def made() -> Hive:
    return hive('[K]\n"n"=dword:00000005\n"t"="x"\n"m"=multi:["a","b"]\n')


def test_a_hive_answers_by_path_and_a_key_by_name(made: Hive) -> None:
    key = made.key("K")
    assert key is not None
    assert made.dword("k", "N") == key.dword("N") == 5
    assert made.text("k", "T") == key.text("T") == "x"
    assert made.multi("k", "M") == key.multi("M") == ("a", "b")
    assert made.raw("k", "N") == key.raw("N") == b"\5\0\0\0"


@pytest.mark.parametrize("path", ["K", "nowhere"])
def test_a_default_for_what_is_missing_or_of_another_type(made: Hive, path: str) -> None:
    name = {"K": "t", "nowhere": "n"}[path]
    assert made.dword(path, name) is None and made.dword(path, name, 7) == 7
    assert made.multi(path, name) is None and made.multi(path, name, ()) == ()
    assert made.text(path, "n") is None and made.text(path, "n", "") == ""
    assert made.raw(path, "none") == b""
