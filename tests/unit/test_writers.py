"""Which writer does it, and what becomes of one that can't work here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.engine import writers
from h2k.engine.writing import Unavailable, Work

NOTHING = Work((), ())


class Fake:
    """A writer that does what it is told."""

    def __init__(self, name: str, failure: Any = None) -> None:
        self.name, self.failure, self.wrote = name, failure, False

    def write(self, overlays: Sequence[Path], work: Work) -> None:
        if self.failure is not None:
            raise self.failure
        self.wrote = True


def test_the_appliance_takes_over_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    direct, appliance = Fake("direct", Unavailable("/dev/fuse missing")), Fake("appliance")
    monkeypatch.setattr(writers, "_candidates", lambda wanted, say: iter([direct, appliance]))
    said: list[str] = []
    assert writers.write((), NOTHING, "auto", said.append) == "appliance"
    assert appliance.wrote and said == ["the direct writer can't work here (/dev/fuse missing): an appliance does it, which takes longer"]


def test_a_failure_in_the_middle_is_no_reason_to_try_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    direct, appliance = Fake("direct", H2kError("no space")), Fake("appliance")
    monkeypatch.setattr(writers, "_candidates", lambda wanted, say: iter([direct, appliance]))
    with pytest.raises(H2kError, match="no space"):
        writers.write((), NOTHING)
    assert not appliance.wrote


def test_a_writer_that_is_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    appliance = Fake("appliance")
    monkeypatch.setattr(writers, "_candidates", lambda wanted, say: iter([Fake("direct", Unavailable("nbdfuse missing")), appliance]))
    with pytest.raises(UsageError, match="nbdfuse missing"):
        writers.write((), NOTHING, "direct")
    assert not appliance.wrote


@pytest.mark.parametrize(("wanted", "names"), [("auto", ["direct", "appliance"]), ("appliance", ["appliance"])])
def test_which_writers_there_are(wanted: str, names: list[str]) -> None:
    assert [w.name for w in writers._candidates(wanted, print)] == names


@pytest.mark.parametrize(
    ("wanted", "lacking", "answer"),
    [
        ("auto", [], ("direct", "")),
        ("auto", ["nbdfuse", "/dev/fuse"], ("appliance", "nbdfuse, /dev/fuse missing")),
        ("direct", [], ("direct", "")),
        ("appliance", [], ("appliance", "the policy says so")),
    ],
)
def test_what_doctor_tells(wanted: str, lacking: list[str], answer: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.direct_writer.missing", lambda: lacking)
    assert writers.expected(wanted) == answer


