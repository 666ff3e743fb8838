"""Validation of a running guest: the steps of validate.json, each passed, failed, skipped, or unknown when it can't be observed."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import json
import re
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import BadData, UsageError
from h2k.base.files import write_json
from h2k.base.libvirt_connection import Domain, State, Virt
from h2k.base.steps import counted
from h2k.boot.disk_evidence import Check
from h2k.config.policy import Policy
from h2k.domain.guest_files import read_description
from h2k.domain.libvirt_reader import read_domain_xml

FILE = "validate.json"
FILE_LIMIT = 1024 * 1024  # bytes
MAX_STEPS = 512
CONNECT = 5.0  # seconds for a TCP connection
EXECUTE = 30.0  # seconds for a program in the guest
# The steps, with the values that each needs and their types.
KINDS: dict[str, dict[str, Any]] = {
    "running": {},
    "agent": {},
    "os": {"version": str, "build": int},
    "disks": {"count": int},
    "address": {"mac": str, "addresses": list},
    "gateway": {"address": str},
    "port": {"port": int},
    "service": {"name": str},
    "logs": {},
    "quiet": {"minutes": (int, float)},
}
Step = dict[str, Any]


def default_steps(policy: Policy) -> list[Step]:
    """What can be asked of any guest, and what the policy asks."""
    steps: list[Step] = [{"step": "running"}, {"step": "agent"}]
    steps += [{"step": "port", "port": port} for port in policy.validation.ports]
    steps += [{"step": "service", "name": name} for name in policy.validation.services]
    return [*steps, {"step": "logs"}, {"step": "quiet", "minutes": policy.validation.minutes}]


def read_steps(state: Path, policy: Policy) -> list[Step]:
    """The steps of NAME.h2k/validate.json, or the default ones where there is none. BadData for another content."""
    path = state / FILE
    if not path.exists():
        return default_steps(policy)
    if path.stat().st_size > FILE_LIMIT:
        raise BadData(f"{path}: larger than {FILE_LIMIT} bytes")
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        if len(steps) > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps")
        for step in steps:
            _check(step)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise BadData(f"{path}: no list of validation steps: {e}", hint="h2k fix NAME.xml writes it anew") from e
    return list(steps)


def _check(step: Step) -> None:
    """ValueError, KeyError or TypeError for what is no step."""
    for name, kind in KINDS[step["step"]].items():
        if not isinstance(step[name], kind):
            raise TypeError(f"{step}: {name} is of another type")
    for address in [*step.get("addresses", ()), *([step["address"]] if "address" in step else ())]:
        ipaddress.ip_interface(address)


def validate(virt: Virt, name: str, steps: Sequence[Step], evidence: Optional[Path] = None) -> list[Check]:
    """Go through the steps for the domain of that name (or UUID). UsageError when there is no such domain.

    `evidence` is the directory with what the boots left (COM1, the guest's logs), if there was a boot cycle.
    """
    found = virt.lookup_name(name) or (virt.lookup(name) if re.fullmatch(r"[0-9a-fA-F-]{36}", name) else None)
    if found is None:
        raise UsageError(f"{name}: libvirt knows no such domain", hint="virsh list --all shows them")
    return _Validation(Domain(virt, found.name(), found.UUIDString()), evidence).run(steps)


def validate_target(name: str, uri: str, policy: Policy) -> list[Check]:
    """What `h2k validate` does: a report directory's domain by its own steps, or any domain by the default ones."""
    state = Path(name)
    virt = Virt(uri)
    try:
        if not (state / "final.xml").exists():
            return validate(virt, name, default_steps(policy))
        facts = read_domain_xml(read_description(state / "final.xml"), str(state / "final.xml"))
        checks = validate(virt, facts.uuid or facts.name, read_steps(state, policy), state / "boot")
        write_json(state / "validation.json", {"checks": [check.as_json() for check in checks]})
        return checks
    finally:
        virt.close()


class _Validation:
    """One validation; what several steps need is asked once."""

    def __init__(self, domain: Domain, evidence: Optional[Path]) -> None:
        self.domain, self.evidence = domain, evidence
        self.began = time.monotonic()
        self.agent = domain.agent("guest-ping") is not None
        self.cards = domain.addresses("agent") if self.agent else None

    def run(self, steps: Sequence[Step]) -> list[Check]:
        """The checks, in the order of the steps; the quiet time is waited for at the end."""
        asked: dict[str, Callable[[Step], Check]] = {
            "running": self._running,
            "agent": self._agent,
            "os": self._os,
            "disks": self._disks,
            "address": self._address,
            "gateway": self._gateway,
            "port": self._port,
            "service": self._service,
            "logs": self._logs,
            "quiet": self._quiet,
        }
        ordered = [*(s for s in steps if s["step"] != "quiet"), *(s for s in steps if s["step"] == "quiet")]
        return [asked[step["step"]](step) for step in ordered]

    def _running(self, _: Step) -> Check:
        state = self.domain.state()
        good = state.state == "running"
        return Check("running", "passed" if good else "failed", self.domain.name, _told(state))

    def _agent(self, _: Step) -> Check:
        if self.agent:
            return Check("agent", "passed", "guest agent", "it answers a ping")
        return Check("agent", "unknown", "guest agent", "no answer; is qemu-ga installed in the guest?")

    def _os(self, step: Step) -> Check:
        wanted = f"version {step['version']} build {step['build']}"
        info = self.domain.guest_os() if self.agent else None
        if info is None:
            return Check("os", "unknown", wanted, "the guest agent does not tell")
        told = f"{info.get('pretty-name', '?')}, version {info.get('kernel-version', '?')} build {info.get('kernel-release', '?')}"
        same = info.get("kernel-release") == str(step["build"])
        return Check("os", "passed" if same else "failed", wanted, told)

    def _disks(self, step: Step) -> Check:
        subject = counted(int(step["count"]), "disk")
        script = "Get-Disk | ForEach-Object { '{0}={1}' -f $_.Number, $_.OperationalStatus }"
        output = self._execute("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", script)
        if output is None:
            return Check("disks", "unknown", subject, "the guest agent runs no program that would tell")
        told = dict(re.findall(r"(\d+)=(\w+)", output[1]))
        offline = [number for number, status in told.items() if status.lower() not in ("online", "ok")]
        good = not offline and len(told) >= step["count"]
        return Check("disks", "passed" if good else "failed", subject, "; ".join(f"disk {n} {s}" for n, s in told.items()) or "none")

    def _address(self, step: Step) -> Check:
        mac = step["mac"].lower() or None
        wanted = [ipaddress.ip_interface(address).ip for address in step["addresses"]]
        subject = f"{mac or 'any card'}: {', '.join(map(str, wanted)) or 'an address'}"
        found, how = self._addresses_of(mac)
        if how is None:
            return Check("address", "unknown", subject, "neither the guest agent nor this host's leases tell")
        missing = [address for address in wanted if address not in found]
        # What a lease or a neighbour table does not show may all the same be there.
        bad = "failed" if how == "guest agent" else "unknown"
        state = bad if missing or not found else "passed"
        return Check("address", state, subject, f"{', '.join(map(str, found)) or 'none'} ({how})")

    def _addresses_of(self, mac: Optional[str]) -> tuple[list[Any], Optional[str]]:
        """The addresses of one card, or of all, but the link-local ones; and who told, None when nobody did."""
        for source, how in (("agent", "guest agent"), ("lease", "DHCP lease"), ("neighbour", "neighbour table")):
            cards = self.cards if source == "agent" else self.domain.addresses(source)
            known = [text for card, texts in (cards or {}).items() if mac is None or card == mac for text in texts]
            if known or (source == "agent" and cards):
                return _usable(known), how
        return [], None

    def _gateway(self, step: Step) -> Check:
        gateway = str(ipaddress.ip_interface(step["address"]).ip)
        output = self._execute("ping.exe", "-n", "2", "-w", "3000", gateway)
        if output is None:
            return Check("gateway", "unknown", gateway, "the guest agent runs no ping")
        # ping.exe ends with 0 for "destination host unreachable" as well; only a reply has a TTL (IPv6: a time).
        reached = output[0] == 0 and re.search(r"TTL=|[=<]\s?\d+\s?ms", output[1]) is not None
        return Check("gateway", "passed" if reached else "failed", gateway, "it answers" if reached else "no answer in the guest")

    def _port(self, step: Step) -> Check:
        port = step["port"]
        addresses, how = self._addresses_of(None)
        if not addresses:
            return Check("port", "unknown", f"TCP {port}", "no address of the guest is known to this host")
        for address in addresses:
            with contextlib.suppress(OSError), socket.create_connection((str(address), port), CONNECT):
                return Check("port", "passed", f"TCP {port}", f"{address} accepts a connection")
        return Check("port", "failed", f"TCP {port}", f"no connection to {', '.join(map(str, addresses))} ({how})")

    def _service(self, step: Step) -> Check:
        name = step["name"]
        output = self._execute("sc.exe", "query", name)
        if output is None:
            return Check("service", "unknown", name, "the guest agent runs no sc.exe")
        state = re.search(r"STATE\s*:\s*\d+\s+(\w+)", output[1])
        word = state[1] if state else f"sc.exe ended with {output[0]}"
        return Check("service", "passed" if word == "RUNNING" else "failed", name, word)

    def _execute(self, *argv: str) -> Optional[tuple[int, str]]:
        """A program run in the guest by its agent: exit status and output; None when that can't be done."""
        if not self.agent:
            return None
        arguments = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        answer = self.domain.agent("guest-exec", arguments)
        pid = answer.get("pid") if isinstance(answer, dict) else None
        deadline = time.monotonic() + EXECUTE
        while pid is not None and time.monotonic() < deadline:
            status = self.domain.agent("guest-exec-status", {"pid": pid})
            if not isinstance(status, dict):
                return None
            if status.get("exited"):
                with contextlib.suppress(binascii.Error, ValueError, TypeError):
                    return int(status["exitcode"]), base64.b64decode(status.get("out-data", "")).decode("utf-8", "replace")
                return None
            time.sleep(0.3)
        return None

    def _logs(self, _: Step) -> Check:
        kept = [] if self.evidence is None else _files(self.evidence)
        if not kept:
            return Check("logs", "unknown", "logs", "no boot cycle of h2k has left any")
        return Check("logs", "passed", "logs", ", ".join(kept))

    def _quiet(self, step: Step) -> Check:
        minutes = float(step["minutes"])
        subject = counted(minutes, "minute")
        while True:
            state = self.domain.state()
            noise = [e.kind for e in self.domain.events if e.kind in ("crashed", "reboot", "io-error", "stopped")]
            if noise or state.state != "running":
                return Check("quiet", "failed", subject, f"{noise[0] if noise else _told(state)}")
            if minutes <= 0:
                return Check("quiet", "skipped", subject, "the policy asks for no time without a crash")
            if time.monotonic() >= self.began + minutes * 60:
                return Check("quiet", "passed", subject, "no crash, no restart, no I/O error")
            time.sleep(0.5)


def _told(state: State) -> str:
    return state.state + (f" ({state.reason})" if state.reason else "")


def _usable(texts: Iterable[Any]) -> list[Any]:
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(str(text).split("%")[0])
            if not (address.is_link_local or address.is_loopback or address.is_unspecified):
                found.append(address)
    return found


def _files(evidence: Path) -> list[str]:
    """COM1 and the logs that the boots left, by their names below the evidence directory."""
    found = [*evidence.glob("*-com1.log"), *evidence.glob("*-logs/*")]
    return sorted(str(path.relative_to(evidence)) for path in found if path.is_file() and path.stat().st_size)


def explain(checks: Sequence[Check]) -> Iterable[str]:
    """The checks for people, a line each."""
    for check in checks:
        yield f"  {check.state:<8} {check.name:<10} {check.subject}: {check.evidence}"


