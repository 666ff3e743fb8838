"""The configuration ISO: autounattend.xml in its root, and what runs at the first logon: addresses, data disk, agent.

The guest agent answers on COM2 (`--method isa-serial`), not on VirtIO: the source has no VirtIO device, and what is asked
about VirtIO must not hang on a VirtIO driver. Its files come out of the MSI by an administrative installation, which
registers nothing: for virt-v2v and h2k the source is a guest without an agent. Its service retries until COM2 opens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.windows.answer_file import Answers, answer_file
from tests.windows.steps import LIMITS, StepFailed, run_logged

LABEL = "H2K_CONFIG"
SERVICE = "h2k-kit-agent"
DATA_LETTER = "T"  # far from what CD drives take
DATA_MARK = "h2k-kit.txt"  # on the data disk: it is the same one afterwards
AGENTS = {"amd64": "qemu-ga-x86_64.msi", "x86": "qemu-ga-i386.msi"}  # \guest-agent of the virtio-win ISO


@dataclasses.dataclass(frozen=True)
class Card:
    """One NIC of the source and what is set on it; the addresses are of the ranges for documentation (RFC 5737)."""

    mac: str
    addresses: tuple[tuple[str, str], ...]
    gateway: str = ""
    dns: tuple[str, ...] = ()
    wins: tuple[str, ...] = ()
    mtu: int = 0
    metric: int = 0


CARDS = (
    Card("52:54:00:68:32:01", (("192.0.2.10", "255.255.255.0"),), "192.0.2.1", ("192.0.2.53", "192.0.2.54"), ("192.0.2.60",)),
    Card("52:54:00:68:32:02", (("198.51.100.20", "255.255.255.0"), ("198.51.100.21", "255.255.255.0")), mtu=1400, metric=50),
)


def setup_script(arch: str, cards: Sequence[Card] = CARDS) -> str:
    """h2k-kit\\setup.cmd: runs once, at the first logon, and shuts the machine down. Programs that Windows 7 has, alone.

    What it does is in C:\\h2k-kit\\setup.log; its steps are lines on COM1.
    """
    return "\r\n".join(_lines(arch, cards)) + "\r\n"


def _lines(arch: str, cards: Sequence[Card]) -> Iterator[str]:
    yield from (
        "@echo off", "rem h2k's kit: makes a source of this Windows (tests/windows/configuration.py)",
        "set log=C:\\h2k-kit\\setup.log", "mkdir C:\\h2k-kit 2>nul", "mode COM1: BAUD=115200 PARITY=n DATA=8 STOP=1 >nul",
        "call :told start ok", "powercfg /h off >>%log% 2>&1", "powercfg /change standby-timeout-ac 0 >>%log% 2>&1",
    )  # fmt: skip
    yield from (f"call :card {number}" for number, _ in enumerate(cards, 1))
    yield from (
        "call :told addresses ok",
        "diskpart /s %~dp0diskpart.txt >>%log% 2>&1", f"if not exist {DATA_LETTER}:\\ (call :told disk failed) else call :told disk ok",
        f"echo h2k-kit data disk >{DATA_LETTER}:\\{DATA_MARK}",
        f"for %%d in (D E F G H I J) do if exist %%d:\\guest-agent\\{AGENTS[arch]} "
        f'start /wait "" msiexec /a %%d:\\guest-agent\\{AGENTS[arch]} /qn TARGETDIR=C:\\h2k-kit\\agent /l*v C:\\h2k-kit\\msi.log',
        "for /r C:\\h2k-kit\\agent %%f in (qemu-ga.exe) do if exist \"%%f\" set agent=%%f",
        "if not defined agent call :told agent failed",
        f'if defined agent sc create {SERVICE} start= auto binPath= "\\"%agent%\\" -d --retry-path --method isa-serial '
        '--path COM2 --logfile C:\\h2k-kit\\agent.log" >>%log% 2>&1',
        f"sc query {SERVICE} >>%log% 2>&1 && call :told agent ok", "ipconfig /all >>%log% 2>&1", "ver >>%log%",
        "call :told done ok", "shutdown /s /t 5 /c h2k-kit", "exit /b 0", "",
        ":told", '>COM1 echo h2k-kit {"v":1,"step":"%1","state":"%2"}', "echo %1 %2 >>%log%", "exit /b 0",
    )  # fmt: skip
    for number, card in enumerate(cards, 1):
        yield from ("", f":card_{number}", *_card(card), "exit /b 0")
    # A card is found by its MAC: getmac prints "connection","adapter","MAC","transport".
    yield from ("", ":card")
    for number, card in enumerate(cards, 1):
        mac = card.mac.replace(":", "-").upper()
        yield (
            f"if %1=={number} for /f \"tokens=1,3 delims=,\" %%a in ('getmac /v /fo csv /nh') do "
            f'if /i "%%~b"=="{mac}" set nic=%%~a& call :card_{number}'
        )
    yield "exit /b 0"


def _card(card: Card) -> Iterator[str]:
    """netsh's commands for one card, whose connection is %nic%."""

    def netsh(command: str) -> str:
        return f"netsh interface {command} >>%log% 2>&1"

    (address, mask), *more = card.addresses
    gateway = f" {card.gateway} 1" if card.gateway else ""
    yield netsh(f'ipv4 set address name="%nic%" static {address} {mask}{gateway}')
    yield from (netsh(f'ipv4 add address name="%nic%" {each} {its_mask}') for each, its_mask in more)
    for index, server in enumerate(card.dns, 1):
        yield netsh(f'ipv4 add dnsserver name="%nic%" address={server} index={index}')
    for index, server in enumerate(card.wins, 1):
        yield netsh(f'ipv4 add winsserver name="%nic%" address={server} index={index}')
    if card.mtu:
        yield netsh(f'ipv4 set subinterface "%nic%" mtu={card.mtu} store=persistent')
    if card.metric:
        yield netsh(f'ipv4 set interface "%nic%" metric={card.metric}')


def diskpart_script() -> str:
    """The data disk, the second one: one NTFS volume with a letter."""
    lines = (
        "select disk 1", "online disk noerr", "attributes disk clear readonly noerr", "clean", "create partition primary",
        "format fs=ntfs label=H2KDATA quick", f"assign letter={DATA_LETTER}", "exit",
    )  # fmt: skip
    return "\r\n".join(lines) + "\r\n"


def contents(answers: Answers) -> Mapping[str, bytes]:
    """The configuration ISO: path → bytes."""
    return {
        "autounattend.xml": answer_file(answers),
        "h2k-kit/setup.cmd": setup_script(answers.image.arch).encode("ascii"),
        "h2k-kit/diskpart.txt": diskpart_script().encode("ascii"),
    }


def make_iso(files: Mapping[str, bytes], iso: Path, log: Path, label: str = LABEL, options: Sequence[Any] = ()) -> Path:
    """An ISO with these files, Joliet and Rock Ridge names; `options` are further ones of mkisofs."""
    root = iso.with_suffix(".files")
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    status = run_logged(["xorriso", "-as", "mkisofs", "-V", label, "-J", "-r", *options, "-o", iso, root], "media", log, LIMITS["inspect"])
    if status != 0:
        raise StepFailed("media", f"xorriso ended with {status}", str(log))
    return iso
