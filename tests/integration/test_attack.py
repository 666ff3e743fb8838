"""The attack's short form: every kind of damage and of kill, a few seconds each; `make attack` takes ten minutes."""

from __future__ import annotations

import pytest

from tests.attack import main


@pytest.mark.parametrize(("part", "seconds"), [("disks", "8"), ("kills", "12"), ("commands", "6")])
def test_a_short_attack(part: str, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", part, "--seconds", seconds]) == 0, capsys.readouterr().out
    assert "WRONG" not in capsys.readouterr().out
