"""Documents: both parsers see the same, and what is wrong is told in PyYAML's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from h2k.base.errors import UsageError
from h2k.config import documents
from h2k.config.documents import read_document

ROOT = Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "driver-plans").rglob("*.yaml")), ROOT / "packaging" / "policy.yaml"]
BAD = ("a: [1", "a: 1\na: 2", "a: &x 1", "b: 1\na: *x", "? [1]\n: 2", "a: 2020-13-45", "- a\nb: 1", "\ta: 1", "a: !!python/name:os.x", "[" * 5000)


def lines(node: Any) -> list[Any]:
    """The first line of each node, in the order of the tree."""
    if isinstance(node, yaml.ScalarNode):
        return [(node.value, node.start_mark.line)]
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    return [node.start_mark.line, *(line for part in parts for line in lines(part))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_both_parsers_see_the_same_content_on_the_same_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(documents._Loaders) == 2, "PyYAML without libyaml"
    quick = read_document(path, "a plan")
    monkeypatch.setattr(documents, "_Loaders", documents._Loaders[1:])
    slow = read_document(path, "a plan")
    assert quick.content == slow.content
    assert (quick.tree is None) == (slow.tree is None)
    assert quick.tree is None or lines(quick.tree) == lines(slow.tree)


@pytest.mark.parametrize("text", BAD, ids=lambda t: repr(t[:20]))
def test_an_error_is_in_the_same_words_whichever_parser_there_is(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    said = []
    for loaders in (documents._Loaders, documents._Loaders[1:]):
        monkeypatch.setattr(documents, "_Loaders", loaders)
        with pytest.raises(UsageError) as caught:
            read_document(path, "a plan")
        said.append(str(caught.value))
    assert said[0] == said[1] and str(path) in said[0]
