"""Edits a hive file with hivex: a few typed edits, keys matched by case-insensitive path."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from h2k.errors import BadData


@dataclasses.dataclass(frozen=True)
class SetValue:
    """Set a value of a key below the root; keys that are missing on the way are made."""

    key: str
    name: str
    type: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class DeleteValue:
    """Remove a value, if it is there."""

    key: str
    name: str


@dataclasses.dataclass(frozen=True)
class DeleteKey:
    """Remove a key and all below it, if it is there."""

    key: str


HiveEdit = Union[SetValue, DeleteValue, DeleteKey]


def edit_hive(path: Path, edits: Sequence[HiveEdit]) -> None:
    """Carry the edits out in the file; BadData when hivex can't read, change or write the hive."""
    import hivex

    try:
        hive = hivex.Hivex(str(path), write=True)
        for edit in edits:
            _edit(hive, edit)
        hive.commit(None)
    except RuntimeError as e:
        raise BadData(f"{path.name}: hivex could not edit it: {e}", hint="restore the hive from a backup") from e


def _edit(hive: Any, edit: HiveEdit) -> None:
    node = _node(hive, edit.key, make=isinstance(edit, SetValue))
    if node is None:
        return
    if isinstance(edit, SetValue):
        hive.node_set_value(node, {"key": edit.name, "t": edit.type, "value": edit.data})
    elif isinstance(edit, DeleteKey):
        hive.node_delete_child(node)
    else:
        kept = [_value(hive, v) for v in hive.node_values(node) if hive.value_key(v).lower() != edit.name.lower()]
        hive.node_set_values(node, kept)


def _value(hive: Any, value: int) -> dict[str, Any]:
    kind, data = hive.value_value(value)
    return {"key": hive.value_key(value), "t": kind, "value": data}


def _node(hive: Any, path: str, make: bool) -> Any:
    node = hive.root()
    for part in filter(None, path.split("\\")):
        child = hive.node_get_child(node, part)  # hivex compares names without regard to case
        if child is None:
            if not make:
                return None
            child = hive.node_add_child(node, part)
        node = child
    return node
