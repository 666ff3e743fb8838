"""A fresh machine has what is imported and run here: the Makefile's lists for the tests, the package's own for h2k."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import dependencies
from tests.dependencies import GIVEN, ROOT, closure, control_field, lacking, makefile_list

SUBPROCESS, OURS = "import subprocess\n", "from h2k.base.run import run, pass_through\n"
FROM_13_ON = {"rhsrvany"}  # no package of Debian 12, whose virt-v2v does without it where no script is staged
RUN_TIME = ("h2k/**/*.py", "hooks/*", "wrappers/*")


def files(*patterns: str) -> list[Path]:
    """The files of the checkout that are no package's business."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file() and "__pycache__" not in path.parts}
    return sorted(path for path in found if path.relative_to(ROOT).parts[:2] != ("tests", "package"))


def pip_list() -> str:
    """What the Makefile takes from PyPI."""
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def test_h2k_hooks_and_wrappers_run_with_what_the_deb_depends_on() -> None:
    recommended = control_field("Recommends")
    assert lacking(files(*RUN_TIME), control_field("Depends"), recommended) == []


def test_the_tests_run_with_the_makefiles_lists() -> None:
    packages = [*makefile_list("RUNTIME"), *makefile_list("TESTING"), *GIVEN]
    assert lacking(files(*RUN_TIME, "tests/**/*.py"), packages, pypi=pip_list()) == []


def test_make_deps_brings_what_the_deb_depends_on_and_recommends() -> None:
    brought = closure([*makefile_list("RUNTIME"), *makefile_list("TESTING")])
    wanted = [*control_field("Depends"), *(name for name in control_field("Recommends") if name not in FROM_13_ON)]
    assert [clause for clause in wanted if not set(clause.split("|")) & brought] == []


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("python3-lxml", "module lxml is of python3-lxml"),
        ("python3-tsk", "module pytsk3 is of python3-tsk"),
        ("qemu-utils", "program qemu-nbd is of qemu-utils"),
        ("libnbd-bin", "program nbdcopy is of libnbd-bin"),
    ],
)
def test_a_package_that_is_taken_out_is_missed(package: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What virt-v2v or another package brings along by itself is left out too."""
    without = {name: tuple(d for d in depends if d != package) for name, depends in dependencies._installed().items()}
    monkeypatch.setattr(dependencies, "_installed", lambda: without)
    kept = [name for name in control_field("Depends") if name != package]
    assert any(line in told for told in lacking(files(*RUN_TIME), kept))


@pytest.mark.parametrize(
    ("text", "programs", "hidden"),
    [
        (SUBPROCESS + 'subprocess.run(["a", x])', {"a"}, False),
        (SUBPROCESS + 'argv = ["a", "-x"]\nsubprocess.Popen([*argv, y])', {"a"}, False),
        (SUBPROCESS + 'subprocess.run([str(w) for w in ("a", 1)])', {"a"}, False),
        (SUBPROCESS + 'for argv in (["a", 1], ["b"]):\n    subprocess.run(argv)', {"a", "b"}, False),
        (SUBPROCESS + 'def f(*argv):\n    subprocess.run([str(a) for a in argv])\nf("a", 1)', {"a"}, False),
        (SUBPROCESS + 'def f(argv):\n    argv = ["b"]\ndef g():\n    subprocess.run(["a"] if x else ["c"])', {"a", "c"}, False),
        (SUBPROCESS + 'H = ROOT / "h2k"\nsubprocess.run([H, "fix"])', set(), False),
        (SUBPROCESS + "import sys\nsubprocess.run([sys.executable, '-c'])", set(), False),
        (SUBPROCESS + "subprocess.run(made())", set(), True),
        ("import shutil\n" + SUBPROCESS + 'def p(n):\n    return shutil.which(n)\nsubprocess.run([p("a"), "-x"])', {"a"}, False),
        (SUBPROCESS + 'argv, n = ["a"], 1\nsubprocess.run(argv)', {"a"}, False),
        (OURS + 'pass_through(["a", *b])\nrun(["c"], check=False)', {"a", "c"}, False),
        ('import shutil\nshutil.which("a") or shutil.which("b")', {"a", "b"}, False),
        ('import shutil\nN = ("a", "b")\n[shutil.which(n) for n in N]', {"a", "b"}, False),
    ],
)
def test_programs_are_found_in_the_text(text: str, programs: set[str], hidden: bool) -> None:
    found = dependencies.read(text)
    assert (found.programs, bool(found.hidden)) == (programs, hidden)


def test_modules_are_found_in_the_text() -> None:
    found = dependencies.read("import a.b, c as d\nfrom e.f import g\ndef h():\n    import i\n    pytest.importorskip('j.k')")
    assert found.modules == {"a", "c", "e", "i", "j"}
