"""The quick check of documents and jsonschema agree on every schema of h2k's."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from h2k.config.schema_check import first_fault
from h2k.engine import hook_program

ROOT = Path(__file__).resolve().parents[2]
PLAN = json.loads((ROOT / "driver-plans" / "schema.json").read_text())
POLICY = json.loads((ROOT / "h2k" / "config" / "policy.schema.json").read_text())
RIGHT: list[tuple[str, Any, dict[str, Any]]] = [
    *((path.name, yaml.safe_load(path.read_text()), PLAN) for path in sorted((ROOT / "driver-plans").rglob("*.yaml"))),
    *((path.name, yaml.safe_load(path.read_text()), PLAN) for path in sorted((ROOT / "docs" / "examples").glob("*plan*.yaml"))),
    ("policy", {"writer": "direct", "bootstrap": {"boot": "required", "nic": "e1000e"}, "timeouts": {"settle": 60}}, POLICY),
    ("bootstrap", {"bootstrap": "required"}, POLICY),
    ("meta", {"name": "x", "summary": "what it does", "answers": ["a-finding"], "gate": True}, hook_program.META),
    ("needs", {"name": "x", "summary": "s", "answers": [], "needs": {"registry": ["SYSTEM\\Select"]}}, hook_program.DESCRIPTION),
    ("answer", {
        "findings": [{"id": "a", "state": "ok", "subject": "s", "evidence": "e"}],
        "changes": [{"change": "set_value", "hive": "SYSTEM", "key": "k", "name": "n", "type": "DWORD", "data": 1}],
    }, hook_program.ANSWER),
]  # fmt: skip
# What may stand where something else is right: other kinds, and numbers that Python takes for equal.
WRONG = (None, True, False, 0, 1, -1, 1.0, 1.5, float("nan"), 1 << 40, "", "x", "no such thing", "a\nb", "y" * 5000, [], [[]], {}, {"x": 1}, ["x"] * 2000)


@pytest.mark.parametrize(("name", "content", "schema"), RIGHT, ids=[name for name, _, _ in RIGHT])
def test_what_is_right_is_told_without_jsonschema(name: str, content: Any, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema.validate(content, schema, cls=jsonschema.Draft7Validator)
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # to import it would raise
    assert first_fault(content, schema) is None


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ():
        yield content, key
        yield from places(value)


@pytest.mark.parametrize(("name", "content", "schema"), RIGHT, ids=[name for name, _, _ in RIGHT])
def test_both_see_the_same_faults(name: str, content: Any, schema: dict[str, Any]) -> None:
    chance, judge = random.Random(name), jsonschema.Draft7Validator(schema)
    for _ in range(150):
        other = copy.deepcopy(content)
        container, key = chance.choice(list(places(other)))
        how = chance.randrange(4)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container, dict):
            container["nosuch"] = container.pop(key)
        else:
            container[key] = chance.choice(WRONG)
        assert (first_fault(other, schema) is None) == judge.is_valid(other), other


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ({"multipleOf": 2}, 3),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, 1]}),
        ({"enum": [1]}, 2),
        ({"$ref": "#/properties/a"}, 1),
    ],
)
def test_what_it_does_not_know_goes_to_jsonschema(schema: dict[str, Any], content: Any) -> None:
    if "$ref" not in schema:
        assert first_fault(content, schema) is not None
    else:
        assert first_fault(content, {**schema, "properties": {"a": {"type": "string"}}}) is not None


def test_one_is_not_true() -> None:
    assert first_fault(True, {"const": 1}) is not None
    assert first_fault(True, {"type": "integer"}) is not None
