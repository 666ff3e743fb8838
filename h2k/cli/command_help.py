"""What every command's help has beside its own words: whole sentences, its exit statuses, and the word that was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import click

from h2k.base.option_table import as_sentence, near

# What each command's exit statuses mean; 1 and 2 mean the same for all of them.
_STATUSES = {
    "boot": "0 booted and in production; 3 refused, nothing was written; 4 it runs, and a check of production failed; 5 the boot "
    "did not verify, and the disks are what they were",
    "doctor": "0 this host is ready; 4 something lacks",
    "domains": "0 written; 3 refused, nothing was written; 4 the disks need `h2k fix` first",
    "drivers": "0 every package is there; 4 one is missing, or would not start",
    "explain": "0 explained, and nothing stops the guest; 3 the guest is refused; 4 something would keep it from working",
    "fix": "0 ready; 3 refused, nothing was written; 4 with --dry-run: something is to be done; 5 the repair did not verify and "
    "was thrown away",
    "fleet ansible": "0 written",
    "fleet plan": "0 planned",
    "fleet report": "0 all are done; 1 one failed; 3 one was refused; 4 some are left",
    "fleet retry": "0 all are done; 1 one failed; 3 one was refused; 4 some are left",
    "fleet run": "0 all are done; 1 one failed; 3 one was refused; 4 some are left",
    "fleet status": "0 all are done; 1 one failed; 3 one was refused; 4 some are left",
    "hooks check": "0 each can be loaded",
    "hooks list": "0 listed",
    "hooks run": "0 nothing is to be done; 4 the hook found something",
    "inspect": "0 shown",
    "plan": "0 nothing is to be done; 3 refused; 4 something is to be done",
    "post": "0 ready; 3 refused, nothing was written; 5 the repair did not verify and was thrown away",
    "report": "that of the run which the record is of; 4 the disks are not what it speaks of",
    "rollback": "0 back; 3 refused, nothing was written",
    "survey": "0 every guest can be converted; 3 one is refused; 4 one is unknown",
    "validate": "0 nothing failed; 4 a check failed",
    "verify": "0 ready; 3 refused; 4 not ready",
}
_ALWAYS = "1 an unexpected failure; 2 wrong usage or configuration"


class Word(click.Choice):
    """One of several words."""

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        """The word; what it must be one of, and the one that was probably meant, otherwise."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value} is not one of {', '.join(self.choices)}{meant(str(value), self.choices)}", param, ctx)


class Group(click.Group):
    """Commands that say which one was meant."""

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        """The command that the first argument names."""
        if args and self.get_command(context, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"{args[0]}: no such command{meant(args[0], self.list_commands(context))}", context)
        return super().resolve_command(context, args)


def message_of(error: click.ClickException) -> str:
    """What click says, in a line of ours; an option that does not exist with the one that was meant."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [spelling for p in error.ctx.command.get_params(error.ctx) for spelling in p.opts if spelling.startswith("--")]
        return f"{error.option_name}: no such option{meant(error.option_name, known)}"
    return error.format_message()


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a line about a word that does not exist."""
    found = near(word, known)
    return f"; did you mean {found}?" if found else ""


def complete_help(name: str, command: click.Command) -> None:
    """Give a command, and every one below it, its exit statuses, and every option a whole sentence."""
    for option in (p for p in command.params if isinstance(p, click.Option)):
        option.help = as_sentence(option.help or "")
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            complete_help(f"{name} {below}", one)
    else:
        command.epilog = f"Exit status: {_STATUSES[name]}; {_ALWAYS}."
