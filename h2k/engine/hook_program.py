"""Hooks in any language: an executable that describes itself, gets the facts it asked for, and answers in JSON.

`HOOK --describe` prints META with `needs`; a run gets those facts on standard input and prints findings and changes.
docs/writing-a-hook.md has the protocol and two examples.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.finding import STATES, Finding
from h2k.base.run import CommandFailed, run
from h2k.config import schema_check
from h2k.guest.changes import Change, DeleteKey, DeleteValue, SetValue, WriteFile
from h2k.guest.guest import Guest
from h2k.windows import values
from h2k.windows.values import Value

DESCRIBE_SECONDS, RUN_SECONDS = 10, 120
OUTPUT_LIMIT = 16 * 1024 * 1024  # bytes
FILE_LIMIT = 64 * 1024 * 1024  # bytes of a file that a hook brings
MAX_NEEDS, MAX_ITEMS = 1000, 10_000
CURRENT = "currentcontrolset"

_TYPES = {
    "SZ": values.REG_SZ, "EXPAND_SZ": values.REG_EXPAND_SZ, "BINARY": values.REG_BINARY, "DWORD": values.REG_DWORD,
    "MULTI_SZ": values.REG_MULTI_SZ, "QWORD": values.REG_QWORD,
}  # fmt: skip
_NAMES = {number: name for name, number in _TYPES.items()}
_STRING = {"type": "string", "maxLength": 4096}
_STRINGS = {"type": "array", "maxItems": MAX_NEEDS, "items": _STRING}
_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,63}$"}
# What a hook says of itself, in any language; a program also says which facts it needs.
META: dict[str, Any] = {
    "type": "object",
    "required": ["name", "summary", "answers"],
    "additionalProperties": False,
    "properties": {
        "name": _NAME,
        "summary": _STRING,
        "answers": {"type": "array", "maxItems": MAX_NEEDS, "items": _NAME},
        "gate": {"type": "boolean"},
    },
}
_NEEDS = {"type": "object", "additionalProperties": False, "properties": {"registry": _STRINGS, "files": _STRINGS}}
DESCRIPTION = {**META, "properties": {**META["properties"], "needs": _NEEDS}}


def _change(kind: str, required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["change", *required],
        "properties": {"change": {"const": kind}, **dict.fromkeys(required, _STRING), **properties},
    }


ANSWER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "findings": {
            "type": "array",
            "maxItems": MAX_ITEMS,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["id", "state", "subject", "evidence"],
                "properties": {
                    "id": _NAME,
                    "state": {"enum": list(STATES)},
                    **dict.fromkeys(("subject", "evidence", "repair"), _STRING),
                },
            },
        },
        "changes": {
            "type": "array",
            "maxItems": MAX_ITEMS,
            "items": {
                "oneOf": [
                    _change("set_value", ["hive", "key", "name"], type={"enum": list(_TYPES)}, data={}),
                    _change("delete_value", ["hive", "key", "name"]),
                    _change("delete_key", ["hive", "key"]),
                    _change("write_file", ["path", "source"]),
                ]
            },
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A described executable hook: META, and the facts that it needs."""

    path: Path
    meta: dict[str, Any]

    def propose(self, guest: Guest, options: Mapping[str, Any]) -> Iterator[Union[Finding, Change]]:
        """Run it on the facts of one guest; H2kError for a non-zero status, a time-out or an answer that is none."""
        facts = {"guest": _facts(guest), "options": dict(options), **self._needed(guest)}
        answer = _checked(_run(self.path, [], json.dumps(facts).encode(), RUN_SECONDS), ANSWER, self.path)
        for finding in answer.get("findings", []):
            yield Finding(**finding)
        for change in answer.get("changes", []):
            yield self._typed(guest, change)

    def _needed(self, guest: Guest) -> dict[str, Any]:
        needs = self.meta.get("needs", {})
        return {
            "registry": {key: _key(guest, key) for key in needs.get("registry", [])},
            "files": {pattern: _files(guest, pattern) for pattern in needs.get("files", [])},
        }

    def _typed(self, guest: Guest, change: dict[str, Any]) -> Change:
        kind = change["change"]
        if kind == "write_file":
            return WriteFile(guest.volume, change["path"], self._file(change["source"]), change["source"])
        hive, key = change["hive"], _real(guest, change["hive"], change["key"])
        if kind == "delete_key":
            return DeleteKey(hive, key)
        if kind == "delete_value":
            return DeleteValue(hive, key, change["name"])
        try:
            value = _made(change.get("type", "SZ"), change.get("data"))
        except (TypeError, ValueError, OverflowError) as e:
            raise H2kError(f"{self.path}: {key} {change['name']}: {change.get('data')!r:.80} is no {change.get('type')}") from e
        return SetValue(hive, key, change["name"], value)

    def _file(self, source: str) -> bytes:
        """A file that the hook brings: beside the hook, or by absolute path; a path of this host, never of the guest."""
        path = self.path.parent / source
        try:
            if path.stat().st_size > FILE_LIMIT:
                raise H2kError(f"{path}: larger than {FILE_LIMIT} bytes")
            return path.read_bytes()
        except OSError as e:
            raise H2kError(f"{path}: {e.strerror}", hint=f"the hook {self.path.name} names it as a source") from e


