"""What a terminal shows while a step takes its time: a spinner with the elapsed time, where the host has rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, TextIO

from h2k.base.text import shown

# Steps in which another program (virt-v2v, qemu-img) writes to the terminal itself: its bars stay untouched.
SHARED = frozenset(("convert", "in-place", "upload"))


def terminal_console(stream: TextIO) -> Optional[Any]:
    """rich's console on that stream; None when it is no terminal (or a dumb one), or rich is not installed."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console


def draw_lines(console: Any, lines: Sequence[tuple[str, str]]) -> None:
    """Lines with their styles on rich's console, wrapped and never cut."""
    from rich.text import Text

    for text, style in lines:
        console.print(Text(text, style=style), overflow="fold")


def draw_table(console: Any, rows: Sequence[tuple[tuple[str, str], tuple[str, str], tuple[str, str], tuple[str, str]]]) -> None:
    """A table of findings that fits the terminal: state, id, and below the subject why; each cell (text, style)."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=max(12, console.width // 3))
    table.add_column(overflow="fold")
    for state, name, subject, why in rows:
        cell = Text(subject[0], style=subject[1])
        cell.append(f"\n{why[0]}", style=why[1])
        table.add_row(Text(state[0], style=state[1]), Text(name[0], style=name[1]), cell)
    console.print(table)


class Progress:
    """Prints lines to standard error, above the spinner while one turns."""

    def __init__(self) -> None:
        self._live: Optional[Any] = None

    def line(self, text: str) -> None:
        """One plain line, whatever else is on the screen, and whatever the text holds."""
        text = shown(text)
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._live.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def during(self, name: str, text: str) -> Iterator[None]:
        """A spinner for as long as the block lasts; nothing in a pipe, without rich, and in steps that are SHARED."""
        console = None if name in SHARED or self._live is not None else terminal_console(sys.stderr)
        if console is None:
            yield
            return
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Bars(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
            self._live = bars
            bars.add_task(shown(text), total=None)
            try:
                yield
            finally:
                self._live = None


def with_bar(argv: list[str]) -> list[str]:
    """`qemu-img … convert …` with its own progress bar, on a terminal that nobody asked to be quiet."""
    at = argv.index("convert") + 1
    if not sys.stdout.isatty() or {"-p", "-q", "--progress", "--quiet"} & set(argv[at:]):
        return argv
    return [*argv[:at], "-p", *argv[at:]]
