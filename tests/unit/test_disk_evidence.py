"""What disks prove: a driver that Plug and Play bound, first-boot steps that are over, and everything that only looks like it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

import pytest

from h2k.base.errors import BadData
from h2k.boot import disk_evidence
from h2k.boot.com1 import Signal
from h2k.boot.disk_evidence import Check, Evidence, collect, keep_logs
from h2k.boot.hardware import PciDevice
from h2k.disk.reader import FileStat, VolumeRef
from h2k.guest.guest import Guest
from h2k.windows import first_boot, first_boot_steps
from h2k.windows.first_boot_steps import NAMES as STEPS
from h2k.windows.services import control_sets, read_service
from tests.unit.helpers import hive
from tests.unit.memory_reader import MemoryReader, windows_guest
from tests.unit.test_hardware import BOUND, LEGACY, MODERN, SELECT, SERVICE

INSTANCE = "[ControlSet001\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\\3&11583659&0&08]\n"
MET = INSTANCE + '"Service"="VIOSTOR"\n"ConfigFlags"=dword:00000000\n'


def guest(text: str, markers: tuple[str, ...] = ()) -> Any:
    system = hive(SELECT + text)

    def stat(path: str) -> Optional[FileStat]:
        return FileStat(path, 2, False) if path.rsplit("/", 1)[-1] in markers else None

    return SimpleNamespace(
        system=system, control_sets=control_sets(system), stat=stat, service=lambda number, name: read_service(system, number, name)
    )


def checks(text: str) -> dict[str, str]:
    return {check.name: check.state for check in disk_evidence._driver(guest(text), MODERN)}


def test_bound_by_plug_and_play() -> None:
    assert checks(SERVICE + BOUND + MET) == {"driver-starts-at-boot": "passed", "virtio-bound": "passed"}


@pytest.mark.parametrize(
    "enum",
    [
        "",
        "[ControlSet001\\Enum\\PCI]\n",
        INSTANCE,
        INSTANCE + '"ConfigFlags"=dword:00000000\n',
        INSTANCE + '"Service"="vhost"\n',
        *(MET.replace("dword:00000000", f"dword:{flag:08x}") for flag in (0x1, 0x2, 0x20, 0x40, 0x41)),  # off, or not installed
        MET.replace("DEV_1042", "DEV_1041"),  # the network card
        MET.replace("ControlSet001", "ControlSet002"),
    ],
)
def test_a_device_that_windows_did_not_bind(enum: str) -> None:
    assert checks(SERVICE + BOUND + enum)["virtio-bound"] == "failed"


def test_a_legacy_device_is_not_proved_by_a_modern_one() -> None:
    found = {check.name: check.state for check in disk_evidence._driver(guest(SERVICE + BOUND + MET), LEGACY)}
    assert found == {"driver-starts-at-boot": "passed", "virtio-bound": "failed"}


def test_a_service_that_was_demoted_meanwhile() -> None:
    text = SERVICE + BOUND + MET + '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n'
    assert checks(text)["driver-starts-at-boot"] == "failed"


def bound(enum: str) -> Check:
    (check,) = [c for c in disk_evidence._driver(guest(SERVICE + BOUND + enum), MODERN) if c.name == "virtio-bound"]
    return check


def test_what_was_found_in_the_place_of_a_driver_is_told() -> None:
    place = "ControlSet001\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"
    assert bound("").evidence == "ControlSet001\\Enum\\PCI has no instance of VEN_1AF4&DEV_1042: Windows never met it"
    instances = [INSTANCE.replace("&0&08]", f"&0&0{n}]") for n in range(4)]
    enum = instances[0] + instances[1] + '"Service"="vhost"\n' + instances[2] + '"Service"="viostor"\n"ConfigFlags"=dword:00000041\n'
    found = bound(enum + instances[3])
    assert found.evidence.split("; ") == [
        f"{place}\\3&11583659&0&00: no Service", f"{place}\\3&11583659&0&01: Service vhost",
        f"{place}\\3&11583659&0&02: Service viostor, ConfigFlags 0x41",
    ]  # fmt: skip
    last = bound(enum + instances[3] + '"Service"="VioStor"\n')
    assert (last.state, last.evidence) == ("passed", f"{place}\\3&11583659&0&03: Service VioStor")


@pytest.mark.parametrize("vendor", [0x1000, 0x8086])
def test_only_virtio_s_devices_are_to_be_met_before_their_boot(vendor: int) -> None:
    device = PciDevice("another", dataclasses.replace(MODERN.pci, vendor=vendor))
    assert "virtio-bound" not in [check.name for check in disk_evidence._driver(guest(SERVICE + BOUND), device)]


def test_the_device_s_name_is_not_the_beginning_of_another_s() -> None:
    assert bound(MET.replace("DEV_1042&", "DEV_10425&")).evidence.endswith("Windows never met it")
    assert bound(MET.replace("VEN_1AF4&DEV_1042", "ven_1af4&dev_1042")).state == "passed"


# First-boot steps


def steps(signals: dict[str, str], markers: tuple[str, ...] = (), final: bool = True) -> dict[str, str]:
    heard = [Signal(0.0, step, state, "why") for step, state in signals.items()]
    found = disk_evidence._steps(guest("[ControlSet001]\n", markers), heard, final)
    return {check.name.replace("first-boot: ", ""): check.state for check in found}


ALL = dict.fromkeys(STEPS, "ok")


def test_all_steps_over() -> None:
    assert set(steps(ALL, STEPS).values()) == {"passed"}


@pytest.mark.parametrize("step", STEPS[1:-1])
@pytest.mark.parametrize("state", ["ok", "skipped"])
def test_a_signal_without_its_marker_is_told_and_not_seen(step: str, state: str) -> None:
    markers = tuple(other for other in STEPS if other != step)
    assert steps({**ALL, step: state}, markers)[step] == "unknown"
    (check,) = [c for c in disk_evidence._steps(guest("[ControlSet001]\n", markers), [Signal(0.0, step, state)], True) if c.subject == step]
    assert "told" in check.evidence and "not seen" in check.evidence


def test_a_signal_alone_is_no_end_in_the_final_boot() -> None:
    assert steps(ALL)["done"] == "failed"
    assert steps(ALL, final=False)["done"] == "unknown", "the bootstrap may leave something to the final boot; that was told, and not seen"


def test_a_step_that_was_skipped_is_not_passed() -> None:
    assert steps({**ALL, "drivers": "skipped"}, STEPS)["drivers"] == "skipped"


def test_markers_stand_for_signals_that_were_lost() -> None:
    found = steps({}, ("drivers", "disks", "done"))
    assert (found["drivers"], found["disks"], found["done"], found["addresses"]) == ("passed", "passed", "passed", "unknown")


@pytest.mark.parametrize("step", STEPS[1:-1])
def test_a_step_that_failed(step: str) -> None:
    optional = step in first_boot_steps.OPTIONAL
    assert steps({**ALL, step: "failed"}, ("done",))[step] == ("unknown" if optional else "failed")
    assert steps({**ALL, step: "failed"}, ("done",), final=False)[step] == "unknown", "it is tried again"


def test_what_was_heard_and_what_was_seen_are_told() -> None:
    heard = [Signal(0.0, "drivers", "ok"), Signal(0.0, "disks", "failed", "disk 2"), Signal(0.0, "addresses", "ok", "why")]
    found = {c.subject: c.evidence for c in disk_evidence._steps(guest("[ControlSet001]\n", ("drivers",)), heard, True)}
    place = f"{first_boot.DIRECTORY}/done"
    assert found["drivers"] == f"{place}/drivers is there; told: ok" and found["disks"] == "told: failed, disk 2"
    assert found["addresses"] == "told: ok, why, not seen: no marker" and found["done"] == f"{place}/done is missing; no signal"
    silent = {c.subject: c.evidence for c in disk_evidence._steps(guest("[ControlSet001]\n", ("drivers", "done")), [Signal(0.0, "done", "ok", "1 s")], True)}
    assert silent["drivers"] == f"{place}/drivers is there; no signal" and silent["disks"] == "no signal and no marker"
    assert silent["done"].startswith(f"{place}/done is there; told: ok")


def test_nothing_heard_and_nothing_there() -> None:
    assert steps({})["done"] == "failed"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[ControlSet001\\Services]\n", False),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000002\n', True),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000004\n', False),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000002\n"DeleteFlag"=dword:00000001\n', False),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000003\n', True),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Type"=dword:00000010\n', False),
    ],
)
def test_whether_the_next_boot_speaks(text: str, expected: bool) -> None:
    assert disk_evidence.expects_signals(guest(text)) == expected


# What a boot may show, and what a report says


@pytest.mark.parametrize("report", [{}, {"findings": 5, "guest": []}, {"findings": [5], "guest": {"disks": [5, {"path": "relative"}]}}])
def test_a_report_that_says_nothing(report: dict[str, Any]) -> None:
    assert disk_evidence.finding_ids(report) == frozenset() and disk_evidence.recorded_disks(report) == []


def test_what_a_report_says() -> None:
    report = {
        "findings": [{"id": "serial-port-taken", "state": "warning"}, {"id": "safe-mode-set", "state": "ok"}],
        "guest": {"disks": [{"path": "/var/g-sda"}, {"path": "/var/g-sdb"}]},
    }
    assert disk_evidence.finding_ids(report) == {"serial-port-taken"}
    assert [str(path) for path in disk_evidence.recorded_disks(report)] == ["/var/g-sda", "/var/g-sdb"]


def test_what_the_guest_says_is_fit_to_be_shown() -> None:
    check = Check("os", "passed", "a\x1b[31m", "pretty\nh2k: READY")
    assert check.subject.isprintable() and check.evidence.isprintable()


@pytest.mark.parametrize("flags", [0x4, 0x8, 0x10, 0x80, 0x400])
def test_other_flags_of_a_device_do_not_matter(flags: int) -> None:
    assert checks(SERVICE + BOUND + MET.replace("dword:00000000", f"dword:{flags:08x}"))["virtio-bound"] == "passed"


# All that is collected after a boot

STEPPING = f'[$cs\\Services\\{first_boot.SERVICE}]\n"Start"=dword:00000002\n'
DONE = {f"{first_boot.DIRECTORY.lstrip('/')}/done/{step}": b"ok" for step in STEPS}
SETUPAPI = {"Windows/INF/setupapi.dev.log": b"installed"}


def collected(found: Union[Guest, Exception], logs: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Evidence:
    """What the disks of a guest show after the bootstrap, its steps over, unless `changed` says otherwise."""

    def open_reader(images: Any) -> Any:
        if isinstance(found, Exception):
            raise found
        return found.reader

    monkeypatch.setattr(disk_evidence, "open_reader", open_reader)
    asked = {"controllers": (), "signals": (), "stepped": True, "last": True, **changed}
    return collect([(Path("/made/disk0.qcow2"), "qcow2")], logs=logs, **asked)


def by_name(evidence: Evidence) -> dict[str, str]:
    return {check.name.replace("first-boot: ", ""): check.state for check in evidence.checks}


def test_a_boot_that_went_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collected(windows_guest(files={**DONE, **SETUPAPI}), tmp_path / "evidence" / "logs", monkeypatch)
    assert by_name(found) == {"shut-down-cleanly": "passed", **dict.fromkeys((*first_boot_steps.WORK, "done"), "passed")}
    assert found.failed == () and found.expects_signals is False
    assert (tmp_path / "evidence" / "logs" / "setupapi.dev.log").read_bytes() == b"installed"


def test_the_steps_are_asked_where_they_were_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = windows_guest()
    assert [c.name for c in collected(bare, tmp_path, monkeypatch).failed] == ["first-boot: done"]
    assert by_name(collected(bare, tmp_path, monkeypatch, stepped=False)) == {"shut-down-cleanly": "passed"}
    heard = (Signal(0.0, "done", "ok"),)
    assert by_name(collected(bare, tmp_path, monkeypatch, signals=heard, last=False))["done"] == "unknown"
    assert by_name(collected(bare, tmp_path, monkeypatch, signals=heard))["done"] == "failed"


def test_what_is_left_to_the_next_boot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collected(windows_guest(STEPPING), tmp_path, monkeypatch, last=False).expects_signals is True
    assert Evidence(()).expects_signals is False


def test_each_controller_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collected(windows_guest(files=DONE), tmp_path, monkeypatch, controllers=(MODERN,))
    assert [c.name for c in found.failed] == ["driver-starts-at-boot", "virtio-bound"]
    text = (SERVICE + BOUND + MET).replace("ControlSet001", "$cs")
    assert collected(windows_guest(text, files=DONE), tmp_path, monkeypatch, controllers=(MODERN,)).failed == ()


def test_a_guest_that_was_not_shut_down_is_asked_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hibernated = windows_guest(STEPPING, files={"hiberfil.sys": b"HIBR", **SETUPAPI})
    found = collected(hibernated, tmp_path / "logs", monkeypatch, controllers=(MODERN,))
    (check,) = found.checks
    assert (check.name, check.state) == ("shut-down-cleanly", "failed") and check.subject.startswith("volume-hibernated, ")
    assert found.expects_signals is False and not (tmp_path / "logs").exists()


def test_disks_that_can_t_be_read_are_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = collected(BadData("disk0.qcow2: no partition table"), tmp_path, monkeypatch).failed
    assert (check.name, check.evidence) == ("disks-readable", "disk0.qcow2: no partition table")
    assert check.subject == "/made/disk0.qcow2"


# The logs that are kept


def test_logs_are_kept_by_names_that_harm_nothing(tmp_path: Path) -> None:
    ours = first_boot.DIRECTORY.lstrip("/")
    files = {
        **SETUPAPI,
        "Windows/Panther/setupact.log": b"set up",
        f"{ours}/runner.log": b"ran",
        f"{ours}/..log": b"hidden",
        f"{ours}/a b;c.log": b"odd",
        f"{ours}/{'x' * 90}.log": b"long",
        f"{ours}/settings.txt": b"no log",
        f"{ours}/directory.log/": b"",
    }
    kept = keep_logs(windows_guest(files=files), tmp_path / "a" / "b")
    assert {path.name: path.read_bytes() for path in kept} == {
        "setupapi.dev.log": b"installed", "setupact.log": b"set up", "runner.log": b"ran", "log": b"hidden",
        "a_b_c.log": b"odd", "x" * 80: b"long",
    }  # fmt: skip
    assert sorted(kept) == sorted((tmp_path / "a" / "b").iterdir())


def test_a_log_that_can_t_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = windows_guest(files={**SETUPAPI, "Windows/Panther/setupact.log": b"set up"})
    reader = made.reader
    assert isinstance(reader, MemoryReader)
    place = "/windows/inf/setupapi.dev.log"
    reader.unreadable[VolumeRef(0, 2), place] = "compressed"
    read, asked = reader.read, []
    with monkeypatch.context() as patch:
        patch.setattr(reader, "read", lambda ref, path, limit: asked.append(path) or read(ref, path, limit))
        assert [path.name for path in keep_logs(made, tmp_path)] == ["setupact.log"]
    assert asked == ["/Windows/Panther/setupact.log"], "what can't be read is not asked for"
    del reader.unreadable[VolumeRef(0, 2), place]

    def damaged(ref: VolumeRef, path: str, limit: int) -> bytes:
        if path.lower() == place:
            raise BadData(f"{path}: damaged")
        return read(ref, path, limit)

    monkeypatch.setattr(reader, "read", damaged)
    assert [path.name for path in keep_logs(made, tmp_path)] == ["setupact.log"]


@pytest.mark.parametrize(("limit", "kept"), [(9, True), (8, False)])
def test_a_log_that_is_too_large_stays_in_the_guest(limit: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_evidence, "LOG_LIMIT", limit)
    assert bool(keep_logs(windows_guest(files=SETUPAPI), tmp_path / "logs")) is kept
    assert (tmp_path / "logs").exists() is kept, "no directory without a log"


def test_so_many_logs_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_evidence, "MAX_LOGS", 2)
    files = {**SETUPAPI, "Windows/Panther/setupact.log": b"", f"{first_boot.DIRECTORY.lstrip('/')}/runner.log": b"ran"}
    assert [path.name for path in keep_logs(windows_guest(files=files), tmp_path)] == ["setupapi.dev.log", "setupact.log"]
