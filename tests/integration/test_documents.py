"""Every command in README and docs that can run here is run on made guests, and prints what the document shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import documents
from tests.document_commands import DOCUMENTS, ROOT
from tests.documents import World

SOME = [path for path in DOCUMENTS if documents.has_commands(path)]
LONG = [path for path in SOME if documents.has_long(path)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with documents.world() as made:
        yield made


@pytest.mark.parametrize("path", SOME, ids=name)
def test_a_document_shows_what_is_printed(path: Path, world: World) -> None:
    """Run: /usr/bin/python3 -m tests.documents --write, and read what it changed."""
    assert "\n\n".join(documents.wrong(path, world, long=False)) == ""


@pytest.mark.long
@pytest.mark.parametrize("path", LONG, ids=name)
def test_a_document_shows_what_is_printed_in_a_long_run(path: Path, world: World) -> None:
    assert "\n\n".join(documents.wrong(path, world, long=True)) == ""
