"""Timed steps: announced with their time, and kept for the report."""

from __future__ import annotations

import pytest

from h2k.base.steps import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 disks"), (1, "1 disk"), (2, "2 disks"), (0.5, "0.5 disks")])
def test_counted(number: float, text: str) -> None:
    assert counted(number, "disk") == text
