"""What the child of hivex says becomes BadData, a crash and a time-out too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData
from h2k.base.run import CommandFailed
from h2k.windows import hive_edit_child
from h2k.windows.hive_edit import DeleteKey, DeleteValue, SetValue

EDITS = [SetValue("a\\b", "c", 3, b"\0\xff"), DeleteValue("a", ""), DeleteKey("ü")]


def test_edits_survive_the_way() -> None:
    assert [hive_edit_child._from_json(json.loads(json.dumps(hive_edit_child._as_json(edit)))) for edit in EDITS] == EDITS


@pytest.mark.parametrize(
    ("status", "stdout", "message"),
    [
        (-6, b"", "hive-corrupt: hivex crashed on it .SIGABRT"), (1, b"", "could not edit it: boom"),
        (0, b'{"message": "SYSTEM: dirty", "hint": "replay"}', "SYSTEM: dirty .replay"), (0, b"[]", "could not edit it"),
        (None, b"", "hive-corrupt: .*timed out"), (0, b'{"message": "", "hint": ""}', ""),
    ],
)  # fmt: skip
def test_how_the_child_ends(status: Any, stdout: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **_: Any) -> Any:
        if status is None:
            raise CommandFailed(argv, None, "no answer within 1 s")
        return subprocess.CompletedProcess(argv, status, stdout, b"x\nboom\n")

    monkeypatch.setattr(hive_edit_child, "run", run)
    if not message:
        hive_edit_child.edit_hive_apart(Path("/x/SYSTEM"), EDITS)
        return
    with pytest.raises(BadData, match=message):
        hive_edit_child.edit_hive_apart(Path("/x/SYSTEM"), EDITS)
