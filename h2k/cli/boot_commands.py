"""The commands of `h2k` that start or ask a guest: boot and validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from h2k.base.errors import NOT_READY, READY, H2kError
from h2k.base.libvirt_connection import DEFAULT_URI
from h2k.base.steps import counted
from h2k.boot.cycle import BootRequest, boot
from h2k.boot.phase_domain import read_description_of
from h2k.boot.record import explain as explain_boot
from h2k.boot.record import next_commands, word
from h2k.boot.validate import explain as explain_checks
from h2k.boot.validate import validate_target
from h2k.cli.handles import record_directory
from h2k.cli.options import json_option, new_run, paths, table_option, verbose_option
from h2k.config.policy import load_policy
from h2k.domain.guest_files import GuestFiles
from h2k.engine.ending import guarded
from h2k.engine.outcome import Outcome
from h2k.engine.request import Request

_connect = click.option("--connect", metavar="URI", default=DEFAULT_URI, show_default=True, help="libvirt on this host")


@click.command(name="boot")
@click.argument("guest", metavar="NAME|NAME.xml|NAME.h2k|DOMAIN")
@_connect
@table_option("policy")
@click.option("--keep-overlay", is_flag=True, help="do not commit: leave the guest running on its overlays")
@click.option("--skip-bootstrap", is_flag=True, help="boot the final domain at once, if the guest has bound VirtIO already")
@table_option("allow-under")
@json_option
@verbose_option
def boot_command(
    guest: str,
    connect: str,
    policies: Sequence[str],
    keep_overlay: bool,
    skip_bootstrap: bool,
    allow_under: Sequence[str],
    as_json: bool,
) -> int:
    """Boot both phases on overlays, watch them, and commit.

    The guest is left running in production. When a boot fails, the disks are what they were.

    Example: h2k boot NAME.h2k
    """
    run = new_run(as_json)

    def work() -> Outcome:
        Request.of({"allow_under": allow_under})
        directory = record_directory(guest, connect)
        run.records, run.files = directory, _disks_of(directory)
        policy = load_policy(paths(policies))
        run.wants_page = policy.page
        request = BootRequest(directory, connect, keep_overlay, skip_bootstrap, policy)
        report = boot(request, run.steps, run.commit)
        run.report.more["boot"] = report.as_json()
        run.report.more["details"] = list(explain_boot(report))[1:]
        run.committed = report.verdict
        return Outcome(report.status, word(report.status), report.verdict, next_commands(report, directory))

    return guarded(run, work)


def _disks_of(directory: Path) -> Optional[GuestFiles]:
    """The guest's disks, which the record tells of; None where final.xml is what the boot is refused for."""
    try:
        return GuestFiles(read_description_of(directory, "final").disks, directory)
    except H2kError:
        return None


@click.command(name="validate")
@click.argument("name", metavar="DOMAIN|NAME.h2k")
@_connect
@table_option("policy")
@json_option
@verbose_option
def validate_command(name: str, connect: str, policies: Sequence[str], as_json: bool) -> int:
    """Check a running guest: agent, disks, addresses, ports, services.

    A check that can't be made from here is told as not observed, and never as passed.

    Example: h2k validate NAME
    """
    run = new_run(as_json)

    def work() -> Outcome:
        checks: Sequence[Any] = validate_target(name, connect, load_policy(paths(policies)))
        failed, unknown, skipped = ([c for c in checks if c.state == state] for state in ("failed", "unknown", "skipped"))
        run.report.more["checks"] = [check.as_json() for check in checks]
        run.report.more["details"] = list(explain_checks(checks))
        seen = f"{counted(len(checks), 'step')}, {len(failed)} failed, {len(unknown)} not observed"
        seen += f", {len(skipped)} skipped" if skipped else ""
        return Outcome(NOT_READY, "NOT VALIDATED", seen) if failed else Outcome(READY, "VALIDATED", seen)

    return guarded(run, work)
