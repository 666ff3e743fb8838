"""The first boot that virt-v2v itself staged in a converted guest: its scripts, what it gives addresses to, its loops.

virt-v2v starts a service `firstboot`, which runs the scripts in name order and restarts Windows after each (from 2.6 on;
from 2.12 on not after one that ends with 250). One that ends with 249 is run again at the next boot, without limit.
Read in libguestfs-common's mlcustomize/firstboot.ml and virt-v2v's convert/convert_windows.ml, up to 2.13.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Optional

from h2k.base.errors import BadData
from h2k.guest.guest import Guest
from h2k.windows import first_boot, inf
from h2k.windows.services import read_service

SERVICE = "firstboot"
DIRECTORY = "/Program Files/Guestfs/Firstboot"
DRIVERS = "Drivers/VirtIO"  # below the system root: where virt-v2v copies virtio-win's files
DISABLED = 4
MAX_SCRIPTS = 200  # virt-v2v stages up to a dozen
SCRIPT_LIMIT = 1024 * 1024  # bytes of a script, and of an INF, that is read
MAX_INFS = 100
BOUNDED = b"rem h2k: bounded"  # how a script that was repaired begins its second line
MAX_TRIES = 3  # of a script that asks for another one
SCRIPTS = Path(first_boot.__file__).with_name("first_boot_scripts")
# What `--mac` becomes: from 2.6 on, and up to 2.4, which writes it into the system's Temp (windows.ml).
NETWORK_SCRIPTS = ("network-configure", "v2vnetcf")
_MAC = re.compile(r"\$mac_address\s*=\s*'([0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5})'")
_RETRY = re.compile(rb"\bexit\s+(?:/b\s+)?249\b", re.IGNORECASE)
_INSTALLS = re.compile(rb"pnputil", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


@dataclasses.dataclass(frozen=True)
class VirtV2vFirstBoot:
    """What is staged and has yet to run: the scripts' paths in the order they run, and the MAC addresses of the cards
    that one of them gives a static address ("52:54:00:…")."""

    scripts: tuple[str, ...]
    addresses: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Loop:
    """A script that may be tried for ever. `installs`: it is the one that installs drivers, and `infs` are those of
    its directory that can be installed here, `without` the others, each with the reason."""

    script: str
    content: bytes = dataclasses.field(repr=False)
    installs: bool = False
    infs: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()


def virt_v2v_first_boot(guest: Guest) -> Optional[VirtV2vFirstBoot]:
    """What virt-v2v's first boot has yet to do; None when nothing is staged, or it has come to its end."""
    service = read_service(guest.system, guest.control_sets.default, SERVICE)
    if service is None or service.start is None or service.start >= DISABLED or guest.stat(f"{DIRECTORY}/complete") is not None:
        return None
    scripts = sorted(_files(guest, f"{DIRECTORY}/scripts", ".bat"), key=str.lower)[:MAX_SCRIPTS]
    if not scripts:
        return None
    return VirtV2vFirstBoot(tuple(scripts), _addresses(guest, scripts))


def allowed_restarts(guest: Guest) -> int:
    """How often the machine may restart because of what virt-v2v staged: once after each script, and after each try of
    one that h2k has bounded."""
    staged = virt_v2v_first_boot(guest)
    scripts = [_read(guest, path) or b"" for path in staged.scripts] if staged is not None else []
    return sum(MAX_TRIES if BOUNDED in content else 1 for content in scripts)


def loops(guest: Guest, staged: VirtV2vFirstBoot) -> tuple[Loop, ...]:
    """The staged scripts that may be tried for ever; none where the runner moves each on whatever it says (to 2.8)."""
    control = _read(guest, f"{DIRECTORY}/firstboot.bat")
    if control is None or b"249" not in control:
        return ()
    found = []
    for path in staged.scripts:
        content = _read(guest, path)
        if content is None or not _RETRY.search(content) or BOUNDED in content:
            continue
        if _INSTALLS.search(content):
            infs, without = _installable(guest)
            found.append(Loop(path, content, True, infs, without))
        else:
            found.append(Loop(path, content))
    return tuple(found)


def _files(guest: Guest, directory: str, ending: str) -> list[str]:
    stat = guest.stat(directory)
    if stat is None or not stat.directory:
        return []
    found = guest.reader.listdir(guest.volume, stat.path)
    return [entry.path for entry in found if not entry.directory and entry.path.lower().endswith(ending)]


def _read(guest: Guest, path: str) -> Optional[bytes]:
    stat = guest.stat(path)
    if stat is None or stat.directory or not stat.readable or stat.size > SCRIPT_LIMIT:
        return None
    return guest.reader.read(guest.volume, stat.path, SCRIPT_LIMIT)


def _addresses(guest: Guest, scripts: list[str]) -> frozenset[str]:
    """`--mac MAC:ip:…` becomes a PowerShell script, which a script of the list starts."""
    found: set[str] = set()
    for name in NETWORK_SCRIPTS:
        for place in (f"{DIRECTORY}/Temp", f"{guest.system_root}/Temp"):
            if any(name in path.lower() for path in scripts):
                content = _read(guest, f"{place}/{name}.ps1") or b""
                found |= {mac.lower().replace("-", ":") for mac in _MAC.findall(content.decode("utf-8", "replace"))}
    return frozenset(found)


def _installable(guest: Guest) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(INFs that can be installed on this Windows, (name, reason) of those that can't)."""
    infs, without = [], []
    files = _files(guest, f"{guest.system_root}/{DRIVERS}", "")
    there = {path.rpartition("/")[2].lower() for path in files}
    for path in sorted(p for p in files if p.lower().endswith(".inf"))[:MAX_INFS]:
        name = path.rpartition("/")[2]
        reason = _why_not(guest, path, name, there)
        if reason:
            without.append((name, reason))
        else:
            infs.append(name)
    return tuple(infs), tuple(without)


def _why_not(guest: Guest, path: str, name: str, there: set[str]) -> str:
    if not _NAME.fullmatch(name):
        return "its name can't be handed to a script"
    content = _read(guest, path)
    if content is None:
        return "it can't be read"
    try:
        package = inf.parse_inf(content, name)
        if not package.serves(guest.windows):
            return f"it has no device for {guest.windows.arch}"
        missing = [f for f in package.files(guest.windows.arch) if f.rpartition("/")[2].lower() not in there]
    except BadData as e:
        return e.message
    return f"{', '.join(missing[:3])} missing" if missing else ""


def bounded(loop: Loop) -> dict[str, bytes]:
    """The files, by path, that end a loop: the script that installs drivers is written anew, another one is kept
    beside it and started a few times at most."""
    name = loop.script.rpartition("/")[2][: -len(".bat")]
    if loop.installs:
        installs = "".join(f'call :install "{inf}"\n' for inf in loop.infs)
        return {loop.script: _script("virt-v2v-drivers.bat").replace("rem @INSTALL@\n", installs).replace("\n", "\r\n").encode("ascii")}
    wrapper = _script("virt-v2v-bounded.bat").replace("\n", "\r\n").encode("ascii")
    return {f"{DIRECTORY}/h2k/{name}.cmd": loop.content, loop.script: wrapper}


def _script(name: str) -> str:
    return (SCRIPTS / name).read_text(encoding="ascii").replace("@TRIES@", str(MAX_TRIES))
