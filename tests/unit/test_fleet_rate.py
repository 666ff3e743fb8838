"""The rate of this host: kept with its date, and made of what was converted."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.fleet import rate
from h2k.fleet.rate import Rate, keep, kept, of_runs


def test_it_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "state" / "rate.json"
    assert kept(place) is None
    assert keep(Rate(2e6, "2026-11-27", "made"), place)
    assert kept(place) == Rate(2e6, "2026-11-27", "made") and Rate(2e6, "", "").seconds_for(4_000_000) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bytes_per_second": 0, "date": "", "basis": ""}', '{"bytes_per_second": "x"}'])
def test_what_is_no_rate(tmp_path: Path, text: str) -> None:
    (tmp_path / "rate.json").write_text(text)
    assert kept(tmp_path / "rate.json") is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not keep(Rate(2e6, "", ""), tmp_path / "file" / "rate.json")


def test_of_guests_that_were_converted() -> None:
    found = of_runs([(2 << 30, 1024.0), (6 << 30, 3072.0), (1 << 29, 5000.0), (2 << 30, 0.0)])
    assert found is not None and found.bytes_per_second == 2 << 20 and found.basis.startswith("2 guests")
    assert of_runs([(5_000_000, 15.0)]) is None  # of a small guest the copy takes the smallest part
    assert of_runs([]) is None


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert rate.state_file() == tmp_path / "h2k" / "rate.json"
