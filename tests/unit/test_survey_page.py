"""The page of a survey: classes, the same across guests with one command, and every guest with all that is known of it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from lxml import html

from h2k.fleet.look import READY, REFUSED_CLASS, UNKNOWN, Row, blank
from h2k.fleet.rate import Rate
from h2k.fleet.sources import DISK, Source
from h2k.fleet.survey import document
from h2k.pages.survey_page import MOST, survey_page
from tests.unit.made_pages import finding

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e"


def row(name: str = "web", kind: str = READY, **more: Any) -> Row:
    return {**blank(Source(f"/exports/{name}.qcow2", DISK, f"/exports/{name}.qcow2", name, "/exports")), "class": kind, **more}


def page(*rows: Row, **more: Any) -> html.HtmlElement:
    found = document(rows, Rate(1 << 30, "2026-01-01", "a trial"), **more)
    return html.document_fromstring(survey_page(found, ["h2k fleet plan survey.json > waves.yaml"]))


def words(element: html.HtmlElement) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_the_classes_and_the_sum() -> None:
    found = page(row(bytes=3 << 30), row("old", REFUSED_CLASS, reason="no"))
    tiles = [words(tile) for tile in found.find_class("tiles")[0]]
    assert tiles == ["1 ready to convert", "0 repairs itself", "0 unknown", "1 refused", "3.0 GiB to copy", "3 s one after the other"]
    assert "next: h2k fleet plan survey.json > waves.yaml" in words(found)


def test_a_fault_is_one_row_with_one_command() -> None:
    dirty = finding("hive-dirty", "warning", "SYSTEM", "logs", "shut it down cleanly")
    rows = [row(f"web{n}", findings=[dirty]) for n in range(3)]
    found = page(*rows, row("gone", UNKNOWN, reason="no such file"))
    listed = [words(line) for line in found.xpath("//section[h2/@id='groups']//tbody/tr")]
    assert listed == [
        "1 unknown no such file which guests gone",
        "3 warning hive-dirty which guests web0 web1 web2 shut it down cleanly h2k explain hive-dirty",
    ]


def test_a_row_has_all_that_is_known_of_the_guest() -> None:
    nic = {"name": "LAN", "model": "e1000e", "mac": "00:50:56:00:00:01", "network": None, "addresses": ["192.0.2.1/24"], "fate": "carried: its MAC"}
    disk = {"path": "/exports/web.vmdk", "format": "vmdk", "size": 1 << 40, "allocated": 1 << 30}
    full = row(
        windows="Windows Server 2022", build=20348, firmware="uefi", arch="amd64", bytes=1 << 30, nics=[nic], disks=[disk], installs=["viostor"],
        repairs=["hive-dirty"], actions=["a: do that"], flags=["snapshot"], restarts=3, roles=["SQL Server"], reason="it goes", running=True,
        findings=[finding("hive-dirty", "broken", "SYSTEM", "logs")],
    )  # fmt: skip
    (line,) = page(full).xpath("//table[@data-rows]/tbody/tr")
    text = words(line)
    for wanted in (
        "web running", "it goes", "/exports/web.qcow2", "Windows Server 2022 , build 20348, UEFI, amd64", "do that", "repairs itself: hive-dirty",
        "will install: viostor", "its first boot restarts it 3 times", "snapshot, SQL Server", "SYSTEM: logs", "LAN ( 00:50:56:00:00:01 ): 192.0.2.1/24, carried: its MAC", "1.0 TiB, 1.0 GiB of them in use",
    ):  # fmt: skip
        assert wanted.replace(" ,", ",") in text.replace(" ,", ","), wanted
    assert line.get("data-state") == READY and [cell.get("data-sort") for cell in line] == [None, "0", None, str(1 << 30), "1", None]


def test_what_guests_say_is_text() -> None:
    bad = row(kind=REFUSED_CLASS, actions=[HOSTILE], flags=[HOSTILE], findings=[finding(HOSTILE, "refused", HOSTILE, HOSTILE, HOSTILE)])
    bad.update(dict.fromkeys(("name", "reason", "windows", "firmware", "source"), HOSTILE))
    found = page(bad, notes=[HOSTILE])
    text = html.tostring(found, encoding="unicode")
    assert len(found.xpath("//script")) == 1 and "\x1b" not in text and "\u202e" not in text and words(found).count("alert(1)") >= 10


def test_its_script_is_the_only_one_that_may_run() -> None:
    found = page(row())
    (script,) = found.xpath("//script")
    (policy,) = found.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy


def test_changes_since_the_earlier_survey_and_what_was_not_looked_at() -> None:
    old = document([row(bytes=1), row("gone")], None)
    found = page(row(bytes=2, repairs=["a-b", "c-d"]), old=old, notes=["/exports/locked: Permission denied"])
    text = words(found.xpath("//section[h2/@id='since']")[0])
    assert "bytes, was 1, is 2" in text and "repairs, was , is a-b, c-d" in text and "gone: gone, was ready to convert" in text.replace("/exports/gone.qcow2", "gone")
    assert "Permission denied" in words(found.xpath("//section[h2/@id='notes']")[0])
    assert "Nothing changed." in words(page(row(), old=document([row()], None)))
    assert not page(row()).xpath("//section[h2/@id='since' or h2/@id='notes']")
    assert words(page(row(), notes=["n"] * (MOST + 1)).xpath("//section[h2/@id='notes']/ul")[0]).count("n") == MOST


def test_without_its_script_nothing_dead_is_shown() -> None:
    (controls,) = page(row()).find_class("controls")
    assert controls.get("hidden") is not None
    assert not page(row()).xpath("//th/button")


def test_a_survey_of_nothing_has_a_page() -> None:
    found = document([], None)
    assert "Survey of 0 guests" in survey_page(json.loads(json.dumps(found)))
