"""Unit tests spawn no process: one that tries fails, and says so."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every way to start a process fail for the length of a test."""

    def refuse(*argv: Any, **_: Any) -> None:
        raise AssertionError(f"a unit test started a process: {argv[:1]}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("system", "fork", "posix_spawn", "execv", "execve"):
        monkeypatch.setattr(os, name, refuse)
