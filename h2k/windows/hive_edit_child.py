"""hivex in a child process: it aborts on some hives that it could open, and must not take the run with it."""

from __future__ import annotations

import base64
import dataclasses
import json
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2k.base.errors import BadData
from h2k.base.run import CommandFailed, run
from h2k.windows import hive_edit
from h2k.windows.hive_edit import DeleteKey, DeleteValue, HiveEdit, SetValue

TIME_LIMIT = 120.0  # seconds for all edits of a hive
ADDRESS_SPACE = 4 * 1024**3  # bytes
_RESTORE = "restore the hive from a backup"


def edit_hive_apart(path: Path, edits: Sequence[HiveEdit]) -> None:
    """What edit_hive does, in a child. BadData too when hivex crashes on the hive or takes too long; the file may be
    spoilt then, and is to be thrown away."""
    # -I, and our own module path: nothing from the current directory is imported.
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    code = f"import sys; sys.path[:] = {paths!r}; from h2k.windows.hive_edit_child import main; main()"
    request = json.dumps({"path": str(path), "edits": [_as_json(edit) for edit in edits]}).encode()
    try:
        done = run([sys.executable, "-I", "-c", code], stdin=request, check=False, timeout=TIME_LIMIT)
    except CommandFailed as e:
        raise BadData(f"{path.name}: hive-corrupt: hivex could not edit it: {e.message}", hint=_RESTORE) from e
    if done.returncode < 0:
        what = signal.Signals(-done.returncode).name
        raise BadData(f"{path.name}: hive-corrupt: hivex crashed on it ({what})", hint=_RESTORE)
    try:
        answer = json.loads(done.stdout)
        message, hint = answer["message"], answer["hint"]
    except (ValueError, KeyError, TypeError) as e:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise BadData(f"{path.name}: hivex could not edit it: {said[0] if said else 'no answer'}", hint=_RESTORE) from e
    if message:
        raise BadData(message, hint=hint)


def _as_json(edit: HiveEdit) -> dict[str, Any]:
    return {
        "kind": type(edit).__name__,
        **{name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in dataclasses.asdict(edit).items()},
    }


def _from_json(content: dict[str, Any]) -> HiveEdit:
    kind = content.pop("kind")
    if kind == "SetValue":
        return SetValue(content["key"], content["name"], content["type"], base64.b64decode(content["data"]))
    return DeleteKey(content["key"]) if kind == "DeleteKey" else DeleteValue(content["key"], content["name"])


def main() -> None:
    """The child: edits as JSON on standard input; what is wrong, or nothing, as JSON on standard output."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    request = json.loads(sys.stdin.buffer.read())
    answer = {"message": "", "hint": ""}
    try:
        hive_edit.edit_hive(Path(request["path"]), [_from_json(edit) for edit in request["edits"]])
    except BadData as bad:
        answer = {"message": bad.message, "hint": bad.hint}
    print(json.dumps(answer))
