"""`h2k post`: what h2k-v2v does after virt-v2v, for pipelines in which virt-v2v runs elsewhere or has run already."""

from __future__ import annotations

import json
from typing import Any, Optional

import click

from h2k.base.finding import Finding
from h2k.base.host import guestfs_settings
from h2k.base.steps import Steps
from h2k.convert.finish import repair, tell
from h2k.convert.outputs import open_result
from h2k.convert.v2v_command import PHASES
from h2k.engine.pipeline import BUSES, Request, open_tools


@click.command()
@click.argument("result", metavar="NAME.xml|NAME.sh|NAME.yaml|DOMAIN")
@click.option("--drivers", metavar="PATH", help="virtio-win ISO or directory [default: $VIRTIO_WIN]")
@click.option("--plan", "plans", multiple=True, metavar="FILE", help="a driver plan, merged over the earlier")
@click.option("--policy", "policies", multiple=True, metavar="FILE", help="a policy, merged over the earlier")
@click.option("--bus", type=click.Choice(BUSES), default="virtio", show_default=True)
@click.option("--hooks", multiple=True, metavar="DIR", help="a directory with more hooks")
@click.option("--skip", multiple=True, metavar="HOOK", help="leave a hook out")
@click.option("--accept", multiple=True, metavar="FINDING", help="go on in spite of this refusal")
@click.option("--root", metavar="/dev/sdXN|first", help="which of several Windows systems is meant")
@click.option("--report", "report_dir", metavar="DIR", help="report directory [default: NAME.h2k]")
@click.option("--connect", metavar="URI", help="libvirt, for a DOMAIN that it knows [default: its own]")
@click.option("--define", type=click.Choice(PHASES), default=PHASES[0], show_default=True, help="what DOMAIN is left defined as")
@click.option("--json", "as_json", is_flag=True, help="print the report object on standard output")
def post(
    result: str, report_dir: Optional[str], connect: Optional[str], define: str, as_json: bool, **wishes: Any
) -> int:
    """Do to virt-v2v's result what h2k-v2v does after virt-v2v: repair, prove, commit, write both phases, report."""
    steps = Steps(quiet=as_json)
    settings = guestfs_settings()
    if settings:
        steps.say(settings)
    output, target = open_result(result, report_dir, connect, define)
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in wishes.items()}
    request = Request(**given)
    with open_tools(request) as tools:
        report = repair(tools, output, target, [_unseen(result)], steps)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        tell(report)
    return report.status


def _unseen(result: str) -> Finding:
    return Finding(
        "hive-dirty",
        "warning",
        result,
        "unknown of the source: virt-v2v ran without h2k; it marks dirty hives clean, and what their logs held is lost",
        "shut sources down cleanly before they are copied, or run h2k-v2v",
    )
