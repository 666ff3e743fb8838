"""`h2k explain`: what a finding means and how to mend it by hand; and of a guest, why it would not start.

All of it is said in the catalogue's words (h2k/engine/catalogue.py).
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from h2k.base.errors import NOT_READY, READY, REFUSED, UsageError
from h2k.base.finding import Finding
from h2k.base.option_table import H2K, did_you_mean, request_words, spelled
from h2k.base.steps import counted
from h2k.base.text import shown
from h2k.cli.completion import finding_ids
from h2k.cli.handles import opened
from h2k.cli.options import json_option, new_run, request_options, verbose_option
from h2k.domain.handles import is_handle
from h2k.engine.catalogue import ACCEPTABLE, BY_ID, ENTRIES
from h2k.engine.ending import guarded, print_json
from h2k.engine.examination import Examination
from h2k.engine.finding_entry import Entry
from h2k.engine.outcome import Outcome
from h2k.engine.pipeline import look
from h2k.engine.runs import Run

_WIDTH = 100  # characters of a line
_WORST_FIRST = ("refused", "broken", "warning")


@click.command()
@click.argument("words", nargs=-1, metavar="[FINDING|NAME|NAME.xml|NAME.h2k|GUEST.vmx|IMAGE…]", shell_complete=finding_ids)
@request_options
@click.option("--words", "ids", is_flag=True, help="print the ids alone, for completion")
@json_option
@verbose_option
def explain(words: Sequence[str], ids: bool, as_json: bool, **wishes: Any) -> int:
    """Explain a finding, or why a guest would not start.

    Of a finding: the fault, what its owner sees, what h2k does, and how to mend it by hand. Of a guest, whoever
    converted it: the same for everything that is found in it, read-only. Without either, all findings are listed.

    Example: h2k explain device-id-unbound

    Example: h2k explain disk.qcow2
    """
    if ids:
        click.echo(" ".join(entry.id for entry in ENTRIES))
        return READY
    if words and not _names_a_finding(words):
        return _guest(words, as_json, wishes)
    return _catalogue(words, as_json)


def _names_a_finding(words: Sequence[str]) -> bool:
    return len(words) == 1 and not is_handle(words[0])


# A finding


def _catalogue(words: Sequence[str], as_json: bool) -> int:
    """One finding in full, or a line for each."""
    run = new_run(as_json)
    found: list[Entry] = []

    def work() -> Outcome:
        found.extend(entry for entry in ENTRIES if not words or entry.id == words[0])
        if not found:
            hint = did_you_mean(words[0], BY_ID, "h2k explain")
            raise UsageError(f"{words[0]}: neither a finding nor a guest", hint=hint)
        return Outcome(READY, "EXPLAINED", "")

    status = guarded(run, work, quiet=True)
    if found and as_json:
        print_json({"status": status, "findings": [_as_json(entry) for entry in found]})
    elif found and not words:
        wide = max(len(entry.id) for entry in found)
        click.echo("\n".join(f"{entry.id:<{wide}}  {entry.fault}" for entry in found))
    elif found:
        click.echo("\n".join(_entry_lines(found[0])))
    return status


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "fault": entry.fault,
        "answer": entry.answer,
        "symptom": entry.screen,
        "where": entry.where,
        "action": spelled(entry.action, H2K),
        "by_hand": spelled(entry.by_hand, H2K),
        "source": entry.source,
        "acceptable": entry.id in ACCEPTABLE,
    }


def _entry_lines(entry: Entry, here: Sequence[str] = ()) -> Iterator[str]:
    yield f"{entry.id}: {entry.fault}"
    rows = [
        *(("here", text) for text in here),
        ("you would see", entry.screen),
        ("where", entry.where),
        ("h2k", entry.action if entry.action.lower().startswith(entry.answer) else f"{entry.answer}: {entry.action}"),
        ("by hand", entry.by_hand),
        ("source", entry.source),
    ]
    if entry.id in ACCEPTABLE:
        rows.append(("override", f"--h2k-accept {entry.id} goes on in spite of it"))
    for name, text in rows:
        yield from _row(name, spelled(text.replace("`", ""), H2K))


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name + ':':<15}", subsequent_indent=" " * 17, break_long_words=False)


# A guest


def _guest(words: Sequence[str], as_json: bool, wishes: dict[str, Any]) -> int:
    """Every finding in one guest, explained; the guest is only read."""
    run = new_run(as_json)
    seen: list[Examination] = []

    def work() -> Outcome:
        with opened(run, words, None, wishes):
            seen.append(look(run))
        return _worth(run.report.findings, seen[0])

    status = guarded(run, work, quiet=True)
    if not seen:
        return status
    outcome = _worth(run.report.findings, seen[0])
    findings, commands = _by_id(run.report.findings), _next(words, wishes, run, outcome)
    if as_json:
        shown_ones = [_found_as_json(found, findings[found]) for found in findings]
        print_json({"status": status, "verdict": outcome.sentence, "findings": shown_ones, "next": commands})
        return status
    click.echo(shown(f"h2k: {outcome.word}: {outcome.sentence}"))
    for found, ones in findings.items():
        click.echo("\n".join(["", *_found_lines(found, ones)]))
    for command in commands:
        click.echo(f"\n  next: {shown(command)}")
    return status


def _worth(findings: Sequence[Finding], seen: Examination) -> Outcome:
    """What the findings mean for a start on KVM, in one sentence."""
    if not seen.windows:
        return seen.outcome
    stops, warns = ([f for f in findings if f.state in states] for states in (("refused", "broken"), ("warning",)))
    also = f"; worth knowing: {', '.join(_ids(warns))}" if warns else ""
    if not stops:
        return Outcome(READY, "NOTHING FOUND", f"nothing that h2k knows would keep this guest from starting{also}")
    status = REFUSED if any(f.state == "refused" for f in stops) else NOT_READY
    kinds = _ids(stops)
    return Outcome(status, "FOUND", f"{counted(len(kinds), 'fault')} would keep this guest from starting or working: {', '.join(kinds)}{also}")


def _ids(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(f.id for f in findings))


def _by_id(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """What is not as it should be, by its id, the worst first."""
    ordered = sorted((f for f in findings if f.state in _WORST_FIRST), key=lambda f: _WORST_FIRST.index(f.state))
    return {found: [f for f in ordered if f.id == found] for found in _ids(ordered)}


def _found_lines(found: str, ones: Sequence[Finding]) -> Iterator[str]:
    here = [shown(f"{one.subject}: {one.evidence}") for one in ones]
    entry = BY_ID.get(found)
    if entry is not None:
        yield from _entry_lines(entry, here)
        return
    yield f"{found}: a finding of a hook of this host's"
    for one, text in zip(ones, here):
        yield from _row("here", text)
        yield from _row("h2k", shown(one.repair or one.state))


def _found_as_json(found: str, ones: Sequence[Finding]) -> dict[str, Any]:
    entry = BY_ID.get(found)
    told = _as_json(entry) if entry is not None else {"id": found}
    here = [{"state": one.state, "subject": one.subject, "evidence": one.evidence, "repair": spelled(one.repair, H2K)} for one in ones]
    return {**told, "here": here}


def _next(words: Sequence[str], wishes: Mapping[str, Any], run: Run, outcome: Outcome) -> list[str]:
    """The command that mends it, or that tells more."""
    if outcome.status == NOT_READY:
        return [f"h2k fix {shlex.join([*words, *request_words(wishes)])}"]
    if run.opened.drivers is None and any(f.id == "driver-package-missing" for f in run.report.findings):
        return [f"h2k explain {shlex.join([*words, *request_words(wishes)])} --drivers virtio-win.iso"]
    return []
