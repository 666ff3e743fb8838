"""The catalogue of findings: docs/findings.md is current, and every id belongs to a hook or to h2k itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from h2k.engine.catalogue import ENTRIES, OF_ITSELF, in_domain, page
from h2k.engine.finding_entry import DOMAIN
from h2k.engine.hooks import find_hooks

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {entry.id for entry in ENTRIES}


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert written == "\n".join(page()) + "\n", "run: python3 -m h2k.engine.catalogue > docs/findings.md"


def test_each_id_is_there_once() -> None:
    assert len(KNOWN) == len(ENTRIES)


def test_a_source_in_our_documents_is_there() -> None:
    facts = (ROOT / "docs" / "facts.md").read_text(encoding="utf-8").lower()
    for source in {entry.source for entry in ENTRIES}:
        for name in re.findall(r"\b(?:docs|h2k|driver-plans)/[\w/.-]+\.(?:md|py|yaml)", source):
            assert (ROOT / name).is_file(), name
        for title in re.findall(r"docs/facts.md, ([a-z ]+)", source):
            assert f"## {title}" in facts, title


def test_what_hooks_answer_is_in_the_catalogue() -> None:
    answers = {hook.path.name: set(hook.answers) - KNOWN for hook in find_hooks()}
    assert not any(answers.values()), answers


def test_what_the_text_of_a_hook_names_is_announced() -> None:
    """A finding that is not announced ends the run, at a guest that nobody may have tried."""
    for hook in find_hooks():
        if hook.path.suffix == ".py":
            tree = ast.parse(hook.path.read_text(encoding="utf-8"))
            named = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)} & KNOWN
            assert named <= set(hook.answers), hook.name


def test_every_finding_belongs_to_a_hook_or_to_h2k_itself() -> None:
    of_hooks = {answer for hook in find_hooks() for answer in hook.answers}
    assert not of_hooks & OF_ITSELF
    assert KNOWN - of_hooks == OF_ITSELF


def test_rows_are_whole() -> None:
    for entry in ENTRIES:
        assert all((entry.fault, entry.screen, entry.where, entry.action, entry.by_hand)), entry.id
        assert in_domain(entry.id) == (entry.answer == DOMAIN)
    assert not in_domain("a vendor's own finding")


def test_the_table_has_as_many_cells_in_each_row() -> None:
    rows = [line for line in page() if line.startswith(("| ", "|-"))]
    assert len(rows) == len(ENTRIES) + 2
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
