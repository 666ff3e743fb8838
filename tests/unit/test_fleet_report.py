"""What a fleet has come to: the exit status, what needs somebody, and when the page is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from h2k.fleet import fleet_report
from h2k.fleet.fleet_report import FleetPage, groups_of, next_commands, summary_of
from h2k.fleet.guest_state import DONE, FAILED, INTERRUPTED, REFUSED_STATE, RUNNING, WAITING, GuestState
from h2k.fleet.waves import Entry, Waves
from tests.unit.made_pages import finding, guest_record


def fleet(place: Path, *names: str) -> Waves:
    entries = tuple(Entry(name, f"/exports/{name}.vmx", "vmx", 1, place / "out", "h2k-v2v", bytes=1 << 30, estimate=60) for name in names)
    return Waves(place / "my waves.yaml", entries, windows=((1, "22:00-05:30"),))


def keep(entry: Entry, **record: Any) -> None:
    entry.state.mkdir(parents=True, mode=0o700, exist_ok=True)
    (entry.state / "report.json").write_text(json.dumps(guest_record(**record)))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def paged(place: Path, *names: str) -> tuple[FleetPage, Clock, Path]:
    clock, path = Clock(), place / "fleet.html"
    waves = fleet(place, *names)
    return FleetPage(path, waves, waves.entries, 2, 1, clock), clock, path


@pytest.mark.parametrize(
    ("states", "status"),
    [((DONE,), 0), ((DONE, WAITING), 4), ((INTERRUPTED,), 4), ((WAITING, REFUSED_STATE), 3), ((REFUSED_STATE, FAILED), 1), ((), 0)],
)
def test_the_status_is_that_of_the_worst(states: tuple[str, ...], status: int) -> None:
    assert fleet_report._status(dict.fromkeys(states, 1)) == status


def test_the_same_refusal_is_one_group_with_one_command(tmp_path: Path) -> None:
    waves = fleet(tmp_path, "a", "b", "c", "d", "e", "f")
    states = dict.fromkeys((str(e.state) for e in waves.entries), GuestState(DONE))
    for entry in waves.entries[:2]:
        keep(entry, status=3, findings=[finding("volume-encrypted", "refused", repair="manage-bde -off C:"), finding("nic-ghost", "broken")])
        states[str(entry.state)] = GuestState(REFUSED_STATE, "volume-encrypted")
    states[str(waves.entries[2].state)] = GuestState(REFUSED_STATE, "/exports/c.vmx: in use")
    states[str(waves.entries[3].state)] = GuestState(FAILED, "d: no route to host")
    states[str(waves.entries[4].state)] = GuestState(FAILED, "e: no route to host")
    states[str(waves.entries[5].state)] = GuestState(INTERRUPTED, "")
    listed = groups_of(summary_of(waves, waves.entries, states))
    assert [(g["state"], g["id"], g["count"], g["action"].split(";")[0], g["command"]) for g in listed] == [
        ("refused", "volume-encrypted", 2, "manage-bde -off C:", ""),
        ("refused", "in use", 1, "when the reason is mended", ""),
        ("failed", "no route to host", 2, "when the reason is mended", f"h2k fleet retry '{waves.path}'"),
        ("interrupted", "no reason was given", 1, "the same command goes on", f"h2k fleet run '{waves.path}'"),
    ]
    assert listed[0]["guests"] == [str(e.state) for e in waves.entries[:2]]


@pytest.mark.parametrize("record", ["{", "[]", '{"status": 3, "findings": [1, {"state": "refused"}]}', '{"status": 3, "findings": null}'])
def test_a_record_that_makes_no_sense_leaves_the_reason(record: str, tmp_path: Path) -> None:
    waves = fleet(tmp_path, "a")
    waves.entries[0].state.mkdir(parents=True)
    (waves.entries[0].state / "report.json").write_text(record)
    states = {str(waves.entries[0].state): GuestState(REFUSED_STATE, "a: why")}
    (group,) = groups_of(summary_of(waves, waves.entries, states))
    assert group["id"] in ("why", "None")


@pytest.mark.parametrize(
    ("state", "wanted"), [(DONE, []), (RUNNING, []), (WAITING, ["h2k fleet run"]), (INTERRUPTED, ["h2k fleet run"]), (FAILED, ["h2k fleet retry"]), (REFUSED_STATE, ["h2k fleet retry"])]
)
def test_the_next_command(state: str, wanted: list[str], tmp_path: Path) -> None:
    waves = fleet(tmp_path, "a")
    summary = summary_of(waves, waves.entries, {str(waves.entries[0].state): GuestState(state)})
    assert next_commands(summary) == [f"{command} '{waves.path}'" for command in wanted]


def test_the_page_is_written_soon_after_news_and_twice_a_minute_without(tmp_path: Path) -> None:
    page, clock, path = paged(tmp_path, "a", "b")
    one, other = page.entries
    page.heard(one, GuestState(WAITING))
    page.tick()
    assert not path.exists()  # before every guest was heard of
    page.heard(other, GuestState(WAITING))

    def written() -> bool:
        path.unlink(missing_ok=True)
        page.tick()
        return path.exists()

    assert written() and not written()
    page.heard(one, GuestState(RUNNING))
    assert not written()
    clock.now += 1
    assert written() and not written()
    clock.now += 29
    assert not written()
    clock.now += 1
    assert written()
    assert f'data-running="{clock.now}"' in path.read_text() and path.stat().st_mode & 0o777 == 0o600


def test_a_run_that_ended_leaves_a_page_that_rests(tmp_path: Path) -> None:
    page, clock, path = paged(tmp_path, "a")
    page.heard(page.entries[0], GuestState(FAILED, "why"))
    page.tick()
    assert "data-running" in path.read_text() and "http-equiv=\"refresh\"" in path.read_text() and "h2k fleet retry" not in path.read_text().partition("<main>")[0]
    page.end()
    assert "data-running" not in path.read_text() and "http-equiv=\"refresh\"" not in path.read_text()
    assert "next: <code>h2k fleet retry" in path.read_text()
    assert clock.now == 1000.0


def test_a_running_guest_shows_for_how_long(tmp_path: Path) -> None:
    page, clock, path = paged(tmp_path, "a")
    page.heard(page.entries[0], GuestState(RUNNING, seconds=60.0))
    clock.now += 540
    page.write()
    assert ">10 min</td>" in path.read_text()
    page.heard(page.entries[0], GuestState(DONE, seconds=7.0))
    page.write()
    assert ">7 s</td>" in path.read_text()


def test_a_guest_that_came_to_rest_has_its_page_and_a_link(tmp_path: Path) -> None:
    page, _, path = paged(tmp_path, "a", "b")
    for entry, state in zip(page.entries, (DONE, RUNNING)):
        keep(entry)
        page.heard(entry, GuestState(state))
    own = page.entries[0].state / "page.html"
    assert own.exists() and not (page.entries[1].state / "page.html").exists()
    page.write()
    assert 'href="./out/a.h2k/page.html"' in path.read_text() and "b.h2k/page.html" not in path.read_text()
    own.write_text("new enough")
    page.heard(page.entries[0], GuestState(DONE))
    assert own.read_text() == "new enough"
    later = own.stat().st_mtime_ns + 10**9
    os.utime(page.entries[0].state / "report.json", ns=(later, later))
    page.heard(page.entries[0], GuestState(DONE))
    assert "new enough" not in own.read_text()


@pytest.mark.parametrize("error", [OSError(28, "full"), ZeroDivisionError("full")])
def test_a_page_that_cannot_be_written_is_told_once_and_ends_no_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    page, clock, _ = paged(tmp_path, "a")
    keep(page.entries[0])
    monkeypatch.setattr(fleet_report, "write_text", fail)
    monkeypatch.setattr(fleet_report, "write_guest_page", fail)
    page.heard(page.entries[0], GuestState(DONE))
    for _ in range(3):
        clock.now += 60
        page.tick()
    page.end()
    told = capsys.readouterr().err
    assert told.startswith("h2k: no page: ") and told.count("\n") == 1 and "full" in told
    with pytest.raises(type(error)):
        page.write()


def test_a_directory_of_somebody_elses_gets_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, _, _ = paged(tmp_path, "a")
    keep(page.entries[0])
    page.entries[0].state.chmod(0o777)
    page.heard(page.entries[0], GuestState(DONE))
    assert "others can write to it" in capsys.readouterr().err and not (page.entries[0].state / "page.html").exists()
