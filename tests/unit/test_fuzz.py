"""The fuzz run itself: it finds what it is there to find, says the case again, and meets the same cases by its seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from h2k.base.errors import BadData
from tests import fuzz
from tests.fuzz import TARGETS, Case, GuestFiles, cases, main, run


def _two_lines() -> BadData:
    """What BadData itself prevents; a parser's own error might not."""
    bad = BadData("two")
    bad.message = "two\nlines"
    return bad


def planted(fault: object = None) -> GuestFiles:
    """A parser that takes what begins with "s", and meets its fault when there is a "!" in it."""

    def parse(case: Case) -> object:
        if b"!" in case[0]:
            if fault == "slow":
                raise fuzz.TooSlow
            if fault == "memory":
                return bytearray(b"x") * (300 << 20)
            if isinstance(fault, Exception):
                raise fault
        if not case[0].startswith(b"s"):
            raise BadData("x: does not begin with s")
        return case

    return GuestFiles("planted", lambda: [(b"sound",)], parse, words=(b"!",))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (IndexError("list index out of range"), "FAILED planted: IndexError: list index out of range (test_fuzz.py, line "),
        (RecursionError("too deep"), "FAILED planted: RecursionError"),
        (_two_lines(), "FAILED planted: a message of more than one line"),
        ("slow", "FAILED planted: more than 5 s"),
        ("memory", "MiB more memory than before"),
    ],
    ids=["IndexError", "RecursionError", "lines", "slow", "memory"],
)
def test_a_planted_fault_is_found_and_saved(
    fault: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([planted(fault)], seconds=60, seed=1, save=tmp_path) == 1
    printed = capsys.readouterr().out
    assert message in printed
    (saved,) = tmp_path.iterdir()
    assert b"!" in saved.read_bytes()
    assert f"python3 -m tests.fuzz --case planted {saved}" in printed


def test_a_sound_parser_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([planted()], seconds=0.2, seed=1, save=tmp_path) == 0
    name, total, _, accepted, _, rejected, _ = capsys.readouterr().out.split()
    assert name == "planted" and int(total) == int(accepted) + int(rejected) and int(accepted) and int(rejected)
    assert list(tmp_path.iterdir()) == []


def test_a_sound_case_that_is_rejected_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = GuestFiles("broken", lambda: [(b"unsound",)], planted().run)
    assert run([broken], seconds=1, seed=1, save=tmp_path) == 1
    assert "broken: a sound case was rejected" in capsys.readouterr().out


@pytest.mark.parametrize("target", TARGETS, ids=[t.name for t in TARGETS])
def test_the_same_seed_gives_the_same_cases(target: GuestFiles) -> None:
    first, second, other = (list(itertools.islice(cases(target, seed), 30)) for seed in (7, 7, 8))
    assert first == second and first != other


def test_every_parser_for_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "5", "--seed", "1", "--save", str(tmp_path)]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("\n") == len(TARGETS) + 1


def test_a_saved_case_again(tmp_path: Path) -> None:
    (tmp_path / "case").write_bytes(b"MZ")
    with pytest.raises(BadData):
        main(["--case", "pe", str(tmp_path / "case")])
