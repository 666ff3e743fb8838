"""The one end of every run: the record is written, people get one text, programs get one JSON object."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import USAGE, H2kError, InUse, Unknown
from h2k.base.files import json_text, own_directory
from h2k.base.finding import Finding
from h2k.base.option_table import spelled
from h2k.base.text import mask_argv, mask_secrets
from h2k.domain.facts import DomainFacts
from h2k.engine import outcome as outcomes
from h2k.engine import records
from h2k.engine.catalogue import explaining
from h2k.engine.edited import write_editable
from h2k.engine.outcome import Outcome
from h2k.engine.runs import Run
from h2k.engine.verdict import explain

log = logging.getLogger("h2k.ending")


def guarded(run: Run, work: Callable[[], Outcome], quiet: bool = False) -> int:
    """Do the work and end the run, however the work ends; the exit status. No exception leaves this, and none is
    shown as a traceback (with -v it is in the log). `quiet`: the caller shows a good end by itself."""
    try:
        outcome = work()
        if quiet:
            return outcome.status
    except H2kError as e:
        log.debug("%s", run.command, exc_info=True)
        outcome = _failed(run, e)
    except KeyboardInterrupt:
        outcome = _failed(run, H2kError("interrupted", hint="the same command goes on or cleans up"))
    except OSError as e:
        log.debug("%s", run.command, exc_info=True)
        outcome = _failed(run, H2kError(f"{e.filename or run.command}: {e.strerror or e}", hint="h2k -v shows where"))
    except Exception as e:  # a mistake of h2k's own: told in one line, and the record says where
        log.debug("%s", run.command, exc_info=True)
        outcome = _failed(run, H2kError(f"h2k itself failed: {type(e).__name__}: {e}", hint="h2k -v shows where"))
    return end(run, outcome)


def _failed(run: Run, error: H2kError) -> Outcome:
    if isinstance(error, Unknown):
        error = H2kError(error.message, error.hint)
    error.commands = (*error.commands, *(c for c in explaining(error.message) if c not in f"{error.hint} {error.commands}"))
    if isinstance(error, InUse):
        run.report.findings = [*run.report.findings, Finding("source-running", "refused", error.subject, error.who, error.hint)]
    run.error = error
    return outcomes.after_commit(error, run.committed) if run.committed else outcomes.of_error(error)


def end(run: Run, outcome: Outcome) -> int:
    """Write the record, tell people or programs, and return the exit status."""
    record = record_of(run, outcome)
    if run.records is not None and outcome.word != outcomes.WORDS[USAGE]:  # another program's status may be 2 as well
        outcome = _kept(run, outcome, record)
        from h2k.engine.guest_pages import keep_page  # a run without a record needs none of it

        keep_page(run.records, run.tools.policy.page if run.tools is not None else run.wants_page)
    on_terminal = sys.stdout is not None and sys.stdout.isatty() and not run.aside
    if run.error is not None and not (run.seen is not None and on_terminal):  # scripts look for it there
        print(f"{run.command.split(' ', maxsplit=1)[0]}: {run.spelled(str(run.error))}", *run.error.commands, sep="\n  ", file=sys.stderr)
    if run.as_json or run.error is None or run.seen is not None:
        told(record, as_json=run.as_json, aside=run.aside, plan=run.show_plan)
    return outcome.status


def record_of(run: Run, outcome: Outcome) -> dict[str, Any]:
    """The record of a run (docs/schemas/record.json)."""
    body: dict[str, Any] = {
        **records.origin(run.command, run.argv, run.started),
        "source": mask_secrets(run.source),
        "source_machine": _machine(run.source_domain),
        "status": outcome.status,
        "word": outcome.word,
        "verdict": run.spelled(outcome.sentence),
        "next": list(outcome.next),
        "side": run.seen.side if run.seen is not None else "",
        "accepted": list(run.tools.request.accept) if run.tools is not None else [],
        **run.report.as_json(run.command),
        "timings": run.steps.timings,
        "versions": records.versions() if run.records is not None else records.own_version(),
        "virtio_win": str(run.tools.drivers_path or "") if run.tools is not None else "",
        "disks": records.disks_now(run.files.images) if run.files is not None else [],
    }
    return body


def _machine(domain: Optional[DomainFacts]) -> dict[str, Any]:
    """The hardware of the machine that was converted, by which its new one is told from the old one."""
    if domain is None:
        return {}
    return {
        "firmware": domain.firmware,
        "disks": [{"bus": disk.bus, "target": disk.target} for disk in domain.disks],
        "nics": [{"mac": nic.mac, "model": nic.model} for nic in domain.nics],
    }


def _kept(run: Run, outcome: Outcome, record: dict[str, Any]) -> Outcome:
    """Write the record. That this fails is said; it makes no run better, and a ready one a failed one."""
    assert run.records is not None
    try:
        own_directory(run.records)
        for name, content in run.report.documents.items():
            place = run.records / Path(name).name
            write_editable(place, f"{json_text(content)}\n".encode("utf-8", "replace"), run.steps.say)
            record["files"][place.stem] = str(place)
        record["files"]["report"] = str(run.records / records.NEWEST)
        records.keep(run.records, record)
    except (H2kError, OSError) as e:
        error = e if isinstance(e, H2kError) else H2kError(f"{e.filename}: {e.strerror}", hint="free space or rights there")
        record["files"].pop("report", None)
        if outcome.status != 0:
            print(f"h2k: no record of this run: {error}", file=sys.stderr)
            return outcome
        outcome = outcomes.after_commit(error, run.committed or outcome.sentence)
        record.update(status=outcome.status, word=outcome.word, verdict=outcome.sentence)
    return outcome


def told(record: dict[str, Any], as_json: bool = False, aside: bool = False, plan: bool = False) -> None:
    """One text for people or one JSON object for programs; a reader that went away changes no status."""
    try:
        if as_json:
            print_json(record)
        else:
            with contextlib.redirect_stdout(sys.stderr) if aside else contextlib.nullcontext():
                explain(record, plan=plan)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        quiet_output()
    except OSError as e:
        print(f"h2k: the outcome can't be printed: {e.strerror}", file=sys.stderr)
        quiet_output()


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    text = json_text(content)
    if sys.stdout is not None and (sys.stdout.encoding or "").lower() != "utf-8":
        text = json.dumps(content, indent=2)  # ASCII: this output has no other characters
    print(text)


def quiet_output() -> None:
    """Standard output goes nowhere from here on: Python would complain at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def error_record(command: str, argv: Sequence[str], error: H2kError) -> dict[str, Any]:
    """What --json prints for a command that ended before it had a guest."""
    outcome = outcomes.of_error(error)
    return {
        "schema": records.SCHEMA,
        "command": command,
        "argv": mask_argv(argv),
        "status": outcome.status,
        "word": outcome.word,
        "verdict": spelled(error.message, command),
        "hint": spelled(error.hint, command),
    }

