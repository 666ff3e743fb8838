"""The real hives that tests look at where they are at hand: one function finds them, and tests skip what is not here."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Optional

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACE = "shared/corpus"  # beside the checkout


def checkouts() -> list[Path]:
    """This checkout, and the one that it is a work tree of (its .git is then a file that names the other's)."""
    found = [ROOT]
    git = ROOT / ".git"
    if git.is_file():
        found.append(Path(git.read_text(encoding="utf-8").partition(":")[2].strip()).parents[2])
    return found


def find(name: str) -> Optional[Path]:
    """The file of the corpus, packed; None where it is not here."""
    paths = (checkout.parent / PLACE / f"{name}.xz" for checkout in checkouts())
    return next((path for path in paths if path.exists()), None)


def corpus(name: str) -> bytes:
    """A file of the corpus, unpacked; the test is skipped where there is none. What begins with "made" is made, and
    always there: tests that look at real hives look at those too."""
    if name.startswith("made"):
        from tests.guests.shaped import made

        return made(name)
    path = find(name)
    if path is None:
        pytest.skip(f"the corpus of real hives is not here: {name}")
    return lzma.decompress(path.read_bytes())
