"""The packages follow the rooms: what setuptools, DEB and RPM are told covers every file of h2k."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_room_is_a_package_that_setuptools_finds() -> None:
    assert 'include = ["h2k", "h2k.*"]' in PYPROJECT
    for path in (ROOT / "h2k").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py: setuptools does not find it"


def test_every_file_that_is_no_module_is_package_data() -> None:
    found = re.search(r"^h2k = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    assert found is not None
    patterns = re.findall(r'"([^"]+)"', found[1])
    files = [p.relative_to(ROOT / "h2k") for p in (ROOT / "h2k").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    data = [str(p) for p in files if p.suffix != ".py"]
    assert data and [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_every_wrapper_has_a_manual_page_and_a_completion_and_is_installed() -> None:
    install = (ROOT / "packaging/install").read_text(encoding="utf-8")
    spec = (ROOT / "packaging/h2k-v2v.spec").read_text(encoding="utf-8")
    programs = sorted(path.name for path in (ROOT / "wrappers").iterdir() if path.is_file())
    assert sorted(re.findall(r"^for program in (.*); do$", install, re.MULTILINE)[0].split()) == programs
    for program in programs:
        assert (ROOT / f"docs/man/{program}.1.md").exists() and (ROOT / f"completion/{program}").exists()
        assert f"%{{_bindir}}/{program}\n" in spec
