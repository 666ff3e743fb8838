"""The first boot: one small runner, small steps, and a file of settings in a fixed form that no script can misread."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData
from h2k.windows.first_boot_steps import WORK
from h2k.windows.network import Gateway, Route
from h2k.windows.network_carry import SAFE_NAME, Settings, code_units, extras_of, from_code_units, settable_name
from h2k.windows.values import Value, dword, expand, text

SERVICE = "h2k-firstboot"
# Not below ProgramData: what starts from there looks like malware to endpoint protection.
DIRECTORY = "/Program Files/h2k"
SETTINGS = f"{DIRECTORY}/settings.txt"
OLD_SETTINGS = "/ProgramData/h2k/settings.txt"  # of h2k 0.1
RUNNER = "rhsrvany.exe"
# Where the runner notes that it has come to its end: SOFTWARE\h2k, value FirstBoot.
MARK_KEY, MARK_VALUE, MARK_DONE = "h2k", "FirstBoot", "done"
SCRIPTS = Path(__file__).with_name("first_boot_scripts")
MAX_SETTINGS = 256 * 1024  # bytes
MAX_LINES = 2000
OWN_PROCESS, AUTO_START, IGNORE = 0x10, 2, 0
_WORD = re.compile(r"[A-Za-z0-9{}:._/-]{1,200}")
_DEVICE = re.compile(r"[A-Za-z0-9_]{1,40}(&[A-Za-z0-9_]{1,40}){0,5}")  # always quoted where a script uses it
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(\\[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){0,3}")
_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")


@dataclasses.dataclass(frozen=True)
class Package:
    """A staged driver package: its INF below drivers\\, and whether the machine needs it."""

    inf: str
    required: bool


@dataclasses.dataclass(frozen=True)
class Publisher:
    """Who signed a staged package, where Windows would ask whether to trust him: the SHA-1 of his certificate, and its
    file below drivers\\."""

    thumbprint: str
    file: str


@dataclasses.dataclass(frozen=True)
class Runner:
    """A program that runs scripts as a service: rhsrvany.exe or pvvxsvc.exe, its bytes, its machine type ("" unknown)."""

    name: str
    data: bytes = dataclasses.field(repr=False)
    machine: str

    def runs_on(self, arch: str) -> bool:
        """Whether a Windows of this architecture can start it: 32-bit programs run everywhere, others at home."""
        return self.machine in ("", "x86", arch)


@dataclasses.dataclass(frozen=True)
class FirstBoot:
    """Everything the first boot has to do.

    `bus` is the final one; `network_service` drives the final cards ("" for inbox ones); `san` are (control set, its
    own SanPolicy, None where it had none); `bound` the services whose real driver must drive its devices before the
    `leftovers`, placeholder INFs, are taken away; `tools` are product codes; `agent` the MSI's file name;
    `bootstrap_cards` the PCI ids of cards that only the bootstrap had; `limits` are (step, seconds that its programs may
    take); `disks` the signatures ("1234abcd") and GUIDs ("{…}") of the disks to bring online; `auto_reboot` are (control
    set, what its CrashControl had).
    """

    bus: str
    retries: int = 5
    drivers: tuple[Package, ...] = ()
    network_service: str = ""
    cards: tuple[Settings, ...] = ()
    routes: tuple[Route, ...] = ()
    san: tuple[tuple[int, Optional[int]], ...] = ()
    bound: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    agent: str = ""
    bootstrap_cards: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    publishers: tuple[Publisher, ...] = ()
    disks: tuple[str, ...] = ()
    auto_reboot: tuple[tuple[int, int], ...] = ()

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.drivers or self.cards or self.san or self.disks or self.leftovers or self.tools or self.agent)

    def summary(self) -> str:
        """Every decision in words, for the plan."""
        parts = [f"install {', '.join(p.inf for p in self.drivers)}"] if self.drivers else []
        for card in self.cards:
            addresses = (*card.addresses, *card.addresses6, *(f"DNS {d}" for d in (*card.dns, *card.dns6)))
            gateways = [f"gateway {g.address}" for g in (*card.gateways, *card.gateways6)]
            named = [f"name {card.name!r}"] if card.name else []
            unticked = [f"{component} unticked" for component in card.unbound]
            set_to = (*(addresses or ("DHCP",)), *gateways, *extras_of(card), *unticked, *named)
            parts.append(f"{card.mac or 'the only card'}: {', '.join(set_to)}")
        parts += [f"route {r.destination} by {r.gateway}" for r in self.routes]
        parts += [f"SanPolicy of ControlSet{n:03d} back to {'none' if p is None else p}" for n, p in self.san]
        parts += [f"remove {what}" for what in (*self.leftovers, *self.tools, *self.bootstrap_cards)]
        parts += [f"install {self.agent}"] if self.agent else []
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class ServiceValue:
    """One value of the runner's service; `key` below Services\\h2k-firstboot, '' the key itself."""

    key: str
    name: str
    value: Value


