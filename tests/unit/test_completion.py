"""What the shell completes: hooks, findings, an option's words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from h2k.cli.main import cli
from h2k.engine.catalogue import ACCEPTABLE, ENTRIES


def completed(*args: str) -> list[str]:
    return [item.value for item in BashComplete(cli, {}, "h2k", "_H2K_COMPLETE").get_completions(list(args[:-1]), args[-1])]


def test_findings_are_completed() -> None:
    assert completed("explain", "hive-") == [e.id for e in ENTRIES if e.id.startswith("hive-")] != []
    assert completed("verify", "--accept", "") == sorted(ACCEPTABLE)


@pytest.mark.parametrize("args", [("verify", "--skip", "boot-st"), ("hooks", "run", "boot-st"), ("survey", "--skip", "boot-st")])
def test_hooks_are_completed(args: tuple[str, ...]) -> None:
    assert completed(*args) == ["boot-storage"]


def test_a_hook_of_ones_own_is_completed_too(tmp_path: Path) -> None:
    hook = tmp_path / "76-mine.py"
    hook.write_text('"""Mine."""\nMETA = {"name": "mine", "summary": "mine", "answers": []}\n\n\ndef propose(guest, options):\n    yield from ()\n')
    hook.chmod(0o755)
    assert completed("verify", "--hooks", str(tmp_path), "--skip", "mi") == ["mine"]
    assert completed("verify", "--hooks", str(tmp_path / "nowhere"), "--skip", "mi") == []


def test_words_of_options_and_commands_are_completed() -> None:
    assert completed("verify", "--bus", "virtio-") == ["virtio-scsi"] and completed("doct") == ["doctor"]
