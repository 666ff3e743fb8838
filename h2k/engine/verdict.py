"""How a run ended, for people: the verdict first, then findings, times and files; on a terminal it fits one screen."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from h2k.base.errors import NOT_VERIFIED, READY, REFUSED
from h2k.base.finding import Finding
from h2k.base.progress import terminal_console
from h2k.base.text import shown
from h2k.engine.report import VERDICTS, by_weight, diff, table

Line = tuple[str, str]  # text, and rich's style for it
STYLES = {"refused": "bold red", "broken": "red", "repaired": "green", "warning": "yellow", "ok": "dim"}
_VERDICT_STYLES = {READY: "bold green", REFUSED: "bold red", NOT_VERIFIED: "bold red"}
_NEXT = "  Boot bootstrap.xml first: it lets Windows bind its VirtIO devices; then final.xml is for production."
_PROMPT = 2  # lines of the screen that the shell's next prompt takes
_LEAST = 3  # lines of findings, however small the screen is


def explain(report: dict[str, Any], plan: bool = False) -> None:
    """Print a report object: in full where it is read by programs or kept, one screen of it on a terminal."""
    if not sys.stdout.isatty():
        print("\n".join(text for text, _ in _full(report, plan)))
        return
    width, height = shutil.get_terminal_size()
    console = terminal_console(sys.stdout)
    for text, style in screen(report, width, height, plan):
        if console is None:
            print(text)
        else:
            console.print(text, style=style or None, markup=False, no_wrap=True, overflow="ellipsis", crop=True)


def _full(report: dict[str, Any], plan: bool) -> list[Line]:
    text, style = _verdict(report)
    lines = [(shown(text), style)]
    if _has_findings(report):
        lines.append((table(_findings(report)), ""))
    if plan and report.get("changes"):
        lines.append((diff(report["changes"]), ""))
    return [*lines, *((shown(text), style) for text, style in _files(report))]


def screen(report: dict[str, Any], width: int, height: int, plan: bool = False) -> list[Line]:
    """The lines for a terminal of that size: the verdict (wrapped), as many findings as fit with those that matter
    first, step times, and files. No line is wider than the terminal."""
    verdict, style = _verdict(report)
    head = [(line, style) for line in textwrap.wrap(shown(verdict), width)[: max(1, height // 3)]]
    tail = [*_times(report), *_files(report)]
    tail = tail[: max(0, height - _PROMPT - _LEAST - len(head))]
    room = height - _PROMPT - len(head) - len(tail)
    body = _rows(report, room)
    if plan and report.get("changes"):
        room -= len(body)
        changes = [(f"  {c['diff']}", "") for c in report["changes"]]
        body += _fitting(changes, room, len(changes), "changes, in plan.json") if room > 1 else []
    return [(_cut(text, width), kind) for text, kind in (*head, *body, *tail)]


def _rows(report: dict[str, Any], room: int) -> list[Line]:
    """Two lines a finding where they all fit, one where they do not, and the number of those that are left out."""
    if not _has_findings(report):
        return []
    findings = by_weight(_findings(report))
    if not findings:
        return [(table([]), "dim")]
    wide = max(len(f.id) for f in findings)
    short = [(f"  {f.state:<9} {f.id:<{wide}}  {f.subject}", STYLES[f.state]) for f in findings]
    if 2 * len(short) > room:
        return _fitting(short, room, len(short), "in report.json")
    details = [(" " * 12 + (f"{f.evidence} → {f.repair}" if f.repair else f.evidence), "dim") for f in findings]
    return [line for pair in zip(short, details) for line in pair]


def _fitting(lines: Sequence[Line], room: int, count: int, where: str) -> list[Line]:
    room = max(room, _LEAST)
    if len(lines) <= room:
        return list(lines)
    return [*lines[: room - 1], (f"  (and {count - room + 1} more {where})", "dim")]


def _cut(text: str, width: int) -> str:
    text = shown(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _verdict(report: dict[str, Any]) -> Line:
    guest = report.get("guest", {})
    name = guest.get("name", "")
    word = VERDICTS.get(report["status"], "?")
    if report["status"] == READY and not guest.get("windows"):
        word = "LEFT ALONE"
    text = f"h2k: {word}: {report['verdict']}" + (f"  [{name}]" if name else "")
    return text, _VERDICT_STYLES.get(report["status"], "bold yellow")


def _has_findings(report: dict[str, Any]) -> bool:
    return bool(report.get("guest", {}).get("windows") or report.get("findings"))


def _findings(report: dict[str, Any]) -> list[Finding]:
    return [Finding(**f) for f in report.get("findings", [])]


def _times(report: dict[str, Any]) -> list[Line]:
    times = [f"{t['step']} {t['seconds']:.1f} s" for t in report.get("timings", [])]
    return [(f"  steps: {', '.join(times)}", "dim")] if times else []


def _files(report: dict[str, Any]) -> list[Line]:
    files = report.get("files", {})
    wide = max([10, *(len(what) + 1 for what in files)])
    lines: list[Line] = [(f"  {what + ':':<{wide}} {path}", "") for what, path in files.items()]
    return [*lines, (_NEXT, "bold")] if "bootstrap" in files else lines
