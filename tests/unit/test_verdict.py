"""The end of a run for people: the verdict first, what stops it never cut off, one table on a terminal, all lines in a pipe."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.finding import Finding
from h2k.engine.verdict import explain, lines, summary
from tests.unit.helpers import many
from tests.unit.terminal import Terminal

STATES = ("refused", "broken", "repaired", "warning", "ok")


def record(findings: int, status: int = 0, verdict: str = "repaired and verified", **more: Any) -> dict[str, Any]:
    """A record with that many findings, of every state in turn, as it comes from its file."""
    content = {
        "status": status,
        "verdict": verdict,
        "guest": {"windows": True, "name": "Windows Server 2022"},
        "findings": [
            {"id": f"finding-{n}", "state": STATES[n % 5], "subject": f"subject {n}", "evidence": "why " * 40, "repair": f"remedy{n}"}
            for n in range(findings)
        ],
        "timings": [{"step": "preflight", "seconds": 0.7}, {"step": "convert", "seconds": 61.25}],
        "files": {"bootstrap": "/out/g.h2k/bootstrap.xml"},
        "next": ["h2k boot /out/g.h2k"],
        **more,
    }
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def text(content: dict[str, Any], width: int = 80, **options: bool) -> list[str]:
    return [line for line, _ in lines(content, width, **options)]


@many
@given(st.integers(0, 60), st.integers(20, 200), st.booleans(), st.sampled_from(["short", "a long verdict " * 60]))
def test_no_remedy_and_no_word_of_the_verdict_is_cut_off(findings: int, width: int, brief: bool, verdict: str) -> None:
    shown = text(record(findings, verdict=verdict), width, brief=brief)
    assert shown[0].startswith("h2k: READY")
    together = " ".join(shown).split()
    assert [word for word in together if word == "verdict"] == ["verdict"] * verdict.split().count("verdict")
    for number in range(findings):
        held = STATES[number % 5] == "ok"
        assert (f"remedy{number}" in together) == (not held or not brief)


def test_what_holds_is_counted_on_a_terminal() -> None:
    assert any("(2 more that hold, in report.json)" in line for line in text(record(10), brief=True))
    assert not any("more that hold" in line for line in text(record(10)))


def test_what_stops_a_run_comes_first() -> None:
    states = [line.split()[0] for line in text(record(10, status=3)) if line.split()[0] in STATES]
    assert states == ["refused"] * 2 + ["broken"] * 2 + ["repaired"] * 2 + ["warning"] * 2 + ["ok"] * 2


@pytest.mark.parametrize(("word", "state"), [("OK TO CONVERT", "to do"), ("NOT READY", "broken")])
def test_what_a_conversion_will_do_is_no_fault_of_a_source(word: str, state: str) -> None:
    shown = text(record(2, word=word))
    assert any(line.startswith(f"  {state:<9} finding-1") for line in shown)


def test_a_guest_does_not_steer_the_terminal() -> None:
    content = record(1, verdict="\x1b[2Jgone\a", details=["\x1b[31mred"], next=["a\nb"])
    content["findings"][0].update(subject="\x1b]0;title\x07\nh2k: READY", evidence="\x9b0m", repair="\r")
    assert all(line.isprintable() for line in text(content))


def test_times_files_details_and_next_commands_are_told() -> None:
    shown = text(record(1, details=["bootstrap: 59 s"], changes=[{"diff": "~ SYSTEM x"}]), 120, plan=True)
    for wanted in ("preflight 0.7 s, convert 61.2 s", "/out/g.h2k/bootstrap.xml", "next: h2k boot /out/g.h2k", "bootstrap: 59 s", "~ SYSTEM x"):
        assert any(wanted in line for line in shown), wanted
    assert not any("~ SYSTEM x" in line for line in text(record(1, changes=[{"diff": "~ SYSTEM x"}])))


def test_a_guest_without_findings_says_so() -> None:
    assert any("no findings" in line for line in text(record(0)))
    assert not any("no findings" in line for line in text({"status": 2, "verdict": "x"}))


def test_the_table_of_rich(terminal: Terminal) -> None:
    pytest.importorskip("rich")
    terminal.attach()
    explain(record(40, status=3, word="REFUSED"))
    seen = terminal.seen()
    assert "\x1b[1;31m" in seen, "no colour"
    assert "(8 more that hold, in report.json)" in seen
    assert all(f"remedy{n}" in seen for n in range(40) if n % 5 != 4)


def test_a_terminal_without_rich(terminal: Terminal, without_rich: None) -> None:
    terminal.attach()
    explain(record(40))
    seen = terminal.seen()
    assert "\x1b" not in seen and "(8 more that hold, in report.json)" in seen and "remedy0" in seen


def test_a_pipe_gets_all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    explain(record(40))
    assert all(f"finding-{n} " in out.getvalue() for n in range(40)) and "\x1b" not in out.getvalue()


@pytest.mark.parametrize("plan", [True, False, None])
def test_the_plan_is_shown_to_who_asks_for_it(plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    explain(record(1, changes=[{"diff": "~ SYSTEM x"}]), *([] if plan is None else [plan]))
    assert ("~ SYSTEM x" in capsys.readouterr().out) == bool(plan)


def test_no_findings_is_said_of_a_windows_that_has_none_and_of_nothing_else() -> None:
    none = "  no findings: the guest is as h2k would leave it"
    assert none in text(record(0)) and none in text(record(0), brief=True)
    assert none not in text(record(3)) and none not in text(record(5), brief=True)
    held = {**record(0), "findings": [{"id": "x", "state": "ok", "subject": "s", "evidence": "e", "repair": ""}]}
    assert none not in text(held, brief=True), "what holds is a finding"
    assert none not in text(record(0, guest={"windows": False}))


def test_the_table_of_rich_says_so_too(terminal: Terminal) -> None:
    pytest.importorskip("rich")
    terminal.attach()
    held = {**record(0), "findings": [{"id": "x", "state": "ok", "subject": "s", "evidence": "e", "repair": ""}]}
    for content in (held, held, record(0, guest={"windows": False}), record(0), record(1)):
        explain(content)
    seen = terminal.seen()
    assert seen.count("no findings: ") == 1 and seen.index("no findings: ") < seen.index("finding-0")


def test_the_verdict_is_one_line_for_programs_and_wrapped_for_people() -> None:
    content = record(0, verdict="word " * 50)
    assert len(text(content, 60)[0]) > 250
    assert len(text(content, 60, brief=True)[0]) <= 60


@pytest.mark.parametrize(("files", "said"), [({"bootstrap": "/b.xml", "final": "/f.xml"}, 1), ({"final": "/f.xml"}, 0)])
def test_which_of_two_domains_boots_first_is_said_where_there_are_two(files: dict[str, str], said: int) -> None:
    assert sum("The first boot is bootstrap.xml" in line for line in text(record(0, files=files))) == said


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"word": "LEFT ALONE", "status": 0}, ("h2k: LEFT ALONE: v  [web]", "bold green")),
        ({"status": 3}, ("h2k: REFUSED: v  [web]", "bold red")),
        ({"status": 5}, ("h2k: NOT VERIFIED: v  [web]", "bold red")),
        ({"status": 4}, ("h2k: NOT READY: v  [web]", "bold yellow")),
        ({"status": 77}, ("h2k: ?: v  [web]", "bold yellow")),
        ({"status": 1, "guest": {}}, ("h2k: FAILED: v", "bold yellow")),
    ],
)
def test_the_word_and_its_colour(more: dict[str, Any], shown: tuple[str, str]) -> None:
    assert lines({"verdict": "v", "guest": {"name": "web"}, **more}, 80)[0] == shown


def test_findings_of_commands_that_show_nothing_else() -> None:
    found = [Finding("b", "warning", "s", "e"), Finding("a", "broken", "s", "e", "do it")]
    assert summary(found).splitlines() == ["  broken    a  s", "            e → do it", "  warning   b  s", "            e"]
    assert summary([]) == "  no findings: the guest is as h2k would leave it"


def test_evidence_stands_below_its_finding() -> None:
    finding = {"id": "x", "state": "broken", "subject": "s", "evidence": "word " * 30, "repair": "do it"}
    head, *why = text({**record(0), "findings": [finding]}, 60)[1:6]
    assert head == "  broken    x  s"
    assert all(len(line) - len(line.lstrip()) == 12 for line in why) and " ".join(why).split()[-3:] == ["→", "do", "it"]


def test_a_word_that_is_longer_than_the_line_stands_whole_in_its_column() -> None:
    finding = {"id": "x", "state": "broken", "subject": "s", "evidence": "x" * 40 + " tail", "repair": ""}
    assert text({**record(0), "findings": [finding]}, 30)[2:4] == [" " * 12 + "x" * 40, " " * 12 + "tail"]


def test_files_stand_in_one_column() -> None:
    shown = text(record(0, files={"a": "/one", "bootstrap-machine": "/two"}))
    assert f"  {'a:':<18} /one" in shown and "  bootstrap-machine: /two" in shown
    assert f"  {'a:':<10} /one" in text(record(0, files={"a": "/one"}))


def test_a_record_of_somebody_else_steers_no_terminal() -> None:
    """report.json is read back as it is: nothing in it was made harmless on the way."""
    forged = "x\x1b[2J\r\nh2k: READY: healthy\u202e"
    content = record(5, status=4, verdict=forged, next=[forged], details=[forged], changes=[{"diff": f"~ {forged}"}], files={"x": forged})
    for finding in content["findings"]:
        finding.update(subject=forged, evidence=forged, repair=forged)
    for options in ({}, {"brief": True}, {"plan": True}):
        shown = [line for line, _ in lines(content, 80, **options)]
        assert all(line.isprintable() for line in shown) and not any(line.startswith("h2k: READY") for line in shown)
