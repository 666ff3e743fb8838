"""The probe of KVM: the firmware that it runs, and what of QEMU's output counts."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base import kvm


def test_the_processor_starts_at_the_code() -> None:
    image = kvm.firmware()
    assert len(image) == 64 * 1024
    assert image[0xFFF0] == 0xE9
    target = (0xFFF3 + int.from_bytes(image[0xFFF1:0xFFF3], "little")) & 0xFFFF
    assert image[target:].startswith(kvm._CODE) and target + len(kvm._CODE) <= 0xFFF0
    assert set(image[:target]) == {0xF4}


def test_its_absolute_addresses_are_those_of_the_place_where_it_lies() -> None:
    """ljmpl to the 32-bit and the 64-bit part, and the GDT's base."""
    code, base = kvm._CODE, 0xFFFF0000 + kvm._START
    wide = code.index(bytes.fromhex("b810000000"))
    assert code[wide - 6 : wide - 2] == (base + wide).to_bytes(4, "little")
    long = code.index(bytes.fromhex("b9002d3101"))
    assert code[long - 6 : long - 2] == (base + long).to_bytes(4, "little")
    table = code.index(bytes(8) + bytes.fromhex("ffff0000009bcf00"))
    assert code[-6:] == (31).to_bytes(2, "little") + (base + table).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("output", "errors", "works"),
    [
        (b"k", b"", True),
        (b"k", b"qemu: warning: no such feature\n", True),
        (b"", b"KVM internal error. Suberror: 1\nemulation failure\n", False),
        (b"", b"", False),
        (b"x", b"Could not access KVM kernel module\n", False),
    ],
)
def test_the_sign_alone_counts(output: bytes, errors: bytes, works: bool) -> None:
    assert _signs(output, errors) is works


def test_an_internal_error_ends_the_wait_while_qemu_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    assert not _signs(b"", b"KVM internal error. Suberror: 1\n", close=False)
    assert time.monotonic() - began < kvm.LIMIT
    monkeypatch.setattr(kvm, "LIMIT", 0.01)
    assert not _signs(b"", b"", close=False)


def _signs(output: bytes, errors: bytes, close: bool = True) -> bool:
    """What the probe makes of these bytes, and then of an end or of silence."""
    streams: list[Any] = []
    writers = []
    for data in (output, errors):
        reader, writer = os.pipe()
        os.write(writer, data)
        writers.append(writer)
        if close:
            os.close(writers.pop())
        streams.append(os.fdopen(reader, "rb"))
    try:
        return kvm._signs(SimpleNamespace(stdout=streams[0], stderr=streams[1]))  # type: ignore[arg-type]
    finally:
        for stream in streams:
            stream.close()
        for writer in writers:
            os.close(writer)
