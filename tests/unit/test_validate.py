"""Validation's steps against a guest that answers what the tests say: what can't be observed is unknown, never passed."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import BadData, UsageError
from h2k.base.libvirt_connection import Event, State, Virt
from h2k.boot.validate import default_steps, read_steps, validate
from h2k.config.policy import Policy, Validation

UUID = "6fa4b3a0-0f6c-4a51-8a7e-2a6d2f1a2f10"
MAC = "52:54:00:12:34:56"


class Libvirt:
    """The part of libvirt's module that a domain's methods name."""

    VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT = 0, 1
    VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, VIR_DOMAIN_GUEST_INFO_OS = 2, 2

    class libvirtError(Exception):
        def get_error_code(self) -> int:
            return 0


@dataclasses.dataclass
class Guest:
    """What the guest's agent answers, what the host knows of its addresses, and its state."""

    answers: dict[str, Any] = dataclasses.field(default_factory=dict)
    programs: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    leases: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    cards: dict[str, Any] = dataclasses.field(default_factory=dict)
    os: dict[str, str] = dataclasses.field(default_factory=dict)
    limited: bool = False
    state: str = "running"
    noise: Optional[str] = None
    ran: list[list[str]] = dataclasses.field(default_factory=list)

    # A stand-in for Virt, as far as validation uses it
    libvirt = Libvirt

    def listen(self, domain: Any) -> None:
        if self.noise is not None:
            domain.events.append(Event(0.0, self.noise))
        domain.agent, domain.state = self.agent, lambda: State(self.state)

    def lookup_name(self, name: str) -> Any:
        return self if name == "g" else None

    def lookup(self, uuid: str) -> Any:
        return self if uuid == UUID else None

    def name(self) -> str:
        return "g"

    def UUIDString(self) -> str:
        return UUID

    def call(self, what: Any) -> Any:
        return what(self)

    lookupByUUIDString = lookup

    def agentSetResponseTimeout(self, seconds: int, _: int) -> None:
        self.limited = seconds > 0

    def guestInfo(self, _: int, __: int) -> Any:
        if not self.os or not self.limited:
            raise Libvirt.libvirtError
        return self.os

    def interfaceAddresses(self, source: int, _: int) -> Any:
        if source == 1:
            if not self.cards or not self.limited:
                raise Libvirt.libvirtError
            return self.cards
        addresses = self.leases.get({0: "lease", 2: "arp"}[source], [])
        return {"vnet0": {"hwaddr": MAC, "addrs": [{"addr": a} for a in addresses] or None}}

    def agent(self, command: str, arguments: Any = None, seconds: int = 5) -> Any:
        if command == "guest-exec" and arguments["path"] in self.programs:
            self.ran.append([arguments["path"], *arguments["arg"]])
            return {"pid": len(self.ran)}
        if command == "guest-exec-status":
            status, output = self.programs[self.ran[arguments["pid"] - 1][0]]
            return {"exited": True, "exitcode": status, "out-data": base64.b64encode(output.encode()).decode()}
        return self.answers.get(command)


def agent(**programs: tuple[int, str]) -> Guest:
    cards = {
        "Ethernet": {"hwaddr": MAC, "addrs": [{"addr": "192.0.2.10", "prefix": 24}, {"addr": "fe80::1%3", "prefix": 64}]},
        "Loopback": {"addrs": [{"addr": "127.0.0.1", "prefix": 8}]},
        "Ethernet 2": {"hwaddr": "52:54:00:00:00:99", "addrs": None},
    }
    os = {"os.id": "mswindows", "os.kernel-version": "10.0", "os.kernel-release": "20348", "hostname": "x"}
    return Guest({"guest-ping": {}}, {f"{name}.exe": answer for name, answer in programs.items()}, cards=cards, os=os)


def states(guest: Guest, *steps: dict[str, Any], evidence: Optional[Path] = None) -> list[str]:
    fake: Any = guest
    return [check.state for check in validate(fake, "g", steps, evidence)]


SILENT: list[dict[str, Any]] = [
    {"step": "agent"},
    {"step": "os", "version": "10.0", "build": 20348},
    {"step": "disks", "count": 2},
    {"step": "address", "mac": MAC, "addresses": ["192.0.2.10/24"]},
    {"step": "gateway", "address": "192.0.2.1"},
    {"step": "port", "port": 3389},
    {"step": "service", "name": "TermService"},
    {"step": "logs"},
]


def test_what_cannot_be_observed_is_unknown() -> None:
    assert states(Guest(), *SILENT) == ["unknown"] * len(SILENT)


def test_an_agent_that_may_run_nothing_leaves_those_unknown() -> None:
    assert states(agent(), *SILENT)[2] == "unknown"
    assert states(agent(), {"step": "service", "name": "x"}, {"step": "gateway", "address": "192.0.2.1"}) == ["unknown"] * 2


@pytest.mark.parametrize(
    "state, noise, wanted",
    [("running", None, ["passed", "skipped"]), ("running", "crashed", ["passed", "failed"]), ("running", "reboot", ["passed", "failed"]),
     ("crashed", None, ["failed", "failed"]), ("gone", None, ["failed", "failed"])],
)  # fmt: skip
def test_running_and_quiet(state: str, noise: Optional[str], wanted: list[str]) -> None:
    guest = Guest(state=state, noise=noise)
    assert states(guest, {"step": "running"}, {"step": "quiet", "minutes": 0}) == wanted


def test_the_right_windows() -> None:
    assert states(agent(), {"step": "os", "version": "10.0", "build": 20348}) == ["passed"]
    assert states(agent(), {"step": "os", "version": "10.0", "build": 26100}) == ["failed"]


