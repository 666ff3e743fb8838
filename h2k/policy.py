"""The owner's policy: what may be decided without asking, from policy.yaml over documented, safe defaults."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Policy:
    """Every decision that is the owner's to make; the defaults are the safe ones (docs/policy.md)."""

    ghosts: str = "remove"
    addresses: str = "preserve"
    profiles: str = "keep"
    bootstrap: str = "recommended"
