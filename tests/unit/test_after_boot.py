"""--h2k-boot: only a guest that is ready, and has the domains for it, is booted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import Refused
from h2k.boot.record import BootReport
from h2k.config.policy import Policy
from h2k.convert import after_boot
from h2k.convert.after_boot import boot_too
from h2k.engine.outcome import Outcome
from h2k.engine.runs import Run
from tests.unit.engine_world import World

READY = Outcome(0, "READY", "repaired and verified: 1 change", ("h2k rollback x",))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = World(tmp_path / "web.h2k").run("h2k-v2v")
    found.report.files["bootstrap"] = "/web.h2k/bootstrap.xml"
    return found


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def boot(request: Any, steps: Any, done: Any) -> BootReport:
        found.append(request)
        return BootReport(0, "both phases ran", "production", name="web")

    monkeypatch.setattr(after_boot, "boot", boot)
    return found


def test_a_ready_guest_is_booted_and_the_record_has_it(run: Run, boots: list[Any]) -> None:
    outcome = boot_too(run, READY)
    validate = f"h2k validate {run.guest_files.state}"
    assert outcome == Outcome(0, "BOOTED", "repaired and verified: 1 change; both phases ran", (validate,))
    assert [(r.state, r.policy, r.keep_overlay, r.skip_bootstrap) for r in boots] == [(run.guest_files.state, Policy(), False, False)]
    assert run.report.as_json()["boot"]["verdict"] == "both phases ran"


@pytest.mark.parametrize("status", [1, 2, 3, 4, 5])
def test_what_is_not_ready_is_not_booted(run: Run, boots: list[Any], status: int) -> None:
    wrong = Outcome(status, "X", "why")
    assert boot_too(run, wrong) is wrong and boots == []


def test_without_a_bootstrap_domain_there_is_nothing_to_boot(run: Run, boots: list[Any]) -> None:
    run.report.files = {"final": "/web.h2k/final.xml"}
    assert boot_too(run, READY) is READY and boots == []


@pytest.mark.parametrize(("status", "word"), [(4, "BOOTED, NOT VALIDATED"), (5, "NOT VERIFIED")])
def test_how_the_boots_ended_is_how_the_run_ends(run: Run, monkeypatch: pytest.MonkeyPatch, status: int, word: str) -> None:
    monkeypatch.setattr(after_boot, "boot", lambda request, steps, done: BootReport(status, "why", "production", name="web"))
    outcome = boot_too(run, READY)
    assert (outcome.status, outcome.word) == (status, word)
    state = run.guest_files.state
    running = (f"h2k validate {state}", "virsh shutdown web", f"h2k rollback {state}")
    assert outcome.next == (running if status == 4 else READY.next), "nothing is booted, or taken back, below a guest that runs"


@pytest.mark.parametrize(("committed", "said"), [("", READY.sentence), ("converted", "converted")])
def test_a_boot_that_fails_comes_after_something_was_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, committed: str, said: str
) -> None:
    def boot(request: Any, steps: Any, done: Any) -> BootReport:
        raise Refused("no libvirt")

    monkeypatch.setattr(after_boot, "boot", boot)
    run.committed = committed
    with pytest.raises(Refused):
        boot_too(run, READY)
    assert run.committed == said


def test_what_fails_after_the_boots_were_committed_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(request: Any, steps: Any, done: Any) -> BootReport:
        done("both boots observed and committed")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(after_boot, "boot", boot)
    with pytest.raises(OSError, match="No space"):
        boot_too(run, READY)
    assert run.committed == f"{READY.sentence}; both boots observed and committed"
