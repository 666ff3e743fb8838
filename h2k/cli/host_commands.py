"""The commands of `h2k` about this host and its drivers: drivers and doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import click

from h2k.base.doctor import Check, lines
from h2k.base.doctor import doctor as host_doctor
from h2k.base.errors import NOT_READY, READY, H2kError, UsageError
from h2k.base.option_table import H2K, spelled
from h2k.base.text import shown
from h2k.cli.options import json_option, new_run, request_options, verbose_option
from h2k.config.policy import load_policy
from h2k.disk.open_reader import open_reader
from h2k.domain.guest_files import GuestFiles
from h2k.domain.handles import known_bus, open_guest_files
from h2k.engine.ending import guarded, print_json
from h2k.engine.outcome import Outcome
from h2k.engine.request import Request, Tools, open_tools
from h2k.engine.writers import expected
from h2k.guest import driver_audit
from h2k.guest.guest import Guest


@click.command()
@click.argument("images", nargs=-1, metavar="[NAME.xml|IMAGE…]")
@request_options
@click.option("--audit", metavar="PATH", help="what this virtio-win has for each Windows, who signed it, what would not start")
@json_option
@verbose_option
def drivers(images: Sequence[str], audit: Optional[str], as_json: bool, **wishes: Any) -> int:
    """Show which driver packages a guest gets.

    Example: h2k drivers NAME.xml --drivers virtio-win.iso
    """
    if audit is not None:
        return _audit({**wishes, "drivers": audit}, as_json)
    run = new_run(as_json)
    rows: list[dict[str, Any]] = []

    def work() -> Outcome:
        with open_tools(Request.of(wishes)) as tools:
            if tools.drivers is None:
                raise UsageError("no virtio-win found", hint="give --h2k-drivers PATH or set VIRTIO_WIN")
            rows.extend(_chosen(tools, open_guest_files(images)) if images else _roles(tools))
        missing = any("missing" in row for row in rows)
        return Outcome(NOT_READY if missing else READY, "DRIVERS", "")

    status = guarded(run, work, quiet=True)
    if rows and as_json:
        print_json({"status": status, "drivers": rows})
    elif rows:
        click.echo("\n".join(_table(rows)))
    return status


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each role: its INF, and where the package lies or why there is none."""
    role, inf = (max((len(str(row.get(key, ""))) for row in rows), default=0) for key in ("role", "inf"))
    for row in rows:
        last = f"MISSING: {row['missing']}" if "missing" in row else str(row.get("directory") or row.get("service", ""))
        yield shown(f"{row['role']:<{role}}  {row.get('inf', ''):<{inf}}  {last}".rstrip())


def _audit(wishes: dict[str, Any], as_json: bool) -> int:
    run = new_run(as_json)
    rows: list[driver_audit.Row] = []

    def work() -> Outcome:
        with open_tools(Request.of(wishes)) as tools:
            assert tools.drivers is not None
            rows.extend(driver_audit.audit(tools.drivers, tools.plan))
        return Outcome(NOT_READY if any(row.starts == "no" for row in rows) else READY, "DRIVERS", "")

    status = guarded(run, work, quiet=True)
    if rows and as_json:
        print_json({"status": status, "drivers": [row.as_json() for row in rows]})
    elif rows:
        click.echo("\n".join(row.text() for row in rows))
    return status


def _roles(tools: Tools) -> list[dict[str, Any]]:
    return [{"role": r.name, "inf": r.inf, "service": r.service} for r in tools.plan.roles]


def _chosen(tools: Tools, files: GuestFiles) -> list[dict[str, Any]]:
    assert tools.drivers is not None
    rows: list[dict[str, Any]] = []
    bus = tools.request.bus or known_bus(files)
    with open_reader(files.images) as reader:
        windows = Guest(reader, tools.request.root).windows
    for role in (r for r in tools.plan.roles if r.kind != "storage" or r.bus == bus):
        try:
            package = tools.drivers.find(tools.plan, role, windows)
            rows.append({"role": role.name, "directory": package.directory, "inf": package.inf.name})
        except H2kError as e:
            rows.append({"role": role.name, "missing": spelled(e.message, H2K)})
    return rows


@click.command()
@json_option
@verbose_option
def doctor(as_json: bool) -> int:
    """Check that this host has what conversions and boots need.

    For each thing that lacks, the way to it on Debian and on EL or Fedora is told.

    Example: h2k doctor
    """
    checks: list[Check] = []

    def work() -> Outcome:
        checks.extend((*host_doctor(), _writer_check()))
        return Outcome(READY if all(check.ok for check in checks) else NOT_READY, "DOCTOR", "")

    status = guarded(new_run(as_json), work, quiet=True)
    if checks and as_json:
        print_json({"status": status, "checks": [dataclasses.asdict(c) for c in checks]})
    elif checks:
        click.echo("\n".join(lines(checks)))
    return status


def _writer_check() -> Check:
    """What will write into guests; that the policy wants the appliance is no lack."""
    wanted = load_policy().writer
    _, why = expected(wanted)
    if not why:
        return Check("writer", True, "direct: ntfs-3g and mtools in a sandbox", needed="")
    detail, packages = f"appliance, which takes longer: {why}", "bubblewrap libnbd-bin ntfs-3g mtools"
    return Check("writer", wanted == "appliance", detail, "", f"apt install {packages}", "dnf install bubblewrap ntfs-3g mtools", "")
