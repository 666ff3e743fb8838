"""A finding: one of five states, and texts that are fit to be shown."""

from __future__ import annotations

import dataclasses

import pytest

from h2k.base.finding import STATES, Finding


def test_a_state_is_one_of_the_glossarys() -> None:
    assert STATES == ("ok", "broken", "repaired", "refused", "warning")
    with pytest.raises(ValueError, match="finding x: state 'fixed' is none of"):
        Finding("x", "fixed", "", "")


def test_another_state_leaves_the_rest() -> None:
    found = Finding("x", "broken", "ControlSet001", "Start is 3", "set to 0")
    repaired = found.with_state("repaired")
    assert repaired == dataclasses.replace(found, state="repaired") and found.state == "broken"
    assert repaired.as_json() == {"id": "x", "state": "repaired", "subject": "ControlSet001", "evidence": "Start is 3", "repair": "set to 0"}
    with pytest.raises(ValueError, match="none of"):
        found.with_state("gone")


@pytest.mark.parametrize("field", ["subject", "evidence", "repair"])
def test_every_text_is_fit_to_be_shown(field: str) -> None:
    texts = {"subject": "s", "evidence": "e", "repair": "r", field: "a\x1b]0;x\x07\nnewline"}
    assert getattr(Finding("x", "ok", **texts), field).isprintable()
