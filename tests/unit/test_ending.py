"""The one end of a run: whatever happened there is a record, one text or one JSON object, and a status that is true."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from h2k.base.errors import BadData, H2kError, NotVerified, Refused, Unknown, UsageError
from h2k.base.finding import Finding
from h2k.engine import ending, records
from h2k.engine.ending import error_record, guarded
from h2k.engine.outcome import Outcome, of_result
from h2k.engine.runs import Run
from tests.unit.engine_world import World


@pytest.fixture(autouse=True)
def no_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "versions", lambda: {"h2k": "0"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = World(tmp_path / "g.h2k").run("h2k fix")
    found.argv, found.records = ("g.xml", "-ip", "x"), tmp_path / "g.h2k"
    found.as_json = True
    return found


def ready() -> Outcome:
    return Outcome(0, "READY", "healthy", ("h2k boot g.h2k",))


def raising(error: BaseException) -> Callable[[], Outcome]:
    def work() -> Outcome:
        raise error

    return work


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    content = json.loads(out)
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("hint", ["", "h2k explain hive-corrupt"])
def test_an_error_that_names_a_finding_says_the_command_that_explains_it(hint: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(run, raising(BadData("SYSTEM: hive-corrupt: at 0x20, not hive-corrupted", hint=hint))) == 3
    seen = capsys.readouterr()
    assert seen.err.count("h2k explain hive-corrupt") == 1
    assert json.loads(seen.out)["next"] == ([] if hint else ["h2k explain hive-corrupt"]) if seen.out else True


def test_a_good_end(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(run, ready) == 0
    record = printed(capsys)
    assert record == json.loads((run.records / "report.json").read_text())  # type: ignore[operator]
    assert (record["schema"], record["command"], record["word"], record["next"]) == (1, "h2k fix", "READY", ["h2k boot g.h2k"])
    for key in ("argv", "started", "seconds", "host", "user", "verdict", "accepted", "findings", "changes", "versions", "disks"):
        assert key in record, key


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (Refused("no", "do that"), 3, "REFUSED"),
        (BadData("SYSTEM: bad"), 3, "REFUSED"),
        (NotVerified("no"), 5, "NOT VERIFIED"),
        (H2kError("no"), 1, "FAILED"),
        (Unknown("no"), 1, "FAILED"),
        (OSError(28, "No space left on device", "/x"), 1, "FAILED"),
        (ZeroDivisionError("oops"), 1, "FAILED"),
        (RecursionError("deep"), 1, "FAILED"),
        (KeyboardInterrupt(), 1, "FAILED"),
    ],
)
def test_every_failure_is_one_object_one_record_and_no_traceback(
    run: Run, error: BaseException, status: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(run, raising(error)) == status
    record = printed(capsys)
    assert (record["status"], record["word"]) == (status, word) and record["verdict"]
    assert json.loads((run.records / "report.json").read_text())["status"] == status  # type: ignore[operator]


@pytest.mark.parametrize("command", ["h2k fix", "h2k-v2v"])
def test_a_failure_before_the_guest_was_read_is_one_line_on_standard_error(
    run: Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.as_json, run.command = False, command
    guarded(run, raising(Refused("disk.qcow2: in use by web01", "shut it down, or --h2k-skip it")))
    seen = capsys.readouterr()
    option = "--skip" if command == "h2k fix" else "--h2k-skip"
    assert seen.out == "" and seen.err == f"{command.split(maxsplit=1)[0]}: disk.qcow2: in use by web01 (shut it down, or {option} it)\n"


def test_wrong_usage_leaves_no_record(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(run, raising(UsageError("no such hook", "did you mean x?"))) == 2
    assert printed(capsys)["verdict"] == "no such hook (did you mean x?)"
    assert not (run.records / "report.json").exists()  # type: ignore[operator]


@pytest.mark.parametrize("error", [Refused("the domain can't be written"), OSError(28, "full"), ValueError("x"), KeyboardInterrupt()])
def test_after_a_commit_nothing_is_a_refusal(run: Run, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    run.committed = "repaired and verified: 3 changes"
    assert guarded(run, raising(error)) == 1
    record = printed(capsys)
    assert record["word"] == "FAILED" and record["verdict"].startswith("repaired and verified: 3 changes; but ")


def test_a_record_that_can_not_be_written_makes_a_ready_run_a_failed_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise H2kError("no space left")

    monkeypatch.setattr(ending.records, "keep", full)
    assert guarded(run, ready) == 1
    record = printed(capsys)
    assert record["verdict"] == "healthy; but no space left" and "report" not in record["files"]
    assert guarded(run, raising(Refused("in use"))) == 3  # the first reason stays
    assert "no record of this run: no space left" in capsys.readouterr().err


def test_documents_of_hooks_lie_beside_the_record_and_nowhere_else(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.report.documents = {"network.json": {"a": 1}, "../../escaped.json": {"b": 2}}
    assert guarded(run, ready) == 0
    assert run.records is not None
    assert {p.name for p in run.records.iterdir()} >= {"network.json", "escaped.json", "report.json", "plan.json", "runs"}
    assert [p.name for p in run.records.parent.iterdir()] == ["g.h2k"], "a file beside the report directory"
    assert printed(capsys)["files"]["network"] == str(run.records / "network.json")


def test_options_are_spelled_as_the_command_spells_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.report.findings = [Finding("x", "refused", "x", "no driver", "convert with --h2k-bus sata or --h2k-stage DIR")]
    outcome = of_result(run.report.findings, 0)
    guarded(run, lambda: outcome)
    record = printed(capsys)
    assert record["findings"][0]["repair"] == "convert with --bus sata or --h2k-stage DIR" and "--bus sata" in record["verdict"]
    run.command = "h2k-v2v"
    guarded(run, lambda: outcome)
    assert printed(capsys)["findings"][0]["repair"] == "convert with --h2k-bus sata or --h2k-stage DIR"


def test_people_read_standard_error_where_standard_output_is_virt_v2vs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.as_json, run.aside = False, True
    guarded(run, ready)
    seen = capsys.readouterr()
    assert seen.out == "" and "h2k: READY: healthy" in seen.err and "next: h2k boot g.h2k" in seen.err


def test_a_quiet_run_shows_its_own_end_and_h2k_its_failures(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(run, ready, quiet=True) == 0
    assert capsys.readouterr().out == ""
    assert guarded(run, raising(Refused("no")), quiet=True) == 3
    assert printed(capsys)["verdict"] == "no"


class Closed(io.StringIO):
    """A standard output that is gone, or full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_reader_that_went_away_changes_no_status(
    run: Run, error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    monkeypatch.setattr(ending, "quiet_output", lambda: calls.append(1))
    monkeypatch.setattr(sys, "stdout", Closed(error))
    assert guarded(run, ready) == 0 and calls == [1]
    assert capsys.readouterr().err == ("" if isinstance(error, BrokenPipeError) else "h2k: the outcome can't be printed: No space left on device\n")


def test_no_standard_output_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert guarded(run, ready) == 0


def test_what_json_says_before_there_is_a_guest() -> None:
    record = error_record("h2k", ["verify", "http://u:secret@h/x"], UsageError("no such file", "give one"))
    assert (record["status"], record["word"], record["hint"]) == (2, "USAGE ERROR", "give one")
    assert "secret" not in json.dumps(record)


def test_the_record_has_the_disks_as_they_are_at_the_end(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(records, "disks_now", lambda images: [str(path) for path, _ in images])
    guarded(run, ready)
    assert printed(capsys)["disks"] == ["/image"]
    run.files = None
    guarded(run, ready)
    assert printed(capsys)["disks"] == []


def test_another_program_s_status_is_kept_in_a_record(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(run, lambda: Outcome(2, "FAILED", "virt-v2v ended with status 2")) == 2
    assert json.loads((run.records / "report.json").read_text())["status"] == 2  # type: ignore[operator]


def test_where_it_failed_is_in_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "h2k.ending")
    for error in (H2kError("no"), OSError(28, "full"), ZeroDivisionError("oops")):
        caplog.clear()
        guarded(run, raising(error))
        assert [r.exc_info[1] for r in caplog.records if r.name == "h2k.ending" and r.exc_info] == [error]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device (h2k -v shows where)"),
        (OSError(28, "No space left on device"), "h2k fix: No space left on device (h2k -v shows where)"),
        (OSError("odd"), "h2k fix: odd (h2k -v shows where)"),
        (KeyError("k"), "h2k itself failed: KeyError: 'k' (h2k -v shows where)"),
        (KeyboardInterrupt(), "interrupted (the same command goes on or cleans up)"),
    ],
)
def test_a_failure_names_the_file_or_the_command(run: Run, error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    guarded(run, raising(error))
    assert printed(capsys)["verdict"] == said


@pytest.mark.parametrize(
    ("seen", "terminal", "aside", "on_error", "told"),
    [
        (False, True, False, 1, False), (False, False, False, 1, False), (True, False, False, 1, True),
        (True, True, False, 0, True), (True, True, True, 1, True),
    ],
)  # fmt: skip
def test_where_people_and_scripts_read_why(
    seen: bool, terminal: bool, aside: bool, on_error: int, told: bool, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    texts: list[Any] = []
    run.as_json, run.aside, run.show_plan = False, aside, True
    run.seen = SimpleNamespace(side="result") if seen else None  # type: ignore[assignment]
    monkeypatch.setattr(ending, "explain", lambda record, plan: texts.append((record["verdict"], plan)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    error = Refused("g.qcow2: no", commands=("h2k rollback g.h2k",))
    guarded(run, raising(error))
    assert capsys.readouterr().err.count("h2k: g.qcow2: no\n  h2k rollback g.h2k\n") == on_error
    assert texts == ([("g.qcow2: no", True)] if told else [])


def test_a_run_that_only_looks_asks_no_program_for_its_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.records, run.tools, run.source = None, None, "esx://root:pw@host"
    guarded(run, ready)
    record = printed(capsys)
    assert set(record["versions"]) == {"h2k", "python"} and "pw" not in record["source"]
    assert (record["accepted"], record["virtio_win"], record["side"]) == ([], "", "")


def test_the_record_says_what_was_accepted_and_which_drivers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    request = dataclasses.replace(run.opened.request, accept=("volume-dirty",))
    run.tools = dataclasses.replace(run.opened, request=request, drivers_path=Path("/virtio-win.iso"))
    run.seen = SimpleNamespace(side="source")  # type: ignore[assignment]
    guarded(run, ready)
    record = printed(capsys)
    assert (record["accepted"], record["virtio_win"], record["side"]) == (["volume-dirty"], "/virtio-win.iso", "source")


def test_a_full_disk_is_told_by_the_file_that_could_not_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/g.h2k/runs")

    monkeypatch.setattr(ending, "own_directory", full)
    assert guarded(run, ready) == 1
    record = printed(capsys)
    assert record["verdict"] == "healthy; but /g.h2k/runs: No space left on device (free space or rights there)"
    assert (record["status"], record["word"]) == (1, "FAILED")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("UTF-8", "é"), ("ascii", "\\u00e9"), ("latin-1", "\\u00e9")])
def test_json_is_printed_in_letters_that_the_output_has(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    ending.print_json({"a": "é"})
    stream.flush()
    assert f'"a": "{shown}"' in out.getvalue().decode(encoding)


def test_after_a_broken_pipe_standard_output_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def dup2(handle: int, to: int) -> None:
        done.append((os.readlink(f"/proc/self/fd/{handle}"), to))
        os.close(handle)
        raise OSError(9, "closed")

    with monkeypatch.context() as patch:  # pytest uses it at the end of a test
        patch.setattr(os, "dup2", dup2)
        ending.quiet_output()
    assert done == [("/dev/null", 1)]


def test_the_source_of_a_record_has_no_secrets(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.source = "vpx://root:S3cret@vc.example/DC/esxi?no_verify=1"
    assert guarded(run, ready) == 0
    assert run.records is not None and "S3cret" not in (run.records / "report.json").read_text() + capsys.readouterr().out


def test_documents_that_their_owner_edited_are_kept(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.report.documents = {"validation.json": {"a": 1}}
    assert guarded(run, ready) == 0 and run.records is not None
    (run.records / "validation.json").write_text("mine")
    assert guarded(run, ready) == 0
    assert (run.records / "validation.json.edited").read_text() == "mine" and "mine" not in (run.records / "validation.json").read_text()


def test_ctrl_c_is_one_line_and_a_status(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert guarded(run, raising(KeyboardInterrupt())) == 1
    except KeyboardInterrupt:
        pytest.fail("it was not caught")
    assert printed(capsys)["verdict"].startswith("interrupted (")
