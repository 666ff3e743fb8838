"""The one list of first-boot steps: runner, scripts, signals, the policy's time limits and the documents agree with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h2k.config.policy as policy
from h2k.boot.com1 import STEPS as SIGNALS
from h2k.windows.first_boot import scripts
from h2k.windows.first_boot_steps import LIMITS, NAMES, OPTIONAL, STEPS, WORK, budget

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_list_begins_and_ends_with_what_is_no_work() -> None:
    assert NAMES[0] == "start" and NAMES[-1] == "done" and NAMES[1:-1] == WORK
    assert len(set(NAMES)) == len(NAMES) and set(OPTIONAL) < set(WORK)


def test_each_step_that_works_has_its_script_and_the_runner_runs_them_in_order() -> None:
    assert {f"{step}.cmd" for step in WORK} <= set(scripts())
    (order,) = re.findall(r"for %%s in \(([a-z ]+)\) do call :step", scripts()["runner.cmd"].decode())
    assert tuple(order.split()) == WORK


def test_signals_are_the_steps() -> None:
    assert SIGNALS == NAMES


def test_the_policy_has_a_limit_for_each_step_and_no_other() -> None:
    assert {name: limit for name, limit in policy.TIMEOUTS.items() if name in NAMES} == LIMITS
    schema = json.loads(policy.SCHEMA.read_text(encoding="utf-8"))
    names = schema["properties"]["timeouts"]["propertyNames"]["enum"]
    assert names == list(policy.TIMEOUTS)


def test_the_policy_page_shows_the_limits() -> None:
    text = (DOCS / "policy.md").read_text(encoding="utf-8")
    shown = re.search(r"timeouts: +# seconds\n +\{(.*?)\}", text, re.DOTALL)
    assert shown is not None
    pairs = dict(pair.split(": ") for pair in re.split(r",\s+", shown[1]))
    assert {name: int(value) for name, value in pairs.items()} == policy.TIMEOUTS


def test_the_page_of_the_first_boot_has_each_step_in_order() -> None:
    text = (DOCS / "first-boot.md").read_text(encoding="utf-8")
    table = text.split("| step |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([a-z]+)` \| (.*?) \| (.*?) ?\|$", table, re.MULTILINE)
    assert [(name, what, needs) for name, what, needs in rows] == [(s.name, s.what, s.needs) for s in STEPS if s.work]
    assert ", ".join(f"`{name}`" for name in NAMES) in text


def test_the_guest_gets_less_time_than_the_host_waits() -> None:
    assert [budget(limit) for limit in (1, 10, 120, 900)] == [1, 8, 96, 720]
    assert all(0 < step.budget < step.limit for step in STEPS)
