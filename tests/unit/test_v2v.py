"""h2k-v2v: what comes before virt-v2v, what after it, and what a script sees of both."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, InUse, Refused, UsageError
from h2k.base.finding import Finding
from h2k.convert import v2v
from h2k.convert.v2v import main_v2v
from h2k.convert.v2v_command import parse
from h2k.disk.in_use import converting
from h2k.domain.facts import NicFacts
from h2k.domain.guest_files import GuestFiles
from h2k.engine import records
from h2k.engine.hooks import Options, Setting
from h2k.guest.changes import ReplayLogs
from tests.unit.conversion_world import REFUSING, Conversion, Output, source_files
from tests.unit.engine_world import FOUND, START, made_domain, made_guest, made_hook, wants_boot_start

LOCAL = ["-i", "vmx", "/web.vmx", "-o", "local", "-os", "/out"]
VIRT_V2V = ["virt-v2v", *LOCAL]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversion:
    found = Conversion(tmp_path / "web.h2k", domain=made_domain("web"), source=source_files())
    output = Output(found)

    def require_unused(paths: Any) -> None:
        found.done.append(f"require-unused {list(map(str, paths))}")
        if "in-use" in found.fails:
            raise found.fails["in-use"]

    def require_space(directory: Path, wanted: int, name: str) -> None:
        found.done.append("space")
        if "space" in found.fails:
            raise found.fails["space"]

    def require_shut_down(command: Any, files: Any) -> None:
        if "running" in found.fails:
            raise found.fails["running"]

    for name, fake in {
        "require_shut_down": require_shut_down,
        "Run": found.new_run, "open_tools": found.open_tools, "open_source": found.open_source, "pass_through": found.pass_through,
        "choose": lambda command: None if command.output_mode == "null" or v2v.leaves(command) else output,
        "require_unused": require_unused, "is_missing": lambda command: False, "is_nobodys": lambda command: False,
        "runner_programs": lambda: Path("/rhsrvany.exe"), "guestfs_settings": lambda say: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(v2v, name, fake)
    monkeypatch.setattr("h2k.convert.readiness.require_space", require_space)
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: "")
    monkeypatch.setattr(records, "versions", lambda: {"h2k": "0"})
    monkeypatch.setattr("h2k.convert.two_steps.pass_through", found.pass_through)
    monkeypatch.delenv("H2K_MODE", raising=False)
    monkeypatch.delenv("H2K_CALLED", raising=False)
    return found


RUNNING = InUse("/source.vmdk", "in use by the running domain web")


def test_a_source_that_runs_is_refused_before_anything_is_read(world: Conversion, capsys: pytest.CaptureFixture[str]) -> None:
    world.fails["running"] = RUNNING
    assert main_v2v(LOCAL) == 3
    assert not world.steps_of("virt-v2v", "read /source.vmdk", "begin")
    (finding,) = [f for f in world.runs[0].report.findings if f.state == "refused"]
    assert (finding.id, finding.subject, finding.evidence) == ("source-running", "/source.vmdk", "in use by the running domain web")
    said = capsys.readouterr().err
    assert "source-running: /source.vmdk: in use by the running domain web" in said and "h2k explain source-running" in said


def test_report_mode_tells_that_the_source_runs_and_goes_on(world: Conversion, capsys: pytest.CaptureFixture[str]) -> None:
    world.fails["running"] = RUNNING
    assert main_v2v([*LOCAL, "--h2k-mode", "report"]) == 0
    assert world.tool == [VIRT_V2V]
    assert world.steps_of("read /source.vmdk")


def record(world: Conversion) -> dict[str, Any]:
    content = json.loads((world.state / "report.json").read_text())
    assert isinstance(content, dict)
    return content


# The conversion


def test_a_conversion_looks_asks_copies_and_repairs_in_this_order(world: Conversion) -> None:
    assert main_v2v(LOCAL) == 0
    assert world.tool == [VIRT_V2V] and START.holds(world.image)
    steps = [s for s in world.done if s not in ("released", "held", "read /image", "read /source.vmdk")]
    assert steps == [
        "open-tools", "open-source", "accepts", "require", "space", "require-unused ['/web-sda']", "begin", "virt-v2v", "result web",
        "require-unused", "recover", "accepts", "create-overlays", "apply", "read /overlay", "commit", "finish",
    ]  # fmt: skip
    assert world.done.index("read /source.vmdk") < world.done.index("virt-v2v")
    found = record(world)
    assert (found["status"], found["word"], found["command"], found["source"]) == (0, "READY", "h2k-v2v", "/web.vmx")
    assert [run.committed for run in world.runs] == ["repaired and verified: 1 change"]


def test_a_refused_source_is_not_converted(world: Conversion) -> None:
    world.hooks = REFUSING
    assert main_v2v(LOCAL) == 3
    assert world.tool == [] and not {"require", "begin", "create-overlays"} & set(world.done)
    found = record(world)
    assert found["word"] == "REFUSED" and found["verdict"].endswith("decrypt it; nothing was written")


@pytest.mark.parametrize("step", ["require", "space", "in-use", "begin"])
def test_what_would_fail_after_the_copy_is_asked_before_it(world: Conversion, step: str) -> None:
    world.fails[step] = Refused("not here")
    assert main_v2v(LOCAL) == 3
    assert world.tool == [] and record(world)["verdict"] == "not here"


def test_a_name_that_no_domain_can_have_is_refused_before_the_copy(world: Conversion) -> None:
    world.source = source_files("team/web")
    assert main_v2v(LOCAL) == 3 and world.tool == []


def settled(**settings: str) -> list[Any]:
    items = [Setting(name.replace("_", "-"), value, "a test") for name, value in settings.items()]
    return [made_hook(wants_boot_start), made_hook(lambda guest, options: iter(items), "settled")]


def no_firmware(secure_boot: bool = False) -> Any:
    raise Refused("no UEFI firmware", hint="install ovmf", commands=("h2k doctor",))


@pytest.mark.parametrize("described", [True, False], ids=["vmx", "disk"])
@pytest.mark.parametrize("more", [[], ["--h2k-dry-run"]])
def test_a_uefi_source_is_not_copied_to_a_host_without_its_firmware(
    world: Conversion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], described: bool, more: list[str]
) -> None:
    monkeypatch.setattr("h2k.engine.write_domains.choose_firmware", no_firmware)
    world.hooks = settled(firmware="uefi")
    if not described:
        world.source = GuestFiles(((Path("/source.vmdk"), "vmdk"),), Path("/"))
    assert main_v2v([*(LOCAL if described else ["-i", "disk", "/web.vmdk", "-o", "local", "-os", "/out"]), *more]) == 3
    assert world.tool == [] and not {"require", "begin", "create-overlays"} & set(world.done)
    told = capsys.readouterr()
    assert "no UEFI firmware; nothing was written" in told.out + told.err and "h2k doctor" in told.out + told.err
    if not more:
        assert record(world)["word"] == "REFUSED" and record(world)["next"] == ["h2k doctor"]


def test_a_machine_with_more_devices_than_its_bus_has_room_for_is_not_copied(world: Conversion) -> None:
    assert world.source is not None and world.source.domain is not None
    nics = tuple(NicFacts(f"52:54:00:00:00:{n:02x}") for n in range(30))
    world.source = dataclasses.replace(world.source, domain=dataclasses.replace(world.source.domain, nics=nics))
    world.hooks = settled(bootstrap_bus="ide")
    assert main_v2v(LOCAL) == 3 and world.tool == []
    assert "do not fit on i440fx's one PCI bus; nothing was written" in record(world)["verdict"]


def test_domains_that_the_output_can_not_use_are_refused_before_the_copy(world: Conversion) -> None:
    world.fails["accepts"] = Refused("IDE, which KubeVirt has not")
    assert main_v2v(LOCAL) == 3 and world.tool == [] and "nothing was written" in record(world)["verdict"]


def test_a_source_without_windows_is_not_asked_for_a_firmware(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.write_domains.choose_firmware", no_firmware)
    world.image.reader.files.clear()  # type: ignore[attr-defined]
    main_v2v(LOCAL)
    assert world.tool == [VIRT_V2V]


@pytest.mark.parametrize("status", [1, 2, 3, 77, 143])
def test_virt_v2v_s_failure_is_passed_on_unchanged(world: Conversion, status: int) -> None:
    world.status = status
    assert main_v2v(LOCAL) == status
    assert world.done[-1] == "virt-v2v", "something was done after it"
    found = record(world)
    assert (found["status"], found["word"]) == (status, "FAILED") and f"status {status}; nothing more was done" in found["verdict"]


def test_a_source_that_can_not_be_read_is_converted_and_the_record_says_so(world: Conversion) -> None:
    world.source, world.why = None, "it is another host's"
    assert main_v2v(LOCAL) == 0
    assert world.tool == [VIRT_V2V] and "read /source.vmdk" not in world.done
    assert (record(world)["findings"][0]["id"], record(world)["findings"][0]["state"]) == ("hive-dirty", "warning")


def test_a_source_that_is_broken_is_not_converted(world: Conversion) -> None:
    world.fails["open-source"] = H2kError("the VMX is no VMX")
    assert main_v2v(LOCAL) == 1 and world.tool == []


def test_a_dirty_hive_of_the_source_is_told_as_repaired_and_first(world: Conversion) -> None:
    dirty = Finding("hive-dirty", "broken", "SYSTEM", "dirty")

    def dirty_source(guest: Any, options: Any) -> Iterator[Any]:
        yield from (dirty,) if options.phase == "source" else ()
        yield from world_hook(guest)

    def world_hook(guest: Any) -> Iterator[Any]:
        if not START.holds(guest):
            yield FOUND
            yield START

    world.hooks = [made_hook(dirty_source)]
    world.hooks = [dataclasses.replace(world.hooks[0], answers=("hive-dirty", "driver-not-boot-start"))]
    assert main_v2v(LOCAL) == 0
    assert [(f["id"], f["state"]) for f in record(world)["findings"]] == [("hive-dirty", "repaired"), ("driver-not-boot-start", "repaired")]


def test_a_repair_that_does_not_verify_leaves_what_virt_v2v_wrote(world: Conversion) -> None:
    world.written = made_guest(3)
    assert main_v2v(LOCAL) == 5
    assert "discard" in world.done and "finish" not in world.done and "commit" not in world.done


def test_what_fails_beside_the_domains_is_no_refusal(world: Conversion) -> None:
    world.fails["finish"] = Refused("no such pool")
    assert main_v2v(LOCAL) == 1
    assert record(world)["verdict"].startswith("repaired and verified: 1 change; but no such pool")


def test_an_earlier_run_on_the_disks_is_finished_before_the_copy(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2v, "finish_earlier", lambda disks, steps: world.done.append("finish-earlier"))
    monkeypatch.setattr(v2v, "DiskSet", lambda images, state: None)
    main_v2v(LOCAL)
    assert "earlier" not in world.done
    world.state.mkdir(exist_ok=True)
    (world.state / "journal.json").write_text("{}")
    world.done.clear()
    main_v2v(LOCAL)
    assert world.steps_of("earlier", "finish-earlier", "virt-v2v") == ["earlier", "finish-earlier", "virt-v2v"]


# Sources that can't be read beforehand

REMOTE = ["-ic", "vpx://user@vc/dc/esxi", "web", "-o", "local", "-os", "/out"]
SSH = ["-i", "vmx", "-it", "ssh", "ssh://root@esxi/vmfs/web.vmx", "-o", "local", "-os", "/out"]


@pytest.fixture
def remote(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> Conversion:
    world.source, world.why = None, "the guest is another host's"
    monkeypatch.setattr(v2v, "finish_earlier", lambda disks, steps: world.done.append("finish-earlier"))
    monkeypatch.setattr(v2v, "DiskSet", lambda images, state: None)
    return world


@pytest.mark.parametrize("argv", [REMOTE, SSH])
def test_the_disks_of_a_running_guest_are_not_written_anew_from_a_source_that_can_not_be_read(remote: Conversion, argv: list[str]) -> None:
    remote.fails["in-use"] = InUse("/web-sda", "in use by the running domain web")
    assert main_v2v(argv) == 3
    assert remote.steps_of("require-unused ['/web-sda']") and remote.tool == []


def test_an_earlier_run_is_finished_where_the_name_is_certain_and_not_where_it_is_a_guess(remote: Conversion) -> None:
    remote.state.mkdir()
    (remote.state / "journal.json").write_text("{}")
    main_v2v(SSH)
    assert "finish-earlier" not in remote.done
    main_v2v(REMOTE)
    assert remote.steps_of("finish-earlier") == ["finish-earlier"]


@pytest.mark.parametrize("argv", [REMOTE, SSH])
def test_one_conversion_at_a_time_of_a_source_that_can_not_be_read(remote: Conversion, argv: list[str]) -> None:
    with converting(remote.state):
        assert main_v2v(argv) == 3 and remote.tool == []


@pytest.mark.parametrize("more", [[], ["--h2k-dry-run"]])
def test_a_wrong_name_of_a_source_that_can_not_be_read_is_refused_before_the_copy(
    remote: Conversion, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [argument.replace("web", "SRV/01 (prod)") for argument in REMOTE]
    assert main_v2v([*argv, *more]) == 3 and remote.tool == []
    assert "domain-name-invalid" in capsys.readouterr().err and not remote.state.exists()
    assert main_v2v([*argv, "-on", "srv01", *more]) == 0


def test_a_guess_is_not_what_the_result_is_looked_for_by(remote: Conversion) -> None:
    assert main_v2v(SSH) == 0 and remote.steps_of("result None")
    assert main_v2v(REMOTE) == 0 and remote.steps_of("result web")


def test_the_output_is_told_how_many_disks_there_will_be(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Optional[int]] = []
    monkeypatch.setattr(Output, "begin", lambda output, disks: told.append(disks))
    for more in ([], ["--h2k-mode", "report"]):
        main_v2v([*LOCAL, *more])
    world.source, world.why = None, "it is another host's"
    main_v2v(LOCAL)
    assert told == [1, 1, None]


# Replayed sources


def test_a_dirty_source_is_replayed_and_virt_v2v_reads_the_overlays(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = ReplayLogs("SYSTEM", "1 entry")

    def propose(guest: Any, options: Any) -> Iterator[Any]:
        yield from (replay, START) if options.phase == "source" else ()

    @contextmanager
    def replayed(files: Any, todo: Any, state: Path, steps: Any, root: Optional[str], writer: str) -> Iterator[Any]:
        assert (files, todo, state, root, writer) == (world.source, (replay,), world.state, "first", "auto")
        world.done.append("replayed")
        yield (Path("/overlays/0"),)
        world.done.append("overlays-gone")

    monkeypatch.setattr(ReplayLogs, "holds", lambda change, guest: False)
    monkeypatch.setattr(v2v, "replayed", replayed)
    monkeypatch.setattr(v2v, "command_for", lambda command, files, overlays, state: ("-i", "disk", str(overlays[0])))
    world.hooks = [made_hook(propose)]
    main_v2v([*LOCAL, "--root", "first"])
    assert world.tool == [["virt-v2v", "-i", "disk", "/overlays/0"]]
    assert world.steps_of("begin", "replayed", "virt-v2v", "overlays-gone") == ["begin", "replayed", "virt-v2v", "overlays-gone"]


# Dry runs and records


def test_a_dry_run_looks_and_writes_nothing(world: Conversion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_v2v([*LOCAL, "--h2k-dry-run", "--h2k-drivers", "/v w"]) == 0
    assert set(world.done) == {"open-tools", "open-source", "read /source.vmdk", "accepts"} and world.tool == []
    assert list(tmp_path.iterdir()) == []
    assert "next: h2k plan /web.vmx --drivers '/v w'" in capsys.readouterr().out


def test_a_refusal_of_a_dry_run_writes_no_record_either(world: Conversion, tmp_path: Path) -> None:
    world.hooks = REFUSING
    assert main_v2v([*LOCAL, "--h2k-dry-run"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_with_a_directory_for_its_report_writes_one_there(world: Conversion, tmp_path: Path) -> None:
    assert main_v2v([*LOCAL, "--h2k-dry-run", "--h2k-report", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "report.json").exists() and not world.state.exists()


def test_a_dry_run_plans_what_h2k_itself_can_be_given() -> None:
    assert v2v._plan_of(parse(["-i", "disk", "/a", "-o", "local"])) == ("h2k plan /a",)
    assert v2v._plan_of(parse(["-i", "ova", "/a", "-o", "local"])) == ()
    assert v2v._plan_of(parse(["-i", "vmx", "-it", "ssh", "ssh://h/a", "-o", "local"])) == ()


def test_a_dry_run_plans_with_every_option_that_shapes_the_look() -> None:
    ours = "--h2k-drivers v.iso --h2k-bus virtio-scsi --h2k-accept X --h2k-plan p --h2k-plan=q --h2k-policy r --root /dev/sda2 --h2k-boot"
    (command,) = v2v._plan_of(parse(["-i", "vmx", "guest.vmx", "-o", "local", *ours.split()]))
    words = "--drivers v.iso --plan p --plan q --policy r --bus virtio-scsi --accept X --root /dev/sda2"
    assert command == f"h2k plan guest.vmx {words}"
    assert v2v._plan_of(parse(["-i", "disk", "/a", "--block-driver", "virtio-scsi"])) == ("h2k plan /a --bus virtio-scsi",)


@pytest.mark.parametrize("name", ["a/b", None])
def test_no_record_without_a_name_that_can_be_a_directory(world: Conversion, name: Optional[str]) -> None:
    files = source_files(name) if name is not None else None
    assert v2v._record_place(parse(LOCAL), Output(world), files) is None
    assert v2v._record_place(parse(LOCAL), Output(world), source_files()) == world.state
    assert v2v._record_place(parse(LOCAL), None, source_files()) is None


# -o null, outputs that leave, outputs that start the guest


@pytest.mark.parametrize(("hooks", "status", "ends"), [([], 0, 0), (REFUSING, 0, 3), (REFUSING, 7, 7), ([], 7, 7)])
def test_null_is_converted_as_ever_and_the_status_tells(world: Conversion, hooks: Any, status: int, ends: int) -> None:
    world.hooks, world.status = hooks, status
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "null"]) == ends
    assert world.tool == [["virt-v2v", "-i", "vmx", "/web.vmx", "-o", "null"]]
    assert "create-overlays" not in world.done and not world.state.exists()


def test_a_dry_run_of_null_converts_nothing(world: Conversion) -> None:
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "null", "--h2k-dry-run"]) == 0 and world.tool == []
    world.hooks = REFUSING
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "null", "--h2k-dry-run"]) == 3 and world.tool == []


def test_an_output_that_leaves_the_machine_is_refused_with_both_commands(world: Conversion, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "openstack"]) == 2
    assert world.tool == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["  h2k-v2v -o local -os STAGE -i vmx /web.vmx", "  virt-v2v -i libvirtxml STAGE/NAME.xml -o openstack"]


def test_in_two_steps_the_repaired_files_are_uploaded(world: Conversion, tmp_path: Path) -> None:
    argv = ["-i", "vmx", "/web.vmx", "-o", "openstack", "-oo", "server-id=x", "--h2k-stage", str(tmp_path)]
    assert main_v2v(argv) == 0
    stage = ["-o", "local", "-os", str(tmp_path), "-i", "vmx", "/web.vmx"]
    upload = ["-i", "libvirtxml", f"{tmp_path}/web.xml", "-o", "openstack", "-oo", "server-id=x"]
    assert world.tool == [["virt-v2v", *stage], ["virt-v2v", *upload]]
    assert world.steps_of("virt-v2v", "commit") == ["virt-v2v", "commit", "virt-v2v"]


def test_virt_v2v_does_not_start_what_is_not_repaired(world: Conversion) -> None:
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "qemu", "-os", "/out", "--qemu-boot"]) == 2
    assert world.tool == []


# What virt-v2v itself would refuse


@pytest.mark.parametrize("why", ["is_missing", "is_nobodys"])
def test_what_virt_v2v_refuses_is_said_in_its_own_words(world: Conversion, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(v2v, why, lambda command: True)
    world.status = 1
    assert main_v2v([*LOCAL, "--h2k-bus", "sata"]) == 1
    assert world.tool == [VIRT_V2V] and world.done == ["virt-v2v"]


def test_an_output_that_fails_at_once_is_virt_v2v_s(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "fails_at_once", lambda output: True)
    world.status = 1
    assert main_v2v(LOCAL) == 1 and world.done == ["virt-v2v"]


# Boots


def test_boots_follow_where_they_are_asked_for(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot_too(run: Any, outcome: Any) -> Any:
        world.done.append("boot")
        return dataclasses.replace(outcome, status=5, word="NOT VERIFIED")

    monkeypatch.setattr(v2v, "boot_too", boot_too)
    assert main_v2v(LOCAL) == 0 and "boot" not in world.done
    assert main_v2v([*LOCAL, "--h2k-boot"]) == 5 and world.done[-1] == "boot"
    world.done.clear()
    assert main_v2v([*LOCAL, "--h2k-boot", "--h2k-dry-run"]) == 0 and "boot" not in world.done


# Report mode


@pytest.fixture
def report(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> Conversion:
    monkeypatch.setenv("H2K_MODE", "report")
    return world


@pytest.mark.parametrize("hooks", [REFUSING, []])
@pytest.mark.parametrize("status", [0, 1, 3, 42])
def test_report_mode_runs_virt_v2v_whatever_is_found(report: Conversion, hooks: Any, status: int) -> None:
    report.hooks, report.status = hooks, status
    assert main_v2v(LOCAL) == status
    assert report.tool == [VIRT_V2V]
    assert not {"create-overlays", "apply", "commit", "finish", "require", "held"} & set(report.done)
    assert (report.state / "report.json").exists() == (status == 0)


def test_report_mode_by_option(world: Conversion) -> None:
    world.hooks = REFUSING
    assert main_v2v([*LOCAL, "--h2k-mode=report"]) == 0 and world.tool == [VIRT_V2V]


def test_report_mode_looks_at_source_and_result(report: Conversion) -> None:
    assert main_v2v(LOCAL) == 0
    assert report.steps_of("read /source.vmdk", "begin", "virt-v2v", "result web", "read /image") == [
        "read /source.vmdk", "begin", "virt-v2v", "result web", "read /image"
    ]  # fmt: skip
    assert record(report)["word"] == "NOT READY" and (report.state / "final.xml").exists()


@pytest.mark.parametrize("error", [H2kError("no"), UsageError("no"), Refused("no"), ZeroDivisionError("h2k's own"), OSError("no")])
@pytest.mark.parametrize("step", ["open-source", "begin", "result web"])
def test_h2k_s_own_failures_stop_nothing_in_report_mode(report: Conversion, step: str, error: Exception) -> None:
    report.fails[step] = error
    assert main_v2v(LOCAL) == 0
    assert report.tool == [VIRT_V2V]


def test_report_mode_of_null_is_virt_v2v_s_alone(report: Conversion) -> None:
    report.status = 9
    assert main_v2v(["-i", "vmx", "/web.vmx", "-o", "null"]) == 9
    assert len(report.tool) == 1 and not report.state.exists()


def test_what_h2k_sets_for_its_own_tools_is_not_virt_v2v_s(report: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def tool(argv: Any) -> int:
        seen.update(os.environ)
        return 0

    def look(*_: Any) -> Any:
        os.environ["MADE_BY_H2K"] = "1"
        raise H2kError("no more is needed")

    monkeypatch.setattr(v2v, "look", look)
    monkeypatch.setattr(v2v, "pass_through", tool)
    main_v2v(LOCAL)
    assert seen and "MADE_BY_H2K" not in seen and "MADE_BY_H2K" not in os.environ


def test_a_dry_run_in_report_mode_converts_nothing(report: Conversion, tmp_path: Path) -> None:
    assert main_v2v([*LOCAL, "--h2k-dry-run"]) == 0
    assert report.tool == [] and list(tmp_path.iterdir()) == []


# Questions, and command lines that are wrong


def test_our_own_questions(world: Conversion, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_v2v(["--h2k-help"]) == 0 and "--h2k-drivers PATH" in capsys.readouterr().out
    assert main_v2v(["--h2k-version"]) == 0 and capsys.readouterr().out.startswith("h2k-v2v ")
    assert world.done == []


def test_virt_v2v_s_help_is_followed_by_a_line_of_ours(world: Conversion, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_v2v(["--help"]) == 0
    seen = capsys.readouterr()
    assert "h2k-v2v --h2k-help" in seen.err and seen.out == ""
    assert main_v2v(["--version"]) == 0 and capsys.readouterr().err == ""
    world.status = 4
    assert main_v2v(["--version"]) == 4


def test_an_option_that_does_not_exist(world: Conversion) -> None:
    assert main_v2v([*LOCAL, "--h2k-busses", "sata"]) == 2 and world.tool == []


def test_a_wrapper_that_calls_itself(world: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2K_CALLED", "virt-v2v")
    assert main_v2v(LOCAL) == 2 and world.tool == []


# What virt-v2v needs of this host


@pytest.mark.parametrize(("accepted", "ends", "state"), [([], 3, "refused"), (["--h2k-accept", "first-boot-runner-missing"], 0, "warning")])
def test_a_runner_that_virt_v2v_will_miss_is_refused_before_the_copy(
    world: Conversion, monkeypatch: pytest.MonkeyPatch, accepted: list[str], ends: int, state: str
) -> None:
    monkeypatch.setattr(v2v, "runner_programs", lambda: None)
    monkeypatch.setattr(v2v, "installed_version", lambda: (2, 4))
    assert main_v2v([*LOCAL, *accepted]) == ends
    seen = world.runs[0].seen
    if ends == 3:
        assert world.tool == [] and seen is not None
        assert [f.state for f in seen.report.findings if f.id == "first-boot-runner-missing"] == [state]
    monkeypatch.setattr(v2v, "installed_version", lambda: (2, 2))
    assert main_v2v(LOCAL) == 0, "2.2 stages none"


def test_what_the_hooks_settled_about_the_source_is_known_of_the_result(world: Conversion) -> None:
    """virt-v2v overwrites some of it."""
    known: list[tuple[str, Any]] = []

    def settles(guest: Any, options: Options) -> Iterator[Any]:
        known.append((options.phase, dict(options.source)))
        yield Setting("auto-reboot", "1" if options.phase == "source" else "", "because")

    world.hooks = (made_hook(settles), made_hook(wants_boot_start, "other"))
    assert main_v2v(LOCAL) == 0
    assert known[0] == ("source", {}) and known[1:] == [("result", {"auto-reboot": "1"})] * len(known[1:]) and len(known) > 2


def test_one_conversion_at_a_time_makes_a_guest(world: Conversion) -> None:
    with converting(world.state):
        assert main_v2v(LOCAL) == 3
        assert world.tool == [] and "begin" not in world.done
        assert "another h2k works on this guest" in record(world)["verdict"]
    assert main_v2v(LOCAL) == 0 and "converting" not in {path.name for path in world.state.iterdir()}
