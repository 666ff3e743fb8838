"""How a run ended: exit status, word and sentence, derived in this one place from findings, changes and proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Optional

from h2k.base.errors import FAILED, NOT_READY, NOT_VERIFIED, READY, REFUSED, USAGE, H2kError
from h2k.base.finding import Finding
from h2k.base.steps import counted
from h2k.engine.catalogue import in_domain

WORDS = {
    READY: "READY",
    FAILED: "FAILED",
    USAGE: "USAGE ERROR",
    REFUSED: "REFUSED",
    NOT_READY: "NOT READY",
    NOT_VERIFIED: "NOT VERIFIED",
}
OK_TO_CONVERT, LEFT_ALONE = "OK TO CONVERT", "LEFT ALONE"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run. `status` is the exit status, `word` one of docs/exit-status.md's, `sentence` says why, and
    `next` are the commands that the owner can give now, exact and ready to be pasted."""

    status: int
    word: str
    sentence: str
    next: tuple[str, ...] = ()


def not_windows(system: str) -> Outcome:
    """A guest that is not Windows: nothing is to be repaired."""
    return Outcome(READY, LEFT_ALONE, f"not Windows ({system}): left as it is")


def of_source(findings: Sequence[Finding], installs: Sequence[str], repairs: Sequence[str]) -> Outcome:
    """A source that is looked at before the copy: what will be installed and repaired, or why it is refused."""
    refused = _refusal(findings)
    if refused is not None:
        return refused
    wishes = [f"will {verb} {', '.join(names)}" for verb, names in (("install", installs), ("repair", repairs)) if names]
    return Outcome(READY, OK_TO_CONVERT, "; ".join(wishes) or "nothing is to be installed or repaired")


def of_result(findings: Sequence[Finding], todo: int) -> Outcome:
    """A result that is only looked at; `todo` is the number of changes that fix would make."""
    refused = _refusal(findings)
    if refused is not None:
        return refused
    broken = _of(findings, "broken")
    if todo or broken:
        what = f"{counted(todo, 'change')} to make" if todo else "nothing to change on the disks, and wrong all the same"
        return Outcome(NOT_READY, WORDS[NOT_READY], f"{what}: {_named(broken)}" if broken else what)
    return Outcome(READY, WORDS[READY], "healthy: every check holds")


def of_repair(findings: Sequence[Finding], changes: int, problems: Sequence[str], done: str = "repaired and verified") -> Outcome:
    """A repair that was made and read back: `problems` are what its proof found, none when it holds."""
    if problems:
        return Outcome(NOT_VERIFIED, WORDS[NOT_VERIFIED], f"the repair did not verify and was thrown away: {problems[0]}")
    if changes:
        return Outcome(READY, WORDS[READY], f"{done}: {counted(changes, 'change')}")
    broken = _of(findings, "broken")
    if broken:
        return Outcome(READY, WORDS[READY], f"the disks are healthy; right in h2k's domains: {because_of(broken)}")
    return Outcome(READY, WORDS[READY], "healthy: every check holds")


def only_domains_wrong(findings: Sequence[Finding], todo: int) -> bool:
    """Whether all that is wrong is wrong in the domain: h2k's two domains are written right, and the disks stay."""
    broken = _of(findings, "broken")
    return not todo and not _of(findings, "refused") and bool(broken) and all(in_domain(f.id) for f in broken)


def of_error(error: H2kError) -> Outcome:
    """An expected failure, before anything was written. A status that is another program's has not our meaning."""
    ours = error.exit_status == type(error).exit_status
    return Outcome(error.exit_status, WORDS.get(error.exit_status, WORDS[FAILED]) if ours else WORDS[FAILED], str(error), error.commands)


def after_commit(error: H2kError, done: str) -> Outcome:
    """A failure after the disks were committed: never a refusal, for something was written."""
    return Outcome(FAILED, WORDS[FAILED], f"{done}; but {error}")


def settled(findings: Iterable[Finding], outcome: Outcome) -> list[Finding]:
    """The findings as they stand at the end: what was broken is repaired once the run is ready."""
    ready = outcome.word == WORDS[READY]
    return [f.with_state("repaired") if ready and f.state == "broken" else f for f in findings]


def because_of(findings: Sequence[Finding]) -> str:
    """Why, for people: every finding that stops or is wrong is named, each with the way out of a refusal."""
    return "; ".join(_because(f) for f in findings)


def _named(findings: Sequence[Finding]) -> str:
    """What is wrong, in one line: a single finding with its evidence, several by their ids. The list has the rest."""
    return because_of(findings) if len(findings) == 1 else ", ".join(dict.fromkeys(f.id for f in findings))


def _because(finding: Finding) -> str:
    way_out = f" → {finding.repair}" if finding.repair and finding.state == "refused" else ""
    return f"{finding.id}, {finding.subject}: {finding.evidence}{way_out}"


def _refusal(findings: Sequence[Finding]) -> Optional[Outcome]:
    refused = _of(findings, "refused")
    if not refused:
        return None
    explained = tuple(f"h2k explain {f}" for f in dict.fromkeys(f.id for f in refused))
    return Outcome(REFUSED, WORDS[REFUSED], because_of(refused), explained)


def _of(findings: Sequence[Finding], state: str) -> list[Finding]:
    return [f for f in findings if f.state == state]
