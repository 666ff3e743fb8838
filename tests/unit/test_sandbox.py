"""What the sandbox needs of the host. What it keeps out: tests/integration/test_writers.py."""

from __future__ import annotations

import os
import shutil

import pytest

from h2k.base import sandbox


@pytest.mark.parametrize(
    ("programs", "files", "fuse", "lacking"),
    [
        (("bwrap", "unshare"), (sandbox.PYTHON, "/dev/fuse"), True, []),
        (("unshare",), (sandbox.PYTHON, "/dev/fuse"), True, ["bubblewrap"]),
        (("bwrap",), (sandbox.PYTHON, "/dev/fuse"), True, ["unshare"]),
        (("bwrap", "unshare"), (sandbox.PYTHON,), True, ["/dev/fuse"]),
        (("bwrap", "unshare"), ("/dev/fuse",), True, [sandbox.PYTHON]),
        (("bwrap",), (sandbox.PYTHON,), False, []),
    ],
)
def test_what_is_missing(
    programs: tuple[str, ...], files: tuple[str, ...], fuse: bool, lacking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(os, "access", lambda path, mode: path in files)
    assert sandbox.missing(fuse) == lacking
