"""The page of a guest: whole, without scripts and network, and with everything that a guest says shown as text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from h2k.pages.guest_page import GuestRecords, page, write_page
from tests.unit.made_pages import BOOT, NETWORK, PNG, booted_guest, domain_xml, guest_record, keep_guest

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e\"'&<img src=x onerror=alert(1)>"


def parsed(text: str) -> html.HtmlElement:
    return html.document_fromstring(text)


def page_of(place: Path, *history: dict[str, Any], **more: Any) -> html.HtmlElement:
    return parsed(page(GuestRecords(place, history, tuple("h2k fix g.xml" for _ in history), **more)))


def text_of(found: html.HtmlElement, section: str) -> str:
    (part,) = found.xpath(f"//section[h2/@id='{section}']")
    return words_of(part)


def words_of(element: html.HtmlElement) -> str:
    return re.sub(" ([,:])", r"\1", " ".join(" ".join(element.itertext()).split()))


def test_the_page_says_what_the_record_says(tmp_path: Path) -> None:
    text = " ".join(page_of(tmp_path / "web01.h2k", guest_record()).text_content().split())
    for wanted in (
        "web01", "READY", "Windows Server 2022 Standard", "driver-not-boot-start", "Start is 3", "build 20348, amd64", "UEFI",
        "h2k fix, 2026-01-01 00:00 UTC", "h, u", "web01.vmx", "h2k 1.0", "service viostor: 2", "h2k explain ID",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_name_is_the_machines_own(tmp_path: Path) -> None:
    """The record's guest has the name of its Windows; the machine's is in the domain, else that of the directory."""
    place = tmp_path / "moved.h2k"
    assert page_of(place, guest_record()).findtext(".//h1") == "moved"
    place.mkdir()
    (place / "final.xml").write_text(domain_xml("virtio", name="erp"))
    assert page_of(place, guest_record()).findtext(".//h1") == "erp"


def test_it_is_one_file_without_scripts_and_without_a_network(tmp_path: Path) -> None:
    boot = tmp_path / "g.h2k" / "boot"
    boot.mkdir(parents=True)
    (boot / "final-last.png").write_bytes(PNG)
    (boot / "junk.png").write_bytes(b"no picture")
    (tmp_path / "elsewhere.png").write_bytes(PNG + b"elsewhere")
    (boot / "link.png").symlink_to(tmp_path / "elsewhere.png")
    found = page_of(tmp_path / "g.h2k", guest_record())
    assert not found.xpath("//script | //link | //iframe | //object | //@onclick | //@onerror")
    (policy,) = found.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'") and "script-src" not in policy
    assert [e.get("src") for e in found.xpath("//img")] == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?(?:https?:)?//", html.tostring(found).decode())


def test_what_a_guest_says_is_text(tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    hostile = {"guid": "1", "hardware": "vmware", **dict.fromkeys(("name", "description", "mac"), HOSTILE), "addresses": [HOSTILE], "addresses6": []}
    (place / "network.json").write_text(json.dumps({"adapters": [hostile], "leaving": ["1"], "assignments": {"1": {"certain": False, "why": HOSTILE}}}))
    for phase in ("bootstrap", "final"):
        (place / f"{phase}.xml").write_text(f"<domain>\n<name>{HOSTILE}{phase}</name>\n</domain>")
    words = json.loads(json.dumps(guest_record(boot=BOOT)).replace("viostor", "NAME").replace("g.xml", "NAME").replace("web01", "NAME"))
    words = json.loads(json.dumps(words).replace("NAME", json.dumps(HOSTILE)[1:-1]))
    text = page(GuestRecords(place, (words,), (HOSTILE,)))
    assert "<script>" not in text and "<img src=x" not in text and "\x1b" not in text and "\u202e" not in text
    found = parsed(text)
    assert not found.xpath("//script | //@onerror")
    for section in ("chain", "findings", "network", "changes", "machine", "audit"):
        assert "alert(1)" in text_of(found, section), section


def test_a_boot_before_the_last_look_says_nothing_of_it(tmp_path: Path) -> None:
    checks = [{"name": "virtio-bound", "state": "failed", "subject": "a disk", "evidence": "Service none"}]
    boot = guest_record(command="h2k boot", findings=[], guest={}, changes=[], boot={"phases": [], "verdict": "no", "checks": checks})
    after = text_of(page_of(tmp_path, guest_record(), boot), "chain")
    before = text_of(page_of(tmp_path, boot, guest_record()), "chain")
    assert "Service none" in after and "Service none" not in before


def test_the_network_goes_from_the_old_card_to_the_new_one(tmp_path: Path) -> None:
    place = keep_guest(tmp_path / "web01.h2k")
    rows = [[words_of(cell) for cell in row] for row in page_of(place, guest_record()).xpath("//section[h2/@id='network']//tbody/tr")]
    assert rows == [
        ["LAN vmxnet3 Ethernet Adapter, 00:50:56:aa:bb:01", "192.0.2.10/24, 2001:db8::10/64 gateway 192.0.2.1 DNS 192.0.2.53", "→ virtio 00:50:56:aa:bb:01", "MAC 00:50:56:aa:bb:01 (NetworkSetup2)"],
        ["Backup vmxnet3 Ethernet Adapter #2", "198.51.100.7/24", "→ not carried", "its MAC address is not in the registry"],
    ]  # fmt: skip
    network = json.loads(json.dumps(NETWORK))
    network["leaving"] = []
    (place / "network.json").write_text(json.dumps(network))
    assert "→ stays as it is" in text_of(page_of(place, guest_record()), "network")


def test_a_disk_has_its_buses_letters_and_whether_it_comes_online(tmp_path: Path) -> None:
    place = keep_guest(tmp_path / "web01.h2k")
    text = text_of(page_of(place, guest_record()), "disks")
    assert "scsi → sata → virtio C: online" in text and "scsi → left out → virtio D: E: online" in text
    broken = guest_record(findings=[{"id": "disks-offline-policy", "state": "warning", "subject": "SanPolicy", "evidence": "", "repair": ""}])
    text = text_of(page_of(place, broken), "disks")
    assert "C: online" in text and "D: E: stays offline" in text
    kept = guest_record()
    kept["guest"]["online"] = [False, False]
    text = text_of(page_of(place, kept), "disks")
    assert "C: online" in text and "D: E: stays offline" in text
    unread = guest_record(guest={"windows": True, "disks": kept["guest"]["disks"]})
    assert "not judged" in text_of(page_of(place, unread), "disks") and "online" not in text_of(page_of(place, unread), "disks")
    assert "not known → not known → not known" in text_of(page_of(tmp_path, guest_record(source_machine={})), "disks")


def test_changes_are_a_diff_by_what_they_change(tmp_path: Path) -> None:
    found = page_of(tmp_path / "g.h2k", guest_record())
    groups = {e.findtext("summary"): [(s.get("class"), s.text) for s in e.xpath(".//span")] for e in found.xpath("//section[h2/@id='changes']/details")}
    assert list(groups) == ["service viostor: 2", "files: 1", "hive SOFTWARE: 1"]
    assert groups["service viostor: 2"][0] == ("tilde", "~ SYSTEM\\ControlSet001\\Services\\viostor Start: 3 → 0")
    assert [sign for lines in groups.values() for sign, _ in lines] == ["tilde", "plus", "plus", "minus"]


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        ({"command": "h2k fix", "next": ["h2k rollback /srv/g.h2k"]}, "To take back the last repair or boot: h2k rollback"),
        ({"command": "h2k-qemu-img", "next": []}, "The source was not written"),
        ({"command": "h2k rollback", "changes": [], "findings": [], "next": []}, "taken back"),
        ({"command": "h2k fix", "status": 3, "next": []}, "not carried out"),
    ],
)
def test_the_way_back_is_shown_while_there_is_one(last: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    history = [guest_record(), guest_record(**last)] if last["command"] == "h2k rollback" else [guest_record(**last)]
    assert wanted in text_of(page_of(tmp_path / "my guest.h2k", *history), "changes")
    shown = text_of(page_of(tmp_path / "my guest.h2k", *history), "changes")
    assert (f"h2k rollback '{tmp_path}/my guest.h2k'" in shown) == ("To take back" in wanted)


def test_the_boots_have_their_signals_and_screens(tmp_path: Path) -> None:
    place, history = booted_guest(tmp_path / "web01.h2k")
    found = page_of(place, *history)
    text = text_of(found, "boots")
    assert "bootstrap done 2 min: the guest shut down by itself" in text and "13 s start: ok" in text and "30 s drivers: ok viostor bound" in text
    assert "2 checks" in text and "No signals of a first boot; the guest agent answered" in text
    marks = [e.get("cx") for e in found.xpath("//section[h2/@id='boots']//*[local-name()='circle']")]
    assert marks == ["15.44%", "34.00%", "81.47%"]
    assert [e.get("alt") for e in found.xpath("//img")] == ["the screen of bootstrap, last picture", "the screen of final, last picture"]


def test_a_boot_that_an_error_ended_has_what_it_saw(tmp_path: Path) -> None:
    """Its record has no boot; boot/boot.json is of the last boot, and says nothing of an earlier one."""
    place, (first, boot) = booted_guest(tmp_path / "web01.h2k")
    stopped = {key: value for key, value in boot.items() if key != "boot"}
    assert "13 s start: ok" not in text_of(page_of(place, first, stopped), "boots")
    (place / "boot" / "boot.json").write_text(json.dumps({**BOOT, "verdict": HOSTILE}))
    text = text_of(page_of(place, first, stopped), "boots")
    assert "13 s start: ok" in text and "alert(1)" in text
    assert "virtio-bound the boot" in text_of(page_of(place, first, stopped), "chain")
    assert "alert(1)" not in text_of(page_of(place, first, boot), "boots")


def test_a_signal_of_an_older_h2k_has_no_time(tmp_path: Path) -> None:
    boot = json.loads(json.dumps(BOOT))
    for signal in boot["phases"][0]["signals"]:
        del signal["at"]
    found = page_of(tmp_path / "g.h2k", guest_record(boot=boot))
    assert "start: ok" in text_of(found, "boots") and not found.xpath("//*[local-name()='circle']")


def test_both_domains_stand_side_by_side(tmp_path: Path) -> None:
    place = keep_guest(tmp_path / "web01.h2k")
    found = page_of(place, guest_record())
    differing = [[cell.text_content().strip() for cell in row] for row in found.xpath("//tr[@class='differs']")]
    assert [row[0] for row in differing if "sata" in row[0]] and [row[1] for row in differing if "vdb" in row[1]]
    same = found.xpath("//table[@class='side']/tbody/tr[not(@class)]")
    assert all(row[0].text_content() == row[1].text_content() for row in same) and same
    assert "bootstrap-bus: sata, Windows has a boot driver for it" in text_of(found, "machine")


def test_digests_and_runs_for_an_auditor(tmp_path: Path) -> None:
    history = (guest_record(run=1), guest_record(run=2, word="BOOTED", command="h2k boot"))
    found = parsed(page(GuestRecords(tmp_path / "g.h2k", history, ("h2k fix g.xml", "h2k boot g.h2k"))))
    runs = [[cell.text_content() for cell in row] for row in found.xpath("//section[h2/@id='audit']//tbody/tr")]
    assert runs == [["2", "2026-01-01 00:00", "BOOTED", "h2k boot g.h2k"], ["1", "2026-01-01 00:00", "READY", "h2k fix g.xml"]]
    assert "ab12" * 16 in text_of(found, "audit")


@pytest.mark.parametrize(
    ("standing", "status", "kind"), [("", 0, "good"), ("the disks were written since", 0, "warn"), ("", 4, "warn"), ("", 3, "bad"), ("", 5, "bad")]
)
def test_the_verdict_is_coloured_by_what_it_is_worth_now(standing: str, status: int, kind: str, tmp_path: Path) -> None:
    found = page_of(tmp_path / "g.h2k", guest_record(status=status), state="changed since" if standing else "stands", sentence=standing)
    (verdict,) = found.find_class("verdict")
    assert verdict.get("class") == f"verdict {kind}" and standing in verdict.text_content()


def test_a_run_that_was_kept_out_is_told_below_the_verdict_that_stands(tmp_path: Path) -> None:
    history = (guest_record(run=1), guest_record(run=2, word="REFUSED", status=3, command="h2k boot", verdict="the name is taken"))
    found = parsed(page(GuestRecords(tmp_path / "g.h2k", history, ("h2k fix g.xml", "h2k boot g.h2k"), judging=0)))
    (verdict,) = found.find_class("verdict")
    assert verdict.get("class") == "verdict good" and "READY" in verdict.text_content()
    assert "Since then h2k boot was kept out: REFUSED: the name is taken" in verdict.text_content()
    assert "kept out" not in parsed(page(GuestRecords(tmp_path / "g.h2k", history, ("a", "b")))).text_content()


def test_a_guest_in_production_writes_and_its_verdict_stays(tmp_path: Path) -> None:
    found = page_of(tmp_path / "g.h2k", guest_record(), state="in production", sentence="g was written since, as a guest that runs does")
    (verdict,) = found.find_class("verdict")
    assert verdict.get("class") == "verdict good" and "written since" in verdict.text_content()


@pytest.mark.parametrize(
    "change",
    [{"guest": {}}, {"findings": []}, {"boot": {"phases": [], "checks": []}}, {"status": 3, "word": "REFUSED"}, {"changes": [{}], "guest": {"disks": [{}]}}],
)
def test_records_of_every_end_have_a_page(change: dict[str, Any], tmp_path: Path) -> None:
    history = (guest_record(), guest_record(**change))
    write_page(tmp_path / "page.html", GuestRecords(tmp_path / "g.h2k", history, ("a", "b")))
    found = parsed((tmp_path / "page.html").read_text())
    assert len(found.xpath("//h1")) == 1 and found.get("lang") == "en"
    headings = [int(e.tag[1]) for e in found.xpath("//h1 | //h2 | //h3")]
    assert all(b - a <= 1 for a, b in zip(headings, headings[1:]))
    for picture in found.xpath("//svg"):
        assert picture.get("aria-hidden") == "true" or (picture.get("role") == "img" and picture.get("aria-label"))
    anchors = set(found.xpath("//h2/@id"))
    assert {link[1:] for link in found.xpath("//nav//@href")} <= anchors


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\ud800"])
def test_documents_that_make_no_sense_are_left_out(content: str, tmp_path: Path) -> None:
    place = tmp_path / "g.h2k"
    place.mkdir()
    (place / "network.json").write_text(content, errors="replace")
    (place / "final.xml").write_text("<domain")
    (place / "bootstrap.xml").write_text("<!DOCTYPE x>")
    assert not page_of(place, guest_record()).xpath("//section[h2/@id='network']")
