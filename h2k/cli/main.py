"""The command h2k: its commands gathered, and its exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Optional

import click

from h2k import __version__
from h2k.base.errors import FAILED, H2kError, UsageError
from h2k.base.option_table import H2K
from h2k.cli.boot_commands import boot_command, validate_command
from h2k.cli.command_help import Group, complete_help, message_of
from h2k.cli.explain_command import explain
from h2k.cli.fleet_commands import fleet
from h2k.cli.guest_commands import domains, fix_command, inspect, plan, report, rollback, verify
from h2k.cli.hooks_command import hooks
from h2k.cli.host_commands import doctor, drivers
from h2k.cli.options import log_everything
from h2k.cli.post_command import post
from h2k.cli.survey_command import survey
from h2k.engine.ending import error_record, print_json, quiet_output

_LOG = "%(name)s: %(message)s"


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="log every external command")
def cli(verbose: bool) -> None:
    """Makes converted Windows guests boot on KVM: verified, reversible, logged.

    \b
    Exit status: 0 ready; 1 failed; 2 wrong usage or configuration; 3 refused, nothing was written;
    4 not ready; 5 the repair or the boot did not verify and was thrown away.
    """
    if verbose:
        log_everything()


for command in (
    inspect, plan, fix_command, verify, domains, boot_command, validate_command, rollback, report, hooks, drivers, doctor, post,
    explain,
    survey, fleet,
):  # fmt: skip
    cli.add_command(command)
complete_help(cli)


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


def _help_of(error: click.ClickException) -> str:
    """The command whose help tells what is right."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "h2k --help"


def _failed(argv: Sequence[str], error: H2kError) -> int:
    if "--json" in argv:
        print_json(error_record(H2K, argv, error))
    print(f"h2k: {error}", file=sys.stderr)
    return error.exit_status
