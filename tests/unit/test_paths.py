"""What a host adds in /etc/h2k: driver plans by name over the packaged one; hooks leave no compiled code behind."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from h2k.base import paths
from h2k.base.errors import UsageError
from h2k.config import driver_plan as plan_module
from h2k.config.driver_plan import PLAN_DIRECTORIES, load_plan
from h2k.engine.hooks import load_hook

SKIP = "skip: ['%s']\n"


@pytest.mark.parametrize("checkout", [True, False])
def test_data_lie_beside_the_code_of_a_checkout_and_where_a_package_put_them(checkout: bool, tmp_path: Path) -> None:
    copy = tmp_path / "h2k" / "base" / "paths.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(Path(paths.__file__).read_text(encoding="utf-8"))
    if checkout:
        (tmp_path / "wrappers").mkdir()
        (tmp_path / "wrappers" / "h2k").touch()
    found = runpy.run_path(str(copy))
    wanted = (tmp_path / "hooks", tmp_path / "driver-plans") if checkout else (Path("/usr/share/h2k/hooks.d"), Path("/usr/share/h2k/driver-plans"))
    assert ((found["HOOKS"], found["PLANS"]), found["LOCAL"]) == (wanted, Path("/etc/h2k"))
    assert paths.HOOKS.is_dir() and paths.PLANS.is_dir()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan_module, "PLAN_DIRECTORIES", (PLAN_DIRECTORIES[0], tmp_path / "driver-plans"))
    return tmp_path / "driver-plans"


def test_no_local_directory_changes_nothing(local: Path) -> None:
    assert not local.exists()
    assert load_plan().roles


def test_local_plans_go_over_the_packaged_one_and_the_command_lines_over_them(local: Path, tmp_path: Path) -> None:
    local.mkdir()
    (local / "20-later.yaml").write_text(SKIP % "*.later")
    (local / "10-earlier.yaml").write_text(SKIP % "*.earlier")
    (local / "README").write_text("no plan: not read")
    assert load_plan().skip == ("*.later",)
    given = tmp_path / "given.yaml"
    given.write_text(SKIP % "*.given")
    assert load_plan([given]).skip == ("*.given",)


def test_a_bad_local_plan_is_named(local: Path) -> None:
    local.mkdir()
    (local / "bad.yaml").write_text("nonsense: 1\n")
    with pytest.raises(UsageError, match=r"driver-plans/bad\.yaml, line 1"):
        load_plan()


def test_loading_a_hook_leaves_nothing_beside_it(tmp_path: Path) -> None:
    hook = tmp_path / "99-example.py"
    hook.write_text(
        'META = {"name": "example", "summary": "s", "answers": []}\ndef propose(guest, options):\n    yield from ()\n'
    )
    assert load_hook(hook).name == "example"
    assert list(tmp_path.iterdir()) == [hook]
