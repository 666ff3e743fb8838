"""What tests of hooks share: one hook by its name, its findings and changes on a guest in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.domain.facts import DiskFacts, DomainFacts
from h2k.engine.hooks import Hook, Options, Setting, find_hooks
from h2k.guest.changes import Change
from h2k.guest.guest import Guest


@functools.lru_cache(maxsize=1)
def packaged() -> dict[str, Hook]:
    """The packaged hooks by name."""
    return {hook.name: hook for hook in find_hooks()}


@functools.lru_cache(maxsize=1)
def options() -> Options:
    """Options with the packaged plan and nothing else."""
    return Options(plan=load_plan())


@dataclasses.dataclass(frozen=True)
class Said:
    """What a hook proposed; `reasons` are those of the settings."""

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    settings: dict[str, str]
    reasons: dict[str, str]

    def states(self) -> dict[str, set[str]]:
        """State by id, of all findings that are more than a remark."""
        found: dict[str, set[str]] = {}
        for finding in self.findings:
            if finding.state != "ok":
                found.setdefault(finding.id, set()).add(finding.state)
        return found


def ask(name: str, guest: Guest, wanted: Optional[Options] = None, **changed: Any) -> Said:
    """Ask one hook; `changed` are options of this call."""
    hook = packaged()[name]
    items: Iterable[Any] = list(hook.propose(guest, dataclasses.replace(wanted or options(), **changed)))
    findings = tuple(i for i in items if isinstance(i, Finding))
    assert {f.id for f in findings} <= set(hook.answers), "a finding that META does not answer"
    settings = {i.name: i.value for i in items if isinstance(i, Setting)}
    rest = tuple(i for i in items if not isinstance(i, (Finding, Setting)))
    return Said(findings, rest, settings, {i.name: i.why for i in items if isinstance(i, Setting)})


def domain(**changed: Any) -> DomainFacts:
    """A domain with UEFI and the first disk of a guest in memory, or with what is given instead."""
    facts = DomainFacts("made", 1 << 30, 1, (DiskFacts(Path("/made/disk0.qcow2"), "qcow2", "virtio", "vda"),), firmware="uefi")
    return dataclasses.replace(facts, **changed)
