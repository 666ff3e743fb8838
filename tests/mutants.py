"""`make mutants`: does a unit test notice a broken line? Mutants of cosmic-ray's, chosen by a seed, each met by the unit tests
that run its line.

Nothing is written into the checkout: workers have copies below build/mutants. One run of the unit tests under coverage
tells which tests run which line; a mutant is tried by those alone, the file's own tests first, until one fails. A line that runs
at import (a default, a table) is tried by all tests that run any line of its file, and by those of the bounds. Decorators
and annotations are left alone.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import dataclasses
import difflib
import functools
import json
import multiprocessing
import os
import py_compile
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "mutants"
TOOLS = PLACE / "tools"  # a virtual environment with cosmic-ray; its libraries are not those that the tests run with
TARGETS = ("hooks/*.py", "h2k/engine/**/*.py", "h2k/guest/**/*.py", "h2k/boot/disk_evidence.py", "h2k/disk/overlay*.py",
           "h2k/disk/*journal*.py", "h2k/disk/undo*.py", "h2k/disk/blocks.py")  # fmt: skip
BOUNDS = "tests/unit/test_bounds.py"
WANTED = 90  # percent killed
LEFT_ALONE = ("core/RemoveDecorator", "core/VariableInserter", "core/VariableReplacer")
PATIENCE = 30.0  # seconds more than thrice what the tests of a mutant take


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one place: `source` is the whole file with it."""

    path: str
    line: int
    operator: str
    source: str
    shown: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a mutant: "killed", "survived", or "untested" where no unit test runs its file."""

    mutant: Mutant
    state: str
    tests: int
    seconds: float


# The mutants, made by cosmic-ray in its own environment


def generate(paths: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Called in the tools' environment: `count` places, and one change of each, as JSON objects."""
    import cosmic_ray.plugins as plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    operators = {n: plugins.get_operator(n)() for n in sorted(plugins.operator_names()) if n not in LEFT_ALONE}
    places: dict[tuple[str, Any, Any], list[tuple[str, int]]] = {}
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        skipped, tree = _left_alone(text), get_ast(text)
        for name, operator in operators.items():
            found = [at for node in ast_nodes(tree) for at in operator.mutation_positions(node)]
            for occurrence, (start, end) in enumerate(found):
                if not any(first <= start and end <= last for first, last in skipped):
                    places.setdefault((path, start, end), []).append((name, occurrence))
    chance = random.Random(seed)
    made = []
    for place in chance.sample(sorted(places), min(count, len(places))):
        path = place[0]
        name, occurrence = chance.choice(places[place])
        text = (ROOT / path).read_text(encoding="utf-8")
        source = mutate_code(text, operators[name], occurrence)
        if source is not None and source != text:
            made.append({"path": path, "line": place[1][0], "operator": name.removeprefix("core/"), "source": source,
                         "shown": _difference(text, source)})  # fmt: skip
    return made


def _left_alone(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where decorators and annotations stand: ((line, column), (line, column))."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(text)):
        found += getattr(node, "decorator_list", [])
        found += [part for part in (getattr(node, "annotation", None), getattr(node, "returns", None)) if part is not None]
    return [((n.lineno, n.col_offset), (n.end_lineno or n.lineno, n.end_col_offset or 0)) for n in found]


def _difference(before: str, after: str) -> str:
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("- ", "+ ")]
    return "  →  ".join(" ".join(line[2:].split()) for line in changed[:2])


# Which test runs which line


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Line → tests, for each file; seconds that each test takes; only tests that pass."""

    lines: dict[str, dict[int, frozenset[str]]]
    seconds: dict[str, float]

    @property
    def bounds(self) -> frozenset[str]:
        """The tests that compare constants with their document: they run no line of the files whose constants these are."""
        return frozenset(test for test in self.seconds if test.startswith(BOUNDS))

    def tests(self, path: str, line: int) -> list[str]:
        """Those that run a line, or any line of the file where it runs at import: its own first, then the quickest. A hook is
        imported by whichever test asks it first, which says nothing."""
        lines = self.lines.get(path, {})
        found = (lines.get(line) if line in _in_functions(path) else None) or frozenset(test for tests in lines.values() for test in tests) | self.bounds
        stem = Path(path).stem.lstrip("0123456789-").replace("-", "_")
        return sorted(found, key=lambda test: (stem not in test.partition("::")[0], self.seconds[test], test))


@functools.cache
def _in_functions(path: str) -> frozenset[int]:
    """The lines of a file that run when a function is called."""
    functions = [n for n in ast.walk(ast.parse((ROOT / path).read_bytes())) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return frozenset(line for n in functions for line in range(n.body[0].lineno, (n.end_lineno or n.lineno) + 1))


def cover(copy: Path, tests: Sequence[str]) -> Coverage:
    """Run the unit tests of a copy once, watched."""
    junit, data = PLACE / "tests.xml", copy / ".coverage"
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "unit", "-n", "2", "-p", "no:cacheprovider", f"--junitxml={junit}",
            "--cov=hooks", "--cov=h2k", "--cov-context=test", "--cov-report=", "-o", "junit_family=xunit1", *tests]  # fmt: skip
    subprocess.run(argv, cwd=copy, env=_environment(), stdin=subprocess.DEVNULL, check=False)
    seconds = {}
    for case in ET.parse(junit).getroot().iter("testcase"):  # our own file
        if not any(case.find(bad) is not None for bad in ("failure", "error", "skipped")):
            seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time", 0))
    import coverage

    watched = coverage.CoverageData(basename=str(data))
    watched.read()
    lines = {}
    for file in watched.measured_files():
        found = {}
        for line, contexts in watched.contexts_by_lineno(file).items():
            found[line] = frozenset(filter(seconds.__contains__, (c.rpartition("|")[0] for c in contexts)))
        lines[str(Path(file).relative_to(copy))] = {line: tests for line, tests in found.items() if tests}
    return Coverage(lines, seconds)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "H2K_KVM": "no", "COVERAGE_CORE": "ctrace"}


def make_copy(name: str) -> Path:
    """A copy of the checkout below build/mutants."""
    copy = PLACE / name
    shutil.rmtree(copy, ignore_errors=True)
    copy_checkout(copy)
    return copy


def copy_checkout(copy: Path) -> None:
    """The checkout, as git knows it and as it is now."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for file in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)


