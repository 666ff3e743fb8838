"""A table that fills while guests are worked on: rich's on a terminal, one plain line for each guest elsewhere."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional

from h2k.base.progress import terminal_console
from h2k.base.text import shown

STYLES = {
    "ready to convert": "green", "repairs itself": "green", "refused": "bold red", "unknown": "yellow", "done": "green",
    "running": "cyan", "failed": "bold red", "waiting": "dim", "interrupted": "yellow",
}  # fmt: skip
_SHOWN = 20  # rows that a terminal shows while it fills


class LiveTable:
    """Rows by their key; `update` shows one anew."""

    def __init__(self, title: str, columns: Sequence[str], console: Any = None) -> None:
        self.title, self.columns, self._console = title, columns, console
        self._rows: dict[str, Sequence[str]] = {}
        self._live: Optional[Any] = None

    def update(self, key: str, cells: Sequence[str]) -> None:
        """Show a row: its first cell is the state. The last that changed stand last."""
        cells = [shown(cell) for cell in cells]
        self._rows.pop(key, None)
        self._rows[key] = cells
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif self._console is None:
            print("  ".join(cell for cell in cells if cell), file=sys.stderr, flush=True)

    @contextmanager
    def shown(self) -> Iterator[Callable[[str, Sequence[str]], None]]:
        """Fill it for as long as the block lasts."""
        if self._console is None:
            yield self.update
            return
        from rich.live import Live

        with Live(self._table(), console=self._console, auto_refresh=False, transient=True) as self._live:
            yield self.update
        self._live = None

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.title}: {len(self._rows)}", title_justify="left", box=None, pad_edge=False)
        for column in self.columns:
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        for cells in reversed([*itertools.islice(reversed(self._rows.values()), _SHOWN)]):  # of all there can be 100,000
            table.add_row(Text(cells[0], style=STYLES.get(cells[0], "")), *(Text(cell) for cell in cells[1:]))
        return table


def open_table(title: str, columns: Sequence[str]) -> LiveTable:
    """A table on standard error."""
    return LiveTable(title, columns, terminal_console(sys.stderr) if sys.stderr is not None else None)