def describe(path: Path) -> Program:
    """Ask an executable what it is; UsageError when it does not say."""
    try:
        return Program(path, _checked(_run(path, ["--describe"], b"", DESCRIBE_SECONDS), DESCRIPTION, path))
    except H2kError as e:
        raise UsageError(f"{path}: this hook can't be loaded: {e.message}", hint="HOOK --describe prints its META") from e


def _run(path: Path, arguments: Sequence[str], stdin: bytes, seconds: float) -> bytes:
    try:
        done = run([str(path.absolute()), *arguments], stdin=stdin, timeout=seconds)
    except (CommandFailed, OSError) as e:
        raise H2kError(f"{path.name}: {e}") from e
    if len(done.stdout) > OUTPUT_LIMIT:
        raise H2kError(f"{path.name}: answered with {len(done.stdout)} bytes")
    return done.stdout


def _checked(output: bytes, schema: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError) as e:
        raise H2kError(f"{path.name}: its answer is no JSON: {e}") from e
    fault = first_fault(answer, schema)
    if fault is not None:
        raise H2kError(f"{path.name}: {fault}")
    return dict(answer)


def first_fault(answer: Any, schema: Mapping[str, Any], whole: str = "the answer") -> Optional[str]:
    """What is wrong with an answer or a META, and where, in one line; None when it is as the schema says."""
    fault = schema_check.first_fault(answer, schema)
    if fault is None:
        return None
    place = "/".join(map(str, fault.absolute_path))
    return f"{place or whole}: {str(fault.message)[:200]}"


# The facts


def _facts(guest: Guest) -> dict[str, Any]:
    windows = guest.windows
    return {
        "windows": dataclasses.asdict(windows),
        "firmware": guest.firmware,
        "system_root": guest.system_root,
        "control_sets": dataclasses.asdict(guest.control_sets),
    }


def _real(guest: Guest, hive: str, key: str) -> str:
    """CurrentControlSet, which a hive on a disk does not have, is the set that the loader will start."""
    first, _, rest = key.partition("\\")
    if hive.upper() == "SYSTEM" and first.lower() == CURRENT:
        return f"ControlSet{guest.control_sets.default:03d}\\{rest}"
    return key


def _key(guest: Guest, path: str) -> Optional[dict[str, Any]]:
    """A registry key as JSON, None where it is not there: {"values": {name: {"type", "data"}}, "subkeys": [names]}."""
    hive, _, key = path.partition("\\")
    if not guest.has_hive(hive.upper()):
        return None
    found = guest.hive(hive.upper()).key(_real(guest, hive, key))
    if found is None:
        return None
    entries, subkeys = found.values()[:MAX_ITEMS], found.subkeys()[:MAX_ITEMS]
    return {"values": {v.name: _shown(v) for v in entries}, "subkeys": [k.name for k in subkeys]}


def _shown(value: Value) -> dict[str, Any]:
    data: Any = value.dword() if value.type == values.REG_DWORD else value.qword()
    if data is None:
        data = value.text() if value.text() is not None else value.multi()
    if data is None:
        data = value.raw[:FILE_LIMIT].hex()
    return {"type": _NAMES.get(value.type, str(value.type)), "data": data}


def _made(kind: str, data: Any) -> Value:
    """A value of a number, a list of strings, hexadecimal digits or a string, by its type."""
    if kind in ("DWORD", "QWORD"):
        return (values.dword if kind == "DWORD" else values.qword)(int(data))
    if kind == "BINARY":
        return values.binary(bytes.fromhex(data))
    if kind == "MULTI_SZ":
        return values.multi([str(string) for string in data])
    if not isinstance(data, str):
        raise TypeError(data)
    return (values.text if kind == "SZ" else values.expand)(data)


def _files(guest: Guest, pattern: str) -> list[dict[str, Any]]:
    r"""The files of the system volume that match `/Windows/System32/drivers/*.sys`; a wildcard in the last part alone."""
    directory, _, name = pattern.replace("\\", "/").rpartition("/")
    try:
        entries = guest.reader.listdir(guest.volume, directory or "/")
    except BadData:
        return []
    matching = [e for e in entries if fnmatch.fnmatchcase(e.path.rsplit("/", 1)[-1].lower(), name.lower())]
    return [{"path": e.path, "size": e.size} for e in matching[:MAX_ITEMS]]
