"""`h2k rollback` of a guest that h2k has booted: nothing goes below a guest that runs, and its definition goes along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Callable, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.libvirt_connection import DEFAULT_URI, Domain, Virt
from h2k.boot.definition import forget
from h2k.boot.phase_domain import marked, read_description_of
from h2k.boot.record import Evidence
from h2k.disk.overlay import DiskSet, RollbackResult


def take_back(
    images: Sequence[tuple[Path, str]],
    state: Path,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[RollbackResult], None] = lambda result: None,
) -> RollbackResult:
    """Restore what the disks were before the last commit, or throw away overlays that were kept or left over.

    Refused while a guest runs on the overlays; one that a killed run of h2k was observing is stopped. `done` hears what
    was taken back as soon as it was: what fails after that is no refusal.
    """
    disks = DiskSet(images, state)
    with disks.held():
        if disks.how_far not in ("applying", "kept"):
            result = disks.rollback(force=force)
            done(result)
            return result
        evidence = Evidence(state.resolve())  # which may be refused, and then nothing is taken back
        domain = _domain(state.resolve())
        try:
            if domain is not None:
                _make_free(domain, state.resolve(), say)
            result = disks.rollback(force=force)
            done(result)
            evidence.throw_away()
            if domain is not None:
                told = forget(domain.virt, domain.name, domain.uuid, state.resolve())
                if told:
                    say(told)
        finally:
            if domain is not None:
                domain.virt.close()
        return result


def _domain(state: Path) -> Optional[Domain]:
    """The guest's domain; None when its description or its libvirt is not here, and QEMU's locks alone must tell."""
    try:
        description = read_description_of(state, "final")
        virt = Virt(str(Evidence(state).earlier().get("connect") or DEFAULT_URI))
    except H2kError:
        return None
    return Domain(virt, description.name, description.uuid)


def _make_free(domain: Domain, state: Path, say: Callable[[str], None]) -> None:
    found = domain.virt.lookup(domain.uuid)
    if found is None or not domain.state().active:
        return
    if not marked(found.XMLDesc(0), state):
        raise Refused(
            f"{domain.name} runs, and what it has written since the boots is on overlays alone",
            hint=f"virsh shutdown {quote(domain.name)}; then h2k rollback throws that away, h2k boot {quote(str(state))} commits it",
        )
    say(f"an earlier run left {domain.name} running on its overlay: stopping it")
    domain.destroy()
