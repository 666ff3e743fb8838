"""`h2k hooks`: the list in its order, with directories of more; one that is being written; one on a guest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from h2k.base.errors import NOT_READY, READY, USAGE, UsageError
from h2k.base.finding import Finding
from h2k.cli import hooks_command
from h2k.cli.main import main
from h2k.domain.guest_files import GuestFiles
from h2k.engine.hooks import Options, Setting, find_hooks
from h2k.guest.guest import Guest
from tests.unit.engine_world import START, World, made_guest, made_hook

TEXT = '''META = {{"name": "mine", "summary": "what it is for", "answers": ("made-finding",), "gate": {gate}}}
from h2k.base.finding import Finding
from h2k.guest.changes import SetValue
from h2k.windows.values import dword
CHANGE = SetValue("SYSTEM", "ControlSet001\\\\Services\\\\made", "Start", dword(0))

def propose(guest, options):
    assert options.phase == "result"
    yield Finding("made-finding", "broken" if not CHANGE.holds(guest) else "ok", options.bus, "Start is 3", "set to 0")
    yield CHANGE
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A hook in a directory of its own."""
    path = tmp_path / "more" / "33-mine.py"
    path.parent.mkdir()
    path.write_text(TEXT.format(gate=False))
    path.chmod(0o644)
    return path


def as_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# list


@pytest.mark.parametrize("argv", [["hooks"], ["hooks", "list"]])
def test_the_list_is_in_the_order_that_they_run(argv: list[str], mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--hooks", str(mine.parent)]) == READY
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [h.path.name for h in find_hooks([mine.parent])]
    at = next(n for n, line in enumerate(lines) if line.startswith("33-mine.py"))
    assert lines[at].endswith("what it is for") and lines[at - 1].startswith("30-")
    assert main([*argv, "--hooks", str(mine.parent), "--json"]) == READY
    found = as_json(capsys)
    assert found["status"] == READY
    described = {"name": "mine", "path": str(mine), "summary": "what it is for", "answers": ["made-finding"], "gate": False}
    assert found["hooks"][at] == described and len(found["hooks"]) == len(lines)


def test_the_names_alone_are_for_completion(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "list", "--words", "--hooks", str(mine.parent)]) == READY
    words = capsys.readouterr().out.split()
    assert words == [h.name for h in find_hooks([mine.parent])] and "mine" in words
    assert main(["hooks", "list", "--words"]) == READY
    assert "mine" not in capsys.readouterr().out.split()


# check


@pytest.mark.parametrize(("gate", "said"), [(False, "  answers: made-finding"), (True, "  answers: made-finding; a refusal stops later hooks")])
def test_a_hook_that_is_being_written_says_what_it_is(gate: bool, said: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine.write_text(TEXT.format(gate=gate))
    assert main(["hooks", "check", str(mine)]) == READY
    assert capsys.readouterr().out == f"{mine}: mine: what it is for\n{said}\n"
    assert main(["hooks", "check", "--json", str(mine), str(mine)]) == READY
    assert [h["gate"] for h in as_json(capsys)["hooks"]] == [gate, gate]


def test_a_hook_that_can_not_be_loaded_is_told(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine.write_text("META = {}\n")
    assert main(["hooks", "check", str(mine)]) == USAGE
    assert str(mine) in capsys.readouterr().err


# run


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The guest that is looked at: a driver `made` that does not start at boot."""
    found: dict[str, Any] = {"start": 3}
    monkeypatch.delenv("VIRTIO_WIN", raising=False)
    monkeypatch.setattr(hooks_command, "open_guest_files", lambda images: GuestFiles(((Path(images[0]), "raw"),), Path("/state")))
    monkeypatch.setattr(hooks_command, "open_reader", lambda images: made_guest(found["start"]).reader)
    monkeypatch.setattr(hooks_command, "known_bus", lambda files: "virtio-scsi")
    return found


@pytest.mark.parametrize("start", [3, 0])
def test_what_one_hook_finds_and_would_change(start: int, guest: dict[str, Any], mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest["start"] = start
    for name in ("mine", str(mine), "33-mine.py"):
        more = [] if name == str(mine) else ["--hooks", str(mine.parent)]
        assert main(["hooks", "run", name, "g.raw", *more, "--json"]) == (NOT_READY if start else READY)
        found = as_json(capsys)
        assert found["status"] == (NOT_READY if start else READY)
        assert [(f["id"], f["state"], f["subject"]) for f in found["findings"]] == [("made-finding", "broken" if start else "ok", "virtio-scsi")]
        assert len(found["changes"]) == (1 if start else 0), "a change that already holds is none"
    assert main(["hooks", "run", str(mine), "g.raw"]) == (NOT_READY if start else READY)
    text = capsys.readouterr().out
    assert "made-finding" in text and ("Services\\made Start: 3 → 0" in text) is bool(start), "the change as a diff"


def test_the_bus_that_is_asked_for_is_the_hooks(guest: dict[str, Any], mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", str(mine), "g.raw", "--bus", "sata", "--json"]) == NOT_READY
    assert as_json(capsys)["findings"][0]["subject"] == "sata"


def test_a_hook_that_nobody_knows_is_told_with_the_one_that_was_meant(guest: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", "boot-storag", "g.raw"]) == USAGE
    told = capsys.readouterr().err
    assert "boot-storag: no such hook" in told and "did you mean boot-storage?" in told


# How each ends

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


# The options that its texts name

FOUND = Finding("driver-not-boot-start", "broken", "made", "no virtio-win: --h2k-drivers PATH", "convert with --h2k-bus sata")


def propose(guest: Guest, options: Options) -> Iterator[Any]:
    yield FOUND
    yield START
    yield Setting("secure-boot", "off", "asked for by --h2k-accept driver-unsigned")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path / "web.h2k", image=made_guest(3), hooks=[made_hook(propose)])

    @contextlib.contextmanager
    def opened(request: Any) -> Iterator[Any]:
        yield found.run().opened

    @contextlib.contextmanager
    def read(images: Any) -> Iterator[Any]:
        yield found.open_reader(images)

    monkeypatch.setattr(hooks_command, "open_tools", opened)
    monkeypatch.setattr(hooks_command, "open_reader", read)
    monkeypatch.setattr(hooks_command, "open_guest_files", lambda images: found.files)
    return found


def test_a_hook_s_texts_name_the_options_of_h2k(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", "made", "g"]) == 4
    text = capsys.readouterr().out
    assert "--drivers PATH" in text and "--bus sata" in text and "--h2k-" not in text


def test_so_does_its_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "run", "made", "g", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"status", "findings", "changes", "settings"} and len(told["changes"]) == 1
    assert (told["findings"][0]["repair"], told["settings"][0]["why"]) == ("convert with --bus sata", "asked for by --accept driver-unsigned")


def test_a_mistake_is_told_so_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_command, "find_hooks", lambda places: (_ for _ in ()).throw(hooks_command.UsageError("--h2k-skip x: no such hook")))
    assert main(["hooks", "list", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"] == "--skip x: no such hook" and "--h2k-" not in told.err
