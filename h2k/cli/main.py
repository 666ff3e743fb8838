"""The command h2k: its commands gathered, and its exit status."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Optional

import click

from h2k import __version__
from h2k.base.errors import FAILED, READY, H2kError, UsageError
from h2k.base.option_table import H2K, spelled
from h2k.cli.command_help import Group, complete_help, message_of
from h2k.cli.options import log_everything
from h2k.engine.ending import error_record, print_json, quiet_output

_LOG = "%(name)s: %(message)s"
# Each command and its module. A module is imported when its command is asked for: all of them together are all of h2k,
# and that takes longer than to look at a guest.
_COMMANDS = {
    **dict.fromkeys(("inspect", "plan", "fix", "verify", "domains"), "guest_commands"),
    **dict.fromkeys(("boot", "validate"), "boot_commands"),
    "rollback": "rollback_command",
    "report": "report_command",
    "hooks": "hooks_command",
    **dict.fromkeys(("drivers", "doctor"), "host_commands"),
    "post": "post_command",
    "explain": "explain_command",
    "survey": "survey_command",
    "fleet": "fleet_commands",
}
_NAMES = {"fix": "fix_command", "boot": "boot_command", "validate": "validate_command"}  # where the module's name is another


class _Commands(Group):
    """The group of h2k's commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module = importlib.import_module(f"h2k.cli.{_COMMANDS[cmd_name]}")
            command: click.Command = getattr(module, _NAMES.get(cmd_name, cmd_name))
            complete_help(cmd_name, command)
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="log every external command")
def cli(verbose: bool) -> None:
    """Makes converted Windows guests boot on KVM: verified, reversible, logged.

    \b
    Exit status: 0 ready; 1 failed; 2 wrong usage or configuration; 3 refused, nothing was written;
    4 not ready; 5 the repair or the boot did not verify and was thrown away.

    Example: h2k inspect disk.qcow2
    """
    if verbose:
        log_everything()


complete_help("", cli)


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Every command with its name; groups too, and as `hooks run` what is below them."""
    for name in _COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield name, command
        for below, one in command.commands.items() if isinstance(command, click.Group) else ():
            yield f"{name} {below}", one


# What click from 8.2 on raises where it printed the help: a group that was given nothing.
_NO_ARGUMENTS = "NoArgsIsHelpError"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the h2k command and return its exit status; expected failures are one line, and JSON where it was asked for."""
    arguments = list(argv if argv is not None else sys.argv[1:])
    logging.basicConfig(level=logging.WARNING, format=_LOG)
    try:
        status = cli.main(args=list(arguments), prog_name=H2K, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except H2kError as e:
        return _failed(arguments, e)
    except click.ClickException as e:
        if type(e).__name__ == _NO_ARGUMENTS:
            return _shown_help(e)
        return _failed(arguments, UsageError(message_of(e), hint=_help_of(e)))
    except (click.Abort, KeyboardInterrupt):
        return _failed(arguments, H2kError("interrupted"))
    except BrokenPipeError:
        quiet_output()
        return FAILED
    except OSError as e:
        quiet_output()
        print(f"h2k: the output can't be written: {e.strerror}", file=sys.stderr)
        return FAILED
    return int(status or 0)


def _shown_help(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    click.echo(context.get_help() if context is not None else error.format_message())
    return READY


def _help_of(error: click.ClickException) -> str:
    """The command whose help tells what is right."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "h2k --help"


def _failed(argv: Sequence[str], error: H2kError) -> int:
    if "--json" in argv:
        print_json(error_record(H2K, argv, error))
    print(f"h2k: {spelled(str(error), H2K)}", file=sys.stderr)
    return error.exit_status
