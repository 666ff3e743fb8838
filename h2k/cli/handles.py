"""From what a person gives (NAME, NAME.xml, NAME.h2k, images, a domain of libvirt) to the guest and its report directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import UsageError
from h2k.disk import direct_reader
from h2k.domain.handles import open_guest_files
from h2k.engine.records import NEWEST, RUNS
from h2k.engine.request import Request, open_tools
from h2k.engine.runs import Run


@contextmanager
def opened(run: Run, images: Sequence[str], report: Optional[str], wishes: dict[str, Any]) -> Iterator[None]:
    """The guest's files and the tools of a run, for as long as this block lasts."""
    direct_reader.start_by_fork()
    request = Request.of(wishes)
    run.files = open_guest_files(images, report)
    with open_tools(request) as run.tools:
        run.know_the_bus()
        yield


def record_directory(handle: str, uri: Optional[str] = None) -> Path:
    """The report directory of a guest. UsageError when there is none."""
    for place in _candidates(handle):
        if (place / NEWEST).is_file() or (place / RUNS).is_dir():
            return place
    path = Path(handle)
    if path.suffix in (".xml", ".h2k") or "/" in handle or path.exists():
        raise UsageError(f"{handle}: no report directory of h2k", hint="h2k fix NAME.xml makes NAME.h2k")
    from h2k.convert.libvirt_result import report_directory  # as large as the rest of this command, and seldom asked for

    return report_directory(handle, uri)


def _candidates(handle: str) -> tuple[Path, ...]:
    path = Path(handle)
    if path.name == NEWEST:
        return (path.parent,)
    return (path, path.with_suffix(".h2k"), path.with_name(f"{path.name}.h2k")) if path.name else (path,)
