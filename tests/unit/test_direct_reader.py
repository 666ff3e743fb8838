"""The direct reader's choice between a fork and a program of its own; what it reads: tests/integration/test_reader.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from h2k.disk import direct_reader


@pytest.mark.parametrize(("tasks", "threads", "alone", "waits"), [
    ([1], 1, True, 0), ([2, 2, 1], 1, True, 2), ([2, 1], 2, False, 0), ([2] * 50, 1, False, 10),
])  # fmt: skip
def test_a_thread_that_has_just_been_joined_is_none(tasks: list[int], threads: int, alone: bool, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at who uses an image takes a thread, just before; one of Python's that lives, or one of a library's, is told."""
    waited: list[float] = []
    monkeypatch.setattr(direct_reader, "Path", lambda place: SimpleNamespace(iterdir=lambda: iter(["task"] * tasks.pop(0))))
    monkeypatch.setattr(direct_reader.threading, "active_count", lambda: threads)
    monkeypatch.setattr(direct_reader.time, "sleep", waited.append)
    monkeypatch.setattr(direct_reader, "_Forked", lambda stderr: "fork")
    monkeypatch.setattr(direct_reader, "_spawned", lambda stderr: "program")
    nowhere: Any = None
    assert direct_reader._forked(nowhere) == ("fork" if alone else "program") and len(waited) == waits
