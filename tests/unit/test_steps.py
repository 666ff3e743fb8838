"""Timed steps: announced with their time, and kept for the report."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from h2k.base import steps
from h2k.base.steps import Steps, counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 disks"), (1, "1 disk"), (2, "2 disks"), (0.5, "0.5 disks")])
def test_counted(number: float, text: str) -> None:
    assert counted(number, "disk") == text


def test_a_step_is_announced_and_its_time_kept_whatever_becomes_of_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 101.0, 103.0, 103.5, 110.0, 110.0, 111.25)).__next__
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=clock))
    found = Steps()
    with found.step("read", "reading the guest"):
        pass
    with pytest.raises(ZeroDivisionError), found.step("apply", "repairing"):
        raise ZeroDivisionError
    assert found.timings == [{"step": "read", "seconds": 0.5}, {"step": "apply", "seconds": 1.25}]
    assert capsys.readouterr().err.splitlines()[0] == "h2k [    1.0 s] reading the guest"


def test_a_quiet_run_says_nothing_and_keeps_its_times(capsys: pytest.CaptureFixture[str]) -> None:
    found = Steps(quiet=True)
    found.say("nothing")
    with found.step("read", "reading the guest"):
        pass
    assert capsys.readouterr() == ("", "") and [t["step"] for t in found.timings] == ["read"]
