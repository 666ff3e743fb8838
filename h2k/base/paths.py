"""Where h2k's own data lie: beside the code in a checkout, below /usr/share where a package put them; /etc for the host's."""

from __future__ import annotations

from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[2]
_CHECKOUT = (_BESIDE / "wrappers" / "h2k").exists()
_SHARED = Path("/usr/share/h2k")

HOOKS = _BESIDE / "hooks" if _CHECKOUT else _SHARED / "hooks.d"
PLANS = _BESIDE / "driver-plans" if _CHECKOUT else _SHARED / "driver-plans"
LOCAL = Path("/etc/h2k")
