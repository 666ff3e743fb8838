"""Records: one JSON file for each run of a guest in NAME.h2k/runs, refusals too; report.json is the newest of them.

Between versions of h2k: `schema` grows by one when a key changes its sense; keys are added without that. A record is
never rewritten. Readers take what they know and show the rest as it is (docs/develop/formats.md).
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import pwd
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k import __version__
from h2k.base.errors import NOT_READY, READY, REFUSED, H2kError, UsageError
from h2k.base.files import own_directory, write_json
from h2k.base.run import CommandFailed, run
from h2k.base.text import mask_argv

SCHEMA = 1
RECORD_LIMIT = 64 * 1024 * 1024  # bytes of one record; a repair of 100 changes has about 60 KiB
MAX_RECORDS = 100_000
RUNS, NEWEST, PLAN = "runs", "report.json", "plan.json"
_NAME = re.compile(r"([0-9]{5})-[a-z0-9-]+\.json")
_TOOL_SECONDS = 5.0


def read_json(path: Path, what: str = "record") -> Any:
    """A JSON file of h2k's; UsageError in one line when it is none: too large, too deep, not JSON, not readable."""
    try:
        if path.stat().st_size > RECORD_LIMIT:
            raise UsageError(f"{path}: larger than {RECORD_LIMIT} bytes; not a {what} of h2k")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as e:
        raise UsageError(f"{path}: nested too deeply; not a {what} of h2k") from e
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}", hint=f"no {what} here") from e
    except ValueError as e:
        raise UsageError(f"{path}: not a {what} of h2k: {e}") from e


def records(report_dir: Path) -> list[dict[str, Any]]:
    """Every record of a guest, oldest first; what can't be read is left out. A directory of h2k 0.1 has one."""
    return [record for _, record in _numbered(report_dir)] or [r for r in (newest(report_dir),) if r is not None]


def newest(report_dir: Path) -> Optional[dict[str, Any]]:
    """The record of the last run, None when there is none. UsageError for a report.json that is none."""
    path = report_dir / NEWEST
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("status"), int):
        raise UsageError(f"{path}: not a record of h2k: no status")
    return content


def ready_record(report_dir: Path) -> Optional[dict[str, Any]]:
    """The record that says whether the guest is ready: that of the last run that converted, repaired or refused it. A
    boot leaves it standing, and so does one that was rolled back; a repair that was rolled back is not ready any more."""
    current: Optional[dict[str, Any]] = None
    for record in records(report_dir):
        command = str(record.get("command", ""))
        undone = record.get("rollback", {}).get("kind") if isinstance(record.get("rollback"), dict) else None
        if command.endswith(" rollback"):
            if undone not in ("boot", "kept overlay", "unfinished boot") and current is not None and took_back(record):
                current = {**current, "status": NOT_READY, "verdict": "the repair was rolled back"}
        elif not command.endswith((" boot", " validate")) and not _was_kept_out(record):
            current = record
    return current


