"""The gate: a driver that Plug and Play bound, first-boot steps that are over, and everything that only looks like it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.boot import disk_evidence
from h2k.boot.com1 import STEPS, Signal
from h2k.disk.reader import FileStat
from h2k.windows.services import control_sets
from tests.unit.helpers import hive
from tests.unit.test_hardware import BOUND, LEGACY, MODERN, SELECT, SERVICE

INSTANCE = "[ControlSet001\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\\3&11583659&0&08]\n"
MET = INSTANCE + '"Service"="VIOSTOR"\n"ConfigFlags"=dword:00000000\n'


def guest(text: str, markers: tuple[str, ...] = ()) -> Any:
    system = hive(SELECT + text)

    def stat(path: str) -> Optional[FileStat]:
        return FileStat(path, 2, False) if path.rsplit("/", 1)[-1] in markers else None

    return SimpleNamespace(system=system, control_sets=control_sets(system), stat=stat)


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
        MET.replace("dword:00000000", "dword:00000040"),  # the installation failed
        MET.replace("dword:00000000", "dword:00000001"),  # switched off in Device Manager
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


# First-boot steps


def steps(signals: dict[str, str], markers: tuple[str, ...] = (), final: bool = True) -> dict[str, str]:
    heard = [Signal(0.0, step, state, "why") for step, state in signals.items()]
    found = disk_evidence._steps(guest("[ControlSet001]\n", markers), heard, final)
    return {check.name.replace("first-boot: ", ""): check.state for check in found}


ALL = dict.fromkeys(STEPS, "ok")


def test_all_steps_over() -> None:
    assert set(steps(ALL, ("done",)).values()) == {"passed"}


def test_a_signal_alone_is_no_end_in_the_final_boot() -> None:
    assert steps(ALL)["done"] == "failed"
    assert steps(ALL, final=False)["done"] == "passed", "the bootstrap may leave something to the final boot"


def test_markers_stand_for_signals_that_were_lost() -> None:
    found = steps({}, ("drivers", "disks", "done"))
    assert (found["drivers"], found["disks"], found["done"], found["addresses"]) == ("passed", "passed", "passed", "unknown")


@pytest.mark.parametrize("step", STEPS[1:-1])
def test_a_step_that_failed(step: str) -> None:
    optional = step in disk_evidence.OPTIONAL_STEPS
    assert steps({**ALL, step: "failed"}, ("done",))[step] == ("unknown" if optional else "failed")
    assert steps({**ALL, step: "failed"}, ("done",), final=False)[step] == "unknown", "it is tried again"


def test_nothing_heard_and_nothing_there() -> None:
    assert steps({})["done"] == "failed"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[ControlSet001\\Services]\n", False),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000002\n', True),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000004\n', False),
        ('[ControlSet001\\Services\\h2k-firstboot]\n"Start"=dword:00000002\n"DeleteFlag"=dword:00000001\n', False),
    ],
)
def test_whether_the_next_boot_speaks(text: str, expected: bool) -> None:
    assert disk_evidence.expects_signals(guest(text)) == expected
