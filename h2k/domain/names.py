"""Names of virtual machines: what can be a file's name and a libvirt domain's, and what is said where one can't."""

from __future__ import annotations

import re
import unicodedata
from typing import Optional, Union

from h2k.base.errors import Refused
from h2k.base.finding import Finding
from h2k.domain.facts import DomainFacts

ID = "domain-name-invalid"
# Bytes: a file's name has 255 at most, and what virt-v2v, libvirt and h2k hang on to it must fit behind.
LIMIT = 255 - len(".bootstrap-com1.log")
WAY_OUT = "give another one: -on NAME of h2k-v2v, --h2k-name NAME of h2k-qemu-img, or the description's own <name>"
_LABEL = 63  # characters of a label's value, which KubeVirt makes of a machine's name


def wrong_name(name: str) -> str:
    """Why no domain of libvirt and no file beside its disks can be called so; "" for a good name."""
    if not name.strip():
        return "it is empty"
    if name in (".", ".."):
        return "it is a directory's name"
    if "/" in name:
        return "it has a slash, which neither libvirt nor a file's name can have"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "it has control characters, or bytes that are no text"
    if len(name.encode()) > LIMIT:
        return f"it has {len(name.encode())} bytes, and the names of its files could not be written: {LIMIT} at most"
    return ""


def name_finding(facts: Union[DomainFacts, str]) -> Optional[Finding]:
    """The finding for a machine, or a name, that can't be called so; None for a good name."""
    name = facts if isinstance(facts, str) else facts.name
    why = wrong_name(name)
    return Finding(ID, "refused", repr(name[:60])[1:-1], why, WAY_OUT) if why else None


def check_name(facts: Union[DomainFacts, str]) -> None:
    """Refused, by the finding's id, for a name that can't be a domain's."""
    found = name_finding(facts)
    if found is not None:
        raise Refused(f"{found.id}: {found.subject!r}: {found.evidence}", hint=found.repair)


def kubernetes_name(name: str) -> str:
    """The name as Kubernetes can have it: lower-case letters, digits and hyphens between them, 63 at most."""
    return re.sub("[^a-z0-9]+", "-", name.lower())[:_LABEL].strip("-") or "guest"
