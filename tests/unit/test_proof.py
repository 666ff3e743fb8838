"""The one proof of a repair: what it finds in a guest that was written, and that a good one has no problem."""

from __future__ import annotations

import pytest

from h2k.engine import proof
from tests.unit.engine_world import made_guest


def test_every_hive_that_is_not_sound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = made_guest(0, bcd=made_guest(0).hive_bytes("SYSTEM"), drivers=made_guest(0).hive_bytes("SYSTEM"))
    monkeypatch.setattr(proof.regf, "check", lambda data, name, deep=False: [f"{name}: first", "second"] if deep else [])
    assert [(f.id, f.subject, f.evidence) for f in proof.deep_findings(guest)] == [
        ("hive-corrupt", "SYSTEM", "SYSTEM: first"), ("hive-corrupt", "SOFTWARE", "SOFTWARE: first"),
        ("hive-corrupt", "DRIVERS", "DRIVERS: first"), ("bcd-corrupt", "BCD", "BCD: first"),
    ]  # fmt: skip
