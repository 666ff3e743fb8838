"""From a survey to waves.yaml: the order of the guests, the nights, names; and the text is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.fleet.look import READY, REFUSED_CLASS, REPAIRS, blank
from h2k.fleet.sources import DISK, Source
from h2k.fleet.wave_plan import Wishes, free_name, in_waves, unique_names
from h2k.fleet.waves import read_waves
from tests.unit.made_waves import WISHES, planned, row, written


def test_ready_first_then_small_first(tmp_path: Path) -> None:
    _, order = planned(tmp_path, row("c", REPAIRS, 1), row("b", size=9), row("a", size=3), wishes=Wishes("/out", 2, 1, 1e6, 10))
    assert order == [(1, "a"), (1, "b"), (1, "c")]


def test_no_more_in_a_night_than_the_estimate_allows() -> None:
    waves = list(in_waves([row(str(n), estimate=90) for n in range(4)], WISHES))
    assert [len(wave) for wave in waves] == [2, 2]  # 90 s each, two at a time, a night of 100 s
    assert [len(w) for w in in_waves([row("a", estimate=500), row("b")], WISHES)] == [1, 1]
    assert [len(w) for w in in_waves([row(str(n), estimate=None) for n in range(7)], WISHES)] == [3, 3, 1]


def test_refused_guests_stand_there_with_their_reason(tmp_path: Path) -> None:
    bad = row("old", REFUSED_CLASS, reason="two\nlines: [x", actions=["run chkdsk"])
    text, order = planned(tmp_path, bad, row("web"))
    assert order == [(1, "web")]
    assert "#     refused: two lines: [x\n#       → run chkdsk\n#     - {name: " in text


@pytest.mark.parametrize("name", ['a "b": {c}', "# no", "Zürich 東京 😀", "a\\b", "@x", "yes", "1.5", "\x85", "'"])
def test_any_name_is_read_again(tmp_path: Path, name: str) -> None:
    _, order = planned(tmp_path, row(name))
    assert [found for _, found in order] == [name.strip("\x85")] or name == "\x85"


def test_names_are_unique_and_fit_for_files() -> None:
    rows = [row("web"), {**row("x"), "name": "web"}, {**row("y"), "name": "../etc/pass\nwd"}, {**row("z"), "name": "..."}]
    assert list(unique_names(rows).values()) == ["web", "web-2", "_etc_pass_wd", "guest"]


def test_many_guests_of_one_name_are_not_compared_with_each_other() -> None:
    class Counted(dict[str, int]):
        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return super().__contains__(name)

    taken = Counted()
    assert [free_name(name, taken) for name in ("web", "web-2", "web", "web", "web-2")] == ["web", "web-2", "web-3", "web-4", "web-2-2"]
    found = {free_name("db", taken) for _ in range(1000)}
    assert len(found) == 1000 and "db-1000" in found and taken.asked < 3000


def test_nothing_to_plan(tmp_path: Path) -> None:
    assert planned(tmp_path, row("old", REFUSED_CLASS))[1] == []


def test_a_disk_is_for_qemu_img(tmp_path: Path) -> None:
    disk = blank(Source("/exports/a.raw", DISK, "/exports/a.raw", "a"))
    text, _ = planned(tmp_path, {**disk, "class": READY})
    assert read_waves(written(tmp_path, text)).entries[0].program == "h2k-qemu-img"
