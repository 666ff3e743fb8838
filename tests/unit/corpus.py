"""The real hives that tests look at where they are at hand, and skip where they are not."""

from __future__ import annotations

import lzma

import pytest

from tests.guests.build import CORPUS


def corpus(name: str) -> bytes:
    """A file of the corpus, unpacked."""
    path = CORPUS / f"{name}.xz"
    if not path.exists():
        pytest.skip(f"the corpus of real hives is not here: {name}")
    return lzma.decompress(path.read_bytes())
