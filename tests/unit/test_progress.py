"""On a terminal: spinners; in a pipe and without rich, plain lines."""

from __future__ import annotations

import io
import sys
from typing import Optional

import pytest

from h2k.base.progress import with_bar
from h2k.base.steps import Steps
from tests.unit.terminal import Terminal

# A terminal


def steps(name: str) -> None:
    """A step that says something in its middle."""
    told = Steps()
    with told.step(name, "61 changes on an overlay"):
        told.say("halfway")
    told.say("done")


def test_a_long_step_has_a_spinner_and_its_time(terminal: Terminal) -> None:
    terminal.attach()
    pytest.importorskip("rich")
    steps("apply")
    seen = terminal.seen()
    assert "0:00:00" in seen and "\x1b[?25l" in seen, "no spinner"
    assert seen.index("61 changes on an overlay") < seen.index("halfway") < seen.index("done")
    assert "\x1b[?25h" in seen, "the cursor stays hidden"


@pytest.mark.parametrize("name", ["convert", "in-place", "upload"])
def test_another_programs_bars_are_left_alone(name: str, terminal: Terminal) -> None:
    terminal.attach()
    steps(name)
    assert "\x1b" not in terminal.seen()


def test_a_step_that_fails_ends_its_spinner(terminal: Terminal) -> None:
    terminal.attach()
    pytest.importorskip("rich")
    told = Steps()
    with pytest.raises(ValueError, match="no"), told.step("apply", "changes"):
        raise ValueError("no")
    told.say("after")
    seen = terminal.seen()
    assert seen.rindex("\x1b[?25h") < seen.index("after")
    assert [t["step"] for t in told.timings] == ["apply"]


def test_a_step_within_a_step(terminal: Terminal) -> None:
    terminal.attach()
    told = Steps()
    with told.step("outer", "outer"), told.step("inner", "inner"):
        told.say("deep")
    assert "deep" in terminal.seen()


def test_a_terminal_without_rich(terminal: Terminal, without_rich: None) -> None:
    terminal.attach()
    steps("apply")
    seen = terminal.seen()
    assert "\x1b" not in seen and "halfway" in seen


@pytest.mark.parametrize("rich", [True, False])
def test_a_pipe_gets_plain_lines(rich: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not rich:
        request.getfixturevalue("without_rich")
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    steps("apply")
    assert [line.partition("] ")[2] for line in err.getvalue().splitlines()] == ["61 changes on an overlay", "halfway", "done"]


@pytest.mark.parametrize(
    ("terminal_size", "argv", "expected"),
    [
        ((80, 24), ["qemu-img", "convert", "-c", "a", "b"], ["qemu-img", "convert", "-p", "-c", "a", "b"]),
        ((80, 24), ["qemu-img", "convert", "-q", "a", "b"], None),
        ((80, 24), ["qemu-img", "convert", "-p", "a", "b"], None),
        (None, ["qemu-img", "convert", "a", "b"], None),
    ],
)
def test_qemu_img_shows_its_bar_on_a_terminal(
    terminal_size: Optional[tuple[int, int]], argv: list[str], expected: Optional[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(*terminal_size, monkeypatch).stream if terminal_size else io.StringIO())
    assert with_bar(argv) == (expected or argv)
