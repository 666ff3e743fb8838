"""From what a person gives (NAME, NAME.xml, NAME.h2k, a domain of libvirt) to the guest's report directory."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from h2k.base.errors import UsageError
from h2k.convert.libvirt_result import report_directory
from h2k.engine.records import NEWEST, RUNS


def record_directory(handle: str, uri: Optional[str] = None) -> Path:
    """The report directory of a guest. UsageError when there is none."""
    for place in _candidates(handle):
        if (place / NEWEST).is_file() or (place / RUNS).is_dir():
            return place
    path = Path(handle)
    if path.suffix in (".xml", ".h2k") or "/" in handle or path.exists():
        raise UsageError(f"{handle}: no report directory of h2k", hint="h2k fix NAME.xml makes NAME.h2k")
    return report_directory(handle, uri)


def _candidates(handle: str) -> tuple[Path, ...]:
    path = Path(handle)
    if path.name == NEWEST:
        return (path.parent,)
    return (path, path.with_suffix(".h2k"), path.with_name(f"{path.name}.h2k")) if path.name else (path,)