def judging_record(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record that tells how the guest is, of a history that is not empty: that of the last run that was not kept
    out. Where all were, it is the last."""
    return next((record for record in reversed(history) if not _was_kept_out(record)), history[-1])


def took_back(record: dict[str, Any]) -> bool:
    """Whether it is of a rollback that gave the disks back what they held; something may have failed after that."""
    done = record.get("status") == READY or isinstance(record.get("rollback"), dict)
    return done and str(record.get("command", "")).endswith(" rollback")


def _was_kept_out(record: dict[str, Any]) -> bool:
    """Whether a run was refused for what is around the guest (in use, rights, kept overlays), and so says nothing of it."""
    findings = record.get("findings")
    refused = [f.get("id") for f in findings if isinstance(f, dict) and f.get("state") == "refused"] if isinstance(findings, list) else []
    return record.get("status") == REFUSED and not set(map(str, refused)) - {"source-running"}


def _numbered(report_dir: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    directory = report_dir / RUNS
    names = sorted(p for p in directory.iterdir() if _NAME.fullmatch(p.name)) if directory.is_dir() else []
    for path in names[-MAX_RECORDS:]:
        try:
            content = read_json(path)
        except UsageError:
            continue
        if isinstance(content, dict):
            yield int(path.name[:5]), content


def next_number(report_dir: Path) -> int:
    """The number of the next record, from 1."""
    directory = report_dir / RUNS
    known = [int(p.name[:5]) for p in directory.iterdir() if _NAME.fullmatch(p.name)] if directory.is_dir() else []
    return max(known, default=0) + 1


def keep(report_dir: Path, record: dict[str, Any]) -> Path:
    """Write a record into runs/, and as report.json; plan.json has its changes. Returns report.json's path.

    A report.json of h2k 0.1 that lies there becomes the first record. Raises H2kError.
    """
    try:
        own_directory(report_dir)
        own_directory(report_dir / RUNS, 0o700)
        _adopt_older(report_dir)
        number = next_number(report_dir)
        record["run"] = number
        name = re.sub(r"[^a-z0-9]+", "-", str(record["command"]).lower()).strip("-")
        write_json(report_dir / RUNS / f"{number:05d}-{name}.json", record)
        write_json(report_dir / PLAN, {"changes": record.get("changes", []), "settings": record.get("settings", [])})
        path = report_dir / NEWEST
        write_json(path, record)
    except OSError as e:
        raise H2kError(f"{e.filename or report_dir}: the record can't be written: {e.strerror}", hint="free space or rights there") from e
    return path


def _adopt_older(report_dir: Path) -> None:
    """Keep what h2k 0.1 wrote, which had one report.json and no history."""
    older = report_dir / NEWEST
    if next_number(report_dir) == 1 and older.exists():
        try:
            content = read_json(older)
        except UsageError:
            return
        write_json(report_dir / RUNS / "00001-earlier.json", content)


def origin(command: str, argv: Sequence[str], started: datetime.datetime) -> dict[str, Any]:
    """Who ran what, where and when: the beginning of every record. Secrets in the command line are masked."""
    return {
        "schema": SCHEMA,
        "command": command,
        "argv": mask_argv(argv),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.datetime.now(datetime.timezone.utc) - started).total_seconds(), 1),
        "host": platform.node(),
        "user": _user(),
    }


def command_line(record: dict[str, Any]) -> str:
    """The command line of a record, as a shell would take it."""
    return shlex.join([str(record.get("command", "")).split(" ")[0], *map(str, record.get("argv", ()))])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def own_version() -> dict[str, str]:
    """h2k's and Python's versions alone, for runs that keep no record."""
    return {"h2k": __version__, "python": platform.python_version()}


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What worked here: h2k, Python, virt-v2v, QEMU's tools and libguestfs; "" where one is not installed."""
    return {
        **own_version(),
        "virt-v2v": _first_word_with_digit(["virt-v2v", "--version"]),
        "qemu": _first_word_with_digit(["qemu-img", "--version"]),
        "libguestfs": _guestfs_version(),
    }


def _first_word_with_digit(argv: Sequence[str]) -> str:
    try:
        words = run(argv, check=False, timeout=_TOOL_SECONDS).stdout.decode("utf-8", "replace").split()
    except CommandFailed:
        return ""
    return next((word for word in words if word[:1].isdigit()), "")


def _guestfs_version() -> str:
    try:
        import guestfs
    except ImportError:
        return ""
    found = guestfs.GuestFS(python_return_dict=True).version()
    return ".".join(str(found[key]) for key in ("major", "minor", "release"))


def disks_now(images: Sequence[tuple[Path, Optional[str]]]) -> list[dict[str, Any]]:
    """How the images are on the host right now: size in bytes and time stamp in nanoseconds, None where one is gone."""
    found = []
    for path, form in images:
        try:
            status = path.stat()
            found.append({"path": str(path.absolute()), "format": form, "bytes": status.st_size, "mtime": status.st_mtime_ns})
        except OSError:
            found.append({"path": str(path.absolute()), "format": form, "bytes": None, "mtime": None})
    return found