@pytest.mark.parametrize(
    "output, wanted", [("0=Online\r\n1=Online\r\n", "passed"), ("0=Online\r\n1=Offline\r\n", "failed"), ("0=Online\r\n", "failed"), ("", "failed")]
)
def test_every_disk_online(output: str, wanted: str) -> None:
    assert states(agent(powershell=(0, output)), {"step": "disks", "count": 2}) == [wanted]


@pytest.mark.parametrize(
    "addresses, wanted", [(["192.0.2.10/24"], "passed"), ([], "passed"), (["192.0.2.99/24"], "failed"), (["192.0.2.10", "2001:db8::1"], "failed")]
)
def test_addresses_told_by_the_agent(addresses: list[str], wanted: str) -> None:
    assert states(agent(), {"step": "address", "mac": MAC.upper(), "addresses": addresses}) == [wanted]


def test_a_card_that_only_has_a_link_local_address_has_none() -> None:
    guest = agent()
    guest.cards["Ethernet"]["addrs"] = [{"addr": "169.254.3.4"}]
    assert states(guest, {"step": "address", "mac": MAC, "addresses": []}) == ["failed"]


def test_addresses_told_by_the_host_prove_presence_and_not_absence() -> None:
    guest = Guest(leases={"lease": ["192.0.2.10"]})
    assert states(guest, {"step": "address", "mac": MAC, "addresses": ["192.0.2.10/24"]}) == ["passed"]
    assert states(guest, {"step": "address", "mac": MAC, "addresses": ["192.0.2.11/24"]}) == ["unknown"]
    assert states(guest, {"step": "address", "mac": "52:54:00:00:00:01", "addresses": []}) == ["unknown"]


@pytest.mark.parametrize(
    "answer, wanted",
    [
        ((0, "Reply from 192.0.2.1: bytes=32 time<1ms TTL=64"), "passed"),
        ((0, "Antwort von 192.0.2.1: Bytes=32 Zeit=3ms TTL=64"), "passed"),
        ((0, "Reply from 192.0.2.10: Destination host unreachable."), "failed"),
        ((1, "Request timed out."), "failed"),
    ],
)
def test_gateway(answer: tuple[int, str], wanted: str) -> None:
    assert states(agent(ping=answer), {"step": "gateway", "address": "192.0.2.1"}) == [wanted]


@pytest.mark.parametrize(
    "answer, wanted",
    [((0, "SERVICE_NAME: x\n  STATE : 4  RUNNING\n"), "passed"), ((0, "  STATE : 1  STOPPED\n"), "failed"), ((1060, ""), "failed")],
)
def test_service(answer: tuple[int, str], wanted: str) -> None:
    guest = agent(sc=answer)
    assert states(guest, {"step": "service", "name": "Term Service"}) == [wanted]
    assert guest.ran == [["sc.exe", "query", "Term Service"]], "the name is one argument"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_port(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: real(("127.0.0.1", address[1]), timeout))
    assert states(agent(), {"step": "port", "port": listener}) == ["passed"]
    monkeypatch.setattr(socket, "create_connection", real)
    guest = agent()
    guest.cards["Ethernet"]["addrs"] = [{"addr": "127.0.0.2"}]
    assert states(guest, {"step": "port", "port": listener}) == ["unknown"], "its loopback is not ours"


def test_logs(tmp_path: Path) -> None:
    assert states(Guest(), {"step": "logs"}, evidence=tmp_path) == ["unknown"]
    (tmp_path / "final-com1.log").write_text("h2k-boot")
    (tmp_path / "final-logs").mkdir()
    (tmp_path / "final-logs" / "setupapi.dev.log").write_text("x")
    fake: Any = Guest()
    (check,) = validate(fake, "g", [{"step": "logs"}], tmp_path)
    assert (check.state, check.evidence) == ("passed", "final-com1.log, final-logs/setupapi.dev.log")


def test_no_such_domain() -> None:
    fake: Any = Guest()
    with pytest.raises(UsageError, match="no such domain"):
        validate(fake, "other", [])
    assert validate(fake, UUID, []) == []


# validate.json


def test_default_steps_are_what_the_policy_asks(tmp_path: Path) -> None:
    policy = Policy(validation=Validation((3389,), ("TermService",), 2))
    steps = read_steps(tmp_path, policy)
    assert steps == default_steps(policy)
    assert {"step": "port", "port": 3389} in steps and {"step": "quiet", "minutes": 2} in steps


def test_steps_from_the_report_directory(tmp_path: Path) -> None:
    (tmp_path / "validate.json").write_text(json.dumps({"schema": 1, "steps": SILENT}))
    assert read_steps(tmp_path, Policy()) == SILENT


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"steps": 5}', '{"steps": [5]}', '{"steps": [{"step": "format"}]}', '{"steps": [{"step": "port", "port": "22"}]}',
     '{"steps": [{"step": "port"}]}', '{"steps": [{"step": "gateway", "address": "; reboot"}]}', '{"steps": ' + "[" * 100000,
     '{"steps": [{"step": "address", "mac": "x", "addresses": ["nowhere"]}]}', json.dumps({"steps": [{"step": "logs"}] * 1000})],
)  # fmt: skip
def test_a_file_that_is_no_list_of_steps(text: str, tmp_path: Path) -> None:
    (tmp_path / "validate.json").write_text(text)
    with pytest.raises(BadData, match=r"validate\.json"):
        read_steps(tmp_path, Policy())


def test_the_real_connection_has_what_the_stand_in_has() -> None:
    assert all(hasattr(Virt, name) for name in ("listen", "lookup_name", "lookup", "call"))
