"""What h2k found about a guest: one stable id, one subject, the evidence, and what was or can be done."""

from __future__ import annotations

import dataclasses
from typing import Any

from h2k.base.option_table import spelled
from h2k.base.text import shown

STATES = ("ok", "broken", "repaired", "refused", "warning")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the report; `id` is one of docs/findings.md, `state` one of STATES. Its texts are fit to be shown, in
    JSON too: scripts print what they find there."""

    id: str
    state: str
    subject: str
    evidence: str
    repair: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"finding {self.id}: state {self.state!r} is none of {STATES}")
        for name in ("subject", "evidence", "repair"):
            object.__setattr__(self, name, shown(getattr(self, name)))

    def with_state(self, state: str) -> Finding:
        """The same finding in another state (a broken one that was repaired, say)."""
        return dataclasses.replace(self, state=state)

    def spelled(self, command: str) -> Finding:
        """The finding with the options in its texts as that command spells them."""
        return dataclasses.replace(self, evidence=spelled(self.evidence, command), repair=spelled(self.repair, command))

    def as_json(self, command: str = "") -> dict[str, Any]:
        """The finding as the report of a command has it."""
        return dataclasses.asdict(self.spelled(command))
