"""Unit tests spawn no process: one that tries fails, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from h2k.base import children
from h2k.disk import alive
from h2k.guest.virtio_win import DriverSource, open_source
from tests.guests.virtio_win import make_tree
from tests.unit.terminal import Terminal

settings.register_profile("h2k", deadline=None)  # tests do not assert times
settings.load_profile("h2k")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every way to start a process fail for the length of a test."""

    def refuse(*argv: Any, **_: Any) -> None:
        raise AssertionError(f"a unit test started a process: {argv[:1]}")

    @contextmanager
    def kept(prefix: str, place: str, mode: int, token: str) -> Iterator[tuple[Path, Any]]:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as path:
            Path(path).chmod(mode)
            more: list[Path] = []
            yield Path(path), more.append
        for other in more:
            shutil.rmtree(other)

    monkeypatch.setattr(children, "_kept", kept)  # which has a child, to be gone after a kill too
    monkeypatch.setattr(alive, "_kept", lambda handle, disks: nullcontext())  # the same, to outlive a kill
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("system", "fork", "posix_spawn", "execv", "execve"):
        monkeypatch.setattr(os, name, refuse)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal of 100 × 24 characters with colours."""
    found = Terminal(100, 24, monkeypatch)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield found
    found.close()


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which rich is not installed."""
    for name in [n for n in sys.modules if n.split(".")[0] == "rich"] + ["rich", "rich.console", "rich.progress", "rich.table", "rich.text"]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverSource]:
    """A made virtio-win with everything."""
    with open_source(make_tree(tmp_path_factory.mktemp("virtio-win"))) as source:
        yield source
