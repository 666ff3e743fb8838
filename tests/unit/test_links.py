"""Every link from one document to another leads somewhere, and docs/README.md leads to every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.document_commands import DOCUMENTS, ROOT


def links(path: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:", "#"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert [link for link in links(path) if not (path.parent / link).exists()] == []


def test_every_page_is_named_where_it_is_told_what_to_read_when() -> None:
    named = {(ROOT / "docs" / link).resolve() for link in links(ROOT / "docs" / "README.md")}
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {p.name for p in named} == {"README.md"}
