"""The connection to libvirt, on its own test driver: a daemon that dies, is waited for once, and questions that nobody answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base import libvirt_connection as module
from h2k.base.errors import H2kError, UsageError
from h2k.base.libvirt_connection import Domain, LibvirtGone, Virt, connected

libvirt = pytest.importorskip("libvirt")

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # the test driver's own domain, "test"


@pytest.fixture
def virt() -> Iterator[Virt]:
    found = Virt("test:///default")
    yield found
    found.close()


def error(*_: Any) -> Any:
    raise libvirt.libvirtError("internal error: client socket is closed")


def test_a_dead_connection_is_opened_anew_once(virt: Virt, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def ask(connection: Any) -> str:
        calls.append(connection)
        return str(error() if len(calls) == 1 else "answer")

    monkeypatch.setattr(virt, "_alive", lambda: False)
    assert virt.call(ask) == "answer" and virt.reconnects == 1 and calls[0] is not calls[1]


def test_an_error_of_a_live_connection_is_the_caller_s(virt: Virt) -> None:
    with pytest.raises(libvirt.libvirtError):
        virt.call(error)
    assert virt.reconnects == 0


def test_a_daemon_that_is_gone_is_waited_for_once(virt: Virt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_LIMIT", 0.0)
    monkeypatch.setattr(virt, "_alive", lambda: False)
    monkeypatch.setattr(virt, "_open", error)
    with pytest.raises(LibvirtGone, match="did not come back") as caught:
        virt.call(error)
    assert "virtqemud" in caught.value.hint
    monkeypatch.setattr(virt, "_open", lambda: pytest.fail("waited for again"))
    with pytest.raises(LibvirtGone):
        virt.call(lambda connection: connection.getLibVersion())


def test_states_and_missing_domains(virt: Virt) -> None:
    assert Domain(virt, "test", UUID).state().state == "running"
    assert Domain(virt, "x", "6695eb01-f6a4-8304-79aa-000000000000").state().state == "gone"
    assert virt.lookup_name("nobody") is None and virt.lookup_name("test") is not None


def test_an_agent_that_is_not_there(virt: Virt) -> None:
    domain = Domain(virt, "test", UUID)
    assert domain.addresses("agent") is None and domain.agent("guest-ping") is None


def test_addresses_by_card(virt: Virt) -> None:
    class Guest:
        def agentSetResponseTimeout(self, seconds: int, _: int) -> None:
            assert seconds > 0, "an agent that stalls is not waited for for ever"

        def interfaceAddresses(self, source: int, _: int) -> Any:
            assert source == libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
            return {"a": {"hwaddr": "52:54:00:AA:00:01", "addrs": [{"addr": "192.0.2.1"}]}, "b": {"addrs": None}}

        def guestInfo(self, *_: int) -> Any:
            return {"os.id": "mswindows", "os.kernel-release": "20348", "hostname": "x"}

    domain = Domain(virt, "test", UUID)
    domain._with = lambda action: action(Guest())  # type: ignore[method-assign]
    assert domain.addresses("agent") == {"52:54:00:aa:00:01": ["192.0.2.1"], "": []}
    assert domain.guest_os() == {"id": "mswindows", "kernel-release": "20348"}


class Stuck:
    """A domain whose QEMU can't be killed yet, `times` times; libvirt's error is a system's, as EBUSY is, or another."""

    def __init__(self, times: int, code: int = libvirt.VIR_ERR_SYSTEM_ERROR) -> None:
        self.times, self.code, self.asked = times, code, 0

    def destroy(self) -> None:
        self.asked += 1
        if self.asked <= self.times:
            error = libvirt.libvirtError("Failed to terminate process 410 with SIGKILL")
            error.err = (self.code, 0, "Failed to terminate process 410 with SIGKILL", 0, "", "", "", 16, 0)
            raise error

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING if self.asked <= self.times else libvirt.VIR_DOMAIN_SHUTOFF, 0]


@pytest.mark.parametrize(
    ("stuck", "late", "asked"),
    [(Stuck(2), False, 3), (Stuck(2), True, 1), (Stuck(2, libvirt.VIR_ERR_OPERATION_DENIED), False, 1)],
)
def test_a_qemu_that_takes_long_to_end_is_asked_again(
    stuck: Stuck, late: bool, asked: int, virt: Virt, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter((0.0, *[module.STOP_SECONDS + late] * 9))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None))
    domain = Domain(virt, "test", UUID)
    domain._with = lambda action: action(stuck)  # type: ignore[method-assign]
    if asked > stuck.times:
        domain.destroy()
    else:
        with pytest.raises(H2kError, match=r"test can't be stopped.*terminate process 410"):
            domain.destroy()
    assert stuck.asked == asked


def test_only_libvirt_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    real = libvirt.open
    monkeypatch.setattr(libvirt, "open", lambda uri: real("test:///default"))
    monkeypatch.setattr(libvirt.virConnect, "getURI", lambda self: "qemu+ssh://elsewhere/system")
    with pytest.raises(UsageError, match="another host"):
        Virt("qemu+ssh://elsewhere/system")


def test_no_libvirt() -> None:
    with pytest.raises(UsageError, match="does not answer"):
        Virt("qemu:///system?socket=/nowhere")
    with pytest.raises(H2kError, match="nowhere: libvirt does not answer"), connected("qemu:///system?socket=/nowhere"):
        pass


def test_a_plain_connection() -> None:
    with connected("test:///default") as connection:
        assert connection.lookupByName("test").UUIDString() == UUID
        with pytest.raises(libvirt.libvirtError):
            connection.lookupByName("test").destroy()  # for reading alone
    with connected("test:///default", write=True) as connection:
        assert connection.listAllDomains()


def test_events_go_to_their_domain(virt: Virt) -> None:
    domain, other = Domain(virt, "test", UUID), Domain(virt, "x", "6695eb01-f6a4-8304-79aa-000000000000")
    virt.call(lambda connection: connection.lookupByUUIDString(UUID).suspend())
    deadline = time.monotonic() + 5
    while not domain.events and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [event.kind for event in domain.events] == ["suspended"] and other.events == []
    virt.call(lambda connection: connection.lookupByUUIDString(UUID).resume())


@pytest.mark.parametrize("with_us", [True, False])
def test_a_domain_that_ends_with_us(with_us: bool, virt: Virt, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []

    class Connection:
        def createXML(self, xml: str, given: int) -> None:
            flags.append(given)

    monkeypatch.setattr(virt, "call", lambda what: what(Connection()))
    Domain(virt, "x", UUID).start("<domain/>", paused=True, with_us=with_us)
    assert flags == [libvirt.VIR_DOMAIN_START_PAUSED | (libvirt.VIR_DOMAIN_START_AUTODESTROY if with_us else 0)]
