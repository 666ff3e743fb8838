"""`h2k hooks list` and `check`: what they print, and that they end as every run does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from h2k.base.errors import UsageError
from h2k.cli import hooks_command
from h2k.cli.main import main

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
HOOK = Path(__file__).resolve().parents[2] / "hooks" / "30-boot-storage.py"
COMMANDS = (["hooks"], ["hooks", "list"], ["hooks", "check", str(HOOK)])


@pytest.mark.parametrize("argv", COMMANDS)
def test_hooks_are_listed(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0 and "boot-storage" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    jsonschema.validate(content, json.loads((SCHEMAS / "hooks.json").read_text()))
    assert "boot-storage" in [hook["name"] for hook in content["hooks"]]


@pytest.mark.parametrize("argv", [*COMMANDS, ["hooks", "list", "--words"]])
@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("hooks.d: no directory"), 2), (ZeroDivisionError("by zero"), 1), (OSError(5, "Input/output error", "/etc/h2k"), 1)],
)
def test_what_fails_is_a_line_and_an_object(
    error: Exception, status: int, argv: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> Any:
        raise error

    monkeypatch.setattr(hooks_command, "find_hooks", fail)
    monkeypatch.setattr(hooks_command, "load_hook", fail)
    assert main(argv) == status
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err.startswith("h2k: ") and len(seen.err.splitlines()) == 1
    assert main([*argv, "--json"]) == status
    content = json.loads(capsys.readouterr().out)
    jsonschema.validate(content, json.loads((SCHEMAS / "record.json").read_text()))
    assert content["status"] == status and str(error.args[-1]) in content["verdict"]
