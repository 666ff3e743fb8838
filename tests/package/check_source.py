"""Before anything is installed: one version everywhere, sound man pages, linters' verdicts, no file of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from h2k import __version__
from tests.dependencies import GIVEN, lacking, makefile_list
from tests.package.conftest import BUILD, OLD_VERSION, ROOT, Packages


def output(*argv: object, **how: object) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def test_one_version_everywhere(packages: Packages) -> None:
    assert output("dpkg-deb", "-f", packages.deb, "Version").strip() == f"{__version__}-1"
    assert output("dpkg-deb", "-f", packages.old_deb, "Version").strip() == f"{OLD_VERSION}-1"
    assert output("rpm", "-qp", "--qf", "%{VERSION}", packages.rpm) == __version__
    assert packages.source.name == f"h2k-v2v-{__version__}"
    changes = output("dpkg-parsechangelog", "-l", BUILD / "deb" / packages.source.name / "debian" / "changelog")
    assert f"Version: {__version__}-1" in changes
    assert __version__ in output("rpm", "-qp", "--changelog", packages.rpm)


def test_the_source_packages_are_whole(packages: Packages) -> None:
    names = {p.name for p in packages.deb.parent.iterdir() if p.is_file()}
    for suffix in (".orig.tar.gz", "-1.debian.tar.xz", "-1.dsc"):
        assert f"h2k-v2v_{__version__}{suffix}" in names
    assert list((BUILD / "rpm").glob("h2k-v2v-*.src.rpm"))
    with tarfile.open(packages.deb.parent / f"h2k-v2v_{__version__}.orig.tar.gz") as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert {"h2k/__init__.py", "man/h2k.1", "packaging/h2k-v2v.spec", "LICENSE", "tests/unit/test_hooks.py"} <= inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith((".cache", "build/", ".git/"))]


def test_lintian_finds_no_error(packages: Packages) -> None:
    for changes in (*packages.deb.parent.glob("*.changes"), *packages.example_deb.parent.glob("*.changes")):
        done = subprocess.run(
            ["lintian", "--allow-root", "--fail-on", "error", str(changes)], capture_output=True, text=True, check=False
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rpmlint_finds_no_error(packages: Packages) -> None:
    spec = packages.source / "packaging" / "h2k-v2v.spec"
    print(output("rpmlint", "-c", ROOT / "packaging" / "rpmlint.toml", packages.rpm, spec))


PAGES = sorted((ROOT / "docs" / "man").glob("*.md"))


@pytest.mark.parametrize("source", PAGES, ids=lambda p: p.stem)
def test_man_pages_render_without_warnings_and_are_found_by_whatis(source: Path, packages: Packages) -> None:
    page = packages.source / "man" / source.stem
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    argv = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert source.stem.rpartition(".")[0] in output("lexgrog", page)
    assert f"h2k {__version__}" in page.read_text()


def test_nothing_needs_a_newer_python_than_el9s(packages: Packages) -> None:
    """Syntax and standard library of Python 3.9, in all that is installed."""
    vermin = Path(sys.prefix) / "bin" / "vermin"
    tree = packages.source
    programs = [*(tree / "h2k").rglob("*.py"), *(tree / "hooks").glob("*.py"), *(tree / "wrappers").iterdir()]
    output(vermin, "-t=3.9-", "--violations", "--no-tips", "--eval-annotations", *sorted(programs))


def test_what_makes_and_tries_the_packages_is_in_the_makefiles_lists() -> None:
    packages = [*makefile_list("RUNTIME"), *makefile_list("TESTING"), *makefile_list("PACKAGING"), *GIVEN]
    files = [*ROOT.glob("packaging/*"), *ROOT.glob("tests/package/*.py")]
    assert lacking([f for f in files if f.is_file()], packages, pypi=(ROOT / "Makefile").read_text()) == []
