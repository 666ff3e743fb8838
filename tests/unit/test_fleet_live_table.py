"""The table that fills: lines in a pipe, a table on a terminal, and texts for people."""

from __future__ import annotations

import io

import pytest

from h2k.fleet.live_table import LiveTable


def test_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTable("t", ("state", "name")).shown() as update:
        update("a", ("done", "we\x1bb", ""))
    assert capsys.readouterr().err == "done  we\ufffdb\n"


def test_a_terminal_gets_a_table() -> None:
    rich = pytest.importorskip("rich.console")
    out = io.StringIO()
    table = LiveTable("survey", ("state", "name"), rich.Console(file=out, force_terminal=True, width=60))
    with table.shown() as update:
        for number in range(50):
            update(str(number), ("done", f"guest{number}"))
    assert "guest49" in out.getvalue() and "survey: 50" in out.getvalue()
