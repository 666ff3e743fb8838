"""Outputs that leave the machine: converted and repaired in a directory, and uploaded only when ready."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from h2k.convert import two_steps
from h2k.convert.two_steps import in_two_runs, refusal
from h2k.convert.v2v_command import V2vCommand, parse
from h2k.engine.outcome import Outcome
from h2k.engine.runs import Run
from tests.unit.engine_world import World, made_domain

READY = Outcome(0, "READY", "repaired and verified: 1 change", ("h2k boot x",))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    world = World(tmp_path / "web.h2k", domain=made_domain("web"))
    found = world.run("h2k-v2v")
    found.argv = ("-i", "vmx", "/web.vmx", "-o", "openstack", "-oo", "server-id=x y", "--h2k-bus", "sata", "--h2k-stage", str(tmp_path))
    found.accepts = world.done  # type: ignore[assignment]
    return found


def uploads(run: Run, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> list[list[str]]:
    found: list[list[str]] = []

    def pass_through(argv: Any, env: Any = None) -> int:
        found.append(list(argv))
        return status

    monkeypatch.setattr(two_steps, "pass_through", pass_through)
    return found


def go(run: Run, outcome: Outcome = READY) -> tuple[Outcome, list[V2vCommand]]:
    commands: list[V2vCommand] = []

    def convert(command: V2vCommand) -> Outcome:
        commands.append(command)
        return outcome

    return in_two_runs(run, parse(run.argv), convert), commands


def test_a_ready_guest_is_uploaded(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = uploads(run, monkeypatch)
    outcome, (first,) = go(run)
    assert outcome == dataclasses.replace(READY, next=(f"h2k report {tmp_path}/web.h2k",)), "no boot of files that are uploaded"
    assert (first.output_mode, first.output_storage, first.stage, first.h2k.request.bus) == ("local", str(tmp_path), None, "sata")
    assert first.arguments == ("/web.vmx",) and "server-id=x y" not in first.passed
    assert found == [["virt-v2v", "-i", "libvirtxml", f"{tmp_path}/web.xml", "-o", "openstack", "-oo", "server-id=x y"]]


@pytest.mark.parametrize("status", [1, 2, 3, 4, 5, 77])
def test_what_is_not_ready_stays_here(run: Run, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    found = uploads(run, monkeypatch)
    wrong = dataclasses.replace(READY, status=status)
    assert go(run, wrong)[0] == wrong and found == []


def test_a_dry_run_uploads_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = uploads(run, monkeypatch)
    run.dry_run = True
    assert go(run)[0] == READY and found == []


def test_without_a_domain_there_is_nothing_to_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = uploads(run, monkeypatch)
    run.files = dataclasses.replace(run.guest_files, domain=None)
    assert go(run)[0] == READY and found == []


@pytest.mark.parametrize("status", [1, 3, 77])
def test_an_upload_that_fails_is_passed_on_with_the_command_that_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    uploads(run, monkeypatch, status)
    outcome, _ = go(run)
    assert (outcome.status, outcome.word) == (status, "FAILED")
    assert outcome.sentence == f"repaired and verified: 1 change; the upload failed: virt-v2v ended with status {status}"
    assert outcome.next == (f"virt-v2v -i libvirtxml {tmp_path}/web.xml -o openstack -oo 'server-id=x y'",)


def test_the_files_stay_and_that_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    uploads(run, monkeypatch)
    run.steps.quiet = False
    go(run)
    assert f"{tmp_path} still has the disks and web.h2k" in capsys.readouterr().err


def test_a_directory_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = uploads(run, monkeypatch)
    run.argv = ("-i", "vmx", "/web.vmx", "-o", "openstack", "--h2k-stage", "/nowhere")
    with pytest.raises(UsageError, match="--h2k-stage /nowhere: no such directory"):
        go(run)
    assert found == []


def test_the_refusal_has_both_commands() -> None:
    argv = ["-i", "vmx", "/w b.vmx", "-o", "rhv-upload", "-oc", "https://e/api", "-on", "web"]
    error = refusal(parse(argv), argv)
    assert error.exit_status == 2 and str(error) == (
        "-o rhv-upload: the guest would leave this machine before it can be repaired (both steps by --h2k-stage STAGE, or one after the other)"
    )
    assert error.commands == (
        "h2k-v2v -o local -os STAGE -i vmx '/w b.vmx' -on web",
        "virt-v2v -i libvirtxml STAGE/web.xml -o rhv-upload -oc https://e/api",
    )
    assert "STAGE/NAME.xml" in refusal(parse(argv[:-2]), argv[:-2]).commands[1]
