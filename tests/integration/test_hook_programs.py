"""Hooks in any language: the two examples of docs/ on a made guest, and programs that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import H2kError, Refused, UsageError
from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.disk.open_reader import open_reader
from h2k.engine.hooks import Options, find_hooks, load_hook, propose
from h2k.guest.changes import SetValue, WriteFile
from h2k.guest.guest import Guest
from h2k.windows import values
from tests.guests.build import cached

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "hooks"
DESCRIPTION = {"name": "probe", "summary": "a probe", "answers": ["probe-found"]}


@pytest.fixture(scope="module")
def windows() -> Iterator[Guest]:
    with open_reader([(cached()["win2022"].disks[0], "qcow2")]) as reader:
        yield Guest(reader)


@pytest.fixture
def options() -> Options:
    return Options(load_plan())


def program(directory: Path, answer: str, describe: Any = DESCRIPTION, name: str = "77-probe") -> Path:
    """A hook program that keeps what it got on standard input, and then runs `answer`."""
    path = directory / name
    body = f"cat > {directory / 'input.json'}\n{answer}"
    (directory / "describe.json").write_text(json.dumps(describe))
    path.write_text(f'#!/bin/sh\nif [ "$1" = --describe ]; then exec cat {directory}/describe.json; fi\n{body}\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("hook", "found", "key"), [
    (EXAMPLES / "75-company-marker", "company-marker-missing", "Example Company"),
    (EXAMPLES / "76-no-autorun.py", "autorun-enabled", "ControlSet001\\Services\\cdrom"),
    (ROOT / "packaging/example-hook/77-remote-desktop.py", "remote-desktop-off", "ControlSet001\\Control\\Terminal Server"),
])  # fmt: skip
def test_examples(hook: Path, found: str, key: str, windows: Guest, options: Options) -> None:
    proposal = propose([load_hook(hook)], windows, options)
    assert [f.id for f in proposal.findings] == [found]
    (change,) = proposal.changes
    assert isinstance(change, SetValue) and change.key == key and not change.holds(windows)


def test_examples_are_found_ordered_and_masked(tmp_path: Path) -> None:
    names = [h.path.name for h in find_hooks([EXAMPLES])]
    assert names == sorted(names) and {"75-company-marker", "76-no-autorun.py"} < set(names)
    (tmp_path / "75-company-marker").symlink_to("/dev/null")
    assert "75-company-marker" not in [h.path.name for h in find_hooks([EXAMPLES, tmp_path])]


def test_the_program_gets_what_it_needs_and_no_more(tmp_path: Path, windows: Guest, options: Options) -> None:
    needs = {
        "registry": ["SYSTEM\\CurrentControlSet\\Services\\disk", "SOFTWARE\\No\\Such"],
        "files": ["/windows/system32/DRIVERS/dis*.sys", "/no/such/*"],
    }
    (tmp_path / "readme.txt").write_text("from the hook")
    answer = {
        "findings": [{"id": "probe-found", "state": "warning", "subject": "s", "evidence": "e"}],
        "changes": [
            {"change": "write_file", "path": "/readme.txt", "source": "readme.txt"},
            {"change": "set_value", "hive": "SYSTEM", "key": "CurrentControlSet\\X", "name": "L", "type": "MULTI_SZ", "data": ["a", "b"]},
            {"change": "delete_key", "hive": "SYSTEM", "key": "Setup"},
            {"change": "delete_value", "hive": "SYSTEM", "key": "Select", "name": "Failed"},
        ],
    }  # fmt: skip
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    path = program(tmp_path, f"cat {tmp_path}/answer.json", {**DESCRIPTION, "needs": needs})
    proposal = propose([load_hook(path)], windows, options)
    facts = json.loads((tmp_path / "input.json").read_text())
    disk = facts["registry"]["SYSTEM\\CurrentControlSet\\Services\\disk"]
    assert disk["values"]["Start"] == {"type": "DWORD", "data": 0}
    assert facts["registry"]["SOFTWARE\\No\\Such"] is None
    assert [f["path"] for f in facts["files"][needs["files"][0]]] == ["/Windows/System32/drivers/disk.sys"]
    assert facts["files"]["/no/such/*"] == []
    assert set(facts) == {"guest", "options", "registry", "files"}
    assert proposal.findings == (Finding("probe-found", "warning", "s", "e"),)
    written, multi, *_ = proposal.changes
    assert isinstance(written, WriteFile) and written.data == b"from the hook"
    assert isinstance(multi, SetValue) and multi.key == "ControlSet001\\X"
    assert multi.value == values.multi(["a", "b"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("exit 3", "status 3"),
        ("echo no JSON", "no JSON"),
        ("echo []", "the answer"),
        ('echo \'{"surprise": 1}\'', "surprise"),
        ('echo \'{"changes": [{"change": "format_disk"}]}\'', "changes/0"),
        ('echo \'{"changes": [{"change": "write_file", "path": "/x", "source": "none"}]}\'', "No such file"),
        ('echo \'{"changes": [{"change": "set_value", "hive": "SYSTEM", "key": "k", "name": "n", "type": "DWORD", "data": -1}]}\'', "-1"),
        ("head -c 20000000 /dev/zero", "answered with"),
    ],
)  # fmt: skip
def test_a_failing_program_is_named(answer: str, words: str, tmp_path: Path, windows: Guest, options: Options) -> None:
    with pytest.raises(H2kError) as failure:
        propose([load_hook(program(tmp_path, answer))], windows, options)
    assert "hook probe" in str(failure.value) and words in str(failure.value)


def test_a_program_that_hangs(tmp_path: Path, windows: Guest, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.hook_program.RUN_SECONDS", 0.5)
    with pytest.raises(H2kError, match="timed out"):
        propose([load_hook(program(tmp_path, "exec sleep 60"))], windows, options)


@pytest.mark.parametrize("describe", [{}, {"name": "UPPER", "summary": "", "answers": []}, {**DESCRIPTION, "needs": {"memory": []}}])
def test_a_description_that_is_none(describe: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="77-probe"):
        load_hook(program(tmp_path, "", describe))


def test_a_hook_that_others_can_write_is_refused_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root refuses it")
    path = program(tmp_path, "")
    path.chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        load_hook(path)


def test_commands() -> None:
    def h2k(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ROOT / "wrappers" / "h2k", *arguments], capture_output=True, text=True)

    disk = str(cached()["win2022"].disks[0])
    listed = h2k("hooks", "list", "--hooks", str(EXAMPLES), "--json")
    assert "company-marker" in [h["name"] for h in json.loads(listed.stdout)["hooks"]]
    assert "company-marker-missing" in h2k("hooks", "check", str(EXAMPLES / "75-company-marker")).stdout
    ran = h2k("hooks", "run", "no-autorun", disk, "--hooks", str(EXAMPLES))
    assert ran.returncode == 4 and "autorun-enabled" in ran.stdout and "+ SYSTEM" in ran.stdout
    assert h2k("hooks", "run", "nonsense", disk).returncode == 2
