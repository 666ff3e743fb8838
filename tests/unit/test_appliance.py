"""The appliance's time limits: what a launch started is ended when it is late, and nothing is asked of a handle that works."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base import appliance
from h2k.base.appliance import ended_after, launch, placed
from h2k.base.errors import H2kError


class Handle:
    """A guestfs handle whose launch ends when its "process" is killed, and never otherwise."""

    def __init__(self, world: World, error: str = "", hangs: bool = False) -> None:
        self.world, self.error, self.hangs = world, error, hangs
        self.settings: list[tuple[str, str]] = []

    def config(self, name: str, value: str) -> None:
        self.settings.append((name, value))

    def launch(self) -> None:
        assert self.settings == [("-global", "scsi-hd.werror=report")], "a full disk would stop the machine"
        self.world.children |= {77}
        if self.hangs:
            assert self.world.killed.wait(20), "nothing ended the launch"
        if self.error:
            raise RuntimeError(self.error)


class World:
    """Our children, and the one that is killed."""

    def __init__(self) -> None:
        self.children, self.pids = frozenset({11}), set[int]()
        self.killed = threading.Event()

    def kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.pids.add(pid)
        self.killed.set()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(appliance, "_children_of_this_thread", lambda: lambda: made.children)
    monkeypatch.setattr(os, "kill", made.kill)
    return made


def test_a_launch_gives_its_processes(world: World) -> None:
    assert launch(Handle(world), "a.qcow2") == {77} and not world.pids


def test_a_launch_that_hangs_is_ended_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance, "LAUNCH_LIMIT", 0.01)
    with pytest.raises(H2kError) as e:
        launch(Handle(world, "appliance closed the connection", hangs=True), "a.qcow2")
    assert e.value.message == "a.qcow2: libguestfs' appliance was not up within 0 s" and "h2k doctor" in e.value.hint
    assert world.pids == {77}


@pytest.mark.parametrize(("said", "shown"), [("no kernel\nand more", "no kernel"), ("\n", "no reason is given")])
def test_a_launch_that_fails_says_why_in_one_line(world: World, said: str, shown: str) -> None:
    with pytest.raises(H2kError) as e:
        launch(Handle(world, said), "a.qcow2")
    assert e.value.message == f"a.qcow2: {shown}" and not world.pids


def test_what_ended_by_itself_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int, number: int) -> Any:
        raise ProcessLookupError(pid)

    monkeypatch.setattr(os, "kill", gone)
    with ended_after(0.01, lambda: frozenset({77})) as late:
        assert late.wait(20)


def test_a_block_that_ends_in_time_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(threading, "Timer", lambda seconds, end: timers.append(_Timer()) or timers[-1])
    with ended_after(5, frozenset) as late:
        assert [t.state for t in timers] == ["started"]
    assert [t.state for t in timers] == ["cancelled"] and not late.is_set()


class _Timer:
    state, daemon = "new", False

    def start(self) -> None:
        self.state = "started"

    def cancel(self) -> None:
        self.state = "cancelled"


def test_files_and_sockets_lie_in_a_directory_of_ours_that_goes() -> None:
    said: list[str] = []
    handle = SimpleNamespace(parse_environment_list=said.extend, get_cachedir=lambda: "/c", set_cachedir=said.append)
    with placed(handle):
        assert said.pop() == "/c", "the appliance that was built before is used again"
        (place,) = {Path(line.partition("=")[2]) for line in said}
        assert [line.partition("=")[0] for line in said] == ["TMPDIR", "XDG_RUNTIME_DIR"]
        assert place.name.startswith("h2k-appliance-") and stat.S_IMODE(place.stat().st_mode) & 0o011
    assert not place.exists()


@pytest.mark.parametrize("ours", [True, False])
def test_sockets_elsewhere_go_with_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    said: list[str] = []
    elsewhere = tmp_path / "libguestfsAbCdEf"
    elsewhere.mkdir()
    looked, look = threading.Event(), appliance._socket_directories

    def directories() -> list[str]:
        found = list(look())
        looked.set()
        return found

    monkeypatch.setattr(appliance, "_socket_directories", directories)
    with socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind(str(elsewhere / ("guestfsd.sock" if ours else "other.sock")))
        with placed(SimpleNamespace(parse_environment_list=said.extend, get_cachedir=str, set_cachedir=said.append)):
            assert looked.wait(20)
    assert elsewhere.exists() is not ours