# The trial


class _Chosen:
    """For pytest: only these tests, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.order = {test: number for number, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])


def attempt(copy: Path, mutant: Mutant, tests: Sequence[str], limit: float) -> str:
    """What the tests make of a mutant in a copy. The child is a fork of a process that has imported what they need."""
    file = copy / mutant.path
    before = file.read_bytes()
    file.write_text(mutant.source, encoding="utf-8")
    try:
        child = os.fork()
        if child == 0:
            _run_tests(copy, tests)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return "survived" if status == 0 else "killed"
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "killed"
    finally:
        file.write_bytes(before)


def _run_tests(copy: Path, tests: Sequence[str]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(copy)
        sys.path[:0] = [str(copy)]
        for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", "h2k")]:
            del sys.modules[name]  # those of the checkout, that we are a part of
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        import pytest

        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        options = ["-x", "-q", "-m", "unit", "-p", "no:cacheprovider", "-p", "no:cov", "--hypothesis-seed=0"]
        status = int(pytest.main([*options, *files], plugins=[_Chosen(tests)]))
    finally:
        os._exit(status)


def _worker(number: int, tasks: Any, results: Any) -> None:
    os.environ.update(_environment())
    sys.dont_write_bytecode = True
    sys.path[:] = [p for p in sys.path if p and not (Path(p) / "h2k").exists()]
    for name in ("pytest", "hypothesis", "hypothesis.strategies", "click", "lxml.etree", "yaml", "jsonschema", "pefile", "hivex", "rich.live"):
        __import__(name)
    copy = make_copy(f"work{number}")
    # Compiled once; a file that a mutant changes has another hash, and is compiled anew.
    compileall.compile_dir(copy, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    sound = attempt(copy, *tasks.get())
    if sound != "survived":
        results.put(None)
        return
    for mutant, tests, limit in iter(tasks.get, None):
        began = time.monotonic()
        state = attempt(copy, mutant, tests, limit) if tests else "untested"
        results.put(Result(mutant, state, len(tests), time.monotonic() - began))


def trial(mutants: Sequence[Mutant], coverage: Coverage, workers: int) -> Iterable[Result]:
    """Each mutant's result, as it comes."""
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    # First each worker shows that the tests pass where nothing is broken: some of each file.
    some = list({test.partition("[")[0]: test for test in coverage.seconds}.values())[:: max(1, workers)]
    whole = mutants[0].path
    sound = Mutant(whole, 0, "", (ROOT / whole).read_text(encoding="utf-8"), "")
    for _ in range(workers):
        tasks.put((sound, some, PATIENCE + 10 * sum(coverage.seconds[t] for t in some)))
    for mutant in mutants:
        tests = coverage.tests(mutant.path, mutant.line)
        tasks.put((mutant, tests, PATIENCE + 3 * sum(coverage.seconds[t] for t in tests)))
    running = [context.Process(target=_worker, args=(n, tasks, results)) for n in range(workers)]
    for process in running:
        tasks.put(None)
        process.start()
    for _ in mutants:
        result = results.get()
        if result is None:
            raise SystemExit("the unit tests fail where nothing is broken; run them first")
        yield result
    for process in running:
        process.join()


def report(results: Sequence[Result]) -> str:
    """The table of files, then each survivor."""
    rows = []
    for path in sorted({r.mutant.path for r in results}):
        states = [r.state for r in results if r.mutant.path == path]
        rows.append(f"{path:<44} {len(states):>4} mutants {states.count('killed'):>4} killed")
    left = sorted((r for r in results if r.state != "killed"), key=lambda r: (r.mutant.path, r.mutant.line))
    rows += ["", *(f"{r.state:<9} {r.mutant.path}:{r.mutant.line} {r.mutant.operator}: {r.mutant.shown}" for r in left)]
    killed = sum(r.state == "killed" for r in results)
    return "\n".join([*rows, "", f"{killed} of {len(results)} mutants killed ({100 * killed / max(1, len(results)):.1f} %)"])


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.mutants [--count N] [--seed N] [--workers N] [FILE…]"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tests", action="append", help="this test file only; may be repeated")
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*")
    given = parser.parse_args(argv)
    patterns = given.files or TARGETS
    paths = sorted({str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern) if p.suffix == ".py"})
    if given.generate:
        print(json.dumps(generate(paths, given.count, given.seed)))
        return 0
    python = TOOLS / "bin" / "python"
    argv = [str(python), "-m", "tests.mutants", "--generate", f"--count={given.count}", f"--seed={given.seed}", *paths]
    made = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    mutants = [Mutant(**fields) for fields in json.loads(made)]
    coverage = cover(make_copy("covered"), given.tests or ["tests/unit"])
    results: list[Result] = []
    for result in trial(mutants, coverage, given.workers):
        results.append(result)
        print(f"{len(results):>4}/{len(mutants)} {result.state:<9} {result.mutant.path}:{result.mutant.line} "
              f"{result.tests} tests, {result.seconds:.1f} s", flush=True)  # fmt: skip
    text = report(results)
    (PLACE / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    killed = sum(r.state == "killed" for r in results)
    return 0 if 100 * killed >= WANTED * len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
