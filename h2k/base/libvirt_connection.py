"""libvirt: a connection that outlives a restart of its daemon, and one domain with its events, screen and agent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional, TypeVar

from h2k.base.errors import H2kError, UsageError

DEFAULT_URI = "qemu:///system"
RECONNECT_LIMIT = 120.0  # seconds for a daemon that was killed to come back
SCREEN_LIMIT = 64 * 1024 * 1024  # bytes of one screenshot
AGENT_LIMIT = 4 * 1024 * 1024  # bytes of one answer of the guest agent
STOP_SECONDS = 60  # libvirt waits 15 s for a QEMU that it has killed, and one that waits for a slow disk takes longer
AGENT_SECONDS = 5  # for one answer of the guest agent; libvirt itself would wait for ever
START_DAEMON = "systemctl start libvirtd (or virtqemud)"
_LISTING = "virsh -r -c URI list --all shows what it has"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that libvirt told about the domain: "started", "reboot", "shutdown", "stopped", "crashed",
    "io-error" …; `at` in seconds of the monotonic clock."""

    at: float
    kind: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class State:
    """A domain as it is: "running", "paused", "crashed", "off" or "gone", and libvirt's reason in a word."""

    state: str
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether there is a QEMU process."""
        return self.state in ("running", "paused", "crashed")


class LibvirtGone(H2kError):
    """libvirt's daemon ended and did not come back: what its guests do now can't be known from here."""


def _import() -> Any:
    try:
        import libvirt
    except ImportError as e:
        raise H2kError("python3-libvirt is not installed", hint="apt install python3-libvirt") from e
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt


@contextmanager
def connected(uri: Optional[str] = None, write: bool = False) -> Iterator[Any]:
    """A plain connection for a few questions, or with `write` for definitions; libvirt's errors become H2kError.

    libvirt itself finds its daemon, libvirtd or the modular virtqemud; without `uri` its own default.
    """
    libvirt = _import()
    try:
        connection = libvirt.open(uri or None) if write else libvirt.openReadOnly(uri or None)
    except libvirt.libvirtError as e:
        text = " ".join(str(e).split())
        raise H2kError(f"{uri}: libvirt does not answer: {text}" if uri else f"libvirt does not answer: {text}", hint=_LISTING) from e
    try:
        try:
            yield connection
        finally:
            connection.close()
    except libvirt.libvirtError as e:
        raise H2kError(f"libvirt{f' {uri}' if uri else ''}: {' '.join(str(e).split())}", hint=_LISTING) from e


class Virt:
    """A connection to libvirt. Every call goes through `call`, which opens it anew when the daemon was restarted.

    A thread of its own runs libvirt's event loop: it takes in the events, and answers the daemon's keepalive however
    long the caller is busy with the disks.
    """

    def __init__(self, uri: str = DEFAULT_URI) -> None:
        self.uri = uri
        self.libvirt = _import()
        self.libvirt.virEventRegisterDefaultImpl()
        # Without a timer the loop would not see that it is to end.
        self._timer = self.libvirt.virEventAddTimeout(500, lambda *_: None, None)
        self._ending = False
        self._loop = threading.Thread(target=self._run_loop, name="libvirt events", daemon=True)
        self._loop.start()
        self.reconnects = 0
        self._gone: Optional[LibvirtGone] = None
        self._listeners: dict[str, Domain] = {}
        try:
            self._connection = self._open()
            self._check_local()
        except self.libvirt.libvirtError as e:
            self._end_loop()
            hint = f"{START_DAEMON}, or give --connect URI"
            raise UsageError(f"{uri}: libvirt does not answer: {' '.join(str(e).split())}", hint) from e
        except H2kError:
            self.close()
            raise

    def _run_loop(self) -> None:
        while not self._ending:
            self.libvirt.virEventRunDefaultImpl()

    def listen(self, domain: Domain) -> None:
        """Hand the events of that domain to it from now on."""
        self._listeners[domain.uuid] = domain

    def _open(self) -> Any:
        connection = self.libvirt.open(self.uri)
        self._register(connection)
        return connection

    def _register(self, connection: Any) -> None:
        """For the events of all domains: ours may not exist yet, and may come and go."""
        lv = self.libvirt
        for event, callback in (
            (lv.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (lv.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot),
            (lv.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._on_io_error),
        ):
            connection.domainEventRegisterAny(None, event, callback, None)

    def _tell(self, domain: Any, kind: str, detail: str = "") -> None:
        listener = self._listeners.get(domain.UUIDString())
        if listener is not None:
            listener.events.append(Event(time.monotonic(), kind, detail))

    def _on_lifecycle(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        lv = self.libvirt
        kinds = {
            lv.VIR_DOMAIN_EVENT_STARTED: "started",
            lv.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
            lv.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
            lv.VIR_DOMAIN_EVENT_STOPPED: "stopped",
            lv.VIR_DOMAIN_EVENT_CRASHED: "crashed",
        }
        if event in kinds:
            self._tell(domain, kinds[event], str(detail))

    def _on_reboot(self, _: Any, domain: Any, __: Any) -> None:
        self._tell(domain, "reboot")

    def _on_io_error(self, _: Any, domain: Any, path: str, device: str, __: int, reason: str, ___: Any) -> None:
        self._tell(domain, "io-error", f"{device}: {reason or 'I/O error'} ({path})")

    def _check_local(self) -> None:
        uri = self._connection.getURI()
        host = uri.split("://", 1)[-1].split("/", 1)[0]
        if host and host not in ("localhost", "127.0.0.1"):
            raise UsageError(f"{self.uri}: libvirt on another host can't see the overlays here", hint="run h2k there")

    def call(self, what: Callable[[Any], T]) -> T:
        """what(connection), once more on a new connection when this one has died. libvirtError; LibvirtGone when there
        is no other to be had, which is waited for once."""
        if self._gone is not None:
            raise self._gone
        try:
            return what(self._connection)
        except self.libvirt.libvirtError:
            if self._alive():
                raise
        self._reopen()
        return what(self._connection)

    def _alive(self) -> bool:
        try:
            self._connection.getLibVersion()
            return bool(self._connection.isAlive())
        except self.libvirt.libvirtError:
            return False

    def _reopen(self) -> None:
        deadline = time.monotonic() + RECONNECT_LIMIT
        while True:
            try:
                self._connection = self._open()
                self._connection.getLibVersion()
                break
            except self.libvirt.libvirtError as e:
                if time.monotonic() > deadline:
                    self._gone = LibvirtGone(
                        f"{self.uri}: libvirt is gone and did not come back in {RECONNECT_LIMIT:.0f} s: {' '.join(str(e).split())}",
                        hint=START_DAEMON,
                    )
                    raise self._gone from e
            time.sleep(0.5)
        self.reconnects += 1

    def lookup(self, uuid: str) -> Optional[Any]:
        """The domain of that UUID, or None."""
        return self._none_if_missing(lambda connection: connection.lookupByUUIDString(uuid))

    def lookup_name(self, name: str) -> Optional[Any]:
        """The domain of that name, or None."""
        return self._none_if_missing(lambda connection: connection.lookupByName(name))

    def _none_if_missing(self, find: Callable[[Any], Any]) -> Optional[Any]:
        try:
            return self.call(find)
        except self.libvirt.libvirtError as e:
            if e.get_error_code() == self.libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise self.failure("looking for the domain", e) from e

    def failure(self, what: str, error: Any) -> H2kError:
        """libvirt's error as one of ours, in one line."""
        text = " ".join(str(error).split())
        return H2kError(f"{what}: {text}", hint=_advice(text))

    def close(self) -> None:
        """End the connection; domains started with AUTODESTROY end with it."""
        with contextlib.suppress(self.libvirt.libvirtError):
            self._connection.close()
        self._end_loop()

    def _end_loop(self) -> None:
        self._ending = True
        self._loop.join(timeout=10)
        self.libvirt.virEventRemoveTimeout(self._timer)


