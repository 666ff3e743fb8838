"""The one list of first-boot steps: runner, scripts, signals and the policy's time limits come from it."""

from __future__ import annotations

import re

import h2k.config.policy as policy
from h2k.boot.com1 import STEPS as SIGNALS
from h2k.windows.first_boot import scripts
from h2k.windows.first_boot_steps import BOUNDED, LIMITS, NAMES, OPTIONAL, STEPS, WORK, budget, limit_of


def test_the_list_begins_and_ends_with_what_is_no_work() -> None:
    assert NAMES[0] == "start" and NAMES[-1] == "done" and NAMES[1:-1] == WORK
    assert len(set(NAMES)) == len(NAMES) and set(OPTIONAL) < set(WORK)


def test_each_step_that_works_has_its_script_and_the_runner_runs_them_in_order() -> None:
    assert {f"{step}.cmd" for step in WORK} <= set(scripts())
    (order,) = re.findall(r"for %%s in \(([a-z ]+)\) do call :step", scripts()["runner.cmd"].decode())
    assert tuple(order.split()) == WORK


def test_the_guest_is_told_the_time_of_those_that_start_unknown_programs() -> None:
    assert tuple(step.name for step in STEPS if step.bounded) == BOUNDED and {"start", "drivers"} <= set(BOUNDED) < set(NAMES)


def test_signals_are_the_steps() -> None:
    assert SIGNALS == NAMES


def test_the_policy_has_a_limit_for_each_step_and_no_other() -> None:
    assert {name: limit for name, limit in policy.TIMEOUTS.items() if name in NAMES} == LIMITS
    names = policy.policy_schema()["properties"]["timeouts"]["propertyNames"]["enum"]
    assert names == [*NAMES, "shutdown", "settle"]


def test_the_guest_gets_less_time_than_the_host_waits() -> None:
    assert [budget(limit) for limit in (1, 10, 120, 900)] == [1, 8, 96, 720]
    assert all(0 < step.budget < step.limit for step in STEPS)
    assert all(limit <= limit_of(budget(limit)) + 1 and budget(limit_of(budget(limit))) == budget(limit) for limit in range(2, 4000))
