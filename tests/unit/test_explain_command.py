"""`h2k explain GUEST`: why a guest would not start, in the catalogue's words; nothing is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from h2k.base.finding import Finding
from h2k.cli.main import main
from h2k.engine.catalogue import BY_ID
from h2k.engine.runs import Run
from tests.unit.engine_world import FOUND, World, made_hook

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "schemas" / "explain.json").read_text())
WARNING = Finding("boot-disk-ambiguous", "warning", "disk 1", "it has a boot partition too", "detach it")
REFUSED = Finding("volume-encrypted", "refused", "disk 0", "BitLocker\x1b[31m", "decrypt it")
OWN = Finding("made-of-the-test", "broken", "x", "y", "z")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """guest(FINDING…): a path that explain takes for a guest of which a hook says that."""
    image = tmp_path / "disk.qcow2"
    image.touch()

    def made(*findings: Finding) -> str:
        world = World(tmp_path / "g.h2k", hooks=(made_hook(lambda guest, options: iter(findings)),))

        @contextmanager
        def opened(run: Run, words: Sequence[str], report: Any, wishes: dict[str, Any]) -> Iterator[None]:
            assert words == (str(image),) and report is None
            run.files, run.tools, run.parts = world.files, world.run().tools, world.run().parts
            yield
            assert run.records is None, "it only looks"

        monkeypatch.setattr("h2k.cli.explain_command.opened", opened)
        return str(image)

    return made


def test_a_fault_is_told_in_the_catalogues_words(guest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = guest(FOUND, dataclasses.replace(FOUND, subject="other"), WARNING), BY_ID["driver-not-boot-start"]
    assert main(["explain", path]) == 4
    seen = " ".join(capsys.readouterr().out.split())
    assert seen.startswith("h2k: FOUND: 1 fault would keep this guest from starting or working: driver-not-boot-start;")
    assert "here: made: Start is 3" in seen and "here: other: Start is 3" in seen
    assert other.fault in seen and " ".join(other.by_hand.replace("`", "").split()) in seen
    assert seen.index("driver-not-boot-start: ") < seen.index("boot-disk-ambiguous: ")
    assert seen.endswith(f"next: h2k fix {path}")


def test_a_refusal_has_its_status_and_no_repair(guest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", guest(WARNING, REFUSED)]) == 3
    seen = capsys.readouterr().out
    assert "volume-encrypted" in seen and "next:" not in seen and "\x1b" not in seen


def test_nothing_that_is_known_is_said_so(guest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", guest(dataclasses.replace(FOUND, state="ok"))]) == 0
    seen = capsys.readouterr().out
    assert seen == "h2k: NOTHING FOUND: nothing that h2k knows would keep this guest from starting\n"


def test_a_finding_of_a_hook_that_is_not_in_the_catalogue(guest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", guest(OWN)]) == 4
    assert "made-of-the-test: a finding of a hook of this host's" in capsys.readouterr().out


@pytest.mark.parametrize(("findings", "status"), [((FOUND, OWN), 4), ((REFUSED,), 3), ((), 0)])
def test_programs_get_one_object(findings: Sequence[Finding], status: int, guest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", guest(*findings), "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, SCHEMA)
    assert told["status"] == status and [f["id"] for f in told["findings"]] == [f.id for f in findings]


def test_a_guest_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nowhere.xml"]) == 2
    assert "nowhere.xml" in capsys.readouterr().err


def test_neither_a_finding_nor_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "hive-drity"]) == 2
    seen = capsys.readouterr().err
    assert "neither a finding nor a guest" in seen and "did you mean hive-dirty?" in seen
