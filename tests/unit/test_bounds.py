"""The bounds of docs/security.md: each bound in the code is in the table, with the value that it has."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.hooks import packaged

ROOT = Path(__file__).resolve().parents[2]
BOUND = re.compile(r"_?MAX_\w+|\w*(LIMIT|MOST|LONGEST|MARGIN|SECONDS|PAGED_FROM|PATIENCE|ADDRESS_SPACE)")
ROW = re.compile(r"\| .+ \| ([\d,]+) ?(\w*) \| `(\S+)` `(\w+)` \|")
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def in_the_document() -> Iterator[tuple[tuple[str, str], float]]:
    """((file, constant), value) of each row."""
    for number, unit, file, name in ROW.findall((ROOT / "docs/security.md").read_text(encoding="utf-8")):
        yield (file, name), int(number.replace(",", "")) * UNITS.get(unit, 1)


def in_the_code() -> Iterator[tuple[tuple[str, str], float]]:
    """The same of each number in a module of h2k or a hook whose name says that it is a bound."""
    hooks = {hook.path.name: hook.propose.__globals__ for hook in packaged().values()}
    for path in (*ROOT.glob("h2k/**/*.py"), *ROOT.glob("hooks/*.py")):
        file = path.relative_to(ROOT)
        names = list(filter(BOUND.fullmatch, assigned(path)))
        if names:
            values = hooks.get(path.name) or vars(importlib.import_module(".".join(file.with_suffix("").parts)))
            yield from (((str(file), name), values[name]) for name in names if isinstance(values[name], (int, float)))


def assigned(path: Path) -> Iterator[str]:
    """The names that a module itself gives values to."""
    for statement in ast.parse(path.read_bytes()).body:
        targets: list[Any] = getattr(statement, "targets", None) or [getattr(statement, "target", ast.Pass())]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def test_every_bound_is_in_the_document_with_its_value() -> None:
    document, code = set(in_the_document()), set(in_the_code())
    assert len(document) > 100
    assert sorted(document - code) == [], "docs/security.md has these, the code has not"
    assert sorted(code - document) == [], "the code has these, docs/security.md has not: a row for each"
