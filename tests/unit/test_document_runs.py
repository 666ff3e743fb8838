"""What a document shows against what was printed: masks, lines that are left out, and writing it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documents
from tests.documents import agrees, masked, renewed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("steps: examine 0.3 s", "steps: examine 12.0 s"), ("erp  6.5 MiB  x", "erp  10 KiB  x"), ("took 1 h 2 min 3 s", "took 5 s"),
        ("2026-11-27T20:00:00Z  READY", "2027-01-02T01:02:03Z  READY"), ("sha256 0123456789abcdef", "sha256 fedcba9876543210"),
        ("virt-v2v 2.2.0 ok", "virt-v2v 2.10.1 ok"), ("[   0.0] Setting up", "[ 124.6] Setting up"), ("in /tmp/a/b now", "in /var/tmp/c now"),
        ("mac 52:54:00:12:34:56", "mac 52:54:00:ab:cd:ef"),
    ],
)  # fmt: skip
def test_what_differs_from_run_to_run_is_masked(one: str, other: str) -> None:
    assert masked(one) == masked(other) and agrees([one], other)


@pytest.mark.parametrize(("one", "other"), [("67 changes", "66 changes"), ("READY", "NOT READY"), ("Start: 3", "Start: 0"), ("192.0.2.10/24", "192.0.2.11/24")])
def test_what_counts_is_not_masked(one: str, other: str) -> None:
    assert not agrees([one], other)


def test_dots_stand_for_any_lines_and_breaks_do_not_count() -> None:
    assert agrees(["a", "…", "d e"], "a\nb\nc\nd\n   e\n") and agrees(["…", "z"], "z") and agrees(["a", "…"], "a\n")
    assert not agrees(["a", "…", "e"], "a\nb\n") and not agrees(["a"], "a\nb") and not agrees(["…", "b"], "b c")


def test_whole_lines_may_come_in_another_order() -> None:
    assert agrees(["running  a", "running  b"], "running  b\nrunning  a\n") and not agrees(["running  a"], "a  running\n")


def test_what_agrees_stays_and_what_does_not_is_written_anew() -> None:
    assert renewed(["a 1 s"], "a 2 s\n") == ["a 1 s"]
    assert renewed(["old"], "new\nlines\n") == ["new", "lines"]
    assert renewed(["…", "h2k: READY: 67 changes  [web01]", "…"], "x\nh2k: READY: 68 changes  [web01]\ny\nz\n") == ["…", "h2k: READY: 68 changes  [web01]", "…"]


def test_a_document_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. x\n\n   ```xml file: a.xml\n   <a>\n   </a>\n   ```\n\n   ```console\n   $ one \\\n   > more\n   old\n   $ two\n   ```\n\n```sh\nthree\n```\n")

    class Place:
        """Commands that print their own text."""

        status = 0

        def fresh(self, name: str) -> None:
            assert name == "page"
            self.files: dict[str, str] = {}

        def write(self, name: str, text: str) -> None:
            self.files[name] = text

        def run(self, command: str) -> str:
            assert self.files == {"a.xml": "<a>\n</a>\n"}
            return f"of {command}\n\n  more\n"

    assert documents.write(page, Place())  # type: ignore[arg-type]
    assert page.read_text() == "1. x\n\n   ```xml file: a.xml\n   <a>\n   </a>\n   ```\n\n   ```console\n   $ one \\\n   > more\n   of one more\n\n     more\n   $ two\n   of two\n\n     more\n   ```\n\n```sh\nthree\n```\n"
    assert not documents.write(page, Place())  # type: ignore[arg-type]


def test_a_command_that_fails_or_prints_something_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```console\n$ one\nold\n```\n\n```console long\n$ four\n```\n\n```sh no-run: x\ntwo\n```\n\n```sh\nthree\n```\n")

    class Place:
        """Commands that fail."""

        status = 3

        def fresh(self, name: str) -> None:
            pass

        def run(self, command: str) -> str:
            return f"new {command}\n"

    shown, failed = (documents.wrong(page, Place(), long=long) for long in (False, True))  # type: ignore[arg-type]
    assert [text.split("\n")[0] for text in shown] == ["page.md:2: $ one", "page.md:15: $ three"] and "new one" in shown[0]
    assert [text.split("\n")[0] for text in failed] == ["page.md:2: $ one", "page.md:7: $ four", "page.md:15: $ three"]
    assert "ended with 3" in failed[2]


@pytest.mark.parametrize(
    ("command", "slow", "reads"),
    [
        ("h2k-v2v -i vmx x -o local -os /srv/vm", True, False), ("h2k-v2v -i vmx x --h2k-dry-run", False, True), ("h2k verify x", False, True),
        ("h2k report x --html y", False, False), ("h2k report x --history", False, True), ("h2k rollback x", False, False), ("h2k fix x", True, False),
        ("h2k fleet run w", True, False), ("h2k fleet plan s > w", False, False), ("echo $?", False, True),
    ],
)  # fmt: skip
def test_what_a_command_does_to_the_world(command: str, slow: bool, reads: bool) -> None:
    assert (documents._SLOW.search(command) is not None) is slow and (documents._READS.match(command) is not None) is reads
