"""The h2k-boot protocol, and what is made of a running guest: who is up, who has stopped, and who only seems so."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.libvirt_connection import State
from h2k.boot.com1 import LINE_LIMIT, LOG_LIMIT, OWN_RESTARTS, PATIENCE, Com1, Seen, Signal, ending_of, parse_line
from h2k.config.policy import TIMEOUTS
from h2k.windows.first_boot_steps import NAMES as STEPS

RUNNING = State("running")


def line(step: Any, state: Any = "ok", **more: Any) -> bytes:
    return b"h2k-boot " + json.dumps({"v": 1, "step": step, "state": state, **more}).encode() + b"\r\n"


# The protocol


@pytest.mark.parametrize("step", STEPS)
def test_each_step(step: str) -> None:
    assert parse_line(line(step, "skipped", detail="why"), 7.0) == Signal(7.0, step, "skipped", "why")


def test_after_other_output() -> None:
    assert parse_line(b"\x1b[2J\x1b[01;01HBdsDxe: starting\r" + line("done"), 0.0) == Signal(0.0, "done", "ok", "")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"h2k-boot",
        b"h2k-boot {}",
        b"h2k-boot {nonsense}",
        b'h2k-boot {"v":2,"step":"done","state":"ok"}',
        b"h2k-boot [1]",
        line("other"),
        line("done", "perfect"),
        line(["done"]),
        line("done", {"a": 1}),
        line("done", detail=5),
        b"h2k-boot " + b'{"a":' * 100_000,
        b"x" * 5000 + line("done"),
    ],
)
def test_what_is_no_signal(text: bytes) -> None:
    assert parse_line(text, 0.0) is None


def test_a_hostile_detail_is_cut_and_made_harmless() -> None:
    signal = parse_line(line("start", detail="\x1b[31m\n" + "a" * 2000), 0.0)
    assert signal is not None and "\x1b" not in signal.detail and "\n" not in signal.detail and len(signal.detail) <= 500


def test_random_bytes_are_no_signals() -> None:
    rng = random.Random(1)
    for _ in range(500):
        data = bytearray(line("drivers", detail="x" * 20))
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = parse_line(bytes(data), 0.0)
        assert found is None or found.step in STEPS


# The file that COM1 is written to


def test_lines_that_come_in_pieces(tmp_path: Path) -> None:
    log = tmp_path / "com1"
    com1 = Com1(log)
    assert com1.poll(0) == []
    whole = line("start") + line("drivers")
    with log.open("ab") as out:
        for at in range(0, len(whole), 7):
            out.write(whole[at : at + 7])
            out.flush()
            com1.poll(float(at))
    assert [signal.step for signal in com1.signals] == ["start", "drivers"]
    assert com1.signals[0].at < com1.signals[1].at


@pytest.mark.parametrize("how", ["rename", "truncate"])
def test_a_rotated_file(how: str, tmp_path: Path) -> None:
    """virtlogd renames the full file and goes on in a new one; what was written last before that counts too."""
    log = tmp_path / "com1"
    log.write_bytes(line("start"))
    com1 = Com1(log)
    com1.poll(1)
    if how == "rename":
        with log.open("ab") as out:
            out.write(line("drivers"))
        log.rename(tmp_path / "com1.0")
        log.write_bytes(line("disks"))
    else:
        log.write_bytes(b"")
        com1.poll(2)
        log.write_bytes(line("disks"))
    com1.poll(3)
    assert [signal.step for signal in com1.signals] == ["start", *(["drivers"] if how == "rename" else []), "disks"]


def test_a_flood_is_noticed_and_not_kept(tmp_path: Path) -> None:
    log = tmp_path / "com1"
    with log.open("wb") as out:
        out.truncate(LOG_LIMIT + 4096)
    com1 = Com1(log)
    com1.poll(0)
    assert com1.flooded and com1.bytes_read == LOG_LIMIT + 1 and len(com1._rest) <= LINE_LIMIT
    com1.poll(1)
    assert com1.bytes_read == LOG_LIMIT + 1


# Who is up, and who has stopped


def seen(now: float, *steps: str, **more: Any) -> Seen:
    signals = tuple(Signal(float(at + 1), step, "ok") for at, step in enumerate(steps))
    return dataclasses.replace(Seen(started=0.0, now=now, state=RUNNING, signals=signals), **more)


def why(found: Seen, expects_done: bool = True, good: Optional[bool] = False) -> str:
    ending = ending_of(found, TIMEOUTS, expects_done)
    assert (ending.good if ending is not None else None) == good
    return ending.why if ending is not None else ""


def test_up_is_done_and_nothing_less() -> None:
    assert "came to their end" in why(seen(20, *STEPS), good=True)
    assert why(seen(20, *STEPS[:-1]), good=None) == ""
    assert why(seen(20, *STEPS[:-1], agent=True), good=None) == "", "the agent is no proof that the steps were done"


@pytest.mark.parametrize("expects", [True, False])
def test_a_panic_ends_it_whatever_came_before(expects: bool) -> None:
    assert "pvpanic" in why(seen(20, *STEPS, panicked=True), expects)
    assert "pvpanic" in why(seen(20, state=State("crashed", "panicked")), expects)


def test_no_space_under_the_guest() -> None:
    assert "virtio-disk0: enospc" in why(seen(20, "start", io_error="virtio-disk0: enospc (/x)"))
    assert "space" in why(seen(20, state=State("paused", "I/O error")))


def test_a_reboot_loop_is_counted() -> None:
    assert why(seen(20, "start", restarts=OWN_RESTARTS), good=None) == ""
    assert "restarted 7 times" in why(seen(20, "start", restarts=OWN_RESTARTS + 1))


def test_staged_scripts_have_restarts_of_their_own() -> None:
    assert why(seen(20, "start", restarts=12, allowed=12), good=None) == ""
    assert "a reboot loop" in why(seen(20, "start", restarts=13, allowed=12))


def test_a_guest_that_switches_itself_off() -> None:
    assert "switched itself off" in why(seen(20, "start", state=State("gone")))
    assert "came to their end" in why(seen(20, *STEPS, state=State("gone")), good=True)


def test_a_flood_on_com1() -> None:
    assert "COM1" in why(seen(5, flooded=True))


@pytest.mark.parametrize("still, told", [(500.0, "stands still"), (0.0, "picture changes"), (None, "picture changes")])
def test_silence_has_a_limit_for_each_step(still: Optional[float], told: str) -> None:
    limit = TIMEOUTS["start"]
    assert why(seen(limit - 1.0, still_for=still), good=None) == ""
    assert told in why(seen(limit + 0.0, still_for=still))
    after = TIMEOUTS["disks"] + 3.0  # the signals came in seconds 1, 2 and 3
    found = seen(after, "start", "drivers", "addresses", still_for=still)
    assert "no signal after 'addresses'" in why(found) and told in why(found)
    assert why(seen(after - 1.0, "start", "drivers", "addresses", still_for=still), good=None) == ""


def test_a_restart_begins_the_waiting_anew() -> None:
    late = TIMEOUTS["start"] + 100.0
    assert why(seen(late, restarts=1, restarted=200.0), good=None) == ""


def test_a_still_picture_alone_is_no_stop() -> None:
    """A logon screen stands still as well: without the time-out it says nothing."""
    assert why(seen(900, still_for=899.0), good=None) == ""


def test_a_guest_without_signals_settles() -> None:
    limit = TIMEOUTS["settle"]
    assert why(seen(limit - 1.0, still_for=60.0), expects_done=False, good=None) == ""
    assert "gives no signals" in why(seen(limit + 0.0, still_for=60.0), expects_done=False, good=True)
    assert why(seen(limit + 0.0, still_for=2.0), expects_done=False, good=None) == "", "its picture still moves"
    assert "no signals" in why(seen(limit * PATIENCE + 0.0, still_for=2.0), expects_done=False, good=True)
    assert "no signals" in why(seen(limit + 0.0), expects_done=False, good=True)
    assert why(seen(limit + 10.0, restarts=1, restarted=60.0, still_for=50.0), expects_done=False, good=None) == ""


def test_a_guest_with_an_agent_is_up_at_once() -> None:
    assert "agent answers" in why(seen(5, agent=True), expects_done=False, good=True)


# Without COM1


def test_the_marker_that_the_agent_sees_is_the_end_of_the_steps() -> None:
    assert "agent sees" in why(seen(5, agent=True, marker=True), good=True)
    assert why(seen(5, agent=True), good=None) == ""


def test_a_taken_port_leaves_it_to_the_disks_when_the_time_for_a_first_signal_is_over() -> None:
    limit = TIMEOUTS["start"]
    assert limit > TIMEOUTS["settle"] * PATIENCE
    assert "serial port is taken" in why(seen(limit + 0.0, heard=False), good=True)
    assert why(seen(limit + 0.0), good=False), "where the port is free its signals are awaited"
    assert why(seen(limit + 100.0, heard=False, restarts=1, restarted=200.0), good=None) == "", "a restart begins it anew"
    shorter = ending_of(seen(60.0, heard=False), {**TIMEOUTS, "start": 60}, True)
    assert shorter is not None and shorter.good, "the policy's limit"


@pytest.mark.parametrize("agent", [False, True])
def test_a_slow_host_is_not_shut_down_in_the_middle_of_steps_that_nobody_hears(agent: bool) -> None:
    """Ten minutes without a signal: Windows installs its devices, and its picture may stand still meanwhile."""
    for now in (TIMEOUTS["settle"] * PATIENCE + 0.0, TIMEOUTS["start"] - 1.0):
        assert why(seen(now, heard=False, agent=agent, still_for=500.0), good=None) == ""
    assert "agent sees" in why(seen(700.0, heard=False, agent=True, marker=True), good=True), "what decides earlier"


def test_one_that_speaks_through_a_taken_port_has_the_limits_of_its_steps() -> None:
    assert why(seen(TIMEOUTS["start"] + 9999.0, "start", heard=False)), "one that speaks all the same has its limits"


def test_no_signal_but_an_agent_is_no_stop() -> None:
    late = TIMEOUTS["start"] + 1.0
    assert "the disks decide" in why(seen(late, agent=True, still_for=900.0), good=True)
    assert "stands still" in why(seen(late, still_for=900.0))
    assert "no signal after 'start'" in why(seen(late + 2000, "start", agent=True)), "it had begun to speak"
