"""The collection, built and installed from the tree by ansible-galaxy; the playbook that h2k fleet ansible writes, run here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.test_run import H2K, data_disks, same, waves

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: Any, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the collection of this tree is installed."""
    top = tmp_path_factory.mktemp("ansible")
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(top / "collections"), "ANSIBLE_HOME": str(top), "ANSIBLE_NOCOLOR": "1"}
    built = run("ansible-galaxy", "collection", "build", ROOT / "ansible", "--output-path", top, cwd=top, env=env)
    assert built.returncode == 0, built.stderr
    (archive,) = top.glob("h2k-fleet-*.tar.gz")
    done = run("ansible-galaxy", "collection", "install", archive, "-p", top / "collections", cwd=top, env=env)
    assert done.returncode == 0, done.stderr
    return env


def test_every_module_is_documented(installed: dict[str, str], tmp_path: Path) -> None:
    names = [f"h2k.fleet.{path.stem}" for path in (ROOT / "ansible" / "plugins" / "modules").glob("*.py")]
    done = run("ansible-doc", "--json", *names, cwd=tmp_path, env=installed)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(names) and len(names) == 3
    for name, module in found.items():
        assert module["examples"] and module["return"], name
        assert module["doc"]["attributes"]["check_mode"]["support"] == "full"


@pytest.mark.long
def test_the_playbook_converts_once_and_tells_what_failed(installed: dict[str, str], tmp_path: Path) -> None:
    guests = data_disks(tmp_path, 4)
    file = waves(tmp_path, [*guests, {"name": "gone", "source": str(tmp_path / "gone.raw"), "kind": "disk"}])
    site = tmp_path / "site"
    assert run(H2K, "fleet", "ansible", file, "-o", site, cwd=tmp_path, env=installed).returncode == 0
    argv = ("ansible-playbook", "playbook.yaml", "-e", f"h2k_command={H2K}")
    looked = run(*argv, "--check", cwd=site, env=installed)
    assert looked.returncode == 0 and looked.stdout.count("changed=1") == 5 and not (tmp_path / "out").exists(), looked.stdout
    done = run(*argv, cwd=site, env=installed)
    assert done.returncode != 0 and done.stdout.count("changed=1") == 4 and "No such file" in done.stdout, done.stdout
    assert all(same(tmp_path, guest) for guest in guests)
    again = run(*argv, cwd=site, env=installed)
    assert again.stdout.count("changed=0") == 5 and "changed=1" not in again.stdout, again.stdout
