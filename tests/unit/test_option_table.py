"""The table of h2k's options: every program spells its own, and texts name them as the command at hand does."""

from __future__ import annotations

import dataclasses

import click
import pytest

from h2k.base.option_table import (
    BY_NAME,
    H2K,
    OPTIONS,
    PROGRAMS,
    QEMU_IMG,
    V2V,
    as_sentence,
    did_you_mean,
    options_of,
    request_words,
    spelled,
)
from h2k.cli.main import every_command
from h2k.engine.request import Request


def test_what_shapes_a_look_is_a_field_of_the_request_and_every_command_has_it() -> None:
    fields = {field.name for field in dataclasses.fields(Request)}
    assert {o.field for o in OPTIONS if o.request} == fields - {"keys"}  # which are virt-v2v's own
    for option in OPTIONS:
        assert option.help and option.programs and option.programs <= set(PROGRAMS), option
        assert option.metavar or not (option.many or option.choices), option
        assert not option.request or H2K in option.programs, option
    assert len(BY_NAME) == len(OPTIONS)


def test_a_command_of_h2k_has_its_option_from_the_table() -> None:
    """No command makes an option of the table by hand, with a text of its own."""
    for command, made in every_command():
        for option in (p for p in made.params if isinstance(p, click.Option)):
            row = BY_NAME.get(option.opts[0].lstrip("-"))
            if row is not None and H2K in row.programs:
                wanted = (row.field, as_sentence(row.help), row.many, not row.metavar)
                assert (option.name, option.help, option.multiple, option.is_flag) == wanted, (command, row.name)
                assert tuple(getattr(option.type, "choices", ())) == row.choices, (command, row.name)


def test_each_program_has_its_own_in_the_order_of_the_table() -> None:
    names = {program: [o.name for o in options_of(program)] for program in PROGRAMS}
    assert set(names[V2V]) - set(names[H2K]) == {"mode", "boot", "stage", "help", "version"}
    assert set(names[QEMU_IMG]) - set(names[V2V]) == {"root", "name", "memory", "vcpus", "firmware", "domain"}
    assert names[V2V] == [o.name for o in OPTIONS if V2V in o.programs]
    assert (BY_NAME["bus"].spelling(H2K), BY_NAME["bus"].spelling(V2V), BY_NAME["bus"].spelling(QEMU_IMG)) == (
        "--bus", "--h2k-bus", "--h2k-bus"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("give --h2k-bus sata", "give --bus sata"),
        ("--h2k-dry-run, or --h2k-drivers X", "--dry-run, or --drivers X"),
        ("convert with --h2k-stage DIR", "convert with --h2k-stage DIR"),  # which h2k has not
        ("--h2k-busses stays", "--h2k-busses stays"),
        ("--h2k-plan-b stays", "--h2k-plan-b stays"),
    ],
)
def test_texts_name_options_as_the_command_spells_them(text: str, told: str) -> None:
    assert spelled(text, "h2k fix") == told == spelled(text, H2K)
    assert spelled(text, V2V) == text == spelled(text, QEMU_IMG)


WHOSE = "give one: -on NAME of h2k-v2v, --h2k-name NAME of h2k-qemu-img, or <name>"


@pytest.mark.parametrize(
    ("program", "told"),
    [(V2V, "give one: -on NAME, or <name>"), (QEMU_IMG, "give one: --h2k-name NAME, or <name>"), (H2K, WHOSE), ("h2k fix", WHOSE), ("", WHOSE)],
)
def test_of_options_that_are_one_wrapper_s_each_gets_its_own(program: str, told: str) -> None:
    assert spelled(WHOSE, program) == told


def test_the_system_is_chosen_by_virt_v2v_s_own_option_there() -> None:
    text = "choose with --h2k-root /dev/sdXN"
    assert [spelled(text, program) for program in (H2K, V2V)] == ["choose with --root /dev/sdXN"] * 2 and spelled(text, QEMU_IMG) == text


def test_the_words_of_a_request_are_those_of_h2k_and_whole() -> None:
    request = Request("sata", "v w.iso", ("p", "q"), accept=("x",), root="first", keys=True)
    words = ["--drivers", "v w.iso", "--plan", "p", "--plan", "q", "--bus", "sata", "--accept", "x", "--root", "first"]
    assert request_words(dataclasses.asdict(request)) == words and request_words({}) == []


def test_the_nearest_word_else_all_or_the_command_that_lists_them() -> None:
    assert did_you_mean("boot-storag", ["x", "boot-storage"]) == "did you mean boot-storage?"
    assert did_you_mean("nothing", ["b", "a", "b"]) == "one of a, b"
    assert did_you_mean("nothing", ["b"], "h2k explain") == "h2k explain lists them"
