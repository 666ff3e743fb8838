"""The options of `h2k` on click: what a command gets of each row of the table, and what it hands to the next command."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from h2k.base.option_table import H2K, OPTIONS, request_words
from h2k.cli.options import (
    guest_options,
    json_option,
    new_run,
    paths,
    request_options,
    table_option,
    verbose_option,
)
from h2k.engine.request import Request


@click.command()
@guest_options
@table_option("dry-run")
def ask(**given: Any) -> None:
    """What is given."""
    click.echo(repr({name: value for name, value in given.items() if value}))


def given(*argv: str) -> Any:
    result = CliRunner().invoke(ask, argv)
    return ast.literal_eval(result.output) if result.output.startswith("{") else result.output


def test_each_row_that_shapes_a_look_is_an_option_of_its_field() -> None:
    @request_options
    def command() -> None:
        """Nothing."""

    made = {p.name: p for p in click.command()(command).params}
    assert list(made) == [o.field for o in OPTIONS if o.request and H2K in o.programs]


def test_lists_words_and_flags() -> None:
    found = given("a.xml", "b.qcow2", "--skip", "x", "--skip", "y", "--bus", "sata", "--dry-run", "--json", "--report", "d")
    assert found == {"images": ("a.xml", "b.qcow2"), "skip": ("x", "y"), "bus": "sata", "dry_run": True, "as_json": True, "report": "d"}
    assert Request.of(found) == Request(bus="sata", skip=("x", "y"))


def test_a_word_that_was_meant_is_named() -> None:
    assert "sat is not one of virtio, virtio-scsi, sata; did you mean sata?" in given("g", "--bus", "sat")
    assert "--bus [virtio|virtio-scsi|sata]" in " ".join(given("--help").split()), "the help has the words"


def test_a_guest_is_required() -> None:
    assert "Missing argument" in given()


def test_the_words_for_the_next_command_are_those_that_were_given() -> None:
    wishes = {"bus": "sata", "skip": ("x", "y"), "drivers": None, "report": "d", "plans": (), "allow_under": ("/a",)}
    words = request_words(wishes)
    assert words == ["--bus", "sata", "--skip", "x", "--skip", "y", "--allow-under", "/a"], "the report directory shapes no look"
    assert given("g", *words) == {"images": ("g",), "bus": "sata", "skip": ("x", "y"), "allow_under": ("/a",)}


def test_verbose_is_heard_and_no_argument_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(logging.getLogger(), "setLevel", levels.append)
    assert given("g") == given("g", "-v") == {"images": ("g",)} and levels == [logging.DEBUG]


def test_a_run_knows_its_command_and_its_arguments() -> None:
    @click.group()
    def top() -> None:
        """The top."""

    @top.command()
    @json_option
    @verbose_option
    def below(as_json: bool) -> None:
        """Below it."""
        run = new_run(as_json, source="x")
        click.echo(f"{run.command}|{run.argv}|{run.as_json}|{run.steps.quiet}|{run.source}")

    found = CliRunner().invoke(top, ["below", "--json"], prog_name="/usr/bin/h2k")
    assert found.output.startswith("h2k below|(") and found.output.endswith("|True|True|x\n")


def test_paths() -> None:
    assert paths(["a", "/b"]) == [Path("a"), Path("/b")]
