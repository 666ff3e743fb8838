"""Signals during a boot: they stop it by name, or wait until what must not be stopped is over."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from h2k.boot.interrupts import SIGNALS, Interrupts, Stopped


@pytest.mark.parametrize("number", SIGNALS)
def test_each_stops_by_its_name_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(Stopped, match=number.name), Interrupts().caught():
        os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_is_held_back_waits(number: signal.Signals) -> None:
    interrupts, done = Interrupts(), False
    with interrupts.caught():
        with interrupts.held_back():
            os.kill(os.getpid(), number)
            done = True
        with pytest.raises(Stopped, match=number.name):
            interrupts.check()
        interrupts.check()
    assert done


def test_children_do_not_get_the_terminal_s_ctrl_c_meanwhile() -> None:
    interrupts = Interrupts()
    with interrupts.held_back():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.SIGINT in blocked and signal.SIGTERM not in blocked, "qemu-nbd is ended by SIGTERM"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_no_failure_handler_takes_it_for_a_failure() -> None:
    assert not issubclass(Stopped, Exception)


def test_another_thread_leaves_the_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with Interrupts().caught():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