def scripts() -> dict[str, bytes]:
    """The runner and its steps as the guest gets them: in the order of the table, ASCII, CRLF (cmd.exe misreads labels
    without it)."""
    found = {}
    for path in sorted(SCRIPTS.glob("*.cmd")):
        content = path.read_text(encoding="ascii").replace("@STEPS@", " ".join(WORK))
        found[path.name] = content.replace("\n", "\r\n").encode("ascii")
    return found


def service_values(with_runner: bool, drive: str = "C:") -> list[ServiceValue]:
    """The service that starts the runner at every boot until it has removed itself.

    With rhsrvany.exe, which answers the service manager and takes the command line from Parameters; without, cmd.exe
    starts a child that outlives it, for a program that does not answer is given up (error 1053) and not waited for.
    """
    place = rf"%SystemDrive%{DIRECTORY}".replace("/", "\\")
    cmd = r"%SystemRoot%\System32\cmd.exe"
    # `call` first, and cmd.exe leaves the quotes alone.
    run = rf'/d /c call "{place}\runner.cmd"'
    image = rf'"{place}\{RUNNER}" -s {SERVICE}' if with_runner else rf'{cmd} /d /c start "" {cmd} {run}'
    values = [
        ServiceValue("", "Type", dword(OWN_PROCESS)),
        ServiceValue("", "Start", dword(AUTO_START)),
        ServiceValue("", "ErrorControl", dword(IGNORE)),
        ServiceValue("", "ImagePath", expand(image)),
        ServiceValue("", "DisplayName", text("h2k first boot")),
        ServiceValue("", "ObjectName", text("LocalSystem")),
    ]
    if with_runner:
        values.append(ServiceValue("Parameters", "CommandLine", text(f"cmd.exe {run}")))
        values.append(ServiceValue("Parameters", "PWD", text(drive + "\\")))
    return values


# settings.txt: one record a line, words separated by one space, only letters that mean nothing to cmd.exe


