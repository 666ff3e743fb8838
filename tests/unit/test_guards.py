"""The table of guards does not rot: each guard is found once in its file, each test exists, and each row has guards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import guards
from tests.guards import HELD, ROOT, Change, Guard, Outcome, Row, functions_of, rows, verdict, without

ROWS = (*range(20, 37), *range(60, 71))
TEST = "tests/unit/test_x.py::test_x"


def made(*changes: Change, hangs: bool = False) -> Guard:
    return Guard(20, "a guard", changes, (TEST,), hangs)


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.number))
def test_each_guard_is_found_once_and_each_test_exists(row: Row) -> None:
    assert row.words and row.guards
    for guard in row.guards:
        assert guard.changes and guard.tests, guard.what
        assert all(text != (ROOT / file).read_text(encoding="utf-8") for file, text in without(guard).items()), guard.what
        for test in guard.tests:
            file, _, name = test.partition("::")
            assert name.partition("[")[0] in functions_of(ROOT / file), test


def test_every_row_is_there_and_no_guard_twice() -> None:
    table = rows()
    assert tuple(row.number for row in table) == ROWS
    assert all(len({guard.what for guard in row.guards}) == len(row.guards) for row in table)


def test_a_guard_that_is_gone_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("a = 1\nb = 1\n")
    for old in ("c = 1", " = 1"):
        with pytest.raises(ValueError, match=r"x\.py: found [02] times, not once"):
            without(made(Change("x.py", old, "pass")), tmp_path)
    with pytest.raises(ValueError, match=r"x\.py: no Python without the guard, line 2"):
        without(made(Change("x.py", "b = 1", "b =")), tmp_path)
    assert without(made(Change("x.py", "a = 1", "a = 2"), Change("x.py", "b = 1", "b = 2")), tmp_path) == {"x.py": "a = 2\nb = 2\n"}


def test_the_table_s_lines() -> None:
    (row,) = rows("# a comment\nrow 7: words: more\n\nguard: g\nfile: x.py\n-     if a:\n+     if False:\nfile: y.py\n- b\n+ \ntest: t::u\nhangs\n")
    assert (row.number, row.words) == (7, "words: more")
    assert row.guards == (Guard(7, "g", (Change("x.py", "    if a:", "    if False:"), Change("y.py", "b", "")), ("t::u",), True),)
    for text in ("guard: g", "row 1: w\n- x", "row 1: w\nguard: g\nnonsense", "row 1: w\nguard: g\n- x"):
        with pytest.raises(ValueError, match="makes no sense"):
            rows(text)


def ran(*states: str, why: str = "assert 1 == 2", ended: bool = True) -> Outcome:
    return Outcome({f"{TEST}[{n}]": (state, why if state != "passed" else "") for n, state in enumerate(states)}, ended, 1.0)


@pytest.mark.parametrize(
    ("sound", "broken", "hangs", "said"),
    [
        (ran("passed"), ran("failed"), False, HELD), (ran("passed", "passed"), ran("passed", "failed"), False, HELD),
        (ran("passed"), ran("passed"), False, "passed without the guard"), (ran("passed"), ran("skipped"), False, "skipped without"),
        (ran("passed"), ran("error"), False, "error without"), (ran("passed"), ran(), False, "not run without"),
        (ran("skipped"), ran("failed"), False, "skipped with"), (ran("passed", "failed"), ran("failed"), False, "failed with"),
        (ran(), ran("failed"), False, "not run with"), (ran("passed"), ran(ended=False), False, "no end within"),
        (ran("passed"), ran(ended=False), True, HELD), (ran("passed"), ran("failed", why="NameError: x"), False, "replacement itself"),
    ],
)  # fmt: skip
def test_a_guard_is_held_when_its_tests_pass_with_it_and_fail_without(sound: Outcome, broken: Outcome, hangs: bool, said: str) -> None:
    assert said in verdict(made(hangs=hangs), sound, broken)
    assert (verdict(made(hangs=hangs), sound, broken) == HELD) == (said == HELD)


def test_the_runner_asks_for_the_whole_table_and_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert guards.main(["--list", "36"]) == 0
    assert "36  rollback --force onto a blank disk" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        guards.main(["1000"])
