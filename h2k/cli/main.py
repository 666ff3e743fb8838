"""The h2k command: inspect, plan, fix, verify, domains, rollback, report, hooks, drivers, doctor."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

import click

from h2k import __version__
from h2k.base.errors import FAILED, NOT_READY, READY, H2kError, UsageError
from h2k.base.host import doctor as host_doctor
from h2k.base.host import guestfs_settings
from h2k.base.libvirt_connection import DEFAULT_URI
from h2k.base.steps import Steps, counted
from h2k.boot.cycle import BootRequest, boot
from h2k.boot.hardware import add_hardware
from h2k.boot.record import explain as explain_boot
from h2k.boot.take_back import take_back
from h2k.boot.validate import explain as explain_checks
from h2k.boot.validate import validate_target
from h2k.cli.hooks_command import hooks
from h2k.cli.post_command import post
from h2k.config.policy import load_policy
from h2k.convert.libvirt_result import report_directory
from h2k.domain.guest_files import GuestFiles
from h2k.domain.handles import open_guest_files
from h2k.engine.pipeline import BUSES, Request, assess, examine, facts_of, fix, open_tools
from h2k.engine.report import Report, diff
from h2k.engine.verdict import explain
from h2k.engine.write_domains import emit, print_outcome

F = TypeVar("F", bound=Callable[..., Any])


def _request_options(command: F) -> F:
    """The options that shape a run, the same for every command that looks at a guest."""
    for option in (
        click.option("--drivers", metavar="PATH", help="virtio-win ISO or directory [default: $VIRTIO_WIN]"),
        click.option("--plan", "plans", multiple=True, metavar="FILE", help="a driver plan, merged over the earlier"),
        click.option("--policy", "policies", multiple=True, metavar="FILE", help="a policy, merged over the earlier"),
        click.option("--config", metavar="FILE", help="a hyper2kvm configuration, below the plans and policies"),
        click.option("--bus", type=click.Choice(BUSES), default="virtio", show_default=True),
        click.option("--hooks", multiple=True, metavar="DIR", help="a directory with more hooks"),
        click.option("--skip", multiple=True, metavar="HOOK", help="leave a hook out"),
        click.option("--accept", multiple=True, metavar="FINDING", help="go on in spite of this refusal"),
        click.option("--root", metavar="/dev/sdXN|first", help="which of several Windows systems is meant"),
    ):
        command = option(command)
    return command


def _target(command: F) -> F:
    command = click.option("--json", "as_json", is_flag=True, help="print the report object on standard output")(command)
    command = click.option("--report", "report_dir", metavar="DIR", help="report directory [default: NAME.h2k]")(command)
    return click.argument("images", nargs=-1, required=True, metavar="DOMAIN.xml|IMAGE…")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="log every external command")
def cli(verbose: bool) -> None:
    """Makes converted Windows guests boot on KVM: verified, reversible, logged."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(name)s: %(message)s")


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _show(report: Report, as_json: bool) -> int:
    if as_json:
        _print_json(report.as_json())
    else:
        print_outcome(report)
    return report.status


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="DOMAIN.xml|IMAGE…")
@click.option("--json", "as_json", is_flag=True, help="print the facts as JSON")
def inspect(images: Sequence[str], as_json: bool) -> int:
    """Show what the guest is: Windows version, firmware, disks, hives."""
    facts = facts_of(open_guest_files(images).images)
    if as_json:
        _print_json(facts)
    else:
        for key, value in facts.items():
            click.echo(f"{key + ':':<16} {value if not isinstance(value, (list, dict)) else json.dumps(value)}")
    return READY


