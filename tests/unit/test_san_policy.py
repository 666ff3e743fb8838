"""Windows' SAN policy: which control sets would take data disks offline on a new bus."""

from __future__ import annotations

from typing import Optional

import pytest

from h2k.guest.san_policy import cluster_member, offline_sets, policy_key, shown
from tests.unit.memory_reader import windows_guest


def policy(number: int) -> str:
    return f'[$cs\\Services\\partmgr\\Parameters]\n"SanPolicy"=dword:{number:08x}\n'


@pytest.mark.parametrize(
    ("number", "server", "offline"),
    [(None, True, True), (None, False, False), (1, True, False), (2, False, True), (3, True, True), (4, True, True), (0, True, False), (9, True, False)],
)
def test_what_takes_disks_offline(number: Optional[int], server: bool, offline: bool) -> None:
    guest = windows_guest(policy(number) if number is not None else "", data_disks=1, server=server)
    assert offline_sets(guest) == ([(1, number)] if offline else [])


def test_a_guest_of_one_disk_has_none_to_lose() -> None:
    assert offline_sets(windows_guest(policy(3))) == []


def test_each_control_set_that_may_boot_has_its_own() -> None:
    text = policy(1).replace("$cs", "ControlSet001") + policy(4).replace("$cs", "ControlSet002") + policy(3).replace("$cs", "ControlSet003")
    assert offline_sets(windows_guest(text, data_disks=1, sets=(1, 2))) == [(2, 4)], "the third never boots"


@pytest.mark.parametrize(("start", "member"), [(0, True), (2, True), (3, True), (4, False), (None, False)])
def test_a_node_of_a_cluster_is_left_alone(start: Optional[int], member: bool) -> None:
    service = f'"Start"=dword:{start:08x}\n' if start is not None else '"Type"=dword:00000010\n'
    guest = windows_guest(f"[$cs\\Services\\ClusSvc]\n{service}" + policy(2), data_disks=1)
    assert cluster_member(guest) == ("ControlSet001\\Services\\ClusSvc" if member else None)
    assert offline_sets(guest) == ([] if member else [(1, 2)])


def test_the_service_of_the_set_that_boots_decides() -> None:
    text = '[ControlSet002\\Services\\ClusSvc]\n"Start"=dword:00000002\n'
    assert cluster_member(windows_guest(text, sets=(1, 2))) is None


def test_a_policy_in_words() -> None:
    assert policy_key(3) == "ControlSet003\\Services\\partmgr\\Parameters"
    assert [shown(n) for n in (None, 2, 3, 4, 7)] == [
        "not set, which is offline shared on a server", "2, offline shared", "3, offline all", "4, offline internal", "7, ?",
    ]  # fmt: skip
