"""`h2k hooks`: list them in their order, run one on a guest, check one that is being written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import click

from h2k.base.errors import NOT_READY, READY, UsageError
from h2k.base.finding import Finding
from h2k.base.option_table import did_you_mean
from h2k.cli.command_help import Group
from h2k.cli.completion import hook_names
from h2k.cli.options import guest_argument, json_option, new_run, request_options, table_option, verbose_option
from h2k.disk.open_reader import open_reader
from h2k.domain.handles import known_bus, open_guest_files
from h2k.engine.ending import guarded, print_json
from h2k.engine.hooks import Hook, find_hooks, load_hook, propose
from h2k.engine.outcome import Outcome
from h2k.engine.report import Report, diff
from h2k.engine.request import Request, named_hook, open_tools
from h2k.engine.verdict import summary
from h2k.guest.changes import as_json as change_json
from h2k.guest.guest import Guest


@click.group(cls=Group, invoke_without_command=True)
@table_option("hooks")
@json_option
@click.pass_context
def hooks(context: click.Context, hooks: Sequence[str], as_json: bool) -> int:
    """List, run and check hooks.

    Example: h2k hooks list
    """
    return _list(hooks, as_json) if context.invoked_subcommand is None else READY


@hooks.command(name="list")
@table_option("hooks")
@click.option("--words", is_flag=True, help="print the names alone, for completion")
@json_option
@verbose_option
def list_command(hooks: Sequence[str], words: bool, as_json: bool) -> int:
    """List the hooks in the order they run.

    Example: h2k hooks list
    """
    return _list(hooks, as_json, words)


def _list(extra: Sequence[str], as_json: bool, words: bool = False) -> int:
    status, found = _found(lambda: find_hooks([Path(d) for d in extra]), as_json)
    if found is None:
        return status
    if words:
        click.echo(" ".join(hook.name for hook in found))
    elif as_json:
        print_json({"status": status, "hooks": [_described(h) for h in found]})
    else:
        for hook in found:
            click.echo(f"{hook.path.name:<26} {hook.summary}")
    return status


def _found(hooks_of: Callable[[], Sequence[Hook]], as_json: bool) -> tuple[int, Optional[Sequence[Hook]]]:
    """The exit status, and the hooks; None where they could not be had, which is told."""
    found: list[Sequence[Hook]] = []

    def work() -> Outcome:
        found.append(hooks_of())
        return Outcome(READY, "HOOKS", "")

    status = guarded(new_run(as_json), work, quiet=True)
    return status, found[0] if found else None


def _described(hook: Hook) -> dict[str, Any]:
    return {"name": hook.name, "path": str(hook.path), "summary": hook.summary, "answers": hook.answers, "gate": hook.gate}


@hooks.command()
@click.argument("files", nargs=-1, required=True, metavar="HOOK…")
@json_option
@verbose_option
def check(files: Sequence[str], as_json: bool) -> int:
    """Load hook files as a run would, and show what they say.

    Example: h2k hooks check ./76-mine.py
    """
    status, loaded = _found(lambda: [load_hook(Path(name)) for name in files], as_json)
    if loaded is None:
        return status
    if as_json:
        print_json({"status": status, "hooks": [_described(hook) for hook in loaded]})
        return status
    for hook in loaded:
        click.echo(f"{hook.path}: {hook.name}: {hook.summary}")
        click.echo(f"  answers: {', '.join(hook.answers) or 'nothing'}" + ("; a refusal stops later hooks" if hook.gate else ""))
    return status


@hooks.command()
@click.argument("name", metavar="HOOK", shell_complete=hook_names)
@guest_argument
@request_options
@json_option
@verbose_option
def run(name: str, images: Sequence[str], as_json: bool, **wishes: Any) -> int:
    """Show what one hook finds and would change; nothing is written.

    HOOK is a hook's name, as h2k hooks list prints it, or its file.

    Example: h2k hooks run boot-storage NAME.xml
    """
    this = new_run(as_json)
    shown: list[dict[str, Any]] = []

    def work() -> Outcome:
        files = open_guest_files(images)
        request = Request.of(wishes)
        if request.bus is None:
            request = dataclasses.replace(request, bus=known_bus(files))
        with open_tools(request) as tools, open_reader(files.images) as reader:
            guest = Guest(reader, tools.request.root)
            proposal = propose([_named(name, tools.hooks)], guest, tools.options("result", files.domain))
            changes = [change_json(c, guest) for c in proposal.changes if not c.holds(guest)]
        report = Report(findings=list(proposal.findings), changes=changes, settings=[dataclasses.asdict(s) for s in proposal.settings])
        told = report.as_json(this.command)
        shown.append({part: told[part] for part in ("findings", "changes", "settings")})
        return Outcome(NOT_READY if changes or proposal.broken or proposal.refused else READY, "", "")

    status = guarded(this, work, quiet=True)
    if shown and as_json:
        print_json({"status": status, **shown[0]})
    elif shown:
        click.echo(summary([Finding(**f) for f in shown[0]["findings"]]))
        click.echo(diff(shown[0]["changes"]))
    return status


def _named(name: str, known: Sequence[Hook]) -> Hook:
    if Path(name).is_file():
        return load_hook(Path(name))
    found = named_hook(name, known)
    if found is None:
        raise UsageError(f"{name}: no such hook", hint=did_you_mean(name, [h.name for h in known]))
    return found
