"""The options of `h2k`, made from the one option table, and what every command of it begins with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, TypeVar

import click

from h2k.base.option_table import BY_NAME, H2K, OPTIONS, Option
from h2k.base.steps import Steps
from h2k.cli.command_help import Word
from h2k.cli.completion import COMPLETES
from h2k.engine.runs import Run

F = TypeVar("F", bound=Callable[..., Any])
HANDLES = "NAME|NAME.xml|NAME.h2k|GUEST.vmx|IMAGE…"


def _click_option(option: Option) -> Callable[[F], F]:
    """One row of the table as click has it."""
    declaration = (f"--{option.name}", option.field)
    if not option.metavar:
        return click.option(*declaration, is_flag=True, help=option.help)
    kind = Word(option.choices) if option.choices else None
    metavar = None if kind else option.metavar  # click shows the words of one that has some
    return click.option(
        *declaration, metavar=metavar, multiple=option.many, type=kind, help=option.help, shell_complete=COMPLETES.get(option.name)
    )


def request_options(command: F) -> F:
    """Every option that shapes a look at a guest."""
    for option in reversed([o for o in OPTIONS if o.request and H2K in o.programs]):
        command = _click_option(option)(command)
    return command


def table_option(name: str) -> Callable[[F], F]:
    """One other option of the table."""
    return _click_option(BY_NAME[name])


json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON object on standard output, whatever happens")


def verbose_option(command: F) -> F:
    """-v after the command's name too."""

    def heard(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            log_everything()

    option = click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=heard, help="log every external command")
    return option(command)


def log_everything() -> None:
    """What -v asks for."""
    logging.getLogger().setLevel(logging.DEBUG)


def guest_argument(command: F) -> F:
    """The guest that a command works on, by any of its handles."""
    return click.argument("images", nargs=-1, required=True, metavar=HANDLES)(command)


def guest_options(command: F) -> F:
    """What all commands have that look at one guest."""
    return guest_argument(table_option("report")(request_options(json_option(verbose_option(command)))))


def new_run(as_json: bool = False, **given: Any) -> Run:
    """The run of the command that click is in."""
    context = click.get_current_context()
    argv: Sequence[str] = context.find_root().meta.get("h2k.argv", sys.argv[1:])
    path = context.command_path.replace(context.find_root().info_name or H2K, H2K, 1)
    return Run(path, tuple(argv), steps=Steps(quiet=as_json), as_json=as_json, **given)


def paths(names: Sequence[str]) -> list[Path]:
    """File names as paths."""
    return [Path(name) for name in names]