def _advice(text: str) -> str:
    if "Permission denied" in text:
        return "QEMU's user must reach the disks: chmod o+x on each directory above, or use /var/lib/libvirt/images"
    if "No space left" in text:
        return "free some space, then give the same command"
    return ""


class Domain:
    """One domain by UUID, whatever happens to the connection; its events in the order of arrival."""

    def __init__(self, virt: Virt, name: str, uuid: str) -> None:
        self.virt, self.name, self.uuid = virt, name, uuid
        self.events: list[Event] = []
        virt.listen(self)

    def _with(self, action: Callable[[Any], Any]) -> Any:
        def on(connection: Any) -> Any:
            return action(connection.lookupByUUIDString(self.uuid))

        return self.virt.call(on)

    def state(self) -> State:
        """What libvirt says of the domain now."""
        lv = self.virt.libvirt
        try:
            state, reason = self._with(lambda domain: domain.state())[:2]
        except lv.libvirtError as e:
            if e.get_error_code() == lv.VIR_ERR_NO_DOMAIN:
                return State("gone")
            raise self.virt.failure(f"{self.name}: its state", e) from e
        if state == lv.VIR_DOMAIN_CRASHED:
            return State("crashed", "panicked")
        if state == lv.VIR_DOMAIN_SHUTOFF:
            return State("off", {lv.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed", lv.VIR_DOMAIN_SHUTOFF_FAILED: "failed"}.get(reason, ""))
        if state == lv.VIR_DOMAIN_PAUSED:
            names = {lv.VIR_DOMAIN_PAUSED_IOERROR: "I/O error", lv.VIR_DOMAIN_PAUSED_CRASHED: "crashed"}
            return State("crashed" if reason == lv.VIR_DOMAIN_PAUSED_CRASHED else "paused", names.get(reason, ""))
        return State("running")

    def start(self, xml: str, paused: bool = False, with_us: bool = False) -> None:
        """Start it transiently; `with_us`: it ends when our connection does. H2kError with libvirt's reason."""
        lv = self.virt.libvirt
        flags = (lv.VIR_DOMAIN_START_PAUSED if paused else 0) | (lv.VIR_DOMAIN_START_AUTODESTROY if with_us else 0)
        before = self.virt.reconnects

        def create(connection: Any) -> None:
            connection.createXML(xml, flags)

        try:
            self.virt.call(create)
        except lv.libvirtError as e:
            if self.virt.reconnects > before and self.state().active:
                return  # the daemon died after it had started it
            raise self.virt.failure(f"{self.name} does not start", e) from e

    def screenshot(self) -> Optional[bytes]:
        """The screen as libvirt gives it (PPM or PNG); None when there is none to be had."""
        data = bytearray()

        def shoot(connection: Any) -> None:
            stream = connection.newStream(0)
            connection.lookupByUUIDString(self.uuid).screenshot(stream, 0, 0)
            while len(data) < SCREEN_LIMIT:
                piece = stream.recv(256 * 1024)
                if not piece:
                    stream.finish()
                    return
                data.extend(piece)
            stream.abort()

        try:
            self.virt.call(shoot)
        except self.virt.libvirt.libvirtError:
            return None
        return bytes(data)

    def agent(self, command: str, arguments: Optional[dict[str, Any]] = None, seconds: int = AGENT_SECONDS) -> Optional[Any]:
        """The guest agent's answer to a command, None when it has none (no channel, no agent, an error)."""
        try:
            import libvirt_qemu
        except ImportError:
            return None
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        try:
            answer = self._with(lambda domain: libvirt_qemu.qemuAgentCommand(domain, request, seconds, 0))
            content = json.loads(answer) if answer is not None and len(answer) <= AGENT_LIMIT else {}
            return content.get("return") if isinstance(content, dict) else None
        except (self.virt.libvirt.libvirtError, ValueError, RecursionError):
            return None

    def addresses(self, source: str) -> Optional[dict[str, list[str]]]:
        """MAC (in lower case, "" where it is not known) → addresses, as the guest's "agent", this host's DHCP "lease" or
        its "neighbour" table know them; None when nobody tells."""
        lv = self.virt.libvirt
        sources = {
            "agent": lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
            "lease": lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            "neighbour": lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        }

        def ask(domain: Any) -> Any:
            if source == "agent":
                domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
            return domain.interfaceAddresses(sources[source], 0)

        try:
            cards = self._with(ask)
        except lv.libvirtError:
            return None
        found: dict[str, list[str]] = {}
        for card in cards.values():
            known = found.setdefault(str(card.get("hwaddr") or "").lower(), [])
            known += [str(entry["addr"]) for entry in card.get("addrs") or ()]
        return found

    def guest_os(self) -> Optional[dict[str, str]]:
        """What the guest agent says of the operating system: "pretty-name", "kernel-version" (Windows: 10.0),
        "kernel-release" (Windows: the build) …; None when it does not answer."""
        lv = self.virt.libvirt

        def ask(domain: Any) -> Any:
            domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
            return domain.guestInfo(lv.VIR_DOMAIN_GUEST_INFO_OS, 0)

        try:
            info = self._with(ask)
        except lv.libvirtError:
            return None
        return {key[3:]: str(value) for key, value in info.items() if key.startswith("os.")} or None

    def ask_to_shut_down(self, how: str) -> bool:
        """Ask the guest, through its "agent" or by the "acpi" power button; whether libvirt could ask."""
        lv = self.virt.libvirt
        flag = {"agent": lv.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, "acpi": lv.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN}[how]
        try:
            self._with(lambda domain: domain.shutdownFlags(flag))
        except lv.libvirtError:
            return False
        return True

    def destroy(self) -> None:
        """Stop it at once, if it runs. H2kError when libvirt can't; a QEMU that takes longer to end than libvirt waits is
        asked again."""
        lv = self.virt.libvirt
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                self._with(lambda domain: domain.destroy())
                return
            except lv.libvirtError as e:
                if not self.state().active:
                    return
                if e.get_error_code() != lv.VIR_ERR_SYSTEM_ERROR or time.monotonic() > deadline:
                    raise self.virt.failure(f"{self.name} can't be stopped", e) from e
            time.sleep(1)

    def monitor(self, command: str) -> str:
        """The answer of QEMU's human monitor."""
        try:
            import libvirt_qemu

            return str(self._with(lambda domain: libvirt_qemu.qemuMonitorCommand(domain, command, 1)))
        except ImportError as e:
            raise H2kError("libvirt's QEMU bindings are not installed", hint="apt install python3-libvirt") from e
        except self.virt.libvirt.libvirtError as e:
            raise self.virt.failure(f"{self.name}: {command}", e) from e
