"""The installation: what is kept of it under which name, and how it is judged from what the guest told."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.kit_world import SHA, answers
from tests.windows import install
from tests.windows.configuration import contents
from tests.windows.install import PRESSING, SETUP_READS, Wanted, _judge, _Watch, _went_to
from tests.windows.machine import Machine
from tests.windows.media import Media
from tests.windows.steps import StepFailed


def wanted(tmp_path: Path, **more: Any) -> Wanted:
    media = Media(tmp_path / "a.iso", SHA, "EVAL", False, ())
    made = Wanted(media, answers(), Machine("uefi", 4096, True), tmp_path / "v.iso", tmp_path / "cache", 40 << 30)
    return dataclasses.replace(made, **more)


def key(one: Wanted) -> str:
    return one.key(contents(one.answers))


def test_the_cache_knows_iso_image_firmware_and_answers(tmp_path: Path) -> None:
    first = wanted(tmp_path)
    others = [
        wanted(tmp_path, media=dataclasses.replace(first.media, sha256="cd" * 32)), wanted(tmp_path, answers=answers(firmware="bios")),
        wanted(tmp_path, answers=answers(17763)), wanted(tmp_path, disk=64 << 30),
        wanted(tmp_path, machine=dataclasses.replace(first.machine, nic="e1000")),
        wanted(tmp_path, answers=dataclasses.replace(first.answers, computer="OTHER")),
    ]  # fmt: skip
    keys = [key(first), *(key(each) for each in others)]
    assert keys[0] == key(wanted(tmp_path)) and keys[0].startswith("abababababababab-1-uefi-")
    assert keys[3] == keys[0]  # the same image of the same ISO: its build is not asked twice
    assert len(set(keys)) == len(keys) - 1


def test_what_is_installed_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = wanted(tmp_path)
    place = one.cache / key(one)
    place.mkdir(parents=True)
    (place / "installed.json").write_text(json.dumps({"seconds": 1800}))
    monkeypatch.setattr(install, "_install", lambda *_: pytest.fail("installed again"))
    found = install.install(one)
    assert found.cached and found.seconds == 1800 and found.system == place / "system.qcow2" and found.bus == "sata"


def test_a_wrong_answer_file_is_never_given_to_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "errors", lambda data: ["UserData/ProductKey: no setting"])
    monkeypatch.setattr(install, "_install", lambda *_: pytest.fail("installed"))
    with pytest.raises(StepFailed, match="ProductKey"):
        install.install(wanted(tmp_path))


DONE = 'h2k-kit {"step":"start","state":"ok"}\r\nh2k-kit {"step":"done","state":"ok"}\r\n'


def test_a_guest_that_told_so_and_shut_down_is_installed(tmp_path: Path) -> None:
    _judge(DONE, True, tmp_path)


@pytest.mark.parametrize(("serial", "done", "why"), [
    (DONE, False, "not done in time; the guest told of: start, done"), ("", False, "told of: nothing"), ("", True, "before its set-up"),
    ('h2k-kit {"step":"disk","state":"failed"}\n' + DONE, True, "disk: failed"),
    ('h2k-kit {"step":"setup","state":"failed","why":"the licence"}\n', False, "setup: the licence"),
])  # fmt: skip
def test_any_other_end_names_what_to_look_at(serial: str, done: bool, why: str, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=why) as caught:
        _judge(serial, done, tmp_path)
    assert "screen.png" in caught.value.look_at


@pytest.mark.parametrize("system", [True, False])
def test_what_was_installed_on_the_data_disk_is_no_windows_of_ours(system: bool, tmp_path: Path) -> None:
    sizes = {"system.qcow2": 65536 if system else 512, "data.qcow2": 8192}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    with nullcontext() if system else pytest.raises(StepFailed, match=r"wrote to the data disk, data\.qcow2"):
        _went_to(tmp_path / "system.qcow2", tmp_path / "data.qcow2")


@pytest.mark.parametrize(("read", "events", "later", "pressed"), [
    (0, [], 0, True), (SETUP_READS, [], 0, False), (0, ["RESET"], 0, False), (0, [], PRESSING + 1, False),
])  # fmt: skip
def test_a_key_is_pressed_until_setup_runs(
    read: int, events: list[str], later: float, pressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    vm = SimpleNamespace(events=events, read_from=lambda drive: read, press=keys.append, picture=lambda name: None)
    monkeypatch.setattr(install.time, "monotonic", lambda: 1000.0 + later)
    _Watch(vm, "cd0", 1000.0).look()  # type: ignore[arg-type]
    assert bool(keys) is pressed


class Setup:
    """A QEMU in which Setup stops at once, or shuts down: what it says on COM1, and whether the wait for it ended."""

    serial, events, ended = "", [], False  # type: ignore[var-annotated]

    def __init__(self, *_: Any) -> None:
        self.pictures: list[str] = []

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def wait(self, until: Any, seconds: float, each: Any) -> bool:
        type(self).ended = until()
        return self.ended

    def picture(self, name: str) -> None:
        (self.place / f"{name}.png").write_bytes(b"PNG")

    place = Path()


@pytest.mark.parametrize(("serial", "events", "why"), [
    ('h2k-kit {"step":"setup","state":"failed","why":"the licence"}\n', [], "the licence"), (DONE, ["SHUTDOWN"], ""),
])  # fmt: skip
def test_the_wait_ends_when_setup_stops_or_the_machine_is_off(
    serial: str, events: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = wanted(tmp_path, machine=Machine("bios", 2048, True), answers=answers(firmware="bios"))
    place = one.cache / key(one)
    monkeypatch.setattr(Setup, "serial", serial)
    monkeypatch.setattr(Setup, "events", events)
    monkeypatch.setattr(Setup, "place", place)
    monkeypatch.setattr(install, "Vm", Setup)
    monkeypatch.setattr(install, "run_logged", lambda argv, *_: argv[-2].touch())
    monkeypatch.setattr(install.configuration, "make_iso", lambda files, iso, log: iso)
    if why:
        with pytest.raises(StepFailed, match=why):
            install.install(one)
        assert (place / "screen.png").exists() and not (place / "installed.json").exists()
    else:
        assert not install.install(one).cached and json.loads((place / "installed.json").read_text())["stand_in"] is False
    assert Setup.ended