def settings_text(wanted: FirstBoot) -> bytes:
    """settings.txt. BadData for a value that a script could misread: nothing of the guest gets in unchecked."""
    lines = list(_lines(wanted))
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "name":
            good = bool(SAFE_NAME.fullmatch(rest))
        elif kind == "name-units":
            good = settable_name(from_code_units(rest), True)
        elif kind in ("driver", "publisher"):
            first, _, file = rest.partition(" ")
            good = bool(_WORD.fullmatch(first)) and bool(_FILE.fullmatch(file))
        elif kind == "bootstrap-card":
            good = bool(_DEVICE.fullmatch(rest))
        else:
            good = all(_WORD.fullmatch(word) for word in rest.split(" "))
        if not good:
            raise BadData(f"{SETTINGS}: {line[:120]!r} can't be handed to a script")
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def _lines(wanted: FirstBoot) -> Iterator[str]:
    yield "h2k 1"
    yield f"bus {wanted.bus}"
    yield f"retries {wanted.retries}"
    for step, seconds in wanted.limits:
        yield f"limit {step} {seconds}"
    for publisher in wanted.publishers:
        yield f"publisher {publisher.thumbprint} {publisher.file}"
    for package in wanted.drivers:
        yield f"driver {'required' if package.required else 'optional'} {package.inf}"
    if wanted.network_service:
        yield f"network-service {wanted.network_service}"
    for card in wanted.cards:
        yield from _card_lines(card)
    for route in wanted.routes:
        network = ipaddress.IPv4Network(route.destination)
        yield f"route {network.network_address} {network.netmask} {route.gateway} {route.metric}"
    for number, policy in wanted.san:
        yield f"san ControlSet{number:03d} {'none' if policy is None else policy}"
    for number, value in wanted.auto_reboot:
        yield f"auto-reboot ControlSet{number:03d} {value}"
    for kind, words in (
        ("disk", wanted.disks),
        ("must-be-bound", wanted.bound),
        ("leftover", wanted.leftovers),
        ("tool", wanted.tools),
        ("agent", (wanted.agent,) if wanted.agent else ()),
        ("bootstrap-card", wanted.bootstrap_cards),
    ):
        for word in words:
            yield f"{kind} {word}"


def _card_lines(card: Settings) -> Iterator[str]:
    mac = card.mac.replace(":", "-") if card.mac is not None else "single"
    yield f"nic {mac} {'required' if card.required else 'optional'}"
    for address in card.addresses:
        interface = ipaddress.IPv4Interface(address)
        yield f"address {interface.ip} {interface.netmask}"
    for gateway in card.gateways:
        yield f"gateway {gateway.address} {gateway.metric}"
    if card.register != "primary":
        yield f"register {card.register}"
    for kind, words in (
        ("dns", card.dns),
        ("wins", card.wins),
        ("address6", card.addresses6),
        ("gateway6", [gateway.address for gateway in card.gateways6]),
        ("dns6", card.dns6),
    ):
        yield from (f"{kind} {word}" for word in words)
    if card.metric is not None:
        yield f"metric {card.metric}"
    for kind, value in (
        ("mtu", card.mtu),
        ("netbios", card.netbios),
        ("suffix", card.suffix or None),
        ("no-dynamic-update", 1 if card.no_dynamic_update else None),
    ):
        if value is not None:
            yield f"{kind} {value}"
    yield from (f"unbind {component}" for component in card.unbound)
    if card.name:
        yield f"name {card.name}" if SAFE_NAME.fullmatch(card.name) else f"name-units {code_units(card.name)}"


def parse_settings(data: bytes) -> FirstBoot:
    """Read a staged settings.txt back; BadData for anything that settings_text does not write."""
    if len(data) > MAX_SETTINGS:
        raise BadData(f"{SETTINGS}: {len(data)} bytes")
    try:
        lines = data.decode("ascii").split("\r\n")
    except UnicodeDecodeError as e:
        raise BadData(f"{SETTINGS}: not ASCII") from e
    if len(lines) > MAX_LINES or lines[0] != "h2k 1" or lines[-1] != "":
        raise BadData(f"{SETTINGS}: not written by this version of h2k")
    reader = _Reader()
    for number, line in enumerate(lines[1:-1], 2):
        kind, _, rest = line.partition(" ")
        try:
            reader.take(kind, rest)
        except (ValueError, IndexError) as e:
            raise BadData(f"{SETTINGS}:{number}: {line[:80]!r}") from e
    found = reader.first_boot()
    if settings_text(found) != data:
        raise BadData(f"{SETTINGS}: not as h2k writes it")
    return found


