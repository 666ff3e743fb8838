"""Windows' SAN policy: whether the data disks come online when their bus changes, and what it was before h2k."""

from __future__ import annotations

from typing import Optional

from h2k.guest.disks_online import kept_back
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name, read_service

ONLINE, OFFLINE_SHARED, OFFLINE_ALL, OFFLINE_INTERNAL = 1, 2, 3, 4
DISABLED = 4
_NAMES = {OFFLINE_SHARED: "offline shared", OFFLINE_ALL: "offline all", OFFLINE_INTERNAL: "offline internal"}


def policy_key(number: int) -> str:
    """Where a control set has its SanPolicy."""
    return f"{control_set_name(number)}\\Services\\partmgr\\Parameters"


def shown(policy: Optional[int]) -> str:
    """A policy for people."""
    return "not set, which is offline shared on a server" if policy is None else f"{policy}, {_NAMES.get(policy, '?')}"


def cluster_member(guest: Guest) -> Optional[str]:
    """The key of the cluster service when this is a node of a failover cluster."""
    service = read_service(guest.system, guest.control_sets.default, "ClusSvc")
    return service.key if service is not None and service.start is not None and service.start < DISABLED else None


def brings_online(guest: Guest) -> bool:
    """Whether disks on a new bus come online in the control set that boots by default."""
    policy = guest.system.dword(policy_key(guest.control_sets.default), "SanPolicy")
    return policy not in _NAMES and not (policy is None and guest.windows.server)


def offline_sets(guest: Guest) -> list[tuple[int, Optional[int]]]:
    """(control set, its SanPolicy) of every set that may boot and would take data disks offline on a new bus; none
    when the owner kept each data disk offline, in a cluster, or on a client without a policy."""
    if len(guest.disks) - len(kept_back(guest)) < 2 or cluster_member(guest) is not None:
        return []
    found = []
    for number in guest.control_sets.boot:
        policy = guest.system.dword(policy_key(number), "SanPolicy")
        if policy in _NAMES or (policy is None and guest.windows.server):
            found.append((number, policy))
    return found
