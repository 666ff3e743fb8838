"""The words that the shell completes: hooks, findings, and the words of an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from h2k.base.errors import H2kError
from h2k.engine.catalogue import ACCEPTABLE, BY_ID
from h2k.engine.hooks import find_hooks


def hook_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The hooks that this command line would find, --hooks DIR included."""
    extra: Any = context.params.get("hooks") or ()
    try:
        return _items((hook.name for hook in find_hooks([Path(d) for d in extra])), incomplete)
    except H2kError:
        return []  # a shell has no place for an error; the command itself tells it


def finding_ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Every finding of the catalogue."""
    return _items(BY_ID, incomplete)


def acceptable_ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The refusals that --accept takes."""
    return _items(sorted(ACCEPTABLE), incomplete)


COMPLETES = {"skip": hook_names, "accept": acceptable_ids}


def _items(words: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
