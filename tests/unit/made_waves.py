"""Surveys' rows and the waves that are made of them, for the tests of both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from h2k.fleet.look import READY, Row, blank
from h2k.fleet.sources import VMX, Source
from h2k.fleet.wave_plan import Wishes, waves_yaml
from h2k.fleet.waves import read_waves


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "waves.yaml"
    path.write_text(text)
    return path


def row(name: str, kind: str = READY, size: int = 100, estimate: Any = 10, **more: Any) -> Row:
    source = Source(f"/exports/{name}.vmx", VMX, f"/exports/{name}.vmx", name, "/exports")
    return {**blank(source), "class": kind, "bytes": size, "estimate": estimate, **more}


WISHES = Wishes("/out", 2, 1, night=100, most=3)


def planned(tmp_path: Path, *rows: Row, wishes: Wishes = WISHES) -> tuple[str, list[tuple[int, str]]]:
    text = waves_yaml({"made": "today", "guests": list(rows)}, wishes)
    return text, [(entry.wave, entry.name) for entry in read_waves(written(tmp_path, text)).entries]
