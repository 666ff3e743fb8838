"""The man pages and the completions say all that the programs have: options, commands, keys; and one version everywhere."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from h2k import __version__
from h2k.base.option_table import QEMU_IMG, V2V, options_of
from h2k.cli.main import cli, every_command
from h2k.config.policy import SCHEMA as POLICY_SCHEMA
from h2k.config.policy import TIMEOUTS, Policy, load_policy
from h2k.convert.h2k_options import help_text, take

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "docs" / "man"


def page(name: str) -> str:
    return (MANUAL / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "command"), [("h2k", cli), *every_command()], ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_and_option_of_h2k_is_in_its_page(name: str, command: click.Command) -> None:
    text = page("h2k.1")
    assert re.search(rf"\*\*{name.replace(' ', '[* []+')}[*\]]", text), f"h2k.1 has no command {name}"
    for option in (p for p in command.params if isinstance(p, click.Option)):
        for spelling in option.opts:
            assert f"**{spelling}**" in text, f"h2k.1 lacks {spelling} of {name}"


def test_the_page_of_h2k_has_no_option_that_is_not_there() -> None:
    there = {spelling for _, c in [("", cli), *every_command()] for p in c.params for spelling in p.opts}
    listed = re.findall(r"^\*\*(-.*)$", page("h2k.1"), re.MULTILINE)
    said = {spelling for line in listed for spelling in re.findall(r"\*\*(-[a-z-]+)\*\*", f"**{line}")}
    assert said - there - {"-h", "--help"} == set()


def test_pages_and_completions_are_made_of_the_option_table() -> None:
    """Run: /usr/bin/python3 packaging/option_pages.py"""
    spec = importlib.util.spec_from_file_location("option_pages", ROOT / "packaging" / "option_pages.py")
    assert spec is not None and spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for path, content in pages.written().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run packaging/option_pages.py"


@pytest.mark.parametrize("program", [V2V, QEMU_IMG])
def test_every_own_option_is_understood_and_explained(program: str) -> None:
    helped = help_text(program, "the tool")
    for option in options_of(program):
        value = option.choices[0] if option.choices else "7"
        words = [option.spelling(program), *([value] if option.metavar else [])]
        assert take(words[0], iter(words[1:]), program) == (option.name, value if option.metavar else "yes")
        assert option.spelling(program) in helped


def keys(schema: dict[str, Any], depth: int) -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        yield name
        yield from keys(below, depth - 1) if depth else ()


def test_every_key_of_a_policy_is_in_its_page() -> None:
    schema = json.loads(POLICY_SCHEMA.read_text())
    found = {*keys(schema, 1), *keys(schema["definitions"]["win_net"], 1), *keys(schema["definitions"]["boot"], 0)}
    for key in found - {"schema"}:
        assert re.search(rf"\*{re.escape(key)}\b", page("h2k-policy.5")), f"h2k-policy.5 lacks {key}"
    for step in TIMEOUTS:
        assert f"*{step}*" in page("h2k-policy.5")


def test_every_key_of_a_driver_plan_is_in_its_page() -> None:
    schema = json.loads((ROOT / "driver-plans" / "schema.json").read_text())
    for key in keys(schema, 0):
        assert f"**{key}**" in page("h2k-driver-plans.5"), f"h2k-driver-plans.5 lacks {key}"
    for key in keys(schema["definitions"]["role"], 0):
        assert f"*{key}*" in page("h2k-driver-plans.5"), f"h2k-driver-plans.5 lacks {key} of a role"


def test_the_policy_file_of_the_packages_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "packaging" / "policy.yaml").read_text()
    assert load_policy(local=ROOT / "packaging" / "policy.yaml") == Policy()
    opened = tmp_path / "policy.yaml"
    opened.write_text(re.sub(r"^#(?=[a-z ]+[a-z-]*:)", "", text, flags=re.MULTILINE))
    assert load_policy(local=opened) == Policy()
    schema = json.loads(POLICY_SCHEMA.read_text())
    shown = set(re.findall(r"^#([a-z-]+):", text, re.MULTILINE))
    assert shown == set(schema["properties"]) - {"win_net"}


def test_the_newest_changes_are_those_of_this_version() -> None:
    first = re.search(r"^## (\S+) \(\d{4}-\d{2}-\d{2}\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None and first[1] == __version__


@pytest.mark.parametrize("path", sorted(MANUAL.glob("*.md")), ids=lambda path: path.name)
def test_optional_words_stand_in_brackets_that_lowdown_takes_for_no_link(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<!\\)\[\*[^\]\n]*\](?!\()", text) == [], "write \\[**-v**\\]: lowdown keeps the stars otherwise"
    assert re.findall(r"\*[A-Z]+\*\|\*[A-Z]+\*", text) == [], "emphasis needs a space before it"
