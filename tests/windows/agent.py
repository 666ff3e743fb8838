"""Asks a guest through the QEMU guest agent: bound drivers, disks and letters, addresses, the event log, logs of the first boot.

Commands and their arguments: QEMU's qga/qapi-schema.json ("QEMU Guest Agent Protocol Reference"). Programs in the guest are
those that every Windows since 7 has, Server Core included; no PowerShell. What a guest says is text to keep, and never run.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

ANSWER_LIMIT = 48 * 1024 * 1024  # bytes of one answer
POLL = 0.5  # seconds between two looks at a program of the guest
FILE_LIMIT = 2 * 1024 * 1024  # bytes kept of one file of the guest: its end
CHUNK = 64 * 1024  # of guest-file-read; over a serial port of 115200 baud that is a few seconds
DELIMITER = b"\xff"
STAND_IN = re.compile("stand-in", re.IGNORECASE)  # the boot lab's agent says so


class AgentError(Exception):
    """The agent refused a command, did not answer, or answered what is no answer."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A program to run in the guest, and the file of the evidence that its output becomes."""

    name: str
    argv: tuple[str, ...]


QUESTIONS = (
    Question("bound", ("reg.exe", "query", "HKLM\\SYSTEM\\CurrentControlSet\\Enum\\PCI", "/s", "/v", "Service")),
    Question("volumes", ("cmd.exe", "/c", "mountvol")),
    Question("letters", ("reg.exe", "query", "HKLM\\SYSTEM\\MountedDevices")),
    Question("addresses", ("netsh.exe", "interface", "ipv4", "show", "config")),
    Question("interfaces", ("netsh.exe", "interface", "ipv4", "show", "subinterfaces")),
    Question("routes", ("route.exe", "print", "-4")),
    Question("ipconfig", ("ipconfig.exe", "/all")),
    Question("services", ("sc.exe", "query", "type=", "all", "state=", "all")),
    Question("drivers", ("driverquery.exe", "/v", "/fo", "csv")),
    # Level 1 and 2 are critical and error: stops (event 1001), services that failed (7000 to 7034), controllers that reset.
    Question("events", ("wevtutil.exe", "qe", "System", "/q:*[System[(Level=1 or Level=2)]]", "/f:text", "/c:300", "/rd:true")),
    Question("data", ("cmd.exe", "/c", "type", "T:\\h2k-kit.txt")),
    Question("version", ("cmd.exe", "/c", "ver")),
)
FILES = {
    "setupapi.dev.log": "C:\\Windows\\INF\\setupapi.dev.log",
    "firstboot.log": "C:\\Program Files\\h2k\\firstboot.log",
    "virt-v2v-firstboot.log": "C:\\Program Files\\Guestfs\\Firstboot\\log.txt",
    "setup.log": "C:\\h2k-kit\\setup.log",
    "agent.log": "C:\\h2k-kit\\agent.log",
}
COMMANDS = ("guest-get-osinfo", "guest-network-get-interfaces", "guest-get-disks", "guest-get-fsinfo")


class Agent:
    """One connection to the agent, over the socket of COM2."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._timeout = timeout
        self._buffer = b""

    def close(self) -> None:
        self._socket.close()

    def synchronize(self, number: int) -> bool:
        """guest-sync-delimited: drops whatever waits in the channel; whether the agent answered in time."""
        self._buffer = b""
        try:
            self._send(DELIMITER, "guest-sync-delimited", {"id": number})
        except AgentError:
            return False
        while True:
            try:
                line = self._line()
            except (AgentError, OSError):
                return False
            _, found, behind = line.rpartition(DELIMITER)
            try:
                if found and json.loads(behind)["return"] == number:
                    return True
            except (ValueError, KeyError, TypeError):
                continue

    def command(self, name: str, **arguments: Any) -> Any:
        """What the command returns; AgentError when it is refused or not answered."""
        self._send(b"", name, {key.replace("_", "-"): value for key, value in arguments.items()})
        try:
            answer = json.loads(self._line())
        except (OSError, ValueError, RecursionError) as e:
            raise AgentError(f"{name}: {e}") from e
        if not isinstance(answer, dict) or "return" not in answer:
            error = answer.get("error") if isinstance(answer, dict) else None
            raise AgentError(f"{name}: {error.get('desc') if isinstance(error, dict) else 'no answer that we know'}"[:500])
        return answer["return"]

    def run(self, argv: Sequence[str], seconds: float) -> tuple[int, bytes]:
        """Exit status and output of a program in the guest, at most `seconds` long."""
        started = self.command("guest-exec", path=argv[0], arg=list(argv[1:]), capture_output=True)
        pid = started.get("pid") if isinstance(started, dict) else None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.command("guest-exec-status", pid=pid)
            if isinstance(state, dict) and state.get("exited"):
                return int(state.get("exitcode", -1)), _decoded(state.get("out-data")) + _decoded(state.get("err-data"))
            time.sleep(POLL)
        raise AgentError(f"{argv[0]}: not done after {seconds:.0f} s")

    def read(self, path: str) -> bytes:
        """The last FILE_LIMIT bytes of a file of the guest."""
        handle = self.command("guest-file-open", path=path, mode="rb")
        try:
            size = self.command("guest-file-seek", handle=handle, offset=0, whence="end").get("position", 0)
            if size > 0:
                self.command("guest-file-seek", handle=handle, offset=max(0, size - FILE_LIMIT), whence="set")
            data = b""
            while len(data) < FILE_LIMIT:
                part = self.command("guest-file-read", handle=handle, count=CHUNK)
                data += _decoded(part.get("buf-b64"))
                if part.get("eof") or not part.get("count"):
                    break
            return data[-FILE_LIMIT:]
        except AttributeError as e:
            raise AgentError(f"{path}: no answer that we know") from e
        finally:
            self.command("guest-file-close", handle=handle)

    def _send(self, before: bytes, name: str, arguments: dict[str, Any]) -> None:
        request: dict[str, Any] = {"execute": name, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.sendall(before + json.dumps(request).encode() + b"\n")
        except OSError as e:
            raise AgentError(f"{name}: {e}") from e

    def _line(self) -> bytes:
        end = time.monotonic() + self._timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > ANSWER_LIMIT or time.monotonic() > end:
                raise AgentError("an answer without an end")
            data = self._socket.recv(65536)
            if not data:
                raise AgentError("the channel was closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the guest said. `bound`: hardware id → service, of the PCI devices that have one. Counts are of the event log:
    `stops` (event 1001, BugCheck) and `service_errors` (events 7000 to 7034). `refused`: questions without an answer."""

    os: str = ""
    stand_in: bool = False
    bound: dict[str, str] = dataclasses.field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    data_disk: bool = False
    stops: int = 0
    service_errors: int = 0
    refused: tuple[str, ...] = ()


