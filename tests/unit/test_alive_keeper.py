"""What outlives a killed run: it notes how the disks stood when nothing of the run could write any more."""

from __future__ import annotations

import ast
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.disk import alive_keeper
from h2k.disk.alive import written_after
from tests.unit.made_disks import known, touch


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "g"
    path.write_bytes(b"as the run left it")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def test_a_note_takes_the_place_of_another(image: Path, file: Path) -> None:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    alive_keeper.note(handle, [str(image), __file__])
    alive_keeper.note(handle, [str(image)])
    os.close(handle)
    touch(image, 1e-9)
    assert written_after(file, known(image)) == str(image)


# The program


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's end of the pipe is closed without a word."""
    monkeypatch.setattr(alive_keeper.os, "read", lambda handle, count: b"")


def kept(file: Path, *disks: Path) -> Any:
    """What the program has noted."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        alive_keeper.main([str(handle), "token", *map(str, disks)])
        return json.loads(file.read_bytes() or b"null")
    finally:
        os.close(handle)


def test_a_run_that_ends_by_itself_is_not_noted(image: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive_keeper.os, "read", lambda handle, count: b".")
    assert kept(file, image) is None


@pytest.mark.usefixtures("killed")
def test_it_waits_until_nothing_of_the_run_can_write(image: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is ending has lost its environment, and may still write: it is known from before."""
    listed, lives = iter((["7"], ["7", "8"], [], [])), iter(("78", "78", "8", ""))
    alive: list[str] = []
    waited: list[float] = []

    def processes(mark: bytes) -> list[str]:
        assert mark == b"H2K_WRITES=token"
        alive[:] = next(lives)
        return next(listed)

    monkeypatch.setattr(alive_keeper, "_processes", processes)
    monkeypatch.setattr(alive_keeper, "_lives", lambda process: process in alive)
    monkeypatch.setattr(alive_keeper.time, "sleep", waited.append)
    assert kept(file, image) == {str(image): alive_keeper.state_of(str(image))} and len(waited) == 3


@pytest.mark.usefixtures("killed")
def test_a_process_that_hangs_is_not_waited_for_without_end(image: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.0, 59.9, 60.0))
    monkeypatch.setattr(alive_keeper, "_processes", lambda mark: ["7"])
    monkeypatch.setattr(alive_keeper, "_lives", lambda process: True)
    monkeypatch.setattr(alive_keeper, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    assert kept(file, image) is None, "what may still be written is not noted as what the run left"


def test_the_processes_of_a_run_by_their_environment() -> None:
    with open("/proc/self/environ", "rb") as environment:
        mark = environment.read().split(b"\0")[0]
    assert str(os.getpid()) in alive_keeper._processes(mark)
    assert str(os.getpid()) not in alive_keeper._processes(mark + b" of another")
    assert alive_keeper._lives(str(os.getpid())) and not alive_keeper._lives("0")


@pytest.mark.parametrize(("state", "lives"), [(b"R", True), (b"D", True), (b"Z", False), (b"X", False)])
def test_who_may_still_write(state: bytes, lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", lambda path, mode: io.BytesIO(b"7 (a) Z (b) " + state + b" 1 7"))
    assert alive_keeper._lives("7") is lives


def test_it_imports_nothing_of_h2k() -> None:
    """It runs with python3 -I, and starts in milliseconds."""
    tree = ast.parse(Path(alive_keeper.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "json", "os", "sys", "time", "collections.abc"}
