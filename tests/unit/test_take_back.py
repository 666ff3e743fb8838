"""`h2k rollback` of a guest that was booted: refused while it runs on overlays, and its definition goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import Refused, UsageError
from h2k.base.libvirt_connection import State
from h2k.boot import take_back as module
from h2k.boot.take_back import take_back
from h2k.disk.overlay import RollbackResult

MARKED = '<domain><metadata><h:boot xmlns:h="urn:h2k:boot:1" directory="{}"/></metadata></domain>'


class World:
    def __init__(self, phase: str) -> None:
        self.phase, self.running = phase, None
        self.log: list[str] = []
        self.running: Optional[str]
        self.lock_taken = False


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(getattr(request, "param", "kept"))

    class Disks:
        def __init__(self, *_: Any) -> None:
            self.how_far = world.phase

        @contextmanager
        def held(self) -> Iterator[None]:
            if world.lock_taken:
                raise Refused("another h2k works on this guest")
            world.log.append("lock")
            yield

        def rollback(self, force: bool) -> RollbackResult:
            world.log.append("rollback")
            return RollbackResult({}, "kept overlay")

    class Virt:
        def __init__(self, uri: str) -> None:
            if world.phase == "no libvirt":
                raise UsageError("libvirt does not answer")
            world.log.append(uri)

        def lookup(self, _: str) -> Any:
            return SimpleNamespace(XMLDesc=lambda flags: world.running) if world.running is not None else None

        def close(self) -> None:
            world.log.append("close")

    class Domain:
        def __init__(self, virt: Any, name: str, uuid: str) -> None:
            self.virt, self.name, self.uuid = virt, name, uuid

        def state(self) -> State:
            return State("running" if world.running is not None else "off")

        def destroy(self) -> None:
            world.log.append("destroy")
            world.running = None

    monkeypatch.setattr(module, "DiskSet", Disks)
    monkeypatch.setattr(module, "Virt", Virt)
    monkeypatch.setattr(module, "Domain", Domain)
    monkeypatch.setattr(module, "read_description_of", lambda state, phase: SimpleNamespace(name="g", uuid="u"))
    monkeypatch.setattr(module, "forget", lambda *_: world.log.append("forget") or "g is not defined any more")
    return world


def test_refused_while_production_runs_on_the_overlays(world: World, tmp_path: Path) -> None:
    world.running = "<domain/>"
    with pytest.raises(Refused, match="g runs") as caught:
        take_back([], tmp_path)
    assert "virsh shutdown g" in caught.value.hint and "rollback" not in world.log and world.log[-1] == "close"


def test_the_definition_goes_with_the_overlay(world: World, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "boot").mkdir(mode=0o711)
    (tmp_path / "boot/boot.json").write_text('{"connect": "qemu:///session"}')
    take_back([], tmp_path, say=said.append)
    assert world.log == ["lock", "qemu:///session", "rollback", "forget", "close"] and said == ["g is not defined any more"]


@pytest.mark.parametrize("world", ["applying"], indirect=True)
def test_what_a_killed_boot_left_running_is_stopped_first(world: World, tmp_path: Path) -> None:
    world.running = MARKED.format(tmp_path)
    take_back([], tmp_path)
    assert world.log.index("destroy") < world.log.index("rollback")


@pytest.mark.parametrize("world", ["idle", "committing", "rolling-back", "no libvirt"], indirect=True)
def test_libvirt_is_not_asked_where_no_overlay_is(world: World, tmp_path: Path) -> None:
    take_back([], tmp_path)
    assert world.log == ["lock", "rollback"]


def test_without_libvirt_qemu_s_own_lock_decides(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(uri: str) -> None:
        raise UsageError("libvirt does not answer")

    monkeypatch.setattr(module, "Virt", no)
    take_back([], tmp_path)
    assert world.log == ["lock", "rollback"]


@pytest.mark.parametrize("world", ["kept", "applying"], indirect=True)
def test_evidence_that_is_not_ours_is_refused_before_anything_is_taken_back(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "boot").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="a link"):
        take_back([], tmp_path)
    assert "rollback" not in world.log and "destroy" not in world.log


@pytest.mark.parametrize("world", ["kept", "idle"], indirect=True)
def test_what_was_taken_back_is_told_before_the_rest(world: World, tmp_path: Path) -> None:
    take_back([], tmp_path, done=lambda result: world.log.append(str(result)))
    at = world.log.index("rollback")
    assert world.log[at + 1] == "the kept overlay is undone: " and "forget" not in world.log[:at]


def test_nothing_is_stopped_without_the_lock(world: World, tmp_path: Path) -> None:
    """Another h2k boots this guest, which runs with our mark."""
    world.running, world.lock_taken = MARKED.format(tmp_path), True
    with pytest.raises(Refused, match="another h2k"):
        take_back([], tmp_path)
    assert world.log == [] and world.running is not None