@cli.command()
@_target
@_request_options
def plan(images: Sequence[str], report_dir: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Show what fix would change, as a diff. Status 4: there is something to do."""
    return _look(images, report_dir, as_json, wishes, show_diff=True)


@cli.command()
@_target
@_request_options
@click.option("--ask-qemu", is_flag=True, help="start a scratch copy of each domain, paused, and check what it shows")
@click.option("--connect", metavar="URI", default=DEFAULT_URI, show_default=True, help="libvirt, for --ask-qemu")
def verify(
    images: Sequence[str], report_dir: Optional[str], as_json: bool, ask_qemu: bool, connect: str, **wishes: Any
) -> int:
    """Check every guarantee, read-only. Status 4: not ready."""
    if not ask_qemu:
        return _look(images, report_dir, as_json, wishes, show_diff=False)
    target = open_guest_files(images, report_dir)
    with open_tools(_request(wishes)) as tools:
        report = assess(examine(tools, target.images, "result", target.domain))
    if report.status in (READY, NOT_READY) and report.guest.get("windows"):
        add_hardware(report, target, connect)
    return _show(report, as_json)


def _look(images: Sequence[str], report_dir: Optional[str], as_json: bool, wishes: Any, show_diff: bool) -> int:
    target = open_guest_files(images, report_dir)
    with open_tools(_request(wishes)) as tools:
        report = assess(examine(tools, target.images, "result", target.domain))
    if show_diff and not as_json and report.changes:
        click.echo(diff(report.changes))
    return _show(report, as_json)


def _request(wishes: dict[str, Any]) -> Request:
    return Request(
        bus=wishes["bus"],
        drivers=wishes["drivers"],
        plans=tuple(wishes["plans"]),
        hooks=tuple(wishes["hooks"]),
        skip=tuple(wishes["skip"]),
        accept=tuple(wishes["accept"]),
        policies=tuple(wishes["policies"]),
        config=wishes["config"],
        root=wishes["root"],
    )


@cli.command(name="fix")
@_target
@_request_options
@click.option("--dry-run", is_flag=True, help="plan only; write nothing")
def fix_command(images: Sequence[str], report_dir: Optional[str], as_json: bool, dry_run: bool, **wishes: Any) -> int:
    """Repair on an overlay, prove it through other code, commit; a healthy guest gets no write."""
    target = open_guest_files(images, report_dir)
    steps = Steps(quiet=as_json)
    settings = guestfs_settings()
    if settings:
        steps.say(settings)
    with open_tools(_request(wishes)) as tools:
        seen = fix(tools, target.writable(), target.state, steps, target.domain, dry_run=dry_run)
        seen.report.timings = steps.timings
        if not dry_run:
            emit(tools, target, seen, steps)
            seen.report.write(target.state)
    return _show(seen.report, as_json)


@cli.command()
@_target
@_request_options
def domains(images: Sequence[str], report_dir: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Write bootstrap.xml and final.xml for a guest, without touching its disks."""
    target = open_guest_files(images, report_dir)
    if target.domain is None:
        raise UsageError("domains needs a libvirt domain XML", hint="h2k domains NAME.xml")
    steps = Steps(quiet=as_json)
    with open_tools(_request(wishes)) as tools:
        seen = examine(tools, target.images, "result", target.domain)
        report = assess(seen)
        emit(tools, target, seen, steps)
    return _show(report, as_json)


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="DOMAIN.xml|IMAGE…")
@click.option("--report", "report_dir", metavar="DIR", help="report directory [default: NAME.h2k]")
@click.option("--force", is_flag=True, help="go back even though somebody has written to the disks since")
@click.option("--json", "as_json", is_flag=True)
def rollback(images: Sequence[str], report_dir: Optional[str], force: bool, as_json: bool) -> int:
    """Give the disks back the content that they had before the last repair."""
    target = open_guest_files(images, report_dir)
    result = take_back(target.writable(), target.state, force, Steps(quiet=as_json).say)
    if as_json:
        _print_json(dataclasses.asdict(result))
    else:
        click.echo(f"h2k: {result}")
    return READY


@cli.command(name="boot")
@click.argument("directory", metavar="NAME.h2k|DOMAIN")
@click.option("--connect", metavar="URI", default=DEFAULT_URI, show_default=True, help="libvirt on this host")
@click.option("--policy", "policies", multiple=True, metavar="FILE", help="time-outs, validation, bootstrap")
@click.option("--keep-overlay", is_flag=True, help="do not commit: leave the guest running on its overlays")
@click.option("--skip-bootstrap", is_flag=True, help="boot the final domain at once, if the guest has bound VirtIO already")
@click.option("--json", "as_json", is_flag=True, help="print the report object on standard output")
def boot_command(
    directory: str, connect: str, policies: Sequence[str], keep_overlay: bool, skip_bootstrap: bool, as_json: bool
) -> int:
    """Boot both phases on overlays, watch them, commit, and leave the guest running. Status 5: as it was before."""
    policy = load_policy([Path(p) for p in policies])
    steps = Steps(quiet=as_json)
    report = boot(BootRequest(report_directory(directory, connect), connect, keep_overlay, skip_bootstrap, policy), steps)
    if as_json:
        _print_json(report.as_json())
    else:
        click.echo("\n".join(explain_boot(report)))
    return report.status


