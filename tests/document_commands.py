"""The commands in the documents: where they stand, and whether their options exist. Nothing is run here.

A command stands in a fenced block, `console` (lines with "$ " and what they print) or `sh` (a command a line). The words
after that say what a test does with it: nothing: it is run by `make test`; `long`: by `make test-long`;
`no-run: REASON`: its options are checked alone. A block of another language with `file: NAME` is that file.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import click

from h2k.base.errors import H2kError
from h2k.base.option_table import H2K, PROGRAMS, QEMU_IMG, V2V
from h2k.cli.main import cli
from h2k.convert import qemu_img_command, v2v_command
from h2k.convert.v2v_options import BY_NAME as OF_VIRT_V2V

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/develop").glob("*.md")]
)
PAGES = sorted((ROOT / "docs" / "man").glob("*.md"))
PROMPT = "$ "
NO_RUN, FILE = "no-run: ", "file: "
_FENCE = re.compile(r"^( *)```(\w*) *(.*)$")
_TOOLS = (
    *PROGRAMS, "virt-v2v", "qemu-img", "make", "apt", "apt-get", "dnf", "sudo", "systemctl", "virsh", "virtctl", "kubectl", "qm",
    "ansible-galaxy", "ansible-playbook", "python3", "pip", "pytest", "export", "cd", "wrappers/h2k", "wrappers/h2k-v2v",
    "wrappers/h2k-qemu-img", ".venv/bin/python", "convert.sh", "scp", "ssh", "curl", "mount",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """One command line, and the lines that it prints in the document (None: the document does not say)."""

    text: str
    line: int
    output: Optional[tuple[str, ...]] = None


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its first and last line (from 1, the fences), the indent of a list, language, and what is to be done."""

    path: Path
    first: int
    last: int
    indent: str
    language: str
    info: str
    commands: tuple[Command, ...]
    body: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of the file that it is, "" when it is none."""
        return self.info[len(FILE) :].strip() if self.info.startswith(FILE) else ""

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.path.relative_to(ROOT)}:{self.first}"

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.language in ("console", "sh") and not self.info.startswith(NO_RUN)

    @property
    def long(self) -> bool:
        """Whether that takes longer than `make test` has time for."""
        return self.info == "long"


def blocks(path: Path) -> Iterator[Block]:
    """Every fenced block of a document."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        indent, language, info = fence.groups()
        first, last = number, next(i for i in range(number, len(lines)) if lines[i].strip() == "```")
        body = [line[len(indent) :] for line in lines[first:last]]
        yield Block(path, first, last + 1, indent, language, info, tuple(_commands(body, language, first + 1)), tuple(body))
        number = last + 1


def _commands(body: Sequence[str], language: str, first: int) -> Iterator[Command]:
    at = 0
    while at < len(body):
        line, text = first + at, body[at]
        at += 1
        if language == "sh" and (not text.strip() or text.lstrip().startswith("#")):
            continue
        if language == "console" and not text.startswith(PROMPT):
            raise AssertionError(f"line {line}: a console block begins with {PROMPT!r}")
        if language not in ("console", "sh"):
            continue
        text = text[len(PROMPT) :] if language == "console" else text
        while text.endswith("\\"):
            text, at = f"{text[:-1]}{body[at].lstrip('> ')}", at + 1
        end = at
        while language == "console" and end < len(body) and not body[end].startswith(PROMPT):
            end += 1
        yield Command(text, line, tuple(body[at:end]) if language == "console" else None)
        at = end


