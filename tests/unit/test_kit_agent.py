"""The guest agent's client: answers as the protocol gives them, and what a broken or hostile guest may send."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.windows import agent
from tests.windows.agent import FILES, Agent, AgentError, ask, bound_services, seen_in

BOUND = (
    "\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\\3&11583659&0&20\r\n"
    "    Service    REG_SZ    viostor\r\n\r\n"
    "HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Enum\\PCI\\VEN_8086&DEV_2922&SUBSYS_11001AF4&REV_02\\3&11583659&0&FA\r\n"
    "    Service    REG_SZ    storahci\r\n\r\nEnd of search: 2 match(es) found.\r\n"
)
Answer = Callable[[dict[str, Any]], bytes]


def guest(path: Path, answer: Answer) -> Agent:
    """An agent that answers each line with `answer`, in a thread."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        connection, _ = server.accept()
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(answer(json.loads(line.lstrip(b"\xff"))))

    threading.Thread(target=serve, daemon=True).start()
    return Agent(path, 5)


def returned(value: Any) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


def windows(request: dict[str, Any]) -> bytes:
    """A small guest: one program, one file of two parts."""
    command, arguments = request["execute"], request.get("arguments", {})
    content = b"log of the first boot"
    answers: dict[str, Any] = {
        "guest-exec": {"pid": 7}, "guest-exec-status": {"exited": True, "exitcode": 0, "out-data": base64.b64encode(BOUND.encode()).decode()},
        "guest-file-open": 3, "guest-file-seek": {"position": len(content), "eof": False}, "guest-file-close": {},
        "guest-file-read": {"count": len(content), "buf-b64": base64.b64encode(content).decode(), "eof": True},
        "guest-get-osinfo": {"pretty-name": "Windows Server 2022", "kernel-release": "20348"},
        "guest-get-fsinfo": [{"mountpoint": "C:\\"}], "guest-get-disks": [],
        "guest-network-get-interfaces": [{"name": "Ethernet", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "192.0.2.10"}]}],
    }  # fmt: skip
    if command == "guest-sync-delimited":
        return b"garbage\n\xff" + returned(arguments["id"])
    if command == "guest-file-open" and "agent.log" in arguments["path"]:
        return b'{"error": {"class": "GenericError", "desc": "no such file"}}\n'
    return returned(answers[command])


def test_a_guest_is_asked_everything_and_each_answer_is_a_file(tmp_path: Path) -> None:
    connection = guest(tmp_path / "s", windows)
    assert connection.synchronize(4711)
    seen = ask(connection, tmp_path / "out", 5)
    assert seen.os == "Windows Server 2022 20348" and not seen.stand_in
    assert seen.bound["VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"] == "viostor"
    assert seen.addresses == ("192.0.2.10",) and seen.volumes == ("C:\\",)
    assert [line.partition(":")[0] for line in seen.refused] == ["agent.log"]
    assert (tmp_path / "out" / "bound.txt").read_bytes() == BOUND.encode()
    assert (tmp_path / "out" / "setupapi.dev.log").read_bytes() == b"log of the first boot"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{q.name}.txt" for q in agent.QUESTIONS), *(f"{c}.json" for c in agent.COMMANDS), *FILES,
    } - {"agent.log"}  # fmt: skip


@pytest.mark.parametrize("line", [
    b"\n", b"[]\n", b'{"return"\n', b'{"error": "x"}\n', b'{"error": {"desc": "' + b"x" * 5000 + b'"}}\n', b"[" * 100_000 + b"\n",
    b'\xff\xfe\n',
], ids=range(7))  # fmt: skip
def test_an_answer_that_is_none_is_an_agent_error(line: bytes, tmp_path: Path) -> None:
    connection = guest(tmp_path / "s", lambda request: line)
    with pytest.raises(AgentError) as caught:
        connection.command("guest-ping")
    assert len(str(caught.value)) < 1000


def test_answers_of_the_wrong_shape_leave_a_guest_that_said_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "POLL", 0.001)
    seen = ask(guest(tmp_path / "s", lambda request: returned("x")), tmp_path / "out", 0.01)
    assert (seen.bound, seen.addresses, seen.volumes, seen.os) == ({}, (), (), "")
    assert len(seen.refused) == len(agent.QUESTIONS) + len(FILES)


def test_an_answer_without_an_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ANSWER_LIMIT", 1000)
    with pytest.raises(AgentError, match="without an end"):
        guest(tmp_path / "s", lambda request: b"x" * 200_000).command("guest-ping")


def test_a_guest_that_answers_something_else_is_not_synchronized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = guest(tmp_path / "s", lambda request: b"\xff" + returned(1) + b"\xff[]\n")
    connection._socket.settimeout(0.05)
    assert not connection.synchronize(2)


@pytest.mark.parametrize("output", ["", "Service REG_SZ x", "HKEY_LOCAL_MACHINE\\A\\PCI\\\\\r\n    Service    REG_SZ    x", "\0" * 50])
def test_output_that_is_not_regs_binds_nothing(output: str) -> None:
    assert bound_services(output) == {}


def test_a_guest_can_not_claim_without_end() -> None:
    line = "HKEY_LOCAL_MACHINE\\S\\PCI\\{}\\1\n    Service    REG_SZ    a\n"
    assert len(bound_services("".join(line.format(n) for n in range(1000)))) == 200


def test_stops_and_service_errors_are_counted() -> None:
    events = "".join(f"  Event ID: {number}\r\n" for number in (1001, 7000, 7034, 7036, 41, 1001))
    seen = seen_in({}, {"events": events, "data": "h2k-kit data disk \r\n"})
    assert (seen.stops, seen.service_errors, seen.data_disk) == (2, 2, True)


@pytest.mark.parametrize("value", [None, [], "x", 3, {"pretty-name": {}}, [None, {"ip-addresses": [3, {"ip-address-type": "ipv4"}]}]])
def test_hostile_values_are_passed_over(value: Any) -> None:
    seen = seen_in(dict.fromkeys(agent.COMMANDS, value), {})
    assert not seen.stand_in and not seen.volumes and not seen.addresses


def test_the_boot_labs_agent_is_known_as_a_stand_in() -> None:
    system = {"pretty-name": "h2k boot lab: a stand-in for Windows' boot, not Windows"}
    assert seen_in({"guest-get-osinfo": system}, {}).stand_in