@cli.command(name="validate")
@click.argument("name", metavar="DOMAIN|NAME.h2k")
@click.option("--connect", metavar="URI", default=DEFAULT_URI, show_default=True)
@click.option("--policy", "policies", multiple=True, metavar="FILE", help="what is to be validated")
@click.option("--json", "as_json", is_flag=True)
def validate_command(name: str, connect: str, policies: Sequence[str], as_json: bool) -> int:
    """Validate a running guest: agent, disks, addresses, ports, services, crashes. Status 4: something failed."""
    policy = load_policy([Path(p) for p in policies])
    checks = validate_target(name, connect, policy)
    failed = [check for check in checks if check.state == "failed"]
    if as_json:
        _print_json({"status": NOT_READY if failed else READY, "checks": [check.as_json() for check in checks]})
    else:
        click.echo(f"h2k: {'NOT VALIDATED' if failed else 'VALIDATED'}: {counted(len(checks), 'step')}, {len(failed)} failed")
        click.echo("\n".join(explain_checks(checks)))
    return NOT_READY if failed else READY


@cli.command()
@click.argument("directory", metavar="NAME.h2k")
@click.option("--json", "as_json", is_flag=True)
def report(directory: str, as_json: bool) -> int:
    """Show the report of an earlier run."""
    path = Path(directory) / "report.json" if Path(directory).is_dir() else Path(directory)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: no report here: {e}", hint="h2k report NAME.h2k") from e
    if as_json:
        _print_json(content)
    else:
        explain(content)
    return int(content.get("status", FAILED))


@cli.command()
@click.argument("images", nargs=-1, metavar="[DOMAIN.xml|IMAGE…]")
@_request_options
@click.option("--json", "as_json", is_flag=True)
def drivers(images: Sequence[str], as_json: bool, **wishes: Any) -> int:
    """Show which driver packages the plan chooses for a guest."""
    rows: list[dict[str, Any]] = []
    with open_tools(_request(wishes)) as tools:
        if tools.drivers is None:
            raise UsageError("no virtio-win found", hint="give --drivers PATH or set VIRTIO_WIN")
        if not images:
            rows = [{"role": r.name, "inf": r.inf, "service": r.service} for r in tools.plan.roles]
        else:
            rows = _chosen(tools, open_guest_files(images))
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            click.echo("  ".join(f"{key}={value}" for key, value in row.items()))
    return READY


def _chosen(tools: Any, target: GuestFiles) -> list[dict[str, Any]]:
    from h2k.disk.open_reader import open_reader
    from h2k.guest.guest import Guest

    rows = []
    with open_reader(target.images) as reader:
        windows = Guest(reader, tools.request.root).windows
    for role in tools.plan.roles:
        try:
            package = tools.drivers.find(tools.plan, role, windows)
            rows.append({"role": role.name, "directory": package.directory, "inf": package.inf.name})
        except H2kError as e:
            rows.append({"role": role.name, "missing": e.message})
    return rows


@cli.command()
@click.option("--json", "as_json", is_flag=True)
def doctor(as_json: bool) -> int:
    """Check this host: KVM that works, kernel, virt-v2v, OVMF, libvirt, virtio-win."""
    checks = host_doctor()
    if as_json:
        _print_json([dataclasses.asdict(c) for c in checks])
    else:
        for check in checks:
            hint = f" → {check.hint}" if check.hint and not check.ok else ""
            click.echo(f"{'ok  ' if check.ok else 'LOOK'} {check.name:<16} {check.detail}{hint}")
    return READY if all(check.ok for check in checks) else NOT_READY


cli.add_command(hooks)
cli.add_command(post)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the h2k command and return its exit status; expected failures are one line on standard error."""
    try:
        status = cli.main(args=list(argv) if argv is not None else None, prog_name="h2k", standalone_mode=False)
    except H2kError as e:
        print(f"h2k: {e}", file=sys.stderr)
        return e.exit_status
    except click.ClickException as e:
        e.show()
        return 2
    except click.Abort:
        return FAILED
    return int(status or 0)
