"""waves.yaml: every mistake with its line; and the text that h2k fleet plan makes of a survey is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h2k.base.errors import UsageError
from h2k.fleet.look import REFUSED_CLASS
from h2k.fleet.waves import read_waves, schema
from tests.unit.made_waves import planned, row, written

GOOD = """\
version: 1
output: out
options: [--h2k-drivers=/iso]
limits: {jobs: 3, per_source: 1}
waves:
  - wave: 2
    window: "22:00-05:30"
    guests:
      - {name: web, source: /exports/web.vmx, kind: vmx, datastore: /exports, bytes: 10, estimate: 5}
  - wave: 1
    guests:
      - {name: db, source: /exports/db.raw, kind: disk, policy: own.yaml, output: /elsewhere, options: [-c]}
"""


def test_what_stands_in_it(tmp_path: Path) -> None:
    waves = read_waves(written(tmp_path, GOOD))
    db, web = waves.entries
    assert (waves.jobs, waves.per_source, waves.window(2), waves.window(1)) == (3, 1, "22:00-05:30", None)
    assert (db.name, db.wave, db.program, db.output) == ("db", 1, "h2k-qemu-img", Path("/elsewhere"))
    assert db.options == ("--h2k-drivers=/iso", "--h2k-policy", str(tmp_path / "own.yaml"), "-c")
    assert (web.program, web.state, web.estimate) == ("h2k-v2v", tmp_path / "out" / "web.h2k", 5)
    assert waves.of(2) == (web,)
    with pytest.raises(UsageError, match=r"no wave 7 .*there are: 1, 2"):
        waves.of(7)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("version: 1", "version: 2", 1, "waves of version 2; this h2k reads 1"),
        ("kind: vmx", "kind: vmy", 9, "vmy"),
        ("name: web", "name: ../web", 9, "waves/0/guests/0/name"),
        ("name: web", "name: -web", 9, "name"),
        ("bytes: 10", "bytes: many", 9, "many"),
        ("estimate: 5", "estimat: 5", 9, "estimat"),
        ("  - wave: 1", "  - wave: 2", 10, "wave 2 is there twice"),
        ('"22:00-05:30"', '"22-5"', 7, "22-5"),
        ("jobs: 3", "jobs: 0", 4, "jobs"),
        ("kind: vmx", "kind: vmx, program: h2k-qemu-img", 9, "kind: disk alone"),
        ("name: db", "name: web", 12, "already, in line 9"),
        ("limits:", "limit:", 4, "limit"),
    ],
)
def test_every_mistake_has_its_line(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    text = GOOD.replace(", output: /elsewhere", "").replace(old, new, 1)
    with pytest.raises(UsageError, match=f"waves.yaml, line {line}: ") as caught:
        read_waves(written(tmp_path, text))
    assert why in str(caught.value)


def test_a_line_without_its_mark_is_a_guest(tmp_path: Path) -> None:
    text, _ = planned(tmp_path, row("web"), row("old", REFUSED_CLASS))
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("#     - "))
    moved = lines.pop(at).replace("#", " ", 1)
    lines.insert(next(n for n, line in enumerate(lines) if line.startswith("      - ")), moved)
    assert {e.name for e in read_waves(written(tmp_path, "\n".join(lines))).entries} == {"web", "old"}


def test_docs_have_the_schema() -> None:
    assert json.loads((Path(__file__).resolve().parents[2] / "docs" / "schemas" / "waves.json").read_text()) == schema()
