"""The faults of the kit: all are the matrix's, each fits where it is tried, and what can't be put in is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests.faults import FAULTS, GuestFacts
from tests.unit.kit_world import answers
from tests.windows.faults import (
    EVENING,
    HEALTHY,
    INTO_RESULT,
    INTO_SOURCE,
    RESULT,
    SOURCE,
    KitFault,
    all_faults,
    chosen,
    guest_facts,
    put,
)
from tests.windows.steps import StepFailed

NEW, OLD = guest_facts(answers()), guest_facts(answers(7601, False, "x86", "bios"))


def test_each_is_one_of_the_matrix_and_goes_into_one_disk() -> None:
    known = {fault.name for fault in FAULTS}
    names = [*INTO_SOURCE, *INTO_RESULT]
    assert set(names) <= known and len(names) == len(set(names)) and set(EVENING) <= set(names)


def test_none_needs_what_a_real_guest_does_not_have() -> None:
    """Further disks, a domain or a policy of the made guests' own."""
    for each in all_faults():
        assert each.fault is not None and not each.fault.domain and not each.fault.wrapper and not each.fault.drivers


def test_a_driver_that_only_h2k_installs_is_broken_in_the_result() -> None:
    assert {each.into for each in all_faults() if each.name.startswith(("driver-", "device-id", "nic-driver"))} == {RESULT}
    assert KitFault(HEALTHY, SOURCE).answer == "ready"


@pytest.mark.parametrize("facts", [NEW, OLD])
def test_an_evening_has_at_least_ten_that_fit(facts: GuestFacts) -> None:
    found = chosen("", facts)
    assert found[0].name == HEALTHY and len(found) >= 10
    assert all(each.fault is not None and each.fault.fits(facts) for each in found[1:])
    assert len(chosen("all", facts)) > len(found)


def test_faults_are_taken_by_name_behind_the_healthy_guest() -> None:
    found = chosen("nic-ghost, healthy,driver-file-missing", NEW)
    assert [(each.name, each.into) for each in found] == [(HEALTHY, SOURCE), ("nic-ghost", SOURCE), ("driver-file-missing", RESULT)]


@pytest.mark.parametrize(("names", "why"), [
    ("no-such", "no fault that can be put"), ("uefi-fallback-missing:file", "makes no sense on win7-x86"),
])  # fmt: skip
def test_a_name_that_can_not_be_is_told(names: str, why: str) -> None:
    with pytest.raises(StepFailed, match=why):
        chosen(names, OLD)


def test_facts_are_those_of_the_matrix() -> None:
    assert GuestFacts("win2022", "uefi", "10.0", 1) == NEW
    assert GuestFacts("win7-x86", "bios", "6.1", 1) == OLD


def test_the_healthy_guest_is_left_alone(tmp_path: Path) -> None:
    put(KitFault(HEALTHY, SOURCE), tmp_path / "missing.qcow2", True)
