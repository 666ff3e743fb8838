"""What is asked before the copy: the name, the output, rights and space."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import Refused
from h2k.convert import readiness
from h2k.convert.readiness import GIB, needed, require_ready, require_space
from h2k.convert.v2v_command import parse
from h2k.domain.guest_files import GuestFiles
from tests.unit.conversion_world import Conversion, Output

Usage = namedtuple("Usage", "total used free")


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Path]:
    asked: list[Path] = []

    def usage(place: Path) -> Usage:
        asked.append(place)
        return Usage(1 << 40, 0, count)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def image(place: Path, size: int) -> Path:
    path = place / "a.raw"
    path.write_bytes(b"x" * size)
    return path


def test_a_copy_takes_half_of_what_the_source_s_files_hold_at_least(tmp_path: Path) -> None:
    path = image(tmp_path, 1 << 20)
    assert needed([(path, "raw")], False) == path.stat().st_blocks * 512 // 2 >= 1 << 19
    assert needed([(path, "raw"), (path, "raw"), (Path("/dev/null"), "raw"), (tmp_path / "gone", None)], False) == path.stat().st_blocks * 512
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    assert needed([(sparse, "raw")], False) < 1 << 20


def test_a_preallocated_copy_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def probe(path: Path, form: Optional[str]) -> Any:
        asked.append((path, form))
        return type("Info", (), {"size": 5 * GIB})

    monkeypatch.setattr(readiness, "probe", probe)
    assert needed([(Path("/a"), "vmdk"), (Path("/b"), None)], True) == 10 * GIB
    assert asked == [(Path("/a"), "vmdk"), (Path("/b"), None)]


def test_too_little_space_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = free(monkeypatch, 3 * GIB // 2)
    require_space(tmp_path, 3 * GIB // 2, "web")
    with pytest.raises(Refused, match=r"1\.5 GiB are free, and web takes 2\.5 GiB"):
        require_space(tmp_path, 5 * GIB // 2, "web")
    require_space(tmp_path / "to-be-made", GIB, "web")
    assert asked == [tmp_path] * 3


def test_where_nothing_is_known_of_the_place_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = free(monkeypatch, 0)
    require_space(Path("/no/such/place"), GIB, "web")
    assert asked == []


@pytest.fixture
def world(tmp_path: Path) -> Conversion:
    return Conversion(tmp_path / "out" / "web.h2k")


LOCAL = parse(["-i", "vmx", "/web.vmx", "-o", "local", "-os", "/out"])


def test_the_name_comes_first_then_the_output(world: Conversion) -> None:
    with pytest.raises(Refused, match="team/web"):
        require_ready(LOCAL, Output(world), None, "team/web")  # type: ignore[arg-type]
    assert world.done == []
    require_ready(LOCAL, Output(world), None, None)  # type: ignore[arg-type]
    assert world.done == ["require"]
    world.fails["require"] = Refused("no such pool")
    with pytest.raises(Refused, match="no such pool"):
        require_ready(LOCAL, Output(world), None, "web")  # type: ignore[arg-type]


def test_the_place_of_the_report_must_be_writable(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    place = world.state.parent
    place.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)
    with pytest.raises(Refused, match="may not write there"):
        require_ready(LOCAL, Output(world), None, "web")  # type: ignore[arg-type]


@pytest.mark.parametrize("passed", [[], ["-oa", "preallocated"]])
def test_space_is_asked_where_the_result_will_be(world: Conversion, monkeypatch: pytest.MonkeyPatch, passed: list[str]) -> None:
    place = world.state.parent
    place.mkdir()
    source = GuestFiles(((image(place, 1 << 20), "raw"),), place)
    monkeypatch.setattr(readiness, "probe", lambda path, form: type("Info", (), {"size": 8 * GIB}))
    asked = free(monkeypatch, GIB if passed else 1)
    with pytest.raises(Refused, match=r"takes 8\.0 GiB" if passed else "are free"):
        require_ready(parse([*LOCAL.passed, *passed]), Output(world), source, "web")  # type: ignore[arg-type]
    assert asked == [place]
