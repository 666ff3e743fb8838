"""`h2k rollback`: the disks get back what they held."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

import click

from h2k.base.errors import READY
from h2k.boot.take_back import take_back
from h2k.cli.options import guest_argument, json_option, new_run, table_option, verbose_option
from h2k.disk.overlay import RollbackResult
from h2k.domain.handles import open_guest_files
from h2k.engine.ending import guarded
from h2k.engine.outcome import Outcome
from h2k.engine.request import Request


@click.command()
@guest_argument
@table_option("report")
@table_option("allow-under")
@click.option("--force", is_flag=True, help="go back even though somebody has written to the disks since")
@json_option
@verbose_option
def rollback(images: Sequence[str], report: Optional[str], allow_under: Sequence[str], force: bool, as_json: bool) -> int:
    """Give the disks back what they held before the last run.

    Example: h2k rollback NAME.h2k
    """
    run = new_run(as_json)

    def done(result: RollbackResult) -> None:
        run.commit(str(result))
        run.report.more["rollback"] = dataclasses.asdict(result)

    def work() -> Outcome:
        Request.of({"allow_under": allow_under})
        run.files = open_guest_files(images, report)
        run.records = run.files.state
        result = take_back(run.files.writable(), run.files.state, force, run.steps.say, done)
        return Outcome(READY, "ROLLED BACK", str(result))

    return guarded(run, work)