def ask(agent: Agent, place: Path, seconds: float) -> Seen:
    """All questions; each answer is a file of `place`, and what can be told in short is returned."""
    place.mkdir(parents=True, exist_ok=True)
    answers: dict[str, Any] = {}
    refused = []
    for command in COMMANDS:
        try:
            answers[command] = agent.command(command)
            (place / f"{command}.json").write_text(json.dumps(answers[command], indent=1), encoding="utf-8")
        except AgentError as e:
            refused.append(f"{command}: {e}"[:200])
    outputs: dict[str, str] = {}
    for question in QUESTIONS:
        try:
            status, output = agent.run(question.argv, seconds)
        except AgentError as e:
            refused.append(f"{question.name}: {e}"[:200])
            continue
        (place / f"{question.name}.txt").write_bytes(output)
        if status == 0:
            outputs[question.name] = output.decode("utf-8", "replace")
        else:
            refused.append(f"{question.name}: status {status}")
    for name, path in FILES.items():
        try:
            (place / name).write_bytes(agent.read(path))
        except AgentError as e:
            refused.append(f"{name}: {e}"[:200])
    return seen_in(answers, outputs, refused)


def seen_in(answers: dict[str, Any], outputs: dict[str, str], refused: Sequence[str] = ()) -> Seen:
    """The short form of what a guest answered, whatever it is that it answered."""
    system = answers.get("guest-get-osinfo")
    name = str(system.get("pretty-name", "")) if isinstance(system, dict) else ""
    build = str(system.get("kernel-release", "")) if isinstance(system, dict) else ""
    events = [int(number) for number in re.findall(r"Event ID: (\d{1,5})", outputs.get("events", ""))]
    return Seen(
        os=f"{name} {build}".strip()[:120],
        stand_in=STAND_IN.search(name) is not None,
        bound=bound_services(outputs.get("bound", "")),
        addresses=tuple(sorted(_addresses(answers.get("guest-network-get-interfaces")))),
        volumes=tuple(sorted(_mountpoints(answers.get("guest-get-fsinfo")))),
        data_disk="h2k-kit data disk" in outputs.get("data", ""),
        stops=events.count(1001),
        service_errors=sum(1 for event in events if 7000 <= event <= 7034),
        refused=tuple(refused),
    )


def bound_services(output: str) -> dict[str, str]:
    """Hardware id → service, of `reg query …\\Enum\\PCI /s /v Service`: a line with a key, then one with its value."""
    found: dict[str, str] = {}
    device: Optional[str] = None
    for line in output.splitlines():
        key = re.match(r"HKEY_LOCAL_MACHINE\\.*\\PCI\\([^\\]{1,200})\\", line)
        if key:
            device = key[1]
        value = re.match(r"\s+Service\s+REG_SZ\s+(\S{1,64})", line)
        if value and device is not None and len(found) < 200:
            found[device] = value[1]
    return found


def _addresses(interfaces: Any) -> set[str]:
    found = set()
    for interface in interfaces if isinstance(interfaces, list) else []:
        addresses = interface.get("ip-addresses") if isinstance(interface, dict) else None
        for each in addresses if isinstance(addresses, list) else []:
            address = each.get("ip-address") if isinstance(each, dict) and each.get("ip-address-type") == "ipv4" else None
            if isinstance(address, str) and not address.startswith("127."):
                found.add(address[:45])
    return found


def _mountpoints(systems: Any) -> set[str]:
    known = [each.get("mountpoint") for each in (systems if isinstance(systems, list) else []) if isinstance(each, dict)]
    return {place[:80] for place in known if isinstance(place, str)}
