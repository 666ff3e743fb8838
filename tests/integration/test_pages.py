"""The pages in Chromium: layout, dark mode, print, sorting and filtering, accessibility, hostile words, and how they look."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from PIL import Image
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from h2k.fleet.fleet_report import FleetPage
from h2k.fleet.guest_state import DONE, FAILED, REFUSED_STATE, RUNNING, WAITING, GuestState
from h2k.fleet.look import READY, REFUSED_CLASS, REPAIRS, UNKNOWN, Row, blank
from h2k.fleet.rate import Rate
from h2k.fleet.sources import DISK, Source
from h2k.fleet.survey import document
from h2k.fleet.waves import Entry, Waves
from h2k.pages.guest_page import GuestRecords, write_page
from h2k.pages.survey_page import survey_page
from tests.browser import NARROW, WIDE, Browser, browser, differing, missing
from tests.pictures import GOLDEN, NAMES, made_page, taken
from tests.unit.made_pages import finding, guest_record, keep_guest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (*NAMES, "survey", "fleet")
LOOKS_OTHERWISE = 0.02  # of a picture: a line that moved is more, letters that are smoothed otherwise are less
HOSTILE = "</td><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'&amp;\x1b[31m\u202egnp.exe \u05d0\u05d1\u05d2"

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(autouse=True)
def quiet_console(chromium: Browser) -> Iterator[None]:
    """No page of these tests says anything on the console."""
    chromium.console()
    yield
    assert chromium.console() == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, by name."""
    place = tmp_path_factory.mktemp("pages")
    found = {name: made_page(name, place) for name in NAMES}
    (place / "survey.html").write_text(survey_page(survey(), ["h2k fleet plan survey.json > waves.yaml"]))
    return {**found, "survey": place / "survey.html", "fleet": fleet(place)}


def row(name: str, kind: str, size: int, **more: Any) -> Row:
    return {**blank(Source(f"/exports/{name}.qcow2", DISK, f"/exports/{name}.qcow2", name, "/exports")), "class": kind, "bytes": size, **more}


def survey() -> dict[str, Any]:
    """Twenty guests, of every class."""
    dirty, locked = finding("hive-dirty", "broken", "SYSTEM", "logs"), finding("volume-encrypted", "refused", "disk 0", "BitLocker", "manage-bde -off C:")
    nic = {"name": "LAN", "model": "e1000e", "mac": "00:50:56:00:00:01", "network": None, "addresses": ["192.0.2.1/24"], "fate": "carried: its MAC"}
    known = {"windows": "Windows Server 2019 Standard", "build": 17763, "firmware": "uefi", "arch": "amd64", "nics": [nic], "reason": "will install viostor, netkvm"}
    rows = [row(f"web{n}", READY, (n % 7 + 1) << 30, **known) for n in range(10)]
    rows += [row(f"sql{n}", REPAIRS, (n + 9) << 30, findings=[dirty], repairs=["hive-dirty"], roles=["SQL Server"], **known) for n in range(5)]
    rows += [row(f"old{n}", REFUSED_CLASS, 5, findings=[locked], reason="volume-encrypted: BitLocker", actions=["volume-encrypted: manage-bde -off C:"]) for n in range(3)]
    rows += [row("gone", UNKNOWN, 0, reason="no such file"), row("a-very-long-name-" * 6, UNKNOWN, 0, reason="running")]
    return document(rows, Rate(200 << 20, "2026-01-01", "2 guests converted on this host"), ["/exports/locked: Permission denied"])


