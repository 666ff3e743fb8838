"""What guests have in common, as a page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.pages import grouped as module
from h2k.pages.grouped import anchor, grouped

ANCHORS = {f"/exports/{n}": (anchor(n), f"web{n}") for n in range(5)}


def group(name: str, *keys: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "state": "broken", "count": len(keys), "action": "", "guests": [f"/exports/{n}" for n in keys], **more}


@pytest.mark.parametrize(
    ("name", "more", "finding", "command"),
    [
        ("hive-dirty", {}, True, "h2k explain hive-dirty"),
        ("hive-dirty", {"command": "h2k fix"}, True, "h2k fix"),
        ("running", {}, False, ""),
        ("the image is empty", {}, False, ""),
        ("hive-dirty; rm -rf /", {}, False, ""),
        ("not-Windows", {}, False, ""),
    ],
)
def test_a_finding_gets_the_command_that_explains_it(name: str, more: dict[str, Any], finding: bool, command: str) -> None:
    found = grouped([group(name, 1, **more)], ANCHORS)[0]
    assert (found["finding"], found["command"], found["count"], found["state"]) == (finding, command, 1, "broken")


def test_its_guests_are_named_with_their_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grouped([group("x-y", 0, 4, 9)], ANCHORS)[0]["members"] == [("guest-0", "web0"), ("guest-4", "web4")], "one that is on no page has no link"
    monkeypatch.setattr(module, "MAX_MEMBERS", 1)
    found = grouped([group("x-y", 0, 4)], ANCHORS)[0]
    assert found["members"] == [("guest-0", "web0")] and found["count"] == 2
