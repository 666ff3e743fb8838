"""On a terminal: spinners, and a verdict of one screen; in a pipe and without rich, plain lines."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any, Optional, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.progress import with_bar
from h2k.base.steps import Steps, counted
from h2k.engine.verdict import explain, screen
from tests.unit.helpers import many

STATES = ("refused", "broken", "repaired", "warning", "ok")


def report(findings: int, status: int = 0, files: int = 3, changes: int = 0, verdict: str = "repaired and verified") -> dict[str, Any]:
    """A report object with that many findings."""
    return {
        "status": status,
        "verdict": verdict,
        "guest": {"windows": True, "name": "Windows Server 2022"},
        "findings": [
            {"id": f"finding-{n}", "state": STATES[n % 5], "subject": f"subject {n}", "evidence": "why " * 40, "repair": "→"}
            for n in range(findings)
        ],
        "changes": [{"diff": f"~ SYSTEM\\ControlSet001\\Services\\x{n} Start: 3 → 0"} for n in range(changes)],
        "timings": [{"step": "preflight", "seconds": 0.7}, {"step": "convert", "seconds": 61.25}],
        "files": {"bootstrap": "/out/g.h2k/bootstrap.xml", "final": "/out/g.h2k/final.xml"} if files else {},
    }


# One screen


@many
@given(st.integers(0, 60), st.integers(0, 60), st.integers(20, 200), st.integers(10, 60), st.sampled_from(["short", "a long verdict " * 60]))
def test_the_verdict_fits_the_screen(findings: int, changes: int, width: int, height: int, verdict: str) -> None:
    lines = screen(report(findings, changes=changes, verdict=verdict), width, height, plan=True)
    assert len(lines) < height
    assert all(len(text) <= width and "\n" not in text for text, _ in lines)
    assert lines[0][0].startswith("h2k: READY")


@pytest.mark.parametrize("findings", [4, 12, 13, 40])
def test_what_is_left_out_is_counted(findings: int) -> None:
    text = [line for line, _ in screen(report(findings), 80, 20)]
    shown = sum(line.lstrip().startswith(STATES) for line in text)
    left = [line for line in text if "more in report.json" in line]
    assert shown + (int(left[0].split()[1]) if left else 0) == findings
    assert bool(left) == (shown < findings)


def test_what_stops_a_run_comes_first() -> None:
    text = [line for line, _ in screen(report(40, status=3), 80, 14)]
    assert [line.split()[0] for line in text[1:4]] == ["refused"] * 3


def test_evidence_is_shown_where_there_is_room() -> None:
    assert any("why why" in line for line, _ in screen(report(3), 80, 24))
    assert not any("why why" in line for line, _ in screen(report(30), 80, 24))


def test_a_guest_does_not_steer_the_terminal() -> None:
    content = report(1, verdict="\x1b[2Jgone\a")
    content["findings"][0]["subject"] = "\x1b]0;title\x07\nsecond line"
    assert all(text.isprintable() for text, _ in screen(content, 80, 24))


def test_step_times_are_told() -> None:
    assert any("preflight 0.7 s, convert 61.2 s" in text for text, _ in screen(report(1), 80, 24))


# A terminal


class Terminal:
    """A pty of that size: what is written to `stream` comes back from `seen`."""

    def __init__(self, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        os.set_blocking(self.master, False)

    def attach(self) -> None:
        """Make it standard output and standard error; in the test itself, for pytest puts its own in place before."""
        self.monkeypatch.setattr(sys, "stdout", self.stream)
        self.monkeypatch.setattr(sys, "stderr", self.stream)

    def seen(self) -> str:
        self.stream.flush()
        parts = []
        while True:
            try:
                parts.append(os.read(self.master, 65536))
            except BlockingIOError:
                return b"".join(parts).decode("utf-8", "replace")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal(100, 24, monkeypatch)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield found
    found.stream.close()
    os.close(found.master)


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "rich"] + ["rich", "rich.console", "rich.progress"]:
        monkeypatch.setitem(sys.modules, name, None)


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
    explain(report(40))
    seen = terminal.seen()
    assert "\x1b" not in seen and "halfway" in seen
    assert "more in report.json)" in seen and len(seen[seen.index("h2k: READY") :].splitlines()) < 24


def test_the_verdict_on_a_terminal(terminal: Terminal) -> None:
    terminal.attach()
    pytest.importorskip("rich")
    explain(report(40))
    seen = terminal.seen()
    assert "\x1b[1;32m" in seen, "no colour"
    assert "more in report.json)" in seen and len(seen.splitlines()) < 24


@pytest.mark.parametrize("rich", [True, False])
def test_a_pipe_gets_plain_lines_and_all_of_them(rich: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not rich:
        request.getfixturevalue("without_rich")
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    steps("apply")
    explain(report(40))
    assert [line.partition("] ")[2] for line in err.getvalue().splitlines()] == ["61 changes on an overlay", "halfway", "done"]
    assert all(f"finding-{n} " in out.getvalue() for n in range(40)) and "\x1b" not in out.getvalue()


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


@pytest.mark.parametrize(("number", "text"), [(0, "0 disks"), (1, "1 disk"), (2, "2 disks"), (0.5, "0.5 disks")])
def test_counted(number: float, text: str) -> None:
    assert counted(number, "disk") == text
