"""The watcher with a domain of the tests' own: what it takes for an end, and how it has a guest shut down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import NotVerified
from h2k.base.libvirt_connection import Event, State
from h2k.base.steps import Steps
from h2k.boot import watcher as module
from h2k.boot.watcher import Expected, Watcher
from h2k.config.policy import TIMEOUTS


class Domain:
    """A guest that does at each look what `plan` says next, and obeys what `obeys` names."""

    def __init__(self, *obeys: str) -> None:
        self.virt = SimpleNamespace(reconnects=0)
        self.events: list[Event] = []
        self.now = State("running")
        self.obeys, self.asked = obeys, []
        self.asked: list[str]
        self.answers: dict[str, Any] = {}
        self.plan: list[Any] = []
        self.shot: Optional[bytes] = None

    def state(self) -> State:
        if self.plan:
            self.plan.pop(0)()
        return self.now

    def happens(self, kind: str, detail: str = "") -> None:
        self.events.append(Event(time.monotonic(), kind, detail))

    def screenshot(self) -> Optional[bytes]:
        return self.shot

    def agent(self, command: str, arguments: Any = None, seconds: int = 5) -> Any:
        self.asked.append(command)
        return self.answers.get(command)

    def ask_to_shut_down(self, how: str) -> bool:
        self.asked.append(how)
        if how in self.obeys:
            self.now = State("gone")
            self.happens("shutdown")
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TICK", "PICTURE", "PING", "PRESS"):
        monkeypatch.setattr(module, name, 0.001)


def watch(domain: Domain, directory: Path, ports: int = 1, **limits: int) -> Watcher:
    paths = [directory / f"final-com{n + 1}.log" for n in range(ports)]
    for path in paths:
        path.touch()
    fake: Any = domain
    return Watcher(fake, "final", directory, paths, {**TIMEOUTS, **limits}, Steps(quiet=True))


def say(path: Path, step: str, state: str = "ok") -> None:
    with path.open("a") as out:
        out.write("h2k-boot " + json.dumps({"v": 1, "step": step, "state": state}) + "\n")


@pytest.mark.parametrize("port", [1, 2])
def test_done_on_either_port_is_up(port: int, tmp_path: Path) -> None:
    seen = watch(Domain(), tmp_path, ports=2)
    say(tmp_path / f"final-com{port}.log", "done")
    assert seen.until_up(Expected(done=True)).good
    assert [signal.step for signal in seen.seen.signals] == ["done"] and seen.seen.files["com2"].endswith("final-com2.log")
    (signal,) = seen.seen.as_json()["signals"]
    assert signal["at"] == round(seen.seen.signals[0].at - seen.started, 1)


def test_the_agent_sees_the_marker(tmp_path: Path) -> None:
    domain = Domain()
    domain.answers = {"guest-ping": {}, "guest-file-open": 1000}
    assert "guest agent sees" in watch(domain, tmp_path).until_up(Expected(done=True, channel=True)).why
    assert domain.asked == ["guest-ping", "guest-file-open", "guest-file-close"]


def test_the_agent_is_not_asked_without_a_channel(tmp_path: Path) -> None:
    domain = Domain()
    domain.answers = {"guest-ping": {}}
    assert "gives no signals" in watch(domain, tmp_path, settle=0).until_up(Expected()).why
    assert domain.asked == []


@pytest.mark.parametrize("kind, words", [("crashed", "panicked"), ("io-error", "storage failed")])
def test_events_that_end_it(kind: str, words: str, tmp_path: Path) -> None:
    domain = Domain()
    domain.plan = [lambda: domain.happens(kind, "virtio-disk0: enospc")]
    ending = watch(domain, tmp_path).until_up(Expected(done=True))
    assert not ending.good and words in ending.why


def test_restarts_are_counted_from_its_start_and_more_than_allowed_is_a_loop(tmp_path: Path) -> None:
    domain = Domain()
    domain.happens("reboot")
    seen = watch(domain, tmp_path)
    seen.started = time.monotonic() + 0.0001
    domain.plan = [lambda: domain.happens("reboot")] * 3
    time.sleep(0.001)
    assert "restarted 3 times" in seen.until_up(Expected(done=True, restarts=2)).why


def test_the_agent_shuts_it_down_or_else_the_power_button(tmp_path: Path) -> None:
    domain = Domain("agent")
    seen = watch(domain, tmp_path)
    seen.seen.agent = True
    seen.shut_down()
    assert domain.asked == ["agent"]
    domain = Domain("acpi")
    watch(domain, tmp_path).shut_down()
    assert domain.asked == ["acpi"], "without an agent it is not asked"


def test_one_that_does_not_shut_down_is_told(tmp_path: Path) -> None:
    domain = Domain()
    with pytest.raises(NotVerified, match="did not shut down in 0 s"):
        watch(domain, tmp_path, shutdown=0).shut_down()


def test_a_killed_process_is_no_shutdown(tmp_path: Path) -> None:
    domain = Domain()
    seen = watch(domain, tmp_path)
    domain.now = State("gone")
    domain.happens("stopped")
    with pytest.raises(NotVerified, match="killed on this host"):
        seen.shut_down()
    domain.virt.reconnects = 1
    seen.shut_down()  # the event may have been lost with the daemon
