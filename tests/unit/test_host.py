"""h2k doctor: what h2k needs of the host, and what it can do without."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import Optional

import pytest

from h2k.base import host


@pytest.mark.parametrize(
    ("module", "ok", "said"),
    [
        ("pytsk3", True, "not here: disks are read in an appliance, seconds slower"),
        ("rich", True, "not here: plain lines instead of progress bars"),
        ("PIL", True, "not here: screenshots are kept unread: a guest without signals settles later"),
        ("hivex", False, "install the hivex bindings"),
    ],
)
def test_a_missing_module_is_told_and_only_the_needed_ones_are_wrong(
    module: str, ok: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str, package: Optional[str] = None) -> Optional[ModuleSpec]:
        return None if name == module else ModuleSpec(name, None)

    monkeypatch.setenv("H2K_KVM", "no")
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    (check,) = [c for c in host.doctor() if c.name == f"python {module}"]
    assert check.ok is ok
    assert said in (check.detail, check.hint)
    others = [c for c in host.doctor() if c.name.startswith("python ") and c is not check and c.name != check.name]
    assert others and all(c.ok and not c.detail for c in others)
