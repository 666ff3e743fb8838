"""`h2k hooks`: list them in their order, run one on a guest, check one that is being written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from h2k.base.errors import NOT_READY, READY, UsageError
from h2k.disk.open_reader import open_reader
from h2k.domain.handles import open_guest_files
from h2k.engine.hooks import Hook, find_hooks, load_hook, propose
from h2k.engine.pipeline import Request, open_tools
from h2k.engine.report import diff, table
from h2k.guest.changes import as_json as change_json
from h2k.guest.guest import Guest

_extra = click.option("--hooks", "extra", multiple=True, metavar="DIR", help="a directory with more hooks")
_json = click.option("--json", "as_json", is_flag=True, help="print JSON on standard output")


@click.group(invoke_without_command=True)
@_extra
@_json
@click.pass_context
def hooks(context: click.Context, extra: Sequence[str], as_json: bool) -> int:
    """List, run and check hooks."""
    return _list(extra, as_json) if context.invoked_subcommand is None else READY


@hooks.command(name="list")
@_extra
@_json
def list_command(extra: Sequence[str], as_json: bool) -> int:
    """List the hooks in the order they run."""
    return _list(extra, as_json)


def _list(extra: Sequence[str], as_json: bool) -> int:
    found = find_hooks([Path(d) for d in extra])
    if as_json:
        click.echo(json.dumps([_described(h) for h in found], indent=2))
    else:
        for hook in found:
            click.echo(f"{hook.path.name:<26} {hook.summary}")
    return READY


def _described(hook: Hook) -> dict[str, Any]:
    return {"name": hook.name, "path": str(hook.path), "summary": hook.summary, "answers": hook.answers, "gate": hook.gate}


@hooks.command()
@click.argument("files", nargs=-1, required=True, metavar="HOOK…")
def check(files: Sequence[str]) -> int:
    """Load each hook file as a run would, and show what it says of itself. Status 2 when one can't be loaded."""
    for name in files:
        hook = load_hook(Path(name))
        click.echo(f"{hook.path}: {hook.name}: {hook.summary}")
        click.echo(f"  answers: {', '.join(hook.answers) or 'nothing'}" + ("; a gate: later hooks may be unable to read a guest that it refuses" if hook.gate else ""))
    return READY


@hooks.command()
@click.argument("name", metavar="HOOK")
@click.argument("images", nargs=-1, required=True, metavar="DOMAIN.xml|IMAGE…")
@click.option("--drivers", metavar="PATH", help="virtio-win ISO or directory [default: $VIRTIO_WIN]")
@_extra
@_json
def run(name: str, images: Sequence[str], drivers: str, extra: Sequence[str], as_json: bool) -> int:
    """Show what one hook, by its name or its file, finds and would change. Status 4: something to do. Nothing is written."""
    target = open_guest_files(images)
    with open_tools(Request(drivers=drivers, hooks=tuple(extra))) as tools, open_reader(target.images) as reader:
        guest = Guest(reader)
        proposal = propose([_named(name, tools.hooks)], guest, tools.options("result", target.domain))
        changes = [change_json(c, guest) for c in proposal.changes if not c.holds(guest)]
    if as_json:
        findings = [f.as_json() for f in proposal.findings]
        settings = [dataclasses.asdict(s) for s in proposal.settings]
        click.echo(json.dumps({"findings": findings, "changes": changes, "settings": settings}, indent=2, ensure_ascii=False))
    else:
        click.echo(table(proposal.findings))
        click.echo(diff(changes))
    return NOT_READY if changes or proposal.broken or proposal.refused else READY


def _named(name: str, known: Sequence[Hook]) -> Hook:
    if Path(name).is_file():
        return load_hook(Path(name))
    found = next((h for h in known if name in (h.name, h.path.name)), None)
    if found is None:
        raise UsageError(f"{name}: no such hook", hint=f"one of {', '.join(h.name for h in known)}")
    return found
