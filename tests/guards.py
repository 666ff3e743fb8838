"""`make guards`: each guard against hostile or unlucky input is taken out once, and a test must notice.

tests/guards.txt is the table: for each row of the small inputs that failed once, the guards against it. A guard is a
piece of a file of h2k's (`- `) and what stands there without it (`+ `); its tests pass with it and must fail without it. Nothing is
written into the checkout: the tests run in a copy in a temporary directory. A test that is skipped shows nothing, and neither
does one that fails because what was put there makes no sense; both are told, and the status is 1.

tests/unit/test_guards.py holds that each piece is found exactly once in its file and that each test exists.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import dataclasses
import os
import py_compile
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from tests.mutants import copy_checkout

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".txt")
LIMIT = 120.0  # seconds for the tests of one guard that are all unit tests
LONG = 600.0  # the same for others
MEMORY = 6 << 30  # bytes of addresses that unit tests may have: without its guard a test may ask for all there are
MARK = "H2K_GUARDS"
# What a failure must not be: then the replacement itself is wrong, not what it lets through.
NONSENSE = ("NameError", "UnboundLocalError", "SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError")
HELD = "held"


@dataclasses.dataclass(frozen=True)
class Change:
    """One piece of a file, and what stands there without the guard."""

    file: str
    old: str
    new: str

    def applied(self, root: Path) -> str:
        """The file's text without the guard; ValueError names a file in which the piece is not, or is twice."""
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: found {count} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclasses.dataclass(frozen=True)
class Guard:
    """What stands between an input and the harm that it did; `hangs`: without it the tests do not end in time."""

    row: int
    what: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    hangs: bool = False

    @property
    def unit(self) -> bool:
        """Whether all its tests are unit tests."""
        return all(test.startswith("tests/unit/") for test in self.tests)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: its number, its words, its guards."""

    number: int
    words: str
    guards: tuple[Guard, ...]


def rows(text: Optional[str] = None) -> tuple[Row, ...]:
    """The table. ValueError names a line that makes no sense."""
    found: list[tuple[int, str, list[_Lines]]] = []
    lines = (TABLE.read_text(encoding="utf-8") if text is None else text).splitlines()
    for number, line in enumerate(lines, 1):
        word, _, rest = line.partition(":")
        last = found[-1][2][-1] if found and found[-1][2] else None
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("row ") and word[4:].isdigit():
            found.append((int(word[4:]), rest.strip(), []))
        elif word == "guard" and found:
            found[-1][2].append(_Lines(rest.strip()))
        elif last is None or not last.take(line, word, rest.strip()):
            raise ValueError(f"line {number} makes no sense: {line}")
    return tuple(Row(number, words, tuple(lines.made(number) for lines in guards)) for number, words, guards in found)


@dataclasses.dataclass
class _Lines:
    """A guard as its lines are read."""

    what: str
    changes: list[tuple[str, list[str], list[str]]] = dataclasses.field(default_factory=list)
    tests: list[str] = dataclasses.field(default_factory=list)
    hangs: bool = False

    def take(self, line: str, word: str, rest: str) -> bool:
        """Whether the line has a sense here."""
        if word == "file":
            self.changes.append((rest, [], []))
        elif word == "test":
            self.tests.append(rest)
        elif line == "hangs":
            self.hangs = True
        elif line[:1] in ("-", "+") and self.changes:
            self.changes[-1][1 if line[0] == "-" else 2].append(line[2:])
        else:
            return False
        return True

    def made(self, row: int) -> Guard:
        changes = tuple(Change(file, "\n".join(old), "\n".join(new)) for file, old, new in self.changes)
        return Guard(row, self.what, changes, tuple(self.tests), self.hangs)


def without(guard: Guard, root: Path = ROOT) -> dict[str, str]:
    """File → its text without the guard; ValueError where a piece is not found, or the result is no Python."""
    texts: dict[str, str] = {}
    for change in guard.changes:
        text = texts.get(change.file)
        if text is None:
            texts[change.file] = change.applied(root)
        elif text.count(change.old) == 1:
            texts[change.file] = text.replace(change.old, change.new)
        else:
            raise ValueError(f"{change.file}: found {text.count(change.old)} times, not once: {change.old!r}")
    for file, text in texts.items():
        try:
            ast.parse(text)
        except SyntaxError as e:
            raise ValueError(f"{file}: no Python without the guard, line {e.lineno}: {e.msg}") from e
    return texts


def functions_of(file: Path) -> set[str]:
    """The test functions of a file, from its text."""
    return {n.name for n in ast.parse(file.read_bytes()).body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


# The trial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one run of pytest: test → "passed", "failed", "skipped" or "error", with a line that says why; `ended`: in time."""

    cases: dict[str, tuple[str, str]]
    ended: bool
    seconds: float

    def of(self, test: str) -> list[tuple[str, str]]:
        """The cases of a test of the table; a test without its parameters has them all."""
        return [found for case, found in self.cases.items() if case == test or case.startswith(f"{test}[")]


