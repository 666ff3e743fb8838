"""What guests have in common, as a page shows it: how many, which, and the one command; and the anchors of their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_MEMBERS = 200  # guests that a group names on a page; its count is of all
_FINDING = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


def anchor(number: int) -> str:
    """The anchor of a row, by its number."""
    return f"guest-{number}"


def grouped(groups: Sequence[Mapping[str, Any]], anchors: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """The groups (id, state, count, action, guests, and maybe command) as the page's table takes them; `anchors` has
    (anchor, name) of each guest by its key. A finding of the catalogue gets the command that explains it."""
    found = []
    for group in groups:
        finding = bool(_FINDING.fullmatch(group["id"]))
        command = group.get("command") or (f"h2k explain {group['id']}" if finding else "")
        members = [anchors[key] for key in group["guests"] if key in anchors][:MAX_MEMBERS]
        found.append({**group, "finding": finding, "command": command, "members": members})
    return found
