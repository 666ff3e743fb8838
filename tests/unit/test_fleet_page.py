"""The page of a fleet: waves with their windows, what needs somebody, links to the guests' pages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lxml import html

from h2k.fleet.guest_state import STATES
from h2k.pages.fleet_page import FleetFacts, fleet_page

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e"
FACTS = FleetFacts(2, 1, {1: "22:00-05:30"}, [], [], "h2k fleet status waves.yaml", "conv1", "2026-01-01 00:00:00", 5.0)


def guest(place: Path, name: str = "web", state: str = "done", wave: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "wave": wave, "source": f"/exports/{name}.vmx", "state": state, "reason": "READY", "seconds": 30.0, "estimate": 60,
        "bytes": 1 << 30, "report": str(place / f"{name}.h2k"), **more,
    }  # fmt: skip


def page(place: Path, *guests: dict[str, Any], **facts: Any) -> html.HtmlElement:
    states = {state: sum(g["state"] == state for g in guests) for state in STATES}
    summary = {"schema": 1, "waves": "/srv/waves.yaml", "status": 0, "states": states, "guests": list(guests)}
    return html.document_fromstring(fleet_page(place / "fleet.html", summary, dataclasses.replace(FACTS, **facts)))


def words(element: html.HtmlElement) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_waves_have_their_window_and_how_far_they_are(tmp_path: Path) -> None:
    found = page(tmp_path, guest(tmp_path), guest(tmp_path, "erp", "running"), guest(tmp_path, "old", "waiting", 2, estimate=None))
    rows = [[words(cell) for cell in row] for row in found.xpath("//section[h2/@id='waves']//tbody/tr")]
    assert rows == [["1", "22:00-05:30", "1 done, 1 running", "2.0 GiB", "2 min"], ["2", "any time", "1 waiting", "1.0 GiB", ""]]
    bars = [[(s.get("class"), s.get("style")) for s in bar] for bar in found.xpath("//section[h2/@id='waves']//div[@class='bar']")]
    assert bars[0] == [("good", "width:50.000%"), ("run", "width:50.000%")]
    assert found.findtext(".//h1") == "waves.yaml: 1 of 3 done"


def test_what_is_done_and_what_is_left(tmp_path: Path) -> None:
    left = [guest(tmp_path, f"w{n}", "waiting", estimate=7200, seconds=None) for n in range(4)]
    found = page(tmp_path, guest(tmp_path), guest(tmp_path, "bad", "failed", estimate=9999), *left)
    tiles = [words(tile) for tile in found.find_class("tiles")[0]]
    assert tiles == ["1 done", "4 waiting", "1 failed", "1.0 GiB of 6.0 GiB converted", "30 s for what is done, estimated 60 s", "4 h 00 min left, by the estimates"]


def test_links_are_relative_and_lead_nowhere_else(tmp_path: Path) -> None:
    names = ["web", "javascript:alert(1)", "a b?c#d", "none"]
    for name in names[:3]:
        (tmp_path / f"{name}.h2k").mkdir()
        (tmp_path / f"{name}.h2k" / "page.html").write_text("")
    found = page(tmp_path, *(guest(tmp_path, name) for name in names))
    assert found.xpath("//table[@data-rows]//@href") == ["./web.h2k/page.html", "./javascript%3Aalert%281%29.h2k/page.html", "./a%20b%3Fc%23d.h2k/page.html"]
    (tmp_path / "pages").mkdir()
    assert page(tmp_path / "pages", guest(tmp_path)).xpath("//table[@data-rows]//@href") == ["./../web.h2k/page.html"]


def test_groups_name_their_guests_and_lead_to_them(tmp_path: Path) -> None:
    bad = [guest(tmp_path, f"w{n}", "refused") for n in range(3)]
    groups = [{"id": "volume-encrypted", "state": "refused", "count": 500, "action": "decrypt it", "command": "", "guests": [g["report"] for g in bad]}]
    found = page(tmp_path, guest(tmp_path), *bad, groups=groups)
    (row,) = found.xpath("//section[h2/@id='groups']//tbody/tr")
    assert words(row) == "500 refused volume-encrypted which guests w0 w1 w2 and 497 more decrypt it h2k explain volume-encrypted"
    ids = found.xpath("//table[@data-rows]/tbody/tr/@id")
    assert row.xpath(".//@href") == [f"#{anchor}" for anchor in ids[1:]] and len(set(ids)) == 4


def test_what_others_say_is_text(tmp_path: Path) -> None:
    bad = {**guest(tmp_path, "x", "failed"), **dict.fromkeys(("name", "reason", "source"), HOSTILE)}
    groups = [{"id": HOSTILE, "state": "failed", "count": 1, "action": HOSTILE, "command": HOSTILE, "guests": [bad["report"]]}]
    found = page(tmp_path, bad, groups=groups, commands=[HOSTILE], host=HOSTILE, windows={1: HOSTILE})
    text = html.tostring(found, encoding="unicode")
    assert len(found.xpath("//script")) == 1 and "\x1b" not in text and "\u202e" not in text and words(found).count("alert(1)") >= 9


def test_a_fleet_without_guests_has_a_page(tmp_path: Path) -> None:
    assert page(tmp_path).findtext(".//h1") == "waves.yaml: 0 of 0 done"


def test_a_page_that_runs_is_read_anew_without_a_script_too(tmp_path: Path) -> None:
    found = page(tmp_path, guest(tmp_path, state="running"), running=True)
    assert found.xpath("//noscript/meta/@content") == ["10"] and found.xpath("//body/@data-running") == ["5.0"]
    assert "h2k fleet status waves.yaml" in words(found.find_class("stale")[0])
    rest = page(tmp_path, guest(tmp_path))
    assert not rest.xpath("//meta[@http-equiv='refresh'] | //noscript | //body/@data-running") and not rest.find_class("stale")
