"""Every command in a document, a manual page or a help text: its options exist, and a test runs it or the document says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from h2k.cli.main import every_command
from h2k.convert.h2k_options import EXAMPLES
from tests import document_commands
from tests.document_commands import DOCUMENTS, NO_RUN, PAGES, ROOT, blocks, inline, problem, stray


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_of_a_document_is_run_or_says_why_not(path: Path) -> None:
    assert list(stray(path)) == []
    for block in blocks(path):
        if block.language in ("console", "sh"):
            assert block.info in ("", "long") or re.fullmatch(rf"{NO_RUN}\S.*", block.info), f"{block.where}: {block.info}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_what_is_left_out_is_not_all_of_an_output(path: Path) -> None:
    for block in blocks(path):
        for command in block.commands:
            assert command.output is None or not command.output or {line.strip() for line in command.output} != {"…"}, command


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_of_a_document_has_its_options(path: Path) -> None:
    found = [(c, problem(c.text)) for b in blocks(path) for c in b.commands] + [(c, problem(c.text, whole=False)) for c in inline(path)]
    assert [f"{name(path)}:{c.line}: {c.text}: {wrong}" for c, wrong in found if wrong] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_example_of_a_manual_page_has_its_options(path: Path) -> None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    assert [f"{line}: {problem(line)}" for line in lines if problem(line)] == []


def test_every_example_of_a_help_text_has_its_options() -> None:
    examples = list(EXAMPLES.values())
    for _, command in every_command():
        examples += re.findall(r"^\s*Example: (h2k .*)$", command.help or "", re.MULTILINE)
    assert len(examples) > 25
    assert [f"{example}: {problem(example)}" for example in examples if problem(example)] == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("h2k verify --bux x y", "--bux"), ("h2k verfy x", "no such command"), ("h2k fleet run", "Missing argument"),
        ("wrappers/h2k verify x --bus scsi", "scsi"), ("h2k survey /x > y && h2k fleet plann y", "plann"), ("h2k-v2v --h2k-boott x", "--h2k-boott"),
        ("sudo h2k-v2v -i vmx x --nosuch y", "nosuch"), ("A=b h2k-qemu-img convert a b --h2k-nam x", "--h2k-nam"), ("make nosuch", "nosuch"),
        ("python3 -m tests.nosuch", "tests.nosuch"), ("h2k doctor; h2k doctr", "doctr"), ("h2k 'x", "No closing quotation"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_seen(command: str, told: str) -> None:
    assert told in problem(command)


def test_a_command_in_no_block_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_commands, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("text\n\n    h2k verify x\n\n    A=b make test\n\n    plain: yaml\n\n```text\n$ h2k x\n```\n\n```sh\nh2k fix x\n# a remark\n```\n")
    assert [line.split(": ")[0] for line in stray(page)] == ["page.md:3", "page.md:5", "page.md:9"]
    (command,) = [c for b in blocks(page) for c in b.commands]
    assert (command.text, command.line, command.output) == ("h2k fix x", 14, None)


def test_what_a_command_prints_is_read_up_to_the_next_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. x\n\n   ```console long\n   $ h2k fix \\\n   >   x\n   READY\n     more\n   $ h2k verify x\n   ```\n")
    (block,) = blocks(page)
    assert block.long and block.runs and block.indent == "   "
    assert [(c.text, c.output) for c in block.commands] == [("h2k fix x", ("READY", "  more")), ("h2k verify x", ())]
