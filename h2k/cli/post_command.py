"""`h2k post`: what h2k-v2v does after virt-v2v, for pipelines in which virt-v2v runs elsewhere or has run already."""

from __future__ import annotations

from typing import Any, Optional

import click

from h2k.base.finding import Finding
from h2k.cli.options import json_option, new_run, request_options, table_option, verbose_option
from h2k.convert.finish import repair
from h2k.convert.outputs import open_result
from h2k.engine.ending import guarded
from h2k.engine.outcome import Outcome
from h2k.engine.request import Request, open_tools


@click.command()
@click.argument("result", metavar="NAME.xml|NAME.sh|NAME.yaml|DOMAIN")
@table_option("report")
@request_options
@click.option("--connect", metavar="URI", help="libvirt, for a DOMAIN that it knows [default: its own]")
@table_option("define")
@json_option
@verbose_option
def post(result: str, report: Optional[str], connect: Optional[str], define: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Do to virt-v2v's result what h2k-v2v does after virt-v2v.

    It is repaired on an overlay, the repair is proven and committed, and both domains and the record are written.

    Example: h2k post NAME.xml --drivers virtio-win.iso
    """
    run = new_run(as_json)

    def work() -> Outcome:
        request = Request.of(wishes)
        output, run.files = open_result(result, report, connect, define)
        run.records = run.files.state
        run.report.findings = [_unseen(result)]
        with open_tools(request) as run.tools:
            return repair(run, output)

    return guarded(run, work)


def _unseen(result: str) -> Finding:
    return Finding(
        "hive-dirty",
        "warning",
        result,
        "unknown of the source: virt-v2v ran without h2k; it marks dirty hives clean, and what their logs held is lost",
        "shut sources down cleanly before they are copied, or run h2k-v2v",
    )
