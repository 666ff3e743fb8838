"""The table that fills: lines in a pipe, a table on a terminal, and texts for people."""

from __future__ import annotations

import io
from typing import Any

import pytest

from h2k.fleet.live_table import LiveTable, size_text, time_text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (4 * 1024**3, "4.0 GiB"), (2 * 1024**4, "2.0 TiB")])
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (3, "3 s"), (600, "10 min"), (3900, "65 min"), (7500, "2 h 05 min")])
def test_times(seconds: Any, text: str) -> None:
    assert time_text(seconds) == text


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