def run_tests(copy: Path, tests: Sequence[str], unit: bool) -> Outcome:
    """The tests in the copy; what they leave running is ended."""
    report, token, began = copy / "guards.xml", secrets.token_hex(8), time.monotonic()
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "unit or integration or long", "--hypothesis-seed=0",
            f"--junitxml={report}", "-o", "junit_family=xunit1", f"--basetemp={copy.parent / 'pytest'}", *tests]  # fmt: skip
    child = subprocess.Popen(
        argv, cwd=copy, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", MARK: token}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=_bounded if unit else None,
    )  # fmt: skip
    try:
        child.wait(timeout=LIMIT if unit else LONG)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    finally:
        _end(child, token)
    return Outcome(dict(_cases(report)) if report.exists() else {}, ended, time.monotonic() - began)


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _end(child: subprocess.Popen[bytes], token: str) -> None:
    """pytest, and what it has started: known by the token in its environment."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={token}".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _cases(report: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for case in ET.parse(report).getroot().iter("testcase"):  # our own file
        name = f"{case.get('file')}::{case.get('name')}"
        for kind in ("failure", "error", "skipped"):
            found = case.find(kind)
            if found is not None:
                yield name, ("failed" if kind == "failure" else kind, " ".join((found.get("message") or "").split()))
                break
        else:
            yield name, ("passed", "")


@contextlib.contextmanager
def taken_out(guard: Guard, copy: Path) -> Iterator[None]:
    """The copy without the guard."""
    before = {file: (copy / file).read_bytes() for file in without(guard, copy)}
    try:
        for file, text in without(guard, copy).items():
            (copy / file).write_text(text, encoding="utf-8")
        yield
    finally:
        for file, data in before.items():
            (copy / file).write_bytes(data)


def verdict(guard: Guard, sound: Outcome, broken: Outcome) -> str:
    """`held`, or what is wrong; a guard is held when each of its tests passes with it and fails without it."""
    for test in guard.tests:
        with_it = sound.of(test)
        wrong = next(((state, why) for state, why in with_it if state != "passed"), None)
        if not with_it or wrong is not None:
            state, why = wrong or ("not run", "")
            return f"{test}: {state} with the guard{f': {why[:150]}' if why else ''}"
        if not broken.ended:
            if not guard.hangs:
                return f"{test}: no end within {broken.seconds:.0f} s without the guard"
            continue
        without_it = broken.of(test)
        failed = [why for state, why in without_it if state == "failed"]
        if not failed:
            return f"{test}: {without_it[0][0] if without_it else 'not run'} without the guard"
        if any(why.startswith(NONSENSE) for why in failed):
            return f"{test}: fails for the replacement itself: {failed[0][:150]}"
    return HELD


def why_it_failed(guard: Guard, broken: Outcome) -> str:
    """What the first failing test said without the guard."""
    if not broken.ended:
        return f"no end within {broken.seconds:.0f} s"
    found = [why for test in guard.tests for state, why in broken.of(test) if state == "failed"]
    return re.sub(r"\s*(\+ {2}where|assert \(?not \().*", "", found[0])[:110] if found else ""


@contextlib.contextmanager
def a_copy() -> Iterator[Path]:
    """The checkout as it is now, with the linters' environment and the made guests of the real one."""
    with tempfile.TemporaryDirectory(prefix="h2k-guards-", dir="/var/tmp") as name:
        copy = Path(name) / "h2k"
        Path(name).chmod(0o711)  # QEMU's user passes through
        copy_checkout(copy)
        for link in (".venv", ".cache"):
            if (ROOT / link).exists():
                (copy / link).symlink_to((ROOT / link).resolve())
        compileall.compile_dir(copy / "h2k", quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        yield copy


def trial(chosen: Sequence[Row]) -> Iterator[tuple[Guard, str, str]]:
    """(guard, verdict, what was said without it), as it comes: first the tests of all unit guards run once with everything."""
    with a_copy() as copy:
        unit = sorted({test for row in chosen for guard in row.guards if guard.unit for test in guard.tests})
        sound = run_tests(copy, unit, unit=False) if unit else Outcome({}, True, 0.0)
        known: dict[tuple[str, ...], Outcome] = {}
        for row in chosen:
            for guard in row.guards:
                if not guard.unit and guard.tests not in known:
                    known[guard.tests] = run_tests(copy, guard.tests, unit=False)
                with taken_out(guard, copy):
                    broken = run_tests(copy, guard.tests, guard.unit)
                found = verdict(guard, sound if guard.unit else known[guard.tests], broken)
                yield guard, found, why_it_failed(guard, broken)


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.guards [--list] [--unit] [ROW…]"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    parser.add_argument("--unit", action="store_true", help="only the guards that unit tests watch")
    parser.add_argument("--other", action="store_true", help="only the others")
    parser.add_argument("rows", nargs="*", type=int, help="rows of the table; all of them where none is named")
    given = parser.parse_args(argv)
    table = rows()
    unknown = set(given.rows) - {row.number for row in table}
    if unknown:
        parser.error(f"no such row: {', '.join(map(str, sorted(unknown)))}")
    for row in table:
        for guard in row.guards:
            without(guard)  # what is not found any more is told before anything is run
    chosen = [row for row in table if row.number in given.rows or not given.rows]
    if given.unit or given.other:
        chosen = [dataclasses.replace(row, guards=tuple(g for g in row.guards if g.unit != given.other)) for row in chosen]
    if given.list:
        for row in chosen:
            print(f"{row.number}  {row.words}", *(f"    {g.what}: {', '.join(g.tests)}" for g in row.guards), sep="\n")
        return 0
    return _print_trial(chosen)


def _print_trial(chosen: Sequence[Row]) -> int:
    words = {row.number: row.words for row in chosen}
    seen, bad = set(), []
    for guard, found, said in trial(chosen):
        if guard.row not in seen:
            seen.add(guard.row)
            print(f"{guard.row}  {words[guard.row]}", flush=True)
        state = "held: passed with, failed without" if found == HELD else f"NOT SHOWN: {found}"
        print(f"    {guard.what}: {state}{f' ({said})' if said and found == HELD else ''}", flush=True)
        if found != HELD:
            bad.append(guard)
    total = sum(len(row.guards) for row in chosen)
    print(f"\n{total - len(bad)} of {total} guards held, in {len(seen)} rows", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as e:
        sys.exit(f"tests/guards.txt: {e}")
