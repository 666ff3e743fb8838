"""How a run ended, for people: the verdict first, then findings, times, files, and the commands that come next.

Nothing that stops a run or says how to go on is ever cut off: lines are wrapped. On a terminal what holds is counted
instead of listed; rich draws the table where it is installed, plain and complete lines do where it is not.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from h2k.base.errors import NOT_READY, NOT_VERIFIED, READY, REFUSED
from h2k.base.finding import Finding
from h2k.base.progress import draw_lines, draw_table, terminal_console
from h2k.base.text import shown
from h2k.engine.outcome import OK_TO_CONVERT, WORDS
from h2k.engine.report import by_weight, diff

Line = tuple[str, str]  # text, and rich's style for it
STYLES = {"refused": "bold red", "broken": "red", "to do": "yellow", "repaired": "green", "warning": "yellow", "ok": "dim"}
_VERDICT_STYLES = {READY: "bold green", REFUSED: "bold red", NOT_VERIFIED: "bold red", NOT_READY: "bold yellow"}
_NOTHING = "  no findings: the guest is as h2k would leave it"
_STATE_WIDTH = 9  # characters of the longest state
_PLAIN_WIDTH = 110  # characters of a line that no terminal asks for


def explain(record: dict[str, Any], plan: bool = False) -> None:
    """Print a record: in full where it is read by programs or kept, without what holds on a terminal."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = terminal_console(sys.stdout) if on_terminal else None
    if console is not None:
        _draw(console, record, plan)
        return
    width = shutil.get_terminal_size().columns if on_terminal else _PLAIN_WIDTH
    print("\n".join(text for text, _ in lines(record, width, plan, brief=on_terminal)))


def lines(record: dict[str, Any], width: int, plan: bool = False, brief: bool = False) -> list[Line]:
    """The record as wrapped lines; with `brief` the findings that hold are counted and not listed."""
    found = _wrapped(_verdict(record), width) if brief else [_verdict(record)]  # one line, where programs look for it
    listed, hidden = _chosen(record, brief)
    found += [line for finding in listed for line in _rows(finding, record, width)]
    if not listed and not hidden and _has_findings(record):
        found.append((_NOTHING, "dim"))
    if hidden:
        found.append((f"  ({hidden} more that hold, in report.json)", "dim"))
    tail = list(_tail(record, plan))
    return [*found, *(line for one in tail for line in _wrapped(one, width, indent="      "))] if brief else [*found, *tail]


def _draw(console: Any, record: dict[str, Any], plan: bool) -> None:
    """The same on a terminal with rich: a table that fits its width."""
    listed, hidden = _chosen(record, brief=True)
    rows = []
    for finding in listed:
        state = _state(finding, record)
        why = (_why(finding), "dim" if finding.state == "repaired" else "")
        rows.append(((state, STYLES[state]), (finding.id, ""), (shown(finding.subject), ""), why))
    draw_lines(console, [_verdict(record)])
    draw_table(console, rows)
    if not listed and not hidden and _has_findings(record):
        draw_lines(console, [(_NOTHING, "dim")])
    if hidden:
        draw_lines(console, [(f"  ({hidden} more that hold, in report.json)", "dim")])
    draw_lines(console, list(_tail(record, plan)))


def _verdict(record: dict[str, Any]) -> Line:
    name = record.get("guest", {}).get("name", "")
    status = int(record.get("status", READY))
    word = record.get("word") or WORDS.get(status, "?")
    text = f"h2k: {word}: {record.get('verdict', '')}" + (f"  [{name}]" if name else "")
    return shown(text), _VERDICT_STYLES.get(status, "bold yellow")


def _chosen(record: dict[str, Any], brief: bool) -> tuple[list[Finding], int]:
    """(the findings to show, the number of those that are only counted)."""
    found = by_weight(Finding(**f) for f in record.get("findings", []))
    listed = [f for f in found if not brief or f.state != "ok"]
    return listed, len(found) - len(listed)


def _state(finding: Finding, record: dict[str, Any]) -> str:
    """The state as people read it: what a conversion will do is no fault of a source."""
    source = record.get("side") == "source" or record.get("word") == OK_TO_CONVERT
    return "to do" if finding.state == "broken" and source else finding.state


def _rows(finding: Finding, record: dict[str, Any], width: int) -> Iterator[Line]:
    state = _state(finding, record)
    yield from _wrapped((f"  {state:<{_STATE_WIDTH}} {finding.id}  {shown(finding.subject)}", STYLES[state]), width, "      ")
    yield from _wrapped((" " * 12 + _why(finding), "dim"), width, " " * 12)


def _why(finding: Finding) -> str:
    """Evidence and remedy, whole."""
    return shown(f"{finding.evidence} → {finding.repair}" if finding.repair else finding.evidence)


def _has_findings(record: dict[str, Any]) -> bool:
    return bool(record.get("guest", {}).get("windows") or record.get("findings"))


def _tail(record: dict[str, Any], plan: bool) -> Iterator[Line]:
    yield from ((shown(str(line)), "") for line in record.get("details", ()))
    if plan and record.get("changes"):
        yield from ((shown(line), "") for line in diff(record["changes"]).splitlines())
    times = [f"{t['step']} {t['seconds']:.1f} s" for t in record.get("timings", [])]
    if times:
        yield f"  steps: {', '.join(times)}", "dim"
    files = record.get("files", {})
    wide = max([10, *(len(what) + 1 for what in files)])
    yield from ((f"  {what + ':':<{wide}} {shown(str(path))}", "") for what, path in files.items())
    if files.get("bootstrap"):
        yield "  The first boot is bootstrap.xml: it lets Windows bind its VirtIO devices. Then final.xml is for production.", "bold"
    yield from ((f"  next: {shown(command)}", "bold") for command in record.get("next", ()))


def _wrapped(line: Line, width: int, indent: str = "  ") -> list[Line]:
    text, style = line
    found = textwrap.wrap(
        text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    lead = text[: len(text) - len(text.lstrip())]
    if found and lead and not found[0].startswith(lead):
        found[0] = lead + found[0]
    return [(piece, style) for piece in found or [""]]


def summary(findings: Sequence[Finding]) -> str:
    """Findings as plain lines, for commands that show nothing else."""
    record = {"guest": {"windows": True}, "findings": [f.as_json() for f in findings]}
    return "\n".join(text for text, _ in lines(record, _PLAIN_WIDTH)[1:])
