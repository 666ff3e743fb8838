"""Views."""

from __future__ import annotations

from pathlib import Path

from h2k.disk.view import View


def test_a_view_is_a_path() -> None:
    assert isinstance(View("/x/y"), Path) and str(View("/x/y")) == "/x/y" and View("/x/y").name == "y"
