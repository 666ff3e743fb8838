"""A failing step names what to look at; slow hosts get more time."""

from __future__ import annotations

from tests.windows.steps import LIMITS, SLOW, StepFailed, limit_of


def test_a_failure_is_one_line_with_a_way_on() -> None:
    assert str(StepFailed("install", "not done in time", "screen.png")) == "install: not done in time; look at screen.png"


def test_without_kvm_everything_may_take_longer() -> None:
    for step, limit in LIMITS.items():
        assert limit_of(step, True) == limit and limit_of(step, False) == limit * SLOW
