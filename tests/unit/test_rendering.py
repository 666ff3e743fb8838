"""How every page is made: text is text, nothing but the page's own script may run, and values of any shape do no harm."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from h2k.base.text import size_text, time_text
from h2k.pages import rendering
from h2k.pages.rendering import clean, link, mapping, objects, render, state_class


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A template of the test's own, beside the script."""
    (tmp_path / rendering.SCRIPT).write_text((rendering.TEMPLATES / rendering.SCRIPT).read_text(encoding="utf-8"))
    monkeypatch.setattr(rendering, "TEMPLATES", tmp_path)
    rendering._environment.cache_clear()
    yield tmp_path / "x.j2"
    rendering._environment.cache_clear()


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=1>", "{{ 7 * 7 }}"])
def test_what_a_guest_says_is_text(hostile: str, template: Path) -> None:
    template.write_text('<p title="{{ x }}">{{ x }}</p>{{ nothing.at.all }}')
    made = render("x.j2", x=hostile)
    assert "<script" not in made and "<img" not in made and '"\'' not in made and "49" not in made


def test_the_policy_names_the_one_script_by_its_digest(template: Path) -> None:
    template.write_text("{{ script_digest }}\n{{ script }}")
    digest, _, script = render("x.j2").partition("\n")
    wanted = base64.b64encode(hashlib.sha256(html.unescape(script).encode()).digest()).decode()
    assert html.unescape(digest) == f"sha256-{wanted}" and len(script) > 100


def test_every_page_has_a_policy_that_forbids_the_rest() -> None:
    text = (rendering.TEMPLATES / "page.html.j2").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "default-src 'none'" in policy[1] and "script-src '{{ script_digest }}'" in policy[1]
    for name in ("fleet", "guest", "survey"):
        assert (rendering.TEMPLATES / f"{name}.html.j2").read_text(encoding="utf-8").startswith('{% extends "page.html.j2" %}'), name


def test_sizes_and_times_of_any_value(template: Path) -> None:
    template.write_text("{{ size_text(n) }}|{{ time_text(n) }}|{{ size_text(x) }}|{{ time_text(x) }}|{{ 'done'|state_class }}|{{ link('a:b?#c') }}")
    assert render("x.j2", n=2048, x="<b>") == f"{size_text(2048)}|{time_text(2048)}|||good|./a%3Ab%3F%23c"


def test_values_are_fit_to_be_shown_at_any_depth() -> None:
    found: Any = clean({"a\x1b": ["x\x07", {"password": "password=hunter2"}, ("t\n",)], "n": 1, "none": None})
    assert all(text.isprintable() for text in re.findall(r"'([^']*)'", repr(found))) and "hunter2" not in repr(found)
    assert found["n"] == 1 and found["none"] is None and isinstance(found[next(iter(found))], list)


@pytest.mark.parametrize("value", [None, "x", 1, [1, "x"], [[]]])
def test_json_of_another_version_is_nothing(value: Any) -> None:
    assert mapping(value) == {} and objects(value) == []


def test_json_of_ours() -> None:
    assert mapping({"a": 1}) == {"a": 1} and objects([{"a": 1}, 2, {"b": 3}]) == [{"a": 1}, {"b": 3}]


@pytest.mark.parametrize(("path", "address"), [("javascript:x", "./javascript%3Ax"), ("a b/c.html", "./a%20b/c.html"), ("//evil", ".///evil")])
def test_a_path_is_an_address_below_the_page(path: str, address: str) -> None:
    assert link(path) == address


@pytest.mark.parametrize(
    ("state", "name"), [("repaired", "good"), ("refused", "bad"), ("look", "warn"), ("running", "run"), ("odd", "rest"), (None, "rest"), ([], "rest")]
)
def test_the_colour_of_a_state(state: Any, name: str) -> None:
    assert state_class(state) == name


def test_without_jinja2_the_way_out_is_told(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match="apt install python3-jinja2"):
        render("x.j2")
