"""A page as a person meets it: Debian's Chromium, headless and without a network, driven by chromedriver."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from PIL import Image, ImageChops
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDE, NARROW, HEIGHT = 1280, 390, 900  # pixels
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
# Pictures are compared between machines: with one family of fonts, that of Debian's fonts-dejavu-core.
FONTS = """
const style = document.createElement("style");
style.textContent = '* { font-family: "DejaVu Sans" !important; } code, pre, code *, pre * { font-family: "DejaVu Sans Mono" !important; }';
document.head.append(style);
"""
# Boxes of one parent that lie over each other, and what reaches out of the page: [what, what, …], in words.
FAULTS = """
const told = (e) => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + (e.className && e.className.baseVal === undefined ? "." + e.className : "") + " " + e.textContent.trim().slice(0, 30);
const found = [], wide = document.documentElement.clientWidth;
for (const parent of document.querySelectorAll("body, body *")) {
  if (parent.closest("svg")) continue;
  const boxes = [...parent.children].filter((e) => getComputedStyle(e).position !== "absolute" && !e.hidden && getComputedStyle(e).display !== "inline")
    .map((e) => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width > 0 && r.height > 0);
  boxes.forEach(([e, a], at) => {
    for (const [other, b] of boxes.slice(at + 1)) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 1) found.push("overlap: " + told(e) + " / " + told(other));
    }
    if (!e.closest(".scroll") && (a.right > wide + 1 || a.left < -1)) found.push("out of the page: " + told(e));
  });
}
if (document.documentElement.scrollWidth > wide) found.push("scrolls sideways: " + document.documentElement.scrollWidth + " of " + wide);
return found;
"""


def missing() -> Optional[str]:
    """What this machine lacks for a browser, or None."""
    for program in (shutil.which("chromium"), shutil.which("chromedriver")):
        if program is None:
            return "no chromium and chromium-driver"
    return None if axe_script() is not None else "no axe-core: make .venv/ready"


def axe_script() -> Optional[Path]:
    """axe-core's accessibility rules, as the Makefile brings them into .venv with axe-playwright-python."""
    found = importlib.util.find_spec("axe_playwright_python")
    return Path(found.origin).with_name("axe.min.js") if found is not None and found.origin is not None else None


class Browser:
    """One Chromium for many pages."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = WIDE, dark: bool = False, script: str = "") -> None:
        """Show a page at a width; `script` runs before its own."""
        self.resize(width, HEIGHT)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        if script:
            known = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
        self.driver.get(page.as_uri())
        if script:
            self.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=known)

    def resize(self, width: int, height: int) -> None:
        """Another size of the window."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def cdp(self, command: str, **values: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self.driver.execute_cdp_cmd(command, values)

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def unfold(self) -> None:
        """Open every fold."""
        self.js("for (const e of document.querySelectorAll('details')) e.open = true")

    def faults(self) -> list[str]:
        """What is wrong with the layout, in words."""
        found: list[str] = self.js(FAULTS)
        return found

    def axe(self) -> list[str]:
        """The violations of axe-core's rules, each with its first place."""
        script = axe_script()
        assert script is not None
        if not self.js("return window.axe !== undefined"):
            self.js(script.read_text(encoding="utf-8"))
        done = self.driver.execute_async_script("axe.run({resultTypes: ['violations']}).then(arguments[0], (e) => arguments[0]({violations: [{id: String(e), nodes: []}]}))")
        return [f"{v['id']}: {[n['html'][:200] for n in v['nodes'][:2]]}" for v in done["violations"]]

    def console(self) -> list[str]:
        """What the console got since the last time, warnings and errors."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        return base64.b64decode(self.cdp("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def picture(self, width: int = WIDE, height: int = 1600, scale: float = 0.5) -> Image.Image:
        """The upper part of the page, in the fonts for comparison, made smaller."""
        self.js(FONTS)
        self.resize(width, height)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = base64.b64decode(self.cdp("Page.captureScreenshot", format="png", clip=clip)["data"])
        return Image.open(io.BytesIO(data)).convert("RGB").resize((round(width * scale), round(height * scale)), Image.LANCZOS)


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of our own, and its end; what it leaves in its temporary directory goes with it."""
    work = tempfile.mkdtemp(prefix="h2k-browser-")
    try:
        yield from _browser({**os.environ, "TMPDIR": work})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _browser(environment: dict[str, str]) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER, env=environment), options=options)
    try:
        driver.set_script_timeout(30)
        yield Browser(driver)
    finally:
        driver.quit()


def differing(one: Image.Image, other: Image.Image) -> float:
    """The share of a picture that looks otherwise, 0 to 1: pixels whose brightness differs by an eighth and more, after a
    look from afar that forgives how letters are smoothed. 1 for another size."""
    if one.size != other.size:
        return 1.0
    near = [image.convert("L").resize((image.width // 4, image.height // 4), Image.BOX) for image in (one, other)]
    counts = ImageChops.difference(*near).histogram()
    return sum(counts[32:]) / sum(counts)
