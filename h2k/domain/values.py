"""What the readers of domain descriptions share: the limits of values, and values that are checked."""

from __future__ import annotations

import re
from typing import Optional

from h2k.base.errors import BadData
from h2k.domain.facts import Topology, is_mac

VALUE_LIMIT = 4096  # characters of one value

MEMORY_LIMIT = 64 * 1024**4  # bytes

VCPU_LIMIT = 4096

NOT_XML = re.compile("[\x00-\x08\x0a-\x1f\ud800-\udfff\ufffe\uffff]")

NUMBER = re.compile(r"[0-9]{1,15}")


def topology_of(sockets: int, cores: int, threads: int, vcpus: int) -> Optional[Topology]:
    """None where it does not make the number of CPUs: libvirt would refuse it."""
    return Topology(sockets, cores, threads) if sockets * cores * threads == vcpus else None


def mac_of(text: Optional[str], where: str) -> Optional[str]:
    """Lower case with colons; None where there is none, or one of only zeros."""
    mac = (text or "").strip().lower().replace("-", ":")
    if not mac.strip("0:"):
        return None
    if not is_mac(mac):
        raise BadData(f"{where}: {mac[:40]!r} is no MAC address of one card")
    return mac
