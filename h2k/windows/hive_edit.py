"""Edits a hive file with hivex: a few typed edits, keys matched by case-insensitive path."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from h2k.base.errors import BadData
from h2k.windows import regf

_BY_HAND = "make this change by hand, with reg.exe in the guest"


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
RawValue = tuple[str, int, bytes]  # name, type, data


def edit_hive(path: Path, edits: Sequence[HiveEdit]) -> None:
    """Carry the edits out in the file; BadData when hivex can't read, change or write the hive, or would damage it.

    A dirty hive is refused: hivex knows no logs and marks what it writes as clean, so what they hold would be lost.
    """
    with path.open("rb") as file:
        base = file.read(regf.BASE_BLOCK)
    if regf.state(base) != "clean":
        raise BadData(f"{path.name}: dirty, hivex would lose what its logs hold", hint="replay its logs first")
    try:
        hive = _open(path)
        for edit in edits:
            _edit(hive, edit, path.name, segments=base[24] > 3)
        hive.commit(None)
    except RuntimeError as e:
        raise BadData(f"{path.name}: hivex could not edit it: {e}", hint="restore the hive from a backup") from e


def _open(path: Path) -> Any:
    import hivex

    class Handle(hivex.Hivex):  # type: ignore[misc]
        """A handle that says nothing more when it could not be opened (hivex's own then fails in its destructor)."""

        def __del__(self) -> None:
            if hasattr(self, "_o"):
                super().__del__()

    return Handle(str(path), write=True)


def _edit(hive: Any, edit: HiveEdit, file: str, segments: bool) -> None:
    if "\0" in edit.key or (isinstance(edit, SetValue) and "\0" in edit.name):
        raise BadData(f"{file}: {regf.printable(edit.key)}: hivex can't write names that contain NUL", hint=_BY_HAND)
    node = _node(hive, edit.key, make=isinstance(edit, SetValue))
    if node is None:
        return
    if isinstance(edit, DeleteKey):
        hive.node_delete_child(node)
        return
    old = [_value(hive, value) for value in hive.node_values(node)]
    new = _values_after(old, edit)
    if new != old:
        _check_writable(new, file, edit.key, segments)
        hive.node_set_values(node, [{"key": name, "t": kind, "value": data} for name, kind, data in new])


def _value(hive: Any, value: int) -> RawValue:
    kind, data = hive.value_value(value)
    return hive.value_key(value), kind, data


def _values_after(values: list[RawValue], edit: Union[SetValue, DeleteValue]) -> list[RawValue]:
    """The key's values with the edit done; a value that is there keeps its place and, as in Windows, its name's case."""
    name = edit.name.lower()
    if isinstance(edit, DeleteValue):
        return [value for value in values if value[0].lower() != name]
    places = [place for place, value in enumerate(values) if value[0].lower() == name]
    if not places:
        return [*values, (edit.name, edit.type, edit.data)]
    new = [value for place, value in enumerate(values) if place not in places[1:]]
    new[places[0]] = (values[places[0]][0], edit.type, edit.data)
    return new


def _check_writable(values: list[RawValue], file: str, key: str, segments: bool) -> None:
    """hivex writes all values of a key anew: some that it can read it would write wrongly (seen with 1.3.23)."""
    where = f"{file}: {regf.printable(key)}"
    for name, _, data in values:
        if "\0" in name:
            raise BadData(f"{where} has a value whose name contains NUL, which hivex would cut there", hint=_BY_HAND)
        if segments and len(data) > regf.BIG_DATA:
            shown = f"{len(data)} bytes in '{regf.printable(name)}'"
            raise BadData(f"{where} has {shown}, which hivex can't write in segments", hint=_BY_HAND)


def _node(hive: Any, path: str, make: bool) -> Any:
    node = hive.root()
    for part in filter(None, path.split("\\")):
        child = _child(hive, node, part)
        if child is None:
            if not make:
                return None
            child = hive.node_add_child(node, part)
        node = child
    return node


def _child(hive: Any, node: Any, name: str) -> Any:
    """A subkey by name; hivex itself ignores the case of ASCII letters alone."""
    child = hive.node_get_child(node, name)
    if child is None and not name.isascii():
        return next((c for c in hive.node_children(node) if hive.node_name(c).lower() == name.lower()), None)
    return child
