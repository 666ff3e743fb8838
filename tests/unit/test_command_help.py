"""Every command's help: whole sentences, an example, the exit statuses, no line cut off; and which word was meant."""

from __future__ import annotations

import click
import pytest

from h2k.base.option_table import as_sentence
from h2k.cli.main import cli, every_command, main

COMMANDS = dict(every_command())
SINGLE = {name: command for name, command in COMMANDS.items() if not isinstance(command, click.Group)}


def text_of(command: click.Command, name: str) -> str:
    return command.get_help(click.Context(command, info_name=f"h2k {name}"))


@pytest.mark.parametrize("name", SINGLE)
def test_help_has_an_example_and_the_exit_statuses(name: str) -> None:
    told = " ".join(text_of(SINGLE[name], name).split())
    assert f"Example: h2k {name}" in told
    assert "Exit status: " in told and told.endswith("1 an unexpected failure; 2 wrong usage or configuration.")


def test_the_group_itself_and_its_groups_have_an_example_too() -> None:
    for group in (cli, *(c for c in COMMANDS.values() if isinstance(c, click.Group))):
        assert "Example: h2k " in (group.help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_whole_sentences(name: str) -> None:
    for option in (p for p in COMMANDS[name].params if isinstance(p, click.Option)):
        assert option.help and option.help[0].isupper() and option.help.endswith("."), option.name


@pytest.mark.parametrize("name", SINGLE)
def test_every_command_is_verbose_behind_its_name_too(name: str) -> None:
    assert {"-v", "--verbose"} <= {spelling for p in SINGLE[name].params for spelling in p.opts}


@pytest.mark.parametrize("name", SINGLE)
def test_every_command_has_json(name: str) -> None:
    assert "--json" in {spelling for p in SINGLE[name].params for spelling in p.opts}


@pytest.mark.parametrize("group", [cli, *(c for c in COMMANDS.values() if isinstance(c, click.Group))], ids=lambda g: g.name)
def test_no_line_of_a_list_of_commands_is_cut_off(group: click.Group) -> None:
    told = group.get_help(click.Context(group, info_name="h2k", terminal_width=80))
    assert "..." not in told.split("Commands:")[1]


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["verfy", "x"], "verify"), (["hooks", "lst"], "list"), (["fleet", "plann"], "plan"), (["verify", "--bux", "x"], "--bus"),
        (["verify", "--h2k-drivers", "x"], "--drivers"), (["doctor", "--jsn"], "--json"), (["verify", "--bus", "virto", "x"], "virtio"),
        (["post", "--define", "finl", "x"], "final"), (["--versoin"], "--version"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_told_with_the_one_that_was_meant(argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and len(seen.err.splitlines()) == 1 and f"did you mean {meant}?" in seen.err and "--help" in seen.err


def test_a_word_that_is_near_nothing_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zzzz"]) == 2
    assert capsys.readouterr().err == "h2k: zzzz: no such command (h2k --help)\n"


def test_the_version_is_a_name_and_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    from h2k import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"h2k {__version__}\n"


def test_sentences() -> None:
    assert as_sentence("log  it") == "Log it." and as_sentence("Done.") == "Done." and as_sentence("one (or two)") == "One (or two)."
