"""The page of a guest at the end of a run: from its records, when the policy wants one or one is there; never a reason to fail."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError
from h2k.base.text import shown
from h2k.config.policy import load_policy
from h2k.engine.records import command_line, judging_record, records
from h2k.engine.standing import standing
from h2k.pages.guest_page import PAGE, GuestRecords, write_page


def keep_page(report_dir: Path, wanted: Optional[bool]) -> None:
    """Write NAME.h2k/page.html; `wanted` is what the policy says, None where the host's own decides. A page that is there
    is kept up to date. That it can't be written is said in one line, and changes nothing else."""
    path = report_dir / PAGE
    try:
        if path.exists() or (load_policy().page if wanted is None else wanted):
            write_guest_page(path, report_dir)
    except H2kError as e:
        print(f"h2k: no page of this run: {e}", file=sys.stderr)
    except Exception as e:  # a disk that fails, or a mistake in a page, must not change how a run ended
        print(f"h2k: no page of this run: {path}: {type(e).__name__}: {shown(str(e))}", file=sys.stderr)


def write_guest_page(path: Path, report_dir: Path, history: Optional[Sequence[dict[str, Any]]] = None) -> None:
    """Write the page of a guest to `path`, from its records (oldest first). H2kError when that is not possible."""
    known = records(report_dir) if history is None else history
    if known:
        write_page(path, gathered(report_dir, known))


def gathered(report_dir: Path, history: Sequence[dict[str, Any]]) -> GuestRecords:
    """What the page is made of: the records, their command lines, and what the one that judges is worth now."""
    number = next(n for n, record in enumerate(history) if record is judging_record(history))
    now, made = standing(history[number]), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return GuestRecords(report_dir, tuple(history), tuple(command_line(r) for r in history), now.state, now.sentence, made, number)
