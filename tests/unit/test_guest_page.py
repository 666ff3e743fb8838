"""The page of a guest: whole, without scripts and network, and with everything that a guest says shown as text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from h2k.engine.catalogue import ENTRIES
from h2k.pages.chain import LINKS, chain_of
from h2k.pages.guest_page import page, write_page

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\"'&<img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def record(**more: Any) -> dict[str, Any]:
    finding = {"id": "driver-not-boot-start", "state": "repaired", "subject": "viostor", "evidence": "Start is 3", "repair": "set to 0"}
    return {
        "schema": 1, "run": 1, "command": "h2k fix", "argv": ["fix", "g.xml"], "started": "2026-01-01T00:00:00+00:00", "seconds": 1,
        "host": "h", "user": "u", "source": "", "status": 0, "word": "READY", "verdict": "repaired and verified: 1 change",
        "next": ["h2k boot g.h2k"], "accepted": [], "findings": [finding], "changes": [{"diff": "~ SYSTEM\\CS\\Services\\viostor Start: 3 → 0"}],
        "settings": [], "files": {}, "timings": [], "versions": {"h2k": "1"}, "virtio_win": "", "disks": [], "digests": {},
        "guest": {"windows": True, "name": "web01", "product": "Windows Server 2022", "build": 20348, "arch": "amd64", "firmware": "uefi",
                  "disks": [{"path": "/d", "format": "qcow2", "size": 1 << 30, "scheme": "gpt", "partitions": []}]},
        **more,
    }  # fmt: skip


def parsed(text: str) -> html.HtmlElement:
    return html.document_fromstring(text)


def test_the_page_says_what_the_record_says(tmp_path: Path) -> None:
    text = parsed(page(tmp_path / "g.h2k", [record()])).text_content()
    for wanted in ("web01", "READY", "Windows Server 2022", "driver-not-boot-start", "Start is 3", "h2k rollback", "h2k boot g.h2k", "service viostor: 1"):
        assert wanted in text, wanted


def test_it_is_one_file_without_scripts_and_without_a_network(tmp_path: Path) -> None:
    boot = tmp_path / "g.h2k" / "boot"
    boot.mkdir(parents=True)
    (boot / "final-last.png").write_bytes(PNG)
    (boot / "junk.png").write_bytes(b"no picture")
    (boot / "link.png").symlink_to("/etc/passwd")
    found = parsed(page(tmp_path / "g.h2k", [record()]))
    assert not found.xpath("//script | //link | //iframe | //object | //@onclick | //@onerror")
    assert [e.get("src") for e in found.xpath("//img")] == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?(?:https?:)?//", html.tostring(found).decode())


def test_what_a_guest_says_is_text(tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "network.json").write_text(json.dumps({"first_boot": [{"mac": HOSTILE, "name": HOSTILE, "addresses": [HOSTILE]}]}))
    for phase in ("bootstrap", "final"):
        (place / f"{phase}.xml").write_text(f"<domain>\n<name>{HOSTILE}{phase}</name>\n</domain>")
    hostile = json.loads(json.dumps(record()).replace("web01", "NAME").replace("viostor", "NAME").replace("g.xml", "NAME"))
    hostile = json.loads(json.dumps(hostile).replace("NAME", json.dumps(HOSTILE)[1:-1]))
    text = page(place, [hostile])
    assert "<script>" not in text and "onerror=alert(1)>" not in text.replace("onerror=alert(1)&gt;", "") and "\x1b" not in text
    assert "alert(1)" in parsed(text).text_content()


@pytest.mark.parametrize(("state", "before", "after"), [("repaired", "stops", "holds"), ("refused", "stops", "stops"), ("warning", "look", "look")])
def test_the_chain_shows_before_and_after(state: str, before: str, after: str) -> None:
    found = record()
    found["findings"][0]["state"] = state
    links = {link.name: link for link in chain_of(found)}
    assert (links["Boot drivers"].before, links["Boot drivers"].after) == (before, after)
    assert (links["BCD"].before, links["BCD"].after, links["BCD"].evidence) == ("holds", "holds", ())


def test_a_guest_that_was_not_read_has_no_green_chain() -> None:
    assert {link.after for link in chain_of({"guest": {}, "findings": []})} == {"unknown"}


def test_every_finding_of_the_chain_is_in_the_catalogue() -> None:
    known = {entry.id for entry in ENTRIES}
    later = {"secure-boot-db-mismatch", "sector-size-mismatch", "esp-type-wrong", "disk-dynamic", "disk-table-damaged", "system-files-compressed"}
    assert {i for _, ids in LINKS for i in ids} - known <= later


@pytest.mark.parametrize("change", [{"guest": {}}, {"findings": []}, {"boot": {"phases": [], "checks": []}}, {"status": 3, "word": "REFUSED"}])
def test_records_of_every_end_have_a_page(change: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", tmp_path / "g.h2k", [record(), record(**change)])
    found = parsed((tmp_path / "page.html").read_text())
    assert len(found.xpath("//h1")) == 1 and found.get("lang") == "en"
    headings = [int(e.tag[1]) for e in found.xpath("//h1 | //h2 | //h3")]
    assert all(b - a <= 1 for a, b in zip(headings, headings[1:]))
    for picture in found.xpath("//svg"):
        assert picture.get("role") == "img" and picture.xpath("./title")
