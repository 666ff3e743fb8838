"""How a start is judged from what QEMU and the guest tell, and that COM1's lines are read whole."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from tests.boot.lab import LabResult
from tests.windows import boots
from tests.windows.boots import RESETS, RESTARTS, SILENT, STARTS, STOPS, Judged, Start, lab_outcome, stopped
from tests.windows.machine import Machine
from tests.windows.vm import lines


def a_vm(tmp_path: Path, serial: str = "", events: tuple[str, ...] = (), firmware: Optional[str] = None) -> Any:
    if firmware is not None:
        (tmp_path / "firmware.log").write_text(firmware)
    return SimpleNamespace(serial=serial, events=list(events), place=tmp_path)


@pytest.mark.parametrize(("serial", "events", "firmware", "outcome", "reason"), [
    ('h2k-lab {"stop":"0x7B","why":"no driver"}\n', (), None, STOPS, "0x7B: no driver"),
    ("", ("GUEST_PANICKED",), None, STOPS, "pvpanic"),
    ("BdsDxe: No bootable option or device was found.", (), None, STOPS, "firmware: No bootable option"),
    ("", (), "No bootable device.", STOPS, "firmware: No bootable device"),
    ("", ("RESET",) * (RESETS + 1), None, RESTARTS, "5 restarts"),
])  # fmt: skip
def test_a_guest_that_gave_up_is_known(
    serial: str, events: tuple[str, ...], firmware: Optional[str], outcome: str, reason: str, tmp_path: Path
) -> None:
    found = stopped(a_vm(tmp_path, serial, events, firmware))
    assert found is not None and found[0] == outcome and reason in found[1]


@pytest.mark.parametrize(("serial", "events"), [
    ("", ()), ("", ("RESET",) * RESETS), ('h2k-lab {"boots":"ControlSet001"}\n', ()), ('h2k-lab {"stop":"0x7B"', ()),
])  # fmt: skip
def test_a_guest_that_goes_on_has_not_stopped(serial: str, events: tuple[str, ...], tmp_path: Path) -> None:
    assert stopped(a_vm(tmp_path, serial, events)) is None


@pytest.mark.parametrize(("serial", "found"), [
    ('x\r\nh2k-kit {"step":"start"}\r\n', [{"step": "start"}]), ('h2k-kit {"step":"start"}', []), ("h2k-kit {no}\n", []),
    ('h2k-kit {"a":1}\nh2k-kit {"b":2}\n', [{"a": 1}, {"b": 2}]), ('other {"a":1}\n', []), ("h2k-kit " + "{" * 1000 + "}\n", []),
])  # fmt: skip
def test_only_whole_lines_are_read(serial: str, found: list[dict[str, Any]]) -> None:
    assert lines(serial, "h2k-kit") == found


def test_only_an_answer_is_a_start() -> None:
    assert Start(STARTS).started and not Start(STOPS).started
    assert Judged(STARTS).started and not Judged(RESTARTS).started


def test_ovmfs_debug_port_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "vars.fd").write_bytes(b"")
    assert stopped(a_vm(tmp_path, firmware="UEFI Interactive Shell")) is None


@pytest.mark.parametrize(("stop", "steps", "resets", "outcome"), [
    (None, (("done", "ok", ""),), 4, STARTS), ("0x7B", (), 1, STOPS), (None, (), RESETS + 1, RESTARTS), (None, (), RESETS, SILENT),
])  # fmt: skip
def test_the_labs_word(stop: Optional[str], steps: tuple[tuple[str, str, str], ...], resets: int, outcome: str) -> None:
    assert lab_outcome(LabResult("", stop, "", steps, {}, False, resets, False, None)) == outcome


class Restarting:
    """A guest that answers, restarts so many times, and answers again."""

    def __init__(self, place: Path, restarts: int) -> None:
        self.place, self.events, self.serial, self.left = place, [], "", restarts  # type: ignore[var-annotated]

    def wait(self, until: Any, seconds: float, each: Any = None) -> bool:
        if until():
            return True
        if self.left:
            self.left -= 1
            self.events.append("RESET")
        return bool(until())


@pytest.mark.parametrize(("restarts", "answers"), [(0, True), (2, True), (RESETS + 1, False)])
def test_a_guest_is_asked_once_it_restarts_no_more(restarts: int, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def answering(vm: Any, channel: list[Any]) -> bool:
        opened.append(SimpleNamespace(closed=False, close=lambda: None))
        channel.append(opened[-1])
        return True

    monkeypatch.setattr(boots, "_answers", answering)
    found = boots._settled(Restarting(tmp_path, restarts), Machine("bios", 2048, True))  # type: ignore[arg-type]
    assert (found is not None) is answers and (found is None or found is opened[-1])
    assert len(opened) == min(restarts, RESETS) + 1


@pytest.mark.parametrize(("kvm", "events", "stands"), [(False, ["RESET"], True), (True, ["RESET"], False), (False, [], False)])
def test_emulated_firmware_that_stands_still_after_a_restart(kvm: bool, events: list[str], stands: bool) -> None:
    look = boots._silence(SimpleNamespace(events=events, serial="BdsDxe"), Machine("uefi", 2048, kvm), still=0.0)  # type: ignore[arg-type]
    look()
    time.sleep(0.001)
    with pytest.raises(boots.StandsStill) if stands else contextlib.nullcontext():
        look()


@pytest.mark.parametrize(("stalls", "limits"), [(0, [300.0]), (1, [300.0, 300.0]), (2, [300.0, 300.0, float("inf")])])
def test_a_guest_that_stood_still_is_started_again(
    stalls: int, limits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def once(*given: Any) -> Any:
        tried.append(given[-1])
        if len(tried) <= stalls:
            raise boots.StandsStill
        return boots.STARTS, "", boots.Seen()

    monkeypatch.setattr(boots, "_once", once)
    found = boots.start(Machine("uefi", 2048, False), [], "virtio", tmp_path / "start", virtio=True)
    assert found.started and tried == limits and (tmp_path / "start" / "start.json").exists()


@pytest.mark.parametrize(("kvm", "tries"), [(False, 3), (True, 1)])
def test_restarts_without_end_are_believed_at_once_only_with_kvm(
    kvm: bool, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(boots, "_once", lambda *given: tried.append(1) or (RESTARTS, "5 restarts", boots.Seen()))
    found = boots.start(Machine("bios", 2048, kvm), [], "virtio", tmp_path / "start", virtio=True)
    assert found.outcome == RESTARTS and len(tried) == tries