class _Reader:
    """Collects the records of a settings.txt."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"bus": "virtio"}
        self.lists: dict[str, list[Any]] = {}
        self.cards: list[dict[str, Any]] = []

    def take(self, kind: str, rest: str) -> None:
        words = rest.split(" ")
        if kind in _SINGLE:
            field, convert = _SINGLE[kind]
            self.values[field] = convert(rest)
        elif kind in _LISTED:
            field, read = _LISTED[kind]
            self.lists.setdefault(field, []).append(read(words))
        elif kind == "nic":
            mac = None if words[0] == "single" else words[0].replace("-", ":")
            self.cards.append({"mac": mac, "dhcp": True})
        elif kind in _OF_CARD:
            field, read = _OF_CARD[kind]
            self.cards[-1].setdefault(field, []).append(read(words))
            self.cards[-1]["dhcp"] = self.cards[-1]["dhcp"] and kind != "address"
        elif kind in _ONE_OF_CARD:
            field, convert = _ONE_OF_CARD[kind]
            self.cards[-1][field] = convert(rest)
        else:
            raise ValueError(kind)

    def first_boot(self) -> FirstBoot:
        lists: dict[str, Any] = {field: tuple(values) for field, values in self.lists.items()}
        cards: list[dict[str, Any]] = [{k: tuple(v) if isinstance(v, list) else v for k, v in card.items()} for card in self.cards]
        return FirstBoot(**self.values, **lists, cards=tuple(Settings(**card) for card in cards))


def _address(words: Sequence[str]) -> str:
    return str(ipaddress.IPv4Interface((words[0], words[1])))


def _route(words: Sequence[str]) -> Route:
    return Route(str(ipaddress.IPv4Network((words[0], words[1]))), words[2], int(words[3]))


def _san(words: Sequence[str]) -> tuple[int, Optional[int]]:
    return _control_set(words[0]), None if words[1] == "none" else int(words[1])


def _control_set(word: str) -> int:
    return int(word[len("ControlSet") :])


def _word(words: Sequence[str]) -> str:
    return words[0]


_Convert = Callable[[Sequence[str]], Any]
_SINGLE: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "bus": ("bus", str),
    "retries": ("retries", int),
    "network-service": ("network_service", str),
    "agent": ("agent", str),
}
_ONE_OF_CARD: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "metric": ("metric", int),
    "register": ("register", str),
    "mtu": ("mtu", int),
    "netbios": ("netbios", int),
    "suffix": ("suffix", str),
    "no-dynamic-update": ("no_dynamic_update", lambda rest: rest == "1"),
    "name": ("name", str),
    "name-units": ("name", from_code_units),
}
_LISTED: Mapping[str, tuple[str, _Convert]] = {
    "driver": ("drivers", lambda words: Package(words[1], words[0] == "required")),
    "limit": ("limits", lambda words: (words[0], int(words[1]))),
    "publisher": ("publishers", lambda words: Publisher(words[0], words[1])),
    "route": ("routes", _route),
    "san": ("san", _san),
    "auto-reboot": ("auto_reboot", lambda words: (_control_set(words[0]), int(words[1]))),
    "disk": ("disks", _word),
    "must-be-bound": ("bound", _word),
    "leftover": ("leftovers", _word),
    "tool": ("tools", _word),
    "bootstrap-card": ("bootstrap_cards", _word),
}
_OF_CARD: Mapping[str, tuple[str, _Convert]] = {
    "address": ("addresses", _address),
    "gateway": ("gateways", lambda words: Gateway(words[0], int(words[1]))),
    "dns": ("dns", _word),
    "address6": ("addresses6", _word),
    "gateway6": ("gateways6", lambda words: Gateway(words[0])),
    "dns6": ("dns6", _word),
    "wins": ("wins", _word),
    "unbind": ("unbound", _word),
}


def product_code(text: str) -> Optional[str]:
    """A product code as msiexec takes it, or None for the name of another kind of uninstall entry."""
    return text if _GUID.fullmatch(text) else None
