"""Which reader reads: the direct one, or libguestfs where its parts are missing or where it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.disk import open_reader as module
from h2k.disk.open_reader import open_reader, reader_of


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of the direct reader that this host lacks."""
    found: list[str] = []
    monkeypatch.delenv("H2K_READER", raising=False)
    monkeypatch.setattr("h2k.disk.direct_reader.missing", lambda: found)
    monkeypatch.setattr("h2k.disk.direct_reader.DirectReader", lambda infos: ("direct", infos))
    monkeypatch.setitem(sys.modules, "h2k.disk.appliance_reader", SimpleNamespace(ApplianceReader=lambda infos: ("libguestfs", infos)))
    return found


def how(*arguments: Any) -> str:
    reader: Any = reader_of([], *arguments)
    return str(reader[0])


def test_the_direct_reader_unless_libguestfs_is_asked_for(lacking: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert how() == "direct" and how("libguestfs") == "libguestfs"
    monkeypatch.setenv("H2K_READER", "libguestfs")
    assert how() == how("direct") == "libguestfs"
    monkeypatch.setenv("H2K_READER", "direct")
    assert how("libguestfs") == "direct"
    monkeypatch.setenv("H2K_READER", "")
    assert how() == "direct"
    monkeypatch.setenv("H2K_READER", "fast")
    with pytest.raises(UsageError, match="H2K_READER=fast: no such reader"):
        how()


def test_where_parts_are_missing_it_is_told_that_it_takes_longer(lacking: list[str], caplog: pytest.LogCaptureFixture) -> None:
    lacking += ["python3-libnbd", "python3-tsk"]
    assert how() == "libguestfs" and "python3-libnbd and python3-tsk not installed" in caplog.text


def test_without_any_reader_nothing_can_be_read(lacking: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lacking.append("python3-tsk")
    monkeypatch.setitem(sys.modules, "h2k.disk.appliance_reader", None)
    with pytest.raises(H2kError, match="they alone could read here"):
        how()


def test_every_image_is_asked_with_its_own_format(lacking: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda path, form: (path, form))
    reader: Any = open_reader([(Path("/a"), "raw"), (Path("/b"), None)])
    assert reader == ("direct", [(Path("/a"), "raw"), (Path("/b"), None)])
