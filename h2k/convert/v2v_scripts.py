"""Every first-boot script that virt-v2v stages in a Windows guest, as data: since which version, and when."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Optional

from h2k.base.run import CommandFailed, run
from h2k.engine.examination import Examination
from h2k.guest.virtio_win import DriverSource

_ANSWER = 30  # seconds
Version = tuple[int, int]
RESTARTS: Version = (2, 6)  # from here on its first boot restarts Windows after each script
NEWEST: Version = (99, 0)  # what a version that can't be read is taken for: it stages most


@dataclasses.dataclass(frozen=True)
class Script:
    """One script: its name in virt-v2v, the first version that stages it, and when.

    `when`: "always"; "option", one of the command line's; otherwise what must be there: a "tool" of the guest that
    virt-v2v uninstalls, or a "file" beside rhsrvany.exe or in the virtio-win tree. `what` names it.
    """

    name: str
    since: Version
    when: str
    what: str = ""


# From virt-v2v's convert/convert_windows.ml and the scripts found in guests that 2.2, 2.6 and 2.10 had converted.
SCRIPTS = (
    Script("pnputil install drivers", (2, 4), "always"),
    Script("online-disks", (2, 6), "always"),
    Script("network-configure", (2, 0), "option", "mac"),
    *(Script(name, (2, 6), "option", name) for name in ("firstboot", "firstboot-command", "firstboot-install")),
    Script("qemu-ga", (2, 0), "file", "guest agent"),
    Script("uninstall VMware Tools", (2, 0), "tool", "VMware Tools"),
    Script("uninstall Parallels tools", (2, 0), "tool", "Parallels Tools"),
    Script("uninstall Xen PV", (2, 0), "tool", "Citrix"),
)


def read_version(text: str) -> Version:
    """The stable version that "virt-v2v 2.7.1rhel=9,…" leads to: an odd second number is on the way to the next."""
    found = re.match(r"virt-v2v (\d{1,4})\.(\d{1,4})", text)
    if found is None:
        return NEWEST
    major, minor = int(found[1]), int(found[2])
    return (major, minor + minor % 2)


def installed_version() -> Version:
    """That of the virt-v2v on PATH."""
    try:
        return read_version(run(["virt-v2v", "--version"], check=False, timeout=_ANSWER).stdout.decode("utf-8", "replace"))
    except CommandFailed:
        return NEWEST


def shown(version: Version) -> str:
    """For people."""
    return "virt-v2v" if version == NEWEST else f"virt-v2v {version[0]}.{version[1]}"


def staged(version: Version, tools: Iterable[str], files: Iterable[str], options: Iterable[tuple[str, Optional[str]]]) -> list[Script]:
    """The scripts that a version will stage: for the guest tools of that name, these files, these options."""
    tools, files = tuple(tools), tuple(files)
    # --mac MAC:ip:ADDRESS… configures the card in the guest; --mac MAC:network:… says only where it is plugged in.
    asked = {name for name, value in options if name != "mac" or ":ip:" in (value or "")}

    def holds(script: Script) -> bool:
        if script.when == "tool":
            return any(name.startswith(script.what) for name in tools)
        return script.when == "always" or script.what in (asked if script.when == "option" else files)

    return [script for script in SCRIPTS if version >= script.since and holds(script)]


def scripts_for(
    seen: Examination, drivers: Optional[DriverSource], version: Version, options: Iterable[tuple[str, Optional[str]]] = ()
) -> list[Script]:
    """The scripts that a version will stage in a guest that was looked at, with these drivers and options."""
    tools = [f.subject for f in seen.proposal.findings if f.id == "hypervisor-tools-present"]
    agent = drivers is not None and drivers.has_guest_agent_msi(seen.report.guest["arch"])
    return staged(version, tools, ["guest agent"] if agent else [], options)


def restarts(version: Version, scripts: Sequence[Script]) -> int:
    """How often these scripts restart the guest: once after each, where nothing has to be tried again."""
    return len(scripts) if version >= RESTARTS else 0
