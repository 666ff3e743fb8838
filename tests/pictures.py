"""The pictures of pages that are kept: python3 -m tests.pictures writes tests/golden and docs/pictures anew, from made guests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from h2k.engine.standing import STANDS
from h2k.pages.guest_page import GuestRecords, write_page
from tests.browser import Browser, browser
from tests.unit.made_pages import booted_guest, guest_record, keep_guest, many_changes, many_findings, refused_guest, screen

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
README = ROOT / "docs" / "pictures" / "guest.png"
NAMES = ("ready", "refused", "booted")
COLORS = 128  # of a picture that is kept
FAST_OCTREE = 2  # how they are chosen: the other ways lose the few red ones


def made_page(name: str, place: Path) -> Path:
    """The page of one of the three made guests, below `place`."""
    state = place / name / "web01.h2k"
    if name == "ready":
        found, history = keep_guest(state), [guest_record(findings=many_findings(), changes=many_changes())]
    elif name == "refused":
        found, history = refused_guest(state)
    else:
        found, history = booted_guest(state, screen())
    for record in history:
        record["versions"] = {"h2k": "1.0", "virt-v2v": "2.2.0", "qemu": "7.2.22"}  # not this machine's: the picture is kept
    page = place / f"{name}.html"
    commands = ("h2k-v2v -i vmx web01.vmx -o local -os /srv/vm", "h2k boot /srv/vm/web01.h2k")
    write_page(page, GuestRecords(found, tuple(history), commands[: len(history)], STANDS))
    # The picture must not depend on where it is made.
    page.write_text(page.read_text(encoding="utf-8").replace(str(found.absolute()), "/srv/vm/web01.h2k"), encoding="utf-8")
    return page


def taken(chromium: Browser, page: Path, dark: bool = False) -> Image.Image:
    """The picture of a page."""
    chromium.open(page, dark=dark)
    return chromium.picture()


def _keep(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLORS, method=FAST_OCTREE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {image.width} × {image.height}, {path.stat().st_size} bytes")


def main() -> int:
    """python3 -m tests.pictures"""
    with tempfile.TemporaryDirectory(prefix="h2k-pictures-") as work, browser() as chromium:
        pages = {name: made_page(name, Path(work)) for name in NAMES}
        for name, page in pages.items():
            _keep(taken(chromium, page), GOLDEN / f"{name}.png")
        chromium.open(pages["booted"])
        _keep(chromium.picture(height=830, scale=0.75), README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