def outside(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are in no fenced block, with their numbers."""
    inside = {n for block in blocks(path) for n in range(block.first, block.last + 1)}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if number not in inside:
            yield number, line


def stray(path: Path) -> Iterator[str]:
    """Commands that stand in no block that a test looks at."""
    for number, line in outside(path):
        text = line.strip()
        if line.startswith("    ") and (text.startswith(PROMPT) or _first(text) in _TOOLS):
            yield f"{path.relative_to(ROOT)}:{number}: a command in no console or sh block: {text}"
    for block in blocks(path):
        if block.language not in ("console", "sh"):
            body = path.read_text(encoding="utf-8").splitlines()[block.first : block.last - 1]
            yield from (f"{block.where}: a command in a block of {block.language or 'text'}: {t}" for t in body if t.strip().startswith(PROMPT))


def _first(text: str) -> str:
    words = [word for word in text.split() if not re.match(r"^\w+=", word)]
    return words[0] if words else ""


def inline(path: Path) -> Iterator[Command]:
    """Commands of ours in running text: `h2k verify NAME.xml`."""
    for number, line in outside(path):
        for text in re.findall(r"`([^`]+)`", line):
            words = text.split()
            if words[0] in PROGRAMS and len(words) > 1 and words[1].lstrip("-")[:1].isalpha():
                yield Command(text, number)


# Whether a command is one


def problem(command: str, whole: bool = True) -> str:
    """What is wrong with a command line: an unknown command, option, make target or module; "" when nothing is. One that is
    not `whole`, in running text or with an …, may lack its arguments."""
    found = _problem(command)
    lacks = any(words in found for words in ("Missing argument", "requires an argument", "needs a source", "needs a value"))
    return "" if lacks and ("…" in command or not whole) else found


def _problem(command: str) -> str:
    try:
        words = shlex.split(command, comments=True)
    except ValueError as e:
        return str(e)
    simple: list[str] = []
    for word in [*words, ";"]:
        if word.rstrip(";") == "" or word in ("|", "&&", "||", ";"):
            found = _simple(simple)
            if found:
                return found
            simple = []
        elif word.endswith(";"):
            found = _simple([*simple, word[:-1]])
            if found:
                return found
            simple = []
        else:
            simple.append(word)
    return ""


def _simple(words: list[str]) -> str:
    """The same for one simple command."""
    while words and (re.match(r"^\w+=", words[0]) or words[0] in ("sudo", "time", "!")):
        words = words[1:]
    words = _without_redirections(words)
    if not words:
        return ""
    name, rest = words[0].rpartition("/")[2], [w for w in words[1:] if w not in ("…", "...")]
    if name == H2K:
        return _h2k(rest)
    if name == V2V:
        return _v2v(rest)
    if name == QEMU_IMG:
        return _tried(lambda: qemu_img_command.parse(rest))
    if name == "make":
        return _make([w for w in rest if "=" not in w and not w.startswith("-")])
    if name.startswith("python") and rest[:1] == ["-m"]:
        return "" if importlib.util.find_spec(rest[1]) is not None else f"no module {rest[1]}"
    return ""


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] in (">", ">>", "<", "2>"):
            kept.pop()
        elif not re.match(r"^\d?>{1,2}&?\S+$", word):
            kept.append(word)
    return kept


def _h2k(words: list[str]) -> str:
    level = logging.getLogger().level
    try:
        group, name, above = cli, H2K, None
        while True:
            context = group.make_context(name, list(words), parent=above)
            rest = [*(getattr(context, "_protected_args", None) or getattr(context, "protected_args", [])), *context.args]
            if not rest:
                return ""
            found, command, words = group.resolve_command(context, rest)
            assert found is not None and command is not None
            if not isinstance(command, click.Group):
                command.make_context(found, list(words), parent=context)
                return ""
            group, name, above = command, found, context
    except click.exceptions.Exit:
        return ""  # --help, --version
    except click.ClickException as e:
        return "" if type(e).__name__ == "NoArgsIsHelpError" else e.format_message()
    finally:
        logging.getLogger().setLevel(level)


def _v2v(words: list[str]) -> str:
    def parsed() -> None:
        command = v2v_command.parse(words)
        unknown = [name for name, _ in v2v_command.options_of(command) if name not in OF_VIRT_V2V]
        if unknown:
            raise H2kError(f"virt-v2v has no option {unknown[0]}")

    return _tried(parsed)


def _tried(parse: object) -> str:
    try:
        assert callable(parse)
        parse()
    except H2kError as e:
        return str(e)
    return ""


def _make(targets: Sequence[str]) -> str:
    rules = re.findall(r"^([a-z][\w .-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    known = {name for rule in rules for name in rule.split()}
    return next((f"the Makefile has no {target}" for target in targets if target not in known), "")