def fleet(place: Path, now: Callable[[], float] = lambda: 4102444800.0) -> Path:
    """The page of a run that goes on: two waves, every state."""
    names = {"web01": DONE, "erp": DONE, "sql": RUNNING, "old": REFUSED_STATE, "far": FAILED, "last": WAITING}
    entries = tuple(
        Entry(name, f"/exports/{name}.vmx", "vmx", number // 4 + 1, place / "out", "h2k-v2v", bytes=(number + 1) << 30, estimate=600 * (number + 1))
        for number, name in enumerate(names)
    )
    waves = Waves(place / "waves.yaml", entries, windows=((1, "22:00-05:30"),))
    page = FleetPage(place / "fleet.html", waves, entries, 2, 1, now)
    for entry in entries:
        state = names[entry.name]
        if state == DONE:
            entry.state.mkdir(parents=True, mode=0o700)
            (entry.state / "report.json").write_text(json.dumps(guest_record()))
        page.heard(entry, GuestState(state, "READY" if state == DONE else "ssh: no route to host", 300.0 if state == DONE else None))
    page.tick()
    return page.path


# How it lies on the screen and on paper


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overlaps_and_nothing_reaches_out_of_the_page(name: str, width: int, chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages[name], width)
    assert chromium.faults() == []
    chromium.unfold()
    assert chromium.faults() == []


def test_a_fault_of_the_layout_is_seen(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["ready"])
    chromium.js("document.querySelector('h1').style.marginBottom = '-20px'; document.querySelector('footer').style.width = '3000px'")
    assert {fault.split(":")[0] for fault in chromium.faults()} == {"overlap", "out of the page", "scrolls sideways"}


@pytest.mark.parametrize("name", PAGES)
def test_it_is_dark_where_that_is_wanted(name: str, chromium: Browser, pages: dict[str, Path]) -> None:
    colors = []
    for dark in (False, True):
        chromium.open(pages[name], dark=dark)
        shown = chromium.js("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        colors.append([sum(map(int, re.findall(r"\d+", color)[:3])) for color in shown])
    (paper, ink), (dark_paper, dark_ink) = colors
    assert paper > 700 > 200 > ink and dark_paper < 100 < 600 < dark_ink


@pytest.mark.parametrize("name", NAMES)
def test_a_guest_is_printed_on_two_sheets(name: str, chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages[name])
    data = chromium.pdf()
    sheets = [re.findall(rb"[\d.]+", box) for box in re.findall(rb"/MediaBox \[([^]]*)\]", data)]
    assert len(sheets) <= 2 and len(sheets) == len(re.findall(rb"/Type /Page\b[^s]", data))
    assert {tuple(round(float(side) / 72 * 25.4) for side in box[2:]) for box in sheets} == {(210, 297)}


# For everybody


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(name: str, dark: bool, chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages[name], NARROW if dark else WIDE, dark)
    chromium.unfold()
    assert chromium.axe() == []


def test_a_violation_is_seen(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["survey"])
    chromium.js("document.querySelector('input').removeAttribute('aria-label'); document.querySelector('input').placeholder = ''; document.body.style.color = '#ddd'")
    assert {fault.split(":")[0] for fault in chromium.axe()} >= {"label", "color-contrast"}


def test_everything_is_there_without_scripts(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(pages["survey"])
        found = chromium.driver.find_elements("css selector", "table[data-rows] tbody tr")
        assert len(found) == 20 and all(line.is_displayed() for line in found)
        assert not chromium.driver.find_element("css selector", ".controls").is_displayed()
    finally:
        chromium.cdp("Emulation.setScriptExecutionDisabled", value=False)


# Sorting and filtering


def shown_rows(chromium: Browser) -> list[str]:
    """The names of the guests that are shown, from top to bottom."""
    found: list[str] = chromium.js("return [...document.querySelectorAll('table[data-rows] tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].textContent.trim())")
    return found


def press(chromium: Browser, selector: str, text: str) -> None:
    """Press the button with that text by the keyboard."""
    (button,) = [b for b in chromium.driver.find_elements("css selector", selector) if b.text.startswith(text)]
    button.send_keys("\n")


def test_columns_sort_by_the_keyboard_and_say_so(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["survey"])
    first = shown_rows(chromium)
    sizes = {guest["name"]: guest["bytes"] for guest in survey()["guests"]}

    def sorted_by() -> list[str]:
        found: list[str] = chromium.js("return [...document.querySelectorAll('table[data-rows] th')].map((h) => h.getAttribute('aria-sort'))")
        return found

    assert first == [guest["name"] for guest in survey()["guests"]] and set(sorted_by()) == {"none"}
    press(chromium, "th button", "size")
    assert [sizes[name] for name in shown_rows(chromium)] == sorted(sizes.values()) and sorted_by()[3] == "ascending"
    press(chromium, "th button", "size")
    assert [sizes[name] for name in shown_rows(chromium)] == sorted(sizes.values(), reverse=True) and sorted_by()[3] == "descending"
    press(chromium, "th button", "guest")
    assert [name for name in shown_rows(chromium) if name.startswith("web")][:4] == ["web0", "web1", "web2", "web3"]
    assert sorted_by()[0] == "ascending" and sorted_by()[3] == "none"
    press(chromium, "th button", "class")
    assert shown_rows(chromium)[-3:] == ["old0", "old1", "old2"]


def test_words_and_classes_filter_and_the_count_is_told(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["survey"])
    search = chromium.driver.find_element("css selector", "input[type=search]")
    told = chromium.driver.find_element("css selector", ".controls [role=status]")
    assert told.text == "20 of 20 shown"
    search.send_keys("SQL 2019")
    assert shown_rows(chromium) == [f"sql{n}" for n in range(5)] and told.text == "5 of 20 shown"
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    press(chromium, ".controls button", "refused")
    press(chromium, ".controls button", "repairs itself")
    assert len(shown_rows(chromium)) == 8 and told.text == "8 of 20 shown"
    chromium.driver.refresh()
    assert len(shown_rows(chromium)) == 8
    press(chromium, ".controls button", "Show all")
    assert len(shown_rows(chromium)) == 20


def test_a_group_leads_to_its_guests_though_they_are_filtered_out(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["survey"])
    press(chromium, ".controls button", "ready to convert")
    assert "old1" not in shown_rows(chromium)
    chromium.unfold()
    (link,) = [a for a in chromium.driver.find_elements("css selector", "section a") if a.text == "old1"]
    link.send_keys("\n")
    place = chromium.js("const r = document.querySelector('tr:target'), b = r.getBoundingClientRect(); return [r.hidden, b.top < innerHeight && b.bottom > 0]")
    assert place == [False, True]


def test_a_fleet_leads_to_the_pages_of_its_guests(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["fleet"])
    (link,) = [a for a in chromium.driver.find_elements("css selector", "td a") if a.text == "web01"]
    link.click()
    assert chromium.driver.find_element("tag name", "h1").text == "web01" and "READY" in chromium.driver.title


# What the page does every ten seconds, kept for the test to do.
HELD = "window.setInterval = (f) => { window.again = f; };"


def test_a_page_of_a_run_reads_itself_anew_unless_somebody_is_at_work_there(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(fleet(tmp_path), script=HELD)
    assert not chromium.driver.find_element("css selector", ".stale").is_displayed()

    def stays() -> bool:
        chromium.js("window.old = true; window.again()")
        try:
            WebDriverWait(chromium.driver, 0.5, 0.05).until(lambda driver: driver.execute_script("return window.old === undefined"))
        except TimeoutException:
            return True
        return False

    press(chromium, ".controls button", "Stop reading anew")
    assert stays()
    press(chromium, ".controls button", "Stop reading anew")
    chromium.driver.find_element("css selector", "input[type=search]").send_keys("a")
    assert stays()
    chromium.js("document.activeElement.blur()")
    chromium.unfold()
    assert stays()
    chromium.js("for (const e of document.querySelectorAll('details')) e.open = false")
    assert not stays()
    assert chromium.driver.find_element("css selector", "input[type=search]").get_attribute("value") == "a"


def test_a_page_that_nobody_rewrites_any_more_says_so(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(fleet(tmp_path, lambda: 1000.0))
    stale = chromium.driver.find_element("css selector", ".stale")
    assert stale.is_displayed() and "h2k fleet status" in stale.text


# Hostile words


def test_what_a_registry_says_is_shown_as_text_and_nothing_else(chromium: Browser, tmp_path: Path) -> None:
    place = keep_guest(tmp_path / "web01.h2k")
    words = json.loads(json.dumps(guest_record()).replace("viostor", "NAME").replace("Windows Server 2022", "NAME").replace("Start is 3", "NAME"))
    words = json.loads(json.dumps(words).replace("NAME", json.dumps(HOSTILE)[1:-1]))
    network = json.loads((place / "network.json").read_text())
    network["adapters"][0].update(name=HOSTILE, description=HOSTILE)
    (place / "network.json").write_text(json.dumps(network))
    write_page(tmp_path / "guest.html", GuestRecords(place, (words,), (HOSTILE,)))
    found = document([row(HOSTILE, READY, 1, reason=HOSTILE, windows=HOSTILE, findings=[finding(HOSTILE, "warning", HOSTILE, HOSTILE, HOSTILE)])], None, [HOSTILE])
    (tmp_path / "survey.html").write_text(survey_page(found))
    for page in ("guest.html", "survey.html"):
        chromium.open(tmp_path / page, NARROW)
        chromium.unfold()
        text = chromium.driver.find_element("tag name", "body").text
        assert chromium.js("return window.hacked === undefined && document.images.length === 0")
        assert "<script>window.hacked = 1</script><img src=x onerror=" in text and "\"'&amp;\ufffd[31m\ufffdgnp.exe" in text
        assert chromium.faults() == [] and chromium.axe() == []


def test_a_script_that_came_in_all_the_same_would_not_run(chromium: Browser, tmp_path: Path, pages: dict[str, Path]) -> None:
    """The page's own policy is a second wall behind the escaping."""
    for name in ("ready", "survey"):
        page = tmp_path / f"{name}.html"
        page.write_text(pages[name].read_text().replace("<main>", "<main><script>window.hacked = 1</script><img alt='' src='x' onerror='window.hacked = 2'>"))
        chromium.open(page)
        assert chromium.js("return window.hacked === undefined")
        assert any("Content Security Policy" in line for line in chromium.console())


# How it looks


@pytest.mark.parametrize("name", NAMES)
def test_it_looks_as_it_did(name: str, chromium: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """`make pictures` keeps another look, once somebody has seen it."""
    image = taken(chromium, pages[name])
    with Image.open(GOLDEN / f"{name}.png") as kept:
        share = differing(image, kept.convert("RGB"))
    if share >= LOOKS_OTHERWISE:
        image.save(tmp_path / f"{name}.png")
    assert share < LOOKS_OTHERWISE, f"{share:.1%} of {name}.png looks otherwise: {tmp_path / name}.png"


def test_another_look_is_seen(chromium: Browser, pages: dict[str, Path]) -> None:
    with Image.open(GOLDEN / "ready.png") as kept:
        chromium.open(pages["ready"])
        chromium.js("document.querySelector('h1').style.fontSize = '4rem'")
        assert differing(chromium.picture(), kept.convert("RGB")) > LOOKS_OTHERWISE
        assert differing(taken(chromium, pages["refused"]), kept.convert("RGB")) > LOOKS_OTHERWISE


# From a real run


def test_a_conversion_leaves_its_page_where_the_policy_says_so(guest: Any, drivers: Path, chromium: Browser, tmp_path: Path) -> None:
    made, out = guest("win2022"), tmp_path / "web01.qcow2"
    (tmp_path / "policy.yaml").write_text("report: {html: true}\n")
    command = [ROOT / "wrappers" / "h2k-qemu-img", "convert", "-O", "qcow2", "--h2k-drivers", drivers, "--h2k-policy", tmp_path / "policy.yaml", made.disks[0], out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    chromium.open(tmp_path / "web01.h2k" / "page.html", NARROW)
    chromium.unfold()
    text = chromium.driver.find_element("tag name", "body").text
    assert "READY" in text and "viostor" in text and "vmxnet3 Ethernet Adapter" in text and "C:" in text
    assert chromium.faults() == [] and chromium.axe() == []
